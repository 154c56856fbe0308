"""Group commit: all transactions that wait when a slot becomes free run in one database transaction.

The problem: a durable commit costs one flush of the disk (or round trips to a server), whatever it holds. Three
hundred transactions one by one cost three hundred flushes; together they cost one. Each runs inside its own
savepoint, so that one which raises takes nothing of the others with it, and none is acknowledged before the commit.

The loop's side (this class) only queues, dispatches and acknowledges; the database's side is an ``execute`` function
that a lane runs. Dispatch waits for the end of the loop's turn, so that what is submitted in one turn travels
together; acknowledgements come back in one call for the whole batch. Because the writer takes its next batch from the
loop and not from a shared queue, no lock exists and the simulation runs the very same code.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection

from pelagos.model.errors import StoreUnavailable
from pelagos.store.lanes import Lane

__all__ = ["Batcher", "Execute", "Job"]

T = TypeVar("T")


class Job(Generic[T]):
    """One transaction on its way: what to run, and after the run what came of it."""

    __slots__ = ("error", "future", "transaction", "value")

    def __init__(self, transaction: Callable[[Connection], T], future: asyncio.Future[T]) -> None:
        self.transaction = transaction
        self.future = future
        self.value: T | None = None
        self.error: BaseException | None = None


Execute = Callable[[int, list[Job[Any]]], None]
"""``execute(slot, jobs)`` runs the jobs and sets each one's value or error. What it raises kills the batcher: only a
defect, or a crash in the simulation."""


class Batcher:
    """Queues jobs and keeps the lane's slots busy. All methods are for the loop's thread."""

    def __init__(
        self, lane: Lane, execute: Execute, *, limit: int = 512, committed: Callable[[], None] | None = None
    ) -> None:
        self._lane = lane
        self._execute = execute
        self._limit = limit
        self._committed = committed
        self._waiting: deque[Job[Any]] = deque()
        self._running: dict[int, list[Job[Any]]] = {}
        self._free = list(range(lane.slots - 1, -1, -1))
        self._scheduled = False
        self._closed: BaseException | None = None
        self._idle: asyncio.Future[None] | None = None
        self.batches = 0
        self.jobs = 0
        self.largest = 0

    @property
    def depth(self) -> int:
        """Jobs accepted and not yet acknowledged."""
        return len(self._waiting) + sum(len(jobs) for jobs in self._running.values())

    def submit(self, transaction: Callable[[Connection], T]) -> asyncio.Future[T]:
        """Queue a transaction. Cancelling the future before its batch begins withdraws it; later, it runs all the
        same and nobody hears of it."""
        if self._closed is not None:
            raise _again(self._closed)
        loop = asyncio.get_running_loop()
        job = Job(transaction, loop.create_future())
        self._waiting.append(job)
        if self._free and not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._dispatch)
        return job.future

    async def drain(self) -> None:
        """Accept nothing more, finish what was accepted."""
        if self._closed is None:
            self._closed = StoreUnavailable("the store is stopped", advice="Start it before using it.")
        if self._waiting or self._running:
            self._idle = asyncio.get_running_loop().create_future()
            await self._idle

    def kill(self, error: BaseException) -> None:
        """Everything accepted, and everything that comes, gets ``error``; nothing more is begun."""
        self._closed = error
        jobs = [job for running in self._running.values() for job in running]
        jobs.extend(self._waiting)
        self._running.clear()
        self._waiting.clear()
        for job in jobs:
            if not job.future.done():
                job.future.set_exception(_again(error))
        self._check_idle()

    def _dispatch(self) -> None:
        self._scheduled = False
        while self._free and self._waiting:
            jobs: list[Job[Any]] = []
            while self._waiting and len(jobs) < self._limit:
                job = self._waiting.popleft()
                if not job.future.done():
                    jobs.append(job)
            if not jobs:
                break
            slot = self._free.pop()
            self._running[slot] = jobs
            self.batches += 1
            self.jobs += len(jobs)
            self.largest = max(self.largest, len(jobs))
            crash: list[BaseException] = []
            self._lane.submit(slot, partial(self._work, jobs, crash), partial(self._finished, slot, jobs, crash))
        self._check_idle()

    def _work(self, jobs: list[Job[Any]], crash: list[BaseException], slot: int) -> None:
        try:
            self._execute(slot, jobs)
        except BaseException as error:  # noqa: BLE001 - the edge of the lane: it goes to every caller of the batch
            crash.append(error)

    def _finished(self, slot: int, jobs: list[Job[Any]], crash: list[BaseException]) -> None:
        if self._running.pop(slot, None) is None:
            return
        self._free.append(slot)
        if crash:
            for job in jobs:
                if not job.future.done():
                    job.future.set_exception(_again(crash[0]))
            if not isinstance(crash[0], Exception):
                self.kill(crash[0])
            self._dispatch()
            return
        wrote = False
        for job in jobs:
            if job.error is None:
                wrote = True
                if not job.future.done():
                    job.future.set_result(job.value)
            elif not job.future.done():
                job.future.set_exception(job.error)
        if wrote and self._committed is not None:
            self._committed()
        self._dispatch()

    def _check_idle(self) -> None:
        if self._idle is not None and not self._idle.done() and not self._waiting and not self._running:
            self._idle.set_result(None)


def _again(error: BaseException) -> BaseException:
    """The same error for one more receiver: an exception raised in several tasks would mix their tracebacks."""
    if isinstance(error, StoreUnavailable):
        return StoreUnavailable(error.message, advice=error.advice, details=dict(error.details))
    return error
