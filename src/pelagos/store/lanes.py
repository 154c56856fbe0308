"""Lanes: where work that blocks is carried out.

The batcher decides what runs together; a lane decides on whose time. A thread lane is real life: one thread a slot,
so that a slow disk never stops the loop. The inline lane is the simulation's: no thread exists there, the work runs
on the loop after one seeded delay and is acknowledged after another, so that everything a thread could let happen in
between (other tasks, other stores, a crash) can happen there too, and happens again from the same seed.

The way not chosen was `loop.run_in_executor`: its futures come back one `call_soon_threadsafe` each, and the pool of
the world is shared with work that may block for minutes, which a lease renewal must never wait for.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Protocol

__all__ = ["InlineLane", "Lane", "ThreadLane", "Work"]

Work = Callable[[int], None]
"""What a lane runs: called with the slot's number, raises nothing."""


class Lane(Protocol):
    """Runs pieces of work, at most one a slot at a time; the caller never submits more than there are slots."""

    @property
    def slots(self) -> int: ...

    def submit(self, slot: int, work: Work, done: Callable[[], None]) -> None:
        """Run ``work(slot)``, then ``done()`` on the loop's thread."""
        ...

    def wait(self, seconds: float) -> None:
        """Pause the work that calls it (back-off inside a piece of work)."""
        ...

    def close(self) -> None:
        """No more work will come; what waits is not begun."""
        ...


class ThreadLane:
    """One thread a slot, started with the first work of the slot."""

    def __init__(self, name: str, slots: int = 1) -> None:
        self.slots = slots
        self._name = name
        self._queues: list[SimpleQueue[tuple[Work, Callable[[], None]] | None]] = [SimpleQueue() for _ in range(slots)]
        self._threads: list[threading.Thread | None] = [None] * slots
        self._closing = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def submit(self, slot: int, work: Work, done: Callable[[], None]) -> None:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        if self._threads[slot] is None:
            thread = threading.Thread(target=self._serve, args=(slot,), name=f"{self._name}-{slot}", daemon=True)
            self._threads[slot] = thread
            thread.start()
        self._queues[slot].put((work, done))

    def wait(self, seconds: float) -> None:
        self._closing.wait(seconds)

    def close(self) -> None:
        self._closing.set()
        for queue, thread in zip(self._queues, self._threads, strict=True):
            if thread is not None:
                queue.put(None)
                thread.join(timeout=5.0)

    def _serve(self, slot: int) -> None:
        queue = self._queues[slot]
        loop = self._loop
        assert loop is not None
        while (item := queue.get()) is not None:
            work, done = item
            work(slot)
            try:
                loop.call_soon_threadsafe(done)
            except RuntimeError:
                # The loop was closed over our heads: nobody is left to be told.
                return


class InlineLane:
    """The simulation's lane: one slot, on the loop, with seeded delays before the work and before its report."""

    slots = 1

    def __init__(
        self,
        rng: random.Random,  # noqa: TID251 - the type, of one that the world gave
        *,
        before: tuple[float, float] = (0.0, 0.0),
        after: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        self._rng = rng
        self._before = before
        self._after = after
        self._timer: asyncio.Handle | None = None
        self._closed = False

    def submit(self, slot: int, work: Work, done: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()

        def report() -> None:
            if not self._closed:
                done()

        def run() -> None:
            if self._closed:
                return
            work(slot)
            # The work may have closed the lane: a crash in the middle of it.
            if not self._closed:
                self._timer = self._later(loop, self._after, report)

        self._timer = self._later(loop, self._before, run)

    def _later(
        self, loop: asyncio.AbstractEventLoop, bounds: tuple[float, float], call: Callable[[], None]
    ) -> asyncio.Handle:
        low, high = bounds
        if high <= 0.0:
            return loop.call_soon(call)
        return loop.call_later(self._rng.uniform(low, high), call)

    def wait(self, seconds: float) -> None:
        raise AssertionError("work on the loop may not pause: nothing in a simulation makes a transaction wait")

    def close(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
