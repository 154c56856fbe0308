"""A simulated cloud whose reality lives in a file goes on from one process to the next."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from pelagos.clouds import CloudDriver, CloudError, CloudUncertain, CloudUnreachable, DriverContext, ServerSpec
from pelagos.clouds.simulated import SimulatedDriver, SimulatedPlugin
from pelagos.model.states import ServerState
from pelagos.simulation import SimulatedWorld, VirtualLoop

pytestmark = pytest.mark.anyio
OPTIONS = {"state": "file", "boot_seconds": 10.0, "create_latency": 1.0, "max_servers": 30}


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualLoop}


async def another_process(home: Path, **options: Any) -> CloudDriver:
    """As a new process opens it: nothing is shared with others but the file."""
    plugin = SimulatedPlugin()
    context = DriverContext(account="sim", world=SimulatedWorld(), home=home, options={**OPTIONS, **options})
    return await plugin.open(context)


async def test_servers_go_on_living_and_booting(tmp_path: Path) -> None:
    made = await (await another_process(tmp_path)).create_server(ServerSpec(name="one"), token="t", timeout=5)
    later = await another_process(tmp_path)
    assert await later.get_server(made.provider_id, timeout=5) == made
    await asyncio.sleep(10.0)
    assert (await later.get_server(made.provider_id, timeout=5)).state is ServerState.ACTIVE
    await (await another_process(tmp_path)).delete_server(made.provider_id, timeout=5)
    assert await later.list_servers(timeout=5) == ()
    assert (tmp_path / "clouds" / "sim" / "cloud.msgpack").stat().st_mode & 0o777 == 0o600


async def test_what_a_dead_process_sent_arrives(tmp_path: Path) -> None:
    first = await another_process(tmp_path)
    assert isinstance(first, SimulatedDriver)
    first.cloud.inject("create", "late", delay=20.0)
    with pytest.raises(CloudUncertain):
        await first.create_server(ServerSpec(name="one"), token="t", timeout=5)
    second = await another_process(tmp_path)
    assert await second.find_by_token("t", timeout=5) is None
    await asyncio.sleep(16.0)
    assert await second.find_by_token("t", timeout=5) is not None
    assert first.cloud.made() == {"t": ["sim-000001"]}


async def test_two_processes_at_once_see_one_reality(tmp_path: Path) -> None:
    drivers = [await another_process(tmp_path) for _ in range(3)]
    async with asyncio.TaskGroup() as group:
        for number in range(15):
            driver = drivers[number % 3]
            group.create_task(driver.create_server(ServerSpec(name="n"), token=f"t{number}", timeout=5))
    for driver in drivers:
        listed = await driver.list_servers(timeout=5)
        assert len({s.provider_id for s in listed}) == 15
        assert {s.token for s in listed} == {f"t{number}" for number in range(15)}


async def test_a_removed_file_is_an_empty_cloud(tmp_path: Path) -> None:
    driver = await another_process(tmp_path)
    await driver.create_server(ServerSpec(name="one"), token="t", timeout=5)
    (tmp_path / "clouds" / "sim" / "cloud.msgpack").unlink()
    assert await driver.list_servers(timeout=5) == ()
    await driver.create_server(ServerSpec(name="one"), token="u", timeout=5)
    assert [s.token for s in await (await another_process(tmp_path)).list_servers(timeout=5)] == ["u"]


async def test_a_file_that_cannot_be_written_is_unreachable_and_nothing_was_done(tmp_path: Path) -> None:
    driver = await another_process(tmp_path)
    await driver.create_server(ServerSpec(name="one"), token="t", timeout=5)
    draft = tmp_path / "clouds" / "sim" / "cloud.new"
    draft.mkdir()
    with pytest.raises(CloudUnreachable):
        await driver.create_server(ServerSpec(name="two"), token="u", timeout=5)
    draft.rmdir()
    assert [s.token for s in await driver.list_servers(timeout=5)] == ["t"]
    made = await driver.create_server(ServerSpec(name="two"), token="u", timeout=5)
    draft.mkdir()
    with pytest.raises(CloudUnreachable):
        await driver.delete_server(made.provider_id, timeout=5)
    draft.rmdir()
    assert [s.token for s in await driver.list_servers(timeout=5)] == ["t", "u"]


async def test_a_file_that_fails_when_the_effect_arrives_leaves_it_uncertain(tmp_path: Path) -> None:
    driver = await another_process(tmp_path)
    draft = tmp_path / "clouds" / "sim" / "cloud.new"
    async with asyncio.TaskGroup() as group:
        task = group.create_task(refused(driver.create_server(ServerSpec(name="one"), token="t", timeout=5)))
        await asyncio.sleep(0.2)
        draft.mkdir()
    assert isinstance(task.result(), CloudUncertain)
    draft.rmdir()
    assert await driver.find_by_token("t", timeout=5) is not None


async def refused(call: Any) -> CloudError | None:
    try:
        await call
    except CloudError as error:
        return error
    return None


async def test_a_file_of_something_else_says_so(tmp_path: Path) -> None:
    driver = await another_process(tmp_path)
    (tmp_path / "clouds" / "sim").mkdir(parents=True)
    (tmp_path / "clouds" / "sim" / "cloud.msgpack").write_bytes(b"not msgpack")
    with pytest.raises(CloudError) as caught:
        await driver.list_servers(timeout=5)
    assert "cloud.msgpack" in caught.value.message and "Remove" in caught.value.advice


async def test_accounts_and_homes_are_apart(tmp_path: Path) -> None:
    plugin, world = SimulatedPlugin(), SimulatedWorld()
    contexts = [
        DriverContext(account=account, world=world, home=tmp_path / home, options={"state": state})
        for home in ("h1", "h2")
        for account in ("a", "b")
        for state in ("memory",)
    ]
    for context in contexts:
        driver = await plugin.open(context)
        await driver.create_server(ServerSpec(name="one"), token=f"{context.home}{context.account}", timeout=5)
    for context in contexts:
        listed = await (await plugin.open(context)).list_servers(timeout=5)
        assert [s.token for s in listed] == [f"{context.home}{context.account}"]
