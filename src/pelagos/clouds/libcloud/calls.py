"""Calls of a blocking library: threads, deadlines, the circuit, and answers that come too late.

A library's object is not safe for two threads, so each thread of an account makes one of its own, lazily and in that
thread (some log in when they are made). A coroutine waits for its deadline and no longer; the thread goes on until its
socket times out, which is sooner than the deadline wherever the library lets us say so (see ``wire``). What it answers
after its deadline is given to the ``late`` of the call, so that a server whose create reply came late is known by its
token before the cloud lists it.

A thread that does not come back is lost to the account. When as many as the limit are lost, the circuit opens: calls
fail at once, certainly without an effect, in place of queueing behind threads that never return. It closes when one of
them does.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import structlog

from pelagos.clouds.errors import CloudUncertain, CloudUnreachable
from pelagos.clouds.libcloud.wire import Ledger, noting
from pelagos.model.errors import PelagosError, Unavailable
from pelagos.model.workers import Job
from pelagos.model.world import World

__all__ = ["LibraryCalls"]

D = TypeVar("D")
T = TypeVar("T")

_log = structlog.get_logger("pelagos.clouds.libcloud")


class LibraryCalls(Generic[D]):
    """Runs functions on the library's objects. ``make`` builds one; ``judge`` says what an exception means.

    ``judge(error, ledger, effect, what)`` returns the error of the family to raise; it runs in the thread."""

    def __init__(
        self,
        world: World,
        account: str,
        make: Callable[[], D],
        judge: Callable[[Exception, Ledger, bool, str], PelagosError],
        *,
        threads: int,
        stuck_limit: int = 0,
    ) -> None:
        self._world = world
        self._account = account
        self._make = make
        self._judge = judge
        self._workers = world.workers(f"cloud-{account}", threads)
        self._limit = min(stuck_limit or threads, threads)
        self._own = threading.local()
        self._given_up: dict[Job[Any], float] = {}
        self._closed = False
        self._counts = {"calls": 0, "timed_out": 0, "late_answers": 0, "refused_by_circuit": 0}

    @property
    def stuck(self) -> int:
        """Threads whose call has outlived its deadline."""
        now = self._world.monotonic()
        return sum(1 for deadline in self._given_up.values() if deadline <= now)

    @property
    def circuit_open(self) -> bool:
        return self.stuck >= self._limit

    async def read(self, function: Callable[[D], T], *, timeout: float, what: str) -> T:
        """Run what changes nothing. When the deadline passes, raises CloudUnreachable."""
        return await self._call(function, timeout, False, what, None)

    async def write(
        self, function: Callable[[D], T], *, timeout: float, what: str, late: Callable[[T], None] | None = None
    ) -> T:
        """Run what may have an effect. When the deadline passes after it began, raises CloudUncertain; its answer then
        goes to ``late``, in the loop. If it had not begun it never will: CloudUnreachable."""
        return await self._call(function, timeout, True, what, late)

    def close(self) -> None:
        """Let the threads go. What is under way ends for those who wait for it; what has not begun is Unavailable."""
        self._closed = True
        self._workers.close()

    def snapshot(self) -> dict[str, Any]:
        """Counters for people."""
        return {
            **self._counts,
            "threads": self._workers.threads,
            "given_up_and_running": len(self._given_up),
            "stuck": self.stuck,
            "circuit": "open" if self.circuit_open else "closed",
        }

    async def _call(
        self,
        function: Callable[[D], T],
        timeout: float,
        effect: bool,
        what: str,
        late: Callable[[T], None] | None,
    ) -> T:
        self._admit(what)
        self._counts["calls"] += 1
        deadline = self._world.monotonic() + timeout
        job = self._workers.submit(lambda: self._run(function, deadline, effect, what))
        try:
            await asyncio.wait({job.future}, timeout=timeout)
        except asyncio.CancelledError:
            if not job.withdraw():
                self._give_up(job, deadline, late)
            raise
        if job.future.cancelled():
            raise self._closed_error()
        if job.future.done():
            return job.future.result()
        if job.withdraw():
            raise CloudUnreachable(f"{what}: all threads of the account {self._account} were busy for {timeout:g} s")
        self._counts["timed_out"] += 1
        self._give_up(job, deadline, late)
        otherwise = CloudUncertain if effect else CloudUnreachable
        raise otherwise(f"{what}: no answer within {timeout:g} s")

    def _admit(self, what: str) -> None:
        if self._closed:
            raise self._closed_error()
        stuck = self.stuck
        if stuck >= self._limit:
            self._counts["refused_by_circuit"] += 1
            raise CloudUnreachable(
                f"{what}: not sent, since {stuck} earlier calls of the account {self._account} have not come back",
                advice="The cloud's endpoint takes connections and does not answer, or a firewall drops them. "
                "Calls go on by themselves as soon as one of these ends.",
            )

    def _closed_error(self) -> Unavailable:
        return Unavailable(f"the driver of the account {self._account} is closed")

    def _run(self, function: Callable[[D], T], deadline: float, effect: bool, what: str) -> T:
        """In a thread."""
        ledger = Ledger(deadline, self._world.monotonic)
        with noting(ledger):
            try:
                ledger.admit()
                if not hasattr(self._own, "library"):
                    self._own.library = self._make()
                    ledger.forget()
                return function(self._own.library)
            except PelagosError:
                raise
            except Exception as error:
                raise self._judge(error, ledger, effect, what) from error

    def _give_up(self, job: Job[T], deadline: float, late: Callable[[T], None] | None) -> None:
        """Nobody waits any more; hear of it when it ends."""
        self._given_up[job] = deadline

        def ended(future: asyncio.Future[T]) -> None:
            self._given_up.pop(job, None)
            if future.cancelled():
                return
            error = future.exception()
            if error is not None:
                _log.debug("a call failed after it was given up", account=self._account, error=str(error))
                return
            self._counts["late_answers"] += 1
            if late is not None:
                late(future.result())

        job.future.add_done_callback(ended)
