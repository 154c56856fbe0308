"""What the simulated cloud does beyond the port: limits, fates, out-of-band events, and the truth it tells."""

from __future__ import annotations

import asyncio
from time import process_time as elapsed
from typing import Any

import pytest

from pelagos.clouds import (
    CloudAuthFailed,
    CloudBusy,
    CloudCapacity,
    CloudRateLimited,
    CloudRejected,
    CloudUncertain,
    CommandResult,
    ServerNotFound,
    ServerSpec,
    TokenLookup,
)
from pelagos.clouds.simulated import Delay, Fault, Faults, SimulatedCloud, SimulatedDriver, SimulatedOptions
from pelagos.model.errors import InvalidInput
from pelagos.model.states import ServerState
from pelagos.simulation import EPOCH, SimulatedWorld, VirtualLoop

pytestmark = pytest.mark.anyio
SPEC = ServerSpec(name="one")


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualLoop}


def cloud_of(**options: Any) -> tuple[SimulatedCloud, SimulatedDriver]:
    cloud = SimulatedCloud(SimulatedWorld(), options=SimulatedOptions(**options))
    return cloud, SimulatedDriver(cloud)


async def make(driver: SimulatedDriver, token: str = "t", **options: Any) -> str:
    spec = ServerSpec(name=f"server-{token}", options=options)
    return (await driver.create_server(spec, token=token, timeout=10)).provider_id


async def state(driver: SimulatedDriver, provider_id: str) -> ServerState:
    return (await driver.get_server(provider_id, timeout=10)).state


async def test_boot_takes_its_time_and_addresses_come_with_it() -> None:
    _, driver = cloud_of(boot_seconds=20.0)
    made = await driver.create_server(SPEC, token="t", timeout=10)
    assert (made.state, made.addresses, made.created_at) == (ServerState.BUILD, (), EPOCH)
    await asyncio.sleep(19.9)
    assert await state(driver, made.provider_id) is ServerState.BUILD
    await asyncio.sleep(0.2)
    now = await driver.get_server(made.provider_id, timeout=10)
    assert (now.state, now.addresses, now.private_addresses) == (ServerState.ACTIVE, ("10.0.0.1",), ("10.128.0.1",))


async def test_a_resource_may_say_its_own_boot_time() -> None:
    _, driver = cloud_of(boot_seconds=20.0)
    assert await state(driver, await make(driver, boot_seconds=0)) is ServerState.ACTIVE


async def test_latency_is_half_before_the_effect_and_half_after() -> None:
    cloud, driver = cloud_of(create_latency=4.0)
    begun = asyncio.get_running_loop().time()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(make(driver))
        await asyncio.sleep(1.9)
        assert cloud.servers() == [] and cloud.under_way() == 1
        await asyncio.sleep(0.2)
        assert len(cloud.servers()) == 1 and not task.done()
    assert asyncio.get_running_loop().time() - begun == pytest.approx(4.0)


async def test_visibility_lags_after_create_and_after_delete() -> None:
    cloud, driver = cloud_of(visibility_delay=5.0, settle=5.0)
    provider_id = await make(driver)
    assert [s.provider_id for s in cloud.servers()] == [provider_id]
    assert await driver.list_servers(timeout=1) == ()
    assert await driver.find_by_token("t", timeout=1) is None
    with pytest.raises(ServerNotFound):
        await driver.get_server(provider_id, timeout=1)
    await asyncio.sleep(5.0)
    assert [s.provider_id for s in await driver.list_servers(timeout=1)] == [provider_id]
    await driver.delete_server(provider_id, timeout=1)
    assert cloud.servers() == []
    assert [s.state for s in await driver.list_servers(timeout=1)] == [ServerState.ACTIVE], "reads show what was"
    await asyncio.sleep(5.0)
    assert await driver.list_servers(timeout=1) == ()


async def test_lag_never_exceeds_what_the_driver_declares() -> None:
    _, driver = cloud_of(visibility_delay=1000.0, settle=3.0)
    await make(driver)
    await asyncio.sleep(3.0)
    assert await driver.find_by_token("t", timeout=1) is not None


async def test_a_late_create_by_chance_keeps_the_promise_of_settle() -> None:
    cloud, driver = cloud_of(late_by=1000.0, visibility_delay=2.0, settle=6.0, faults=Faults(late=1.0))
    with pytest.raises(CloudUncertain):
        await driver.create_server(SPEC, token="t", timeout=10)
    await asyncio.sleep(5.9)
    assert await driver.find_by_token("t", timeout=1) is None
    await asyncio.sleep(0.2)
    assert await driver.find_by_token("t", timeout=1) is not None
    assert cloud.made() == {"t": ["sim-000001"]}


async def test_a_late_create_by_script_may_break_it() -> None:
    cloud, driver = cloud_of(settle=6.0)
    cloud.inject("create", "late", delay=500.0)
    with pytest.raises(CloudUncertain):
        await driver.create_server(SPEC, token="t", timeout=10)
    await asyncio.sleep(489.0)
    assert (cloud.made(), cloud.under_way()) == ({}, 1)
    await asyncio.sleep(2.0)
    assert (cloud.made(), cloud.under_way()) == ({"t": ["sim-000001"]}, 0)


async def test_a_late_first_create_and_its_repeat() -> None:
    """The case that tokens are for: idempotent clouds make one server, others two."""
    for lookup, many in ((TokenLookup.IDEMPOTENT, 1), (TokenLookup.TAG, 2)):
        cloud, driver = cloud_of(token_lookup=lookup)
        cloud.inject("create", "late", delay=60.0)
        with pytest.raises(CloudUncertain):
            await driver.create_server(SPEC, token="t", timeout=10)
        await driver.create_server(SPEC, token="t", timeout=10)
        await asyncio.sleep(60.0)
        assert len(cloud.made()["t"]) == many
        assert len(await driver.list_servers(timeout=1)) == many
        found = await driver.find_by_token("t", timeout=1)
        assert found is not None and found.provider_id == "sim-000001", "the oldest"


async def test_the_providers_quota() -> None:
    cloud, driver = cloud_of(max_servers=2, delete_seconds=5.0)
    first = await make(driver, "a")
    await make(driver, "b")
    with pytest.raises(CloudCapacity):
        await make(driver, "c")
    await driver.delete_server(first, timeout=1)
    with pytest.raises(CloudCapacity):
        await make(driver, "c")
    await asyncio.sleep(5.0)
    await make(driver, "c")
    assert sorted(cloud.made()) == ["a", "b", "c"]


async def test_the_providers_rate_limit() -> None:
    cloud, driver = cloud_of(rate_limit=2.0, burst=3)
    for _ in range(3):
        await driver.list_servers(timeout=1)
    with pytest.raises(CloudRateLimited) as caught:
        await make(driver)
    assert caught.value.retry_after == pytest.approx(0.5)
    assert cloud.made() == {}
    await asyncio.sleep(caught.value.retry_after or 0)
    await make(driver)


async def test_stuck_and_failed_builds() -> None:
    cloud, driver = cloud_of(boot_seconds=1.0)
    cloud.inject("create", "stuck_build")
    cloud.inject("create", Fault.FAILED_BUILD)
    stuck, failed, fine = [await make(driver, token) for token in "abc"]
    await asyncio.sleep(10_000.0)
    assert await state(driver, stuck) is ServerState.BUILD
    server = await driver.get_server(failed, timeout=1)
    assert (server.state, server.addresses) == (ServerState.ERROR, ())
    assert server.reason
    assert await state(driver, fine) is ServerState.ACTIVE
    cloud.boot(stuck)
    assert await state(driver, stuck) is ServerState.ACTIVE
    for provider_id in (stuck, failed, fine):
        await driver.delete_server(provider_id, timeout=1)
    assert cloud.servers() == []


async def test_a_stuck_delete_goes_through_when_deleted_again() -> None:
    cloud, driver = cloud_of()
    provider_id = await make(driver)
    cloud.inject("delete", "stuck_delete")
    await driver.delete_server(provider_id, timeout=1)
    await asyncio.sleep(10_000.0)
    assert await state(driver, provider_id) is ServerState.DELETING
    await driver.delete_server(provider_id, timeout=1)
    assert cloud.servers() == []


async def test_a_provider_that_refuses_to_delete_for_a_while() -> None:
    cloud, driver = cloud_of()
    provider_id = await make(driver)
    cloud.inject("delete", "busy", delay=30.0)
    for wait in (0.0, 20.0):
        await asyncio.sleep(wait)
        with pytest.raises(CloudBusy):
            await driver.delete_server(provider_id, timeout=1)
    await asyncio.sleep(10.0)
    await driver.delete_server(provider_id, timeout=1)
    assert cloud.servers() == []


@pytest.mark.parametrize(
    ("becomes", "seen"), [("stopped", ServerState.STOPPED), ("error", ServerState.ERROR), ("vanish", None)]
)
async def test_spot_kill(becomes: Any, seen: ServerState | None) -> None:
    cloud, driver = cloud_of(spot_after=100.0, spot_state=becomes)
    cloud.inject("create", "spot_kill")
    provider_id = await make(driver)
    await asyncio.sleep(99.0)
    assert await state(driver, provider_id) is ServerState.ACTIVE
    await asyncio.sleep(2.0)
    if seen is None:
        assert (await driver.list_servers(timeout=1), cloud.servers()) == ((), [])
    else:
        assert await state(driver, provider_id) is seen
    assert cloud.history()[-1].cause == "spot"


async def test_a_lifetime_in_the_resource_survives_power_and_ends_with_delete() -> None:
    cloud, driver = cloud_of()
    one, two = await make(driver, "a", lifetime_seconds=50), await make(driver, "b", lifetime_seconds=50)
    await driver.stop_server(one, timeout=1)
    await driver.start_server(one, timeout=1)
    await driver.delete_server(two, timeout=1)
    await asyncio.sleep(51.0)
    assert cloud.servers() == []
    assert [h.provider_id for h in cloud.history() if h.cause == "spot"] == [one]


async def test_out_of_band_events() -> None:
    cloud, driver = cloud_of()
    killed, stopped, vanished = [await make(driver, token) for token in "abc"]
    cloud.kill(killed)
    cloud.stop(stopped)
    cloud.vanish(vanished)
    states = {s.provider_id: s.state for s in await driver.list_servers(timeout=1)}
    assert states == {killed: ServerState.ERROR, stopped: ServerState.STOPPED}
    await driver.start_server(stopped, timeout=1)
    assert await state(driver, stopped) is ServerState.ACTIVE
    with pytest.raises(ServerNotFound):
        cloud.vanish(vanished)


async def test_power_verbs_wait_for_one_another() -> None:
    _, driver = cloud_of(power_seconds=3.0, boot_seconds=1.0)
    provider_id = await make(driver)
    with pytest.raises(CloudBusy):
        await driver.stop_server(provider_id, timeout=1)
    await asyncio.sleep(1.0)
    await driver.reboot_server(provider_id, timeout=1)
    assert await state(driver, provider_id) is ServerState.REBOOT
    with pytest.raises(CloudBusy):
        await driver.stop_server(provider_id, timeout=1)
    await asyncio.sleep(3.0)
    assert await state(driver, provider_id) is ServerState.ACTIVE


async def test_health_probes_and_commands() -> None:
    cloud, driver = cloud_of(boot_seconds=5.0)
    ids = [await make(driver, health, health=health) for health in ("ok", "bad", "flapping")]
    assert [cloud.healthy(i) for i in ids] == [False, False, False], "none has booted"
    with pytest.raises(CloudBusy):
        await driver.execute(ids[0], ["true"], timeout=1)
    await asyncio.sleep(5.0)
    assert [cloud.healthy(i) for i in ids] == [True, False, True]
    assert [cloud.probe(f"10.0.0.{n}") for n in (1, 2, 3)] == [True, False, True]
    assert [cloud.probe(f"10.128.0.{n}") for n in (1, 2, 3)] == [True, False, True]
    assert [(await driver.execute(i, ["true"], timeout=1)).exit_code for i in ids] == [0, 1, 0]
    await asyncio.sleep(30.0)
    assert [cloud.healthy(i) for i in ids] == [True, False, False]
    cloud.set_health(ids[1], "ok")
    cloud.vanish(ids[0])
    assert [cloud.probe(f"10.0.0.{n}") for n in (1, 2, 3)] == [False, True, False]
    cloud.answer(["systemctl"], CommandResult(3, "inactive"))
    assert await driver.execute(ids[1], ["systemctl", "status"], timeout=1) == CommandResult(3, "inactive")


async def test_console_tells_of_the_boot_and_of_the_user_data() -> None:
    _, driver = cloud_of()
    spec = ServerSpec(name="one", hostname="web", user_data="#cloud-config\nruncmd: []\n")
    made = await driver.create_server(spec, token="t", timeout=1)
    text = await driver.console(made.provider_id, max_bytes=4096, timeout=1)
    assert "web: active" in text
    assert "25 bytes of user data" in text
    assert text.encode().endswith((await driver.console(made.provider_id, max_bytes=10, timeout=1)).encode())


async def test_refusals_of_what_cannot_be() -> None:
    cloud, driver = cloud_of(flavors=("small", "large"), images=("debian",), user_data_limit=4)
    fine = {"flavor": "large", "image": "debian"}
    for bad in ({**fine, "flavor": "huge"}, {**fine, "image": "plan9"}, {**fine, "colour": "red"}):
        with pytest.raises(CloudRejected):
            await driver.create_server(ServerSpec(name="one", options=bad), token="t", timeout=1)
    with pytest.raises(CloudRejected):
        await driver.create_server(ServerSpec(name="o", options=fine, user_data="12345"), token="t", timeout=1)
    await driver.create_server(ServerSpec(name="o", options=fine, user_data="1234"), token="t", timeout=1)
    assert list(cloud.made()) == ["t"]


async def test_injections_come_in_order_and_as_often_as_said() -> None:
    cloud, driver = cloud_of()
    cloud.inject("create", "auth_failed", times=2)
    cloud.inject("create", "no_capacity")
    for error in (CloudAuthFailed, CloudAuthFailed, CloudCapacity):
        with pytest.raises(error):
            await make(driver)
    await make(driver)
    with pytest.raises(InvalidInput):
        cloud.inject("list", "no_capacity")


async def test_probabilities_change_at_run_time_and_calm_ends_them() -> None:
    cloud, driver = cloud_of(faults=Faults(unreachable=1.0))
    cloud.inject("create", "rejected")
    cloud.calm()
    await make(driver, "a")
    cloud.faults = Faults(rejected=0.5, stuck_build=0.5)
    outcomes = []
    for number in range(400):
        try:
            outcomes.append(await state(driver, await make(driver, f"t{number}")))
        except CloudRejected:
            outcomes.append(ServerState.DELETED)
    counts = {state: outcomes.count(state) for state in set(outcomes)}
    assert 150 < counts[ServerState.DELETED] < 250
    assert 60 < counts[ServerState.BUILD] < 140
    assert 60 < counts[ServerState.ACTIVE] < 140
    assert cloud.snapshot()["calls"]["fault.rejected"] == counts[ServerState.DELETED]


async def test_history_tells_every_change_by_time() -> None:
    cloud, driver = cloud_of(boot_seconds=2.0, delete_seconds=1.0)
    one = await make(driver, "a")
    await asyncio.sleep(1.0)
    two = await make(driver, "b")
    await asyncio.sleep(5.0)
    await driver.delete_server(one, timeout=1)
    await asyncio.sleep(5.0)
    history = cloud.history()
    start = history[0].at
    assert [(h.at - start, h.provider_id, h.token, h.state.value, h.cause) for h in history] == [
        (0.0, one, "a", "build", "create"),
        (1.0, two, "b", "build", "create"),
        (2.0, one, "a", "active", "boot"),
        (3.0, two, "b", "active", "boot"),
        (6.0, one, "a", "deleting", "delete"),
        (7.0, one, "a", "deleted", "delete"),
    ]


async def test_most_calls_in_flight_are_counted() -> None:
    cloud, driver = cloud_of(create_latency=1.0)
    async with asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(make(driver, f"t{number}"))
    assert (cloud.most_in_flight, cloud.in_flight) == (5, 0)


async def test_distributions_have_their_middle_where_they_say() -> None:
    cloud, driver = cloud_of(boot_seconds=Delay(lognormal=(10.0, 0.5)), seed=3)
    for number in range(400):
        await make(driver, f"t{number}")
    await asyncio.sleep(10.0)
    booted = sum(s.state is ServerState.ACTIVE for s in cloud.servers())
    assert 160 < booted < 240


async def test_ten_thousand_servers_cost_little() -> None:
    _, driver = cloud_of(boot_seconds=Delay(uniform=(1.0, 100.0)))
    spec = ServerSpec(name="n")
    begun = elapsed()
    for number in range(10_000):
        await driver.create_server(spec, token=f"t{number}", timeout=10)
    assert elapsed() - begun < 3.0, "300 us each; a tenth is usual"
    begun = elapsed()
    for _ in range(100):
        await asyncio.sleep(1.0)
        assert len(await driver.list_servers(timeout=1)) == 10_000
    assert elapsed() - begun < 5.0, "50 ms a listing; a tenth is usual"
    assert (await driver.list_servers(timeout=1))[9_999].addresses == ("10.0.39.16",)


@pytest.mark.parametrize("after", [0.0, 1.0, 3.0])
async def test_cancelling_a_call_takes_nothing_back(after: float) -> None:
    """Sent is sent: cancelled before or after its arrival, the effect happens, and nobody is owed its outcome."""
    cloud, driver = cloud_of(create_latency=4.0, delete_latency=4.0)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(make(driver))
        await asyncio.sleep(after)
        task.cancel()
    await asyncio.sleep(5.0)
    assert cloud.made() == {"t": ["sim-000001"]}
    async with asyncio.TaskGroup() as group:
        task = group.create_task(driver.delete_server("sim-000001", timeout=10))  # type: ignore[arg-type]
        await asyncio.sleep(after)
        task.cancel()
    await asyncio.sleep(5.0)
    assert (cloud.servers(), cloud.under_way(), cloud.in_flight) == ([], 0, 0)
    assert cloud.datacenter.snapshot()["unclaimed"] == 0
