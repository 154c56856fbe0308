"""The threads of an account: bounded, and left to themselves when nobody waits."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pelagos.clouds import DriverContext
from pelagos.clouds.openstack import DRIVER
from pelagos.clouds.openstack.threads import Threads
from pelagos.model.errors import Unsupported
from pelagos.model.world import SystemWorld

pytestmark = pytest.mark.anyio
PATIENCE = 30.0


@pytest.fixture
def world() -> Iterator[SystemWorld]:
    made = SystemWorld(threads=4)
    yield made
    made.close()


async def idle(threads: Threads) -> None:
    async with asyncio.timeout(PATIENCE):
        while threads.taken:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0)


async def test_no_more_at_once_than_the_limit(world: SystemWorld) -> None:
    threads = Threads(world, 2)
    lock, running, most = threading.Lock(), 0, 0
    pair = threading.Barrier(2)

    def work() -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        pair.wait(PATIENCE)
        with lock:
            running -= 1
        return 1

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(threads.run(work)) for _ in range(6)]
    assert sum(task.result() for task in tasks) == 6
    assert most == 2 and threads.taken == 0


async def test_a_call_whose_caller_is_gone_keeps_its_slot_until_it_ends(world: SystemWorld) -> None:
    threads = Threads(world, 1)
    begun, gate = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        gate.wait(PATIENCE)
        raise OSError("nobody hears this")

    async with asyncio.TaskGroup() as group:
        left = group.create_task(threads.run(work))
        assert await world.run_blocking(begun.wait, PATIENCE)
        left.cancel()
    assert threads.taken == 1
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await threads.run(lambda: None)
    gate.set()
    await idle(threads)
    assert await threads.run(lambda: 7) == 7


async def test_errors_are_raised_to_whoever_waits(world: SystemWorld) -> None:
    def work() -> None:
        raise OSError("broken")

    threads = Threads(world, 1)
    with pytest.raises(OSError, match="broken"):
        await threads.run(work)
    assert threads.taken == 0


async def test_without_the_sdk_it_says_what_to_install(
    world: SystemWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("pelagos.clouds.openstack.")]:
        if name.rpartition(".")[2] not in ("plugin", "options"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "openstack", None)
    monkeypatch.setitem(sys.modules, "openstack.exceptions", None)
    context = DriverContext(account="os", world=world, home=tmp_path, options={"cloud": "lab"})
    with pytest.raises(Unsupported) as caught:
        await DRIVER.open(context)
    assert caught.value.advice == "pip install 'pelagos[openstack]'"
