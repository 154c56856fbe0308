"""The loop on virtual time: its clock, what it refuses, and processes that stop as the kernel would stop them."""

from __future__ import annotations

import asyncio
import contextvars
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from pelagos.simulation import (
    EPOCH,
    Deadlock,
    Forbidden,
    Livelock,
    SimulatedWorld,
    VirtualLoop,
    VirtualProcess,
    run_virtual,
)


def test_the_clock_jumps_to_each_timers_own_time() -> None:
    async def main(loop: VirtualLoop) -> list[float]:
        seen: list[float] = []
        due = [0.1 * n for n in range(1, 200)] + [1e6, 1e6 + 1e-7]
        for when in reversed(due):
            loop.call_at(when, lambda: seen.append(loop.time()))
        await asyncio.sleep(2e6)
        assert seen == sorted(due), "bit for bit"
        return seen

    assert run_virtual(main) == run_virtual(main)


@pytest.mark.parametrize(
    "ask",
    [
        lambda: asyncio.get_running_loop().run_in_executor(None, print),
        lambda: asyncio.open_connection("localhost", 1),
        lambda: asyncio.start_server(lambda r, w: None, "localhost", 1),
        lambda: asyncio.get_running_loop().getaddrinfo("localhost", 1),
        lambda: asyncio.get_running_loop().subprocess_exec(asyncio.SubprocessProtocol, "true"),
        lambda: SimulatedWorld().spawn(["true"]),
    ],
)
def test_nothing_from_outside_is_within_reach(ask: Callable[[], Awaitable[Any]]) -> None:
    async def main(loop: VirtualLoop) -> None:
        with pytest.raises(Forbidden, match="the simulation has no"):
            await ask()

    run_virtual(main)


def test_waiting_for_what_can_never_happen_is_told_with_who_waits_where() -> None:
    async def stuck() -> None:
        await asyncio.get_running_loop().create_future()

    async def main(loop: VirtualLoop) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(stuck(), name="the stuck one")

    with pytest.raises(Deadlock, match=r"the stuck one: test_virtual_loop.py:\d+ stuck"):
        run_virtual(main)


def test_a_clock_that_stands_still_is_told_with_who_is_busy() -> None:
    async def main(loop: VirtualLoop) -> None:
        while True:  # noqa: ASYNC110
            await asyncio.sleep(0)

    with pytest.raises(Livelock, match="busy are main"):
        run_virtual(main)


async def _ticks(log: list[Any]) -> None:
    async def tick(pause: float) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(pause)
            log.append((pause, loop.time()))

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(tick(1.0))
            # A task without context variables is the process's all the same.
            group.create_task(tick(2.5), context=contextvars.Context())
    finally:
        log.append("cleaned up")


def test_clean_up_that_waits_again_and_again_is_over_with_the_world(monkeypatch: pytest.MonkeyPatch) -> None:
    """Left standing, the garbage collector would tell of it in the middle of whatever runs then."""
    told: list[object] = []
    monkeypatch.setattr("sys.unraisablehook", lambda unraisable: told.append(unraisable.object))

    async def stubborn(loop: VirtualLoop) -> None:
        try:
            await loop.create_future()
        finally:
            try:
                await loop.create_future()
            finally:
                await loop.create_future()

    async def main(loop: VirtualLoop) -> None:
        process = VirtualProcess(loop, "a")
        process.start(stubborn(loop))
        loop.create_task(stubborn(loop))
        await asyncio.sleep(1)
        process.kill()

    run_virtual(main)
    gc.collect()
    assert told == []


def test_a_paused_process_goes_on_later_and_a_killed_one_never_cleans_up() -> None:
    log: list[Any] = []

    async def main(loop: VirtualLoop) -> VirtualProcess:
        process = loop.process("p")
        process.start(_ticks(log))
        await asyncio.sleep(3.2)
        process.pause()
        await asyncio.sleep(5.0)
        assert log == [(1.0, 1.0), (1.0, 2.0), (2.5, 2.5), (1.0, 3.0)]
        process.resume()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert log[4:] == [(1.0, 8.2), (2.5, 8.2)], "what was to happen meanwhile happens now"
        process.kill()
        await asyncio.sleep(10.0)
        assert len(log) == 6
        return process

    process = run_virtual(main)
    assert process.state == "dead"
    process.bury()
    assert log[6:] in ([], ["cleaned up"]), "only when the world around it is over"


def test_a_future_set_by_one_process_wakes_the_task_of_another() -> None:
    async def main(loop: VirtualLoop) -> list[str]:
        woken: list[str] = []
        bell: asyncio.Future[None] = loop.create_future()

        async def wait() -> None:
            await bell
            woken.append("waiter")

        async def ring() -> None:
            bell.set_result(None)
            ringer.kill()

        waiter, ringer = loop.process("waiter"), loop.process("ringer")
        waiter.start(wait())
        await asyncio.sleep(1.0)
        ringer.start(ring())
        await asyncio.sleep(1.0)
        return woken

    assert run_virtual(main) == ["waiter"]


def test_sets_of_tasks_are_walked_in_the_order_of_their_making() -> None:
    async def main(loop: VirtualLoop) -> list[str]:
        ended: list[str] = []

        async def wait(name: str) -> None:
            try:
                await asyncio.sleep(100)
            finally:
                ended.append(name)

        names = [f"t{n}" for n in range(50)]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0), asyncio.TaskGroup() as group:
                for name in names:
                    group.create_task(wait(name))
        return ended

    assert run_virtual(main) == run_virtual(main)


def test_the_world_comes_from_one_seed() -> None:
    async def main(loop: VirtualLoop) -> tuple[Any, ...]:
        one, same, other = SimulatedWorld(1, loop), SimulatedWorld(1), SimulatedWorld(2)
        assert (one.now(), one.monotonic()) == (EPOCH, 0.0)
        await asyncio.sleep(5.0)
        assert (same.now(), same.monotonic()) == (EPOCH + 5.0, 5.0)
        ids = [one.new_id() for _ in range(3)]
        assert ids == [same.new_id() for _ in range(3)]
        assert ids != [other.new_id() for _ in range(3)]
        assert len(ids[0]) == 36
        assert one.rng("a") is one.rng("a")
        assert one.rng("a").random() != one.rng("b").random()
        assert await one.run_blocking(pow, 2, exp=3) == 8
        return (*ids, await one.resolve("host", 80))

    assert run_virtual(main) == run_virtual(main)
