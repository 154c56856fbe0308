"""Several real processes on one database: nothing lost between them, and a killed holder replaced at once."""

import asyncio
import os
import signal
import sys
import textwrap
from functools import partial

import pytest
from sqlalchemy import func, insert, select

from pelagos.model.errors import LeaseHeld
from pelagos.store import LeaseKeeper, SystemHostFacts, read_events, read_lease
from pelagos.store.schema import quota_holdings, quota_limits

pytestmark = pytest.mark.anyio

_PROGRAM = textwrap.dedent(
    """
    import asyncio, sys
    from functools import partial
    from pathlib import Path
    from sqlalchemy import insert, select, update
    from pelagos.model import DEFAULT_SCOPE, SystemWorld
    from pelagos.store import LeaseKeeper, SystemHostFacts, append, open_store
    from pelagos.store.schema import quota_holdings, quota_limits

    target, what, locks, name = sys.argv[1:5]

    def count(n, connection):
        used = connection.execute(select(quota_holdings.c.used)).scalar_one()
        connection.execute(update(quota_holdings).values(used=used + 1))
        append(connection, DEFAULT_SCOPE, f"{name}.{n}", at=0.0)

    def mark(n, connection):
        connection.execute(insert(quota_limits).values(project_id="p", resource=str(n), limit=n))

    async def main():
        store = open_store(target, SystemWorld())
        await store.start()
        if what == "count":
            for start in range(0, 40, 4):
                await asyncio.gather(*[store.run(partial(count, start + i)) for i in range(4)])
        elif what == "write":
            n = 0
            while True:
                await store.run(partial(mark, n))
                print(n, flush=True)
                n += 1
        else:
            keeper = LeaseKeeper(store, SystemWorld(), SystemHostFacts(Path(locks)))
            async with keeper.running():
                await keeper.acquire("x", "build guestbook")
                print("held", flush=True)
                await asyncio.Event().wait()
        await store.stop()

    asyncio.run(main())
    """
)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def engine(request):
    """Processes share a file or a server; the simulated database lives in one."""
    return request.param


@pytest.fixture
async def start(database, tmp_path):
    running = []

    async def begin(what, name="p"):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _PROGRAM, str(database), what, str(tmp_path / "locks"), name,
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        running.append(process)
        return process

    yield begin
    for process in running:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_processes_that_count_together_lose_nothing(make_store, start):
    store = await make_store()
    await store.run(
        lambda c: c.execute(insert(quota_holdings).values(project_id="p", resource="n", used=0, reserved=0)) and None
    )
    processes = [await start("count", f"p{i}") for i in range(3)]
    bell = store.watch()
    seen, position = [], 0
    async with asyncio.timeout(60):
        while len(seen) < 120:
            found = await store.read(partial(read_events, after=position))
            if not found:
                assert await bell.changed(30)
                continue
            seen.extend(event.kind for event in found)
            position = found[-1].position
    assert [await process.wait() for process in processes] == [0, 0, 0]
    assert sorted(seen) == sorted(f"p{p}.{n}" for p in range(3) for n in range(40))
    assert await store.read(lambda c: c.execute(select(quota_holdings.c.used)).scalar_one()) == 120


async def test_every_acknowledged_write_survives_a_kill(make_store, start):
    store = await make_store()
    process = await start("write")
    for _ in range(50):
        await process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    rest, _ = await process.communicate()
    acknowledged = 50 + len(rest.splitlines())
    written = await store.read(lambda c: c.execute(select(func.count()).select_from(quota_limits)).scalar_one())
    # The last one may have been committed and not yet acknowledged.
    assert written in (acknowledged, acknowledged + 1)
    await store.run(lambda c: c.execute(insert(quota_limits).values(project_id="q", resource="n", limit=1)) and None)


async def test_a_killed_holder_is_replaced_at_once_and_a_stopped_one_is_not(make_store, start, world, tmp_path):
    store = await make_store()
    process = await start("hold")
    assert await process.stdout.readline() == b"held\n"
    async with LeaseKeeper(store, world, SystemHostFacts(tmp_path / "locks")).running() as mine:
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(LeaseHeld) as refused:
            await mine.acquire("x")
        assert refused.value.details["pid"] == process.pid
        assert "build guestbook" in refused.value.message
        process.send_signal(signal.SIGKILL)
        await process.wait()
        began = world.monotonic()
        held = await mine.acquire("x", wait=10)
        assert world.monotonic() - began < 2.0
        assert held.epoch == 2


async def test_whoever_waits_for_a_killed_holder_need_not_wait_for_the_expiry(make_store, start, world, tmp_path):
    store = await make_store()
    process = await start("hold")
    await process.stdout.readline()
    async with LeaseKeeper(store, world, SystemHostFacts(tmp_path / "locks")).running() as mine:
        async with asyncio.TaskGroup() as group:
            waiter = group.create_task(mine.acquire("x", wait=30))
            began = world.monotonic()
            process.send_signal(signal.SIGKILL)
        assert waiter.result().epoch == 2
        assert world.monotonic() - began < 5.0
        row = await store.read(partial(read_lease, name="x"))
        assert row.pid == os.getpid()
