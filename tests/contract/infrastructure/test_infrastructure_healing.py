"""Healing on a virtual clock: what is broken is replaced, patiently, and nobody is blamed for another's fault."""

from __future__ import annotations

import asyncio
import itertools
import json

import pytest

from contract.infrastructure.test_infrastructure_builds import states
from pelagos.model.states import InfrastructureState, InstanceState, RunState
from pelagos.services.infrastructure import MaintainerSettings
from pelagos.services.infrastructure.messages import SetMaintained
from pelagos.store.schema import events as event_rows
from support.infrastructure_world import describe
from support.virtual_site import anyio_backend, make_site, site

__all__ = ["anyio_backend", "make_site", "site"]

pytestmark = pytest.mark.anyio

CHECK = "{ports: [80], failures: 2, timeout: 20}"
PAIR = {"store": {"check": CHECK}, "web": {"after": ["store"], "scaling": (2, 4), "check": CHECK}}


async def stays(site, seconds):
    """Let virtual time pass."""
    await asyncio.sleep(seconds)


async def healed(site, program, expected):
    async def well():
        status = await program.status()
        really = site.alive() == sorted(name for name, found in expected.items() for _ in found)
        return really and status.state is InfrastructureState.READY and states(status) == expected

    await site.until(well, f"healed to {expected}")


FULL = {"store": ["ready"], "web": ["ready", "ready"]}


async def pass_over(site, program):
    """Maintenance runs, a while apart, until all is well: a server that is merely missing is not believed at once."""
    for _ in range(5):
        assert (await program.run("maintain")).state is RunState.SUCCEEDED
        if (await program.status()).state is InfrastructureState.READY:
            break
        await stays(site, 10.0)
    await healed(site, program, FULL)


async def times_of(site, kind, **where):
    rows = await site.rows(event_rows, kind=kind, **where)
    return sorted(row.at for row in rows)


@pytest.mark.parametrize("befalls", ["vanish", "stop", "kill", "ill"])
async def test_a_daemon_heals_what_befalls_a_server(site, befalls):
    daemon = await site.program(serves=True)
    await daemon.build(describe("shop", PAIR))
    before = await daemon.status()
    victim = (await site.provider_ids("web", before))[0]
    if befalls == "ill":
        site.east.set_health(victim, "bad")
    else:
        getattr(site.east, befalls)(victim)

    async def noticed():
        return victim not in [server.provider_id for server in site.east.servers()]

    await site.until(noticed, "the broken one is taken away")
    await healed(site, daemon, FULL)
    after = await daemon.status()
    assert before.nodes["store"].instances.keys() == after.nodes["store"].instances.keys()
    assert len(before.nodes["web"].instances.keys() & after.nodes["web"].instances.keys()) == 1
    site.assert_nothing_doubled()
    if befalls == "ill":
        kinds = await site.kinds()
        assert kinds.index("instance.temp_failed") < kinds.index("instance.failed"), "it was given time to recover"


@pytest.mark.parametrize("befalls", ["vanish", "stop", "kill"])
async def test_one_maintenance_run_heals_without_a_daemon(site, befalls):
    program = await site.program()
    await program.build(describe("shop", PAIR))
    victim = (await site.provider_ids("web", await program.status()))[0]
    getattr(site.east, befalls)(victim)
    await pass_over(site, program)
    before = await program.status()
    asked = site.east.calls["create"], site.east.calls["delete"]
    assert (await program.run("maintain")).state is RunState.SUCCEEDED
    assert (await program.status()).nodes == before.nodes, "what is well is left alone"
    assert (site.east.calls["create"], site.east.calls["delete"]) == asked


@pytest.mark.parametrize("kind", ["maintain", "up"])
async def test_a_run_waits_until_it_is_known_whether_a_server_is_gone(site, kind):
    """Just after it was made its cloud may not list it yet: before ``settle`` is over, absent means nothing."""
    program = await site.program()
    await program.build(describe("shop", PAIR))
    victim = (await site.provider_ids("web", await program.status()))[0]
    site.east.vanish(victim)
    if kind == "up":
        await program.build(describe("shop", PAIR))
    else:
        assert (await program.run("maintain")).state is RunState.SUCCEEDED
    status = await program.status()
    assert (status.state, states(status)) == (InfrastructureState.READY, FULL)
    assert site.alive() == ["store", "web", "web"]
    assert victim not in await site.provider_ids("web", status)


async def test_one_failed_check_proves_nothing_and_recovery_is_believed(site):
    daemon = await site.program(serves=True)
    await daemon.build(describe("shop", PAIR))
    status = await daemon.status()
    address = next(iter(status.nodes["store"].instances.values())).address
    site.prober.down.add(address)
    await site.until_event("instance.temp_failed", node="store")
    assert (await daemon.status()).state is InfrastructureState.DEGRADED
    assert next(iter((await daemon.status()).nodes["store"].instances.values())).reason == f"{address} does not answer"
    site.prober.down.clear()
    await healed(site, daemon, FULL)
    assert (await daemon.status()).nodes["store"].instances.keys() == status.nodes["store"].instances.keys()
    assert "instance.failed" not in await site.kinds()


async def test_dependents_are_not_blamed_while_what_they_depend_on_is_down(site):
    daemon = await site.program(serves=True)
    await daemon.build(describe("shop", PAIR))
    status = await daemon.status()
    webs = set(status.nodes["web"].instances)
    site.prober.down.update(i.address for node in status.nodes.values() for i in node.instances.values())
    await site.until_event("instance.failed", node="store")

    async def store_is_new():
        found = (await daemon.status()).nodes["store"].instances
        return [i.state.value for i in found.values()] == ["ready"] and not found.keys() & status.nodes[
            "store"
        ].instances

    await site.until(store_is_new, "the store is replaced")
    assert set((await daemon.status()).nodes["web"].instances) == webs, "they were as long ill, for its sake"
    site.prober.down.clear()
    await healed(site, daemon, FULL)
    assert set((await daemon.status()).nodes["web"].instances) == webs


async def test_grace_and_time_out_of_a_first_check(site):
    program = await site.program()
    check = "{ports: [80], grace: 30, timeout: 10}"
    run = await program.up(describe("shop", {"web": {"check": check, "health": "bad"}}))
    checking = await site.until_event("instance.checking")
    failed = await site.until_event("instance.failed")
    assert 40.0 <= failed.at - checking.at < 45.0, "the time-out begins when the grace ends"
    assert "unhealthy for 10 s" in json.loads(failed.data)["reason"]
    done = await program.finish(run.id)
    assert done.state is RunState.FAILED and "does not answer" in done.error.message and site.alive() == []


async def test_a_slow_starter_becomes_ready_within_its_grace(site):
    program = await site.program()
    run = await program.up(describe("shop", {"web": {"check": "{ports: [80], grace: 30, timeout: 5}"}}))
    site.prober.down.add("10.0.0.1")
    await site.until_event("instance.checking")
    site.prober.down.update(server.addresses[0] for server in site.east.servers())
    await stays(site, 25.0)
    site.prober.down.clear()
    assert (await program.finish(run.id)).state is RunState.SUCCEEDED
    assert sum(site.prober.looks.values()) < 40, "the pauses between its checks grow"


async def test_the_back_off_grows_and_is_bounded(make_site):
    settings = MaintainerSettings(interval=5.0, health_interval=2.0, backoff=2.0, backoff_max=30.0)
    site = await make_site(settings=settings)
    daemon = await site.program(serves=True)
    await daemon.build(describe("shop", {"web": {"check": CHECK}}))
    site.east.inject("create", "failed_build", times=7)
    site.east.vanish(site.east.servers()[0].provider_id)

    async def tried():
        return len(await times_of(site, "instance.pending")) >= 8

    await site.until(tried, "it is tried again and again")
    pending = await times_of(site, "instance.pending")
    pauses = [after - before for before, after in itertools.pairwise(pending)][1:]
    assert all(later >= earlier - 1.0 for earlier, later in itertools.pairwise(pauses)), pauses
    assert pauses[0] < 10 and 30 <= pauses[-1] <= 45, pauses
    await healed(site, daemon, {"web": ["ready"]})
    told = await daemon.explain()
    assert told.summary.startswith("ready")


async def test_a_detached_infrastructure_is_left_alone_until_it_is_attached(site):
    daemon = await site.program(serves=True)
    await daemon.build(describe("shop", PAIR))
    await daemon.ask("set_maintained", SetMaintained(infrastructure="shop", maintained=False))
    assert (await daemon.status()).state is InfrastructureState.SUSPENDED
    victim = (await site.provider_ids("web", await daemon.status()))[0]
    site.east.vanish(victim)
    await stays(site, 120.0)
    assert site.alive() == ["store", "web"] and (await daemon.status()).state is InfrastructureState.SUSPENDED
    await daemon.ask("set_maintained", SetMaintained(infrastructure="shop", maintained=True))
    await healed(site, daemon, FULL)
    assert site.alive() == ["store", "web", "web"]


async def test_a_cloud_that_does_not_answer_proves_nothing(site):
    daemon = await site.program(serves=True)
    await daemon.build(describe("shop", PAIR))
    before = await daemon.status()
    site.east.inject("list", "unreachable", times=20)
    await stays(site, 60.0)
    site.east.calm()
    await stays(site, 30.0)
    assert (await daemon.status()).nodes == before.nodes and site.alive() == ["store", "web", "web"]
    assert "instance.failed" not in await site.kinds()


async def test_cancelling_a_maintenance_run_takes_back_what_it_made(site):
    program = await site.program()
    await program.build(describe("shop", PAIR))
    kept = set((await program.status()).nodes["web"].instances)
    victim = (await site.provider_ids("web", await program.status()))[0]
    site.east.kill(victim)
    run = await program.start_run("maintain", infrastructure="shop")
    await site.until_event("instance.pending", run_id=run.id)
    await program.cancel(run)
    assert (await program.finish(run.id)).state is RunState.CANCELLED
    assert site.alive() == ["store", "web"]
    status = await program.status()
    assert set(status.nodes["web"].instances) < kept and status.state is InfrastructureState.DEGRADED
    await pass_over(site, program)


async def test_cancelling_a_maintenance_run_keeps_what_is_healed(site):
    program = await site.program()
    await program.build(describe("shop", PAIR))
    first, second = await site.provider_ids("web", await program.status())
    site.east.kill(first)
    site.east.kill(second)
    site.east.inject("create", "unreachable", times=1)
    run = await program.start_run("maintain", infrastructure="shop")
    healed = await site.until_event("instance.ready", run_id=run.id)
    await program.cancel(run)
    assert (await program.finish(run.id)).state is RunState.CANCELLED
    instances = (await program.status()).nodes["web"].instances
    assert healed.instance_id in instances and instances[healed.instance_id].state is InstanceState.READY
    await pass_over(site, program)


async def test_a_probe_that_cannot_be_made_is_told_once_and_fails_nobody(site):
    site.prober.unavailable = ("ping: no ICMP socket is allowed here",)
    daemon = await site.program(serves=True)
    await daemon.build(describe("shop", PAIR))
    await stays(site, 30.0)
    (told,) = await site.rows(event_rows, kind="instance.unprobed")
    assert json.loads(told.data) == {"reason": "ping: no ICMP socket is allowed here"}
    assert states(await daemon.status()) == FULL
