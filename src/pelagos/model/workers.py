"""Threads for libraries that block for long and cannot be interrupted.

:meth:`~pelagos.model.world.World.run_blocking` is for what ends soon. A library that talks to a network may hang in a
system call for as long as it likes; then three things are wanted that an executor does not give: a job that has not
begun can be taken back, a job that is given up goes on and is heard of when it ends, and a thread that hangs does not
keep the interpreter from its exit. (``concurrent.futures`` joins its threads there, whatever ``shutdown`` was told.)
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

__all__ = ["DaemonWorkers", "InlineWorkers", "Job", "Workers"]

T = TypeVar("T")


class Job(Generic[T]):
    """A function handed to workers. ``future`` belongs to the loop that handed it over; cancelling it stops nothing."""

    def __init__(self, function: Callable[[], T], loop: asyncio.AbstractEventLoop) -> None:
        self.future: asyncio.Future[T] = loop.create_future()
        self._function = function
        self._loop = loop
        self._lock = threading.Lock()
        self._begun = False
        self._withdrawn = False

    def withdraw(self) -> bool:
        """True if it had not begun, and now never will."""
        with self._lock:
            if self._begun:
                return False
            self._withdrawn = True
        self.future.cancel()
        return True

    def _run(self) -> None:
        """In a worker's thread."""
        with self._lock:
            if self._withdrawn:
                return
            self._begun = True
        try:
            result = self._function()
        except BaseException as error:  # noqa: BLE001 - forwarded to whoever waits for the job
            self._tell(self._set_error, error)
        else:
            self._tell(self._set_result, result)

    def _tell(self, setter: Callable[..., None], value: object) -> None:
        try:
            self._loop.call_soon_threadsafe(setter, value)
        except RuntimeError:
            return  # the loop is closed: nobody waits any more

    def _set_result(self, result: T) -> None:
        if not self.future.done():
            self.future.set_result(result)

    def _set_error(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error if isinstance(error, Exception) else RuntimeError(repr(error)))


class Workers(Protocol):
    """A bounded number of threads with one queue."""

    @property
    def threads(self) -> int:
        """The most there will be."""
        ...

    def submit(self, function: Callable[[], T]) -> Job[T]:
        """Have it run by the next free thread. Only inside a running loop; RuntimeError after close."""
        ...

    def close(self) -> None:
        """Take back what has not begun and let the threads go; one that hangs holds nothing up. Idempotent."""
        ...


class DaemonWorkers:
    """Real threads, started when first needed."""

    def __init__(self, name: str, threads: int) -> None:
        self._name = name
        self._limit = max(1, threads)
        self._queue: queue.SimpleQueue[Job[object] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._running = 0
        self._unfinished = 0
        self._closed = False

    @property
    def threads(self) -> int:
        return self._limit

    def submit(self, function: Callable[[], T]) -> Job[T]:
        job = Job(function, asyncio.get_running_loop())
        with self._lock:
            if self._closed:
                raise RuntimeError(f"the workers {self._name} are closed")
            self._unfinished += 1
            if self._running < min(self._limit, self._unfinished):
                self._running += 1
                name = f"{self._name}-{self._running}"
                threading.Thread(target=self._work, name=name, daemon=True).start()
            self._queue.put(job)  # type: ignore[arg-type]  # a job is run whatever it returns
        return job

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for job in self._drained():
                job.withdraw()
            for _ in range(self._running):
                self._queue.put(None)

    def _drained(self) -> list[Job[object]]:
        jobs: list[Job[object]] = []
        while True:
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                return jobs
            if job is not None:
                jobs.append(job)

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            job._run()
            del job  # what it holds is not kept while the thread waits
            with self._lock:
                self._unfinished -= 1


class InlineWorkers:
    """No thread: a job runs at once, where it is handed over, and takes no time. For virtual time."""

    threads = 1

    def __init__(self) -> None:
        self._closed = False

    def submit(self, function: Callable[[], T]) -> Job[T]:
        if self._closed:
            raise RuntimeError("the workers are closed")
        job = Job(function, asyncio.get_running_loop())
        try:
            job.future.set_result(function())
        except Exception as error:  # noqa: BLE001 - forwarded to whoever waits for the job
            job.future.set_exception(error)
        job._begun = True
        return job

    def close(self) -> None:
        self._closed = True
