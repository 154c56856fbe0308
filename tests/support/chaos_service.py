"""What containers run while the tests of :mod:`e2e.container.test_chaos` break things around them.

``Work`` answers calls, ``Ledger`` does durable work whose effect it records once, ``Load`` makes both busy and notes
how each call ended and how long it took. All of it runs in container programs; a test asks ``Load`` for its report.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Connection, text

from pelagos.container.apps import Resources, process_factory
from pelagos.model.errors import InvalidInput, PelagosError, Unavailable
from pelagos.model.scope import DEFAULT_SCOPE
from pelagos.process import Context, Process, ServiceProcess, client, operation, use_context
from pelagos.store import Store, once

__all__ = ["Done", "Entry", "Job", "Ledger", "Load", "LoadRequest", "Report", "Work", "ledger"]

OVERDUE = 2.0
"""Seconds beyond its time-out at which a call counts as one that hung: the machine may be busy, but not that busy."""


class Job(msgspec.Struct, frozen=True):
    number: int
    seconds: float = 0.0
    """How long it takes."""
    padding: bytes = b""


class Done(msgspec.Struct, frozen=True):
    number: int
    container: str


class Entry(msgspec.Struct, frozen=True):
    name: str
    seconds: float = 0.0
    """Between its commit and its end: whoever is killed then has done it and told nobody."""
    fate: str = ""
    """``refuse`` and ``fail`` raise, the former while a file ``open`` is not there; ``kill`` takes the whole container
    down, before anything is written."""


class Work(ServiceProcess):
    name = "work"

    def __init__(self, concurrency: int = 64, capacity: int = 1024) -> None:
        super().__init__()
        self.max_concurrent = concurrency  # type: ignore[misc]
        self.service_capacity = capacity  # type: ignore[misc]
        self._jobs = 0
        self._heard = 0

    async def on_init(self) -> None:
        await self.listen("topic:news.#", self._hear)

    async def _hear(self, news: Any) -> None:
        self._heard += 1

    @operation
    async def do(self, job: Job) -> Done:
        self._jobs += 1
        if job.seconds:
            await asyncio.sleep(job.seconds)
        return Done(job.number, self.container.id)

    @operation
    async def counts(self) -> tuple[int, int]:
        """Jobs that were begun, and events that were heard."""
        return self._jobs, self._heard


class Ledger(ServiceProcess):
    name = "ledger"
    durable = True
    delivery_limit = 3

    def __init__(self, store: Store, concurrency: int = 8) -> None:
        super().__init__()
        self.max_concurrent = concurrency  # type: ignore[misc]
        self._store = store

    @operation
    async def enter(self, entry: Entry) -> None:
        match entry.fate:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "refuse" if not Path("open").exists():  # noqa: ASYNC240 - a look
                raise InvalidInput(f"{entry.name} cannot be entered")
            case "fail":
                raise Unavailable(f"no ink for {entry.name}")
        context = self.context
        assert context.request_id is not None
        request_id, now = context.request_id, self.world.now()

        def write(connection: Connection) -> None:
            connection.execute(text("INSERT INTO chaos_ledger (name) VALUES (:name)"), {"name": entry.name})

        await self._store.run(
            lambda connection: once(connection, context.scope, request_id, "ledger.enter", now, write, None)
        )
        if entry.seconds:
            await asyncio.sleep(entry.seconds)


@process_factory(needs=(Store,))
def ledger(resources: Resources, *, concurrency: int = 8) -> Process:
    """The ledger, on the store of its container."""
    return Ledger(resources.get(Store), concurrency)  # type: ignore[type-abstract]


class LoadRequest(msgspec.Struct, frozen=True):
    """Each worker makes one call after another until it is stopped, or has made ``most``."""

    kind: str
    """``calls``, ``entries``, or ``bare`` entries, which have no request id of their own and are handed in once."""
    workers: int = 8
    timeout: float = 5.0
    most: int = 0
    pause: float = 0.0
    """Seconds between two of a worker; half to once of it."""
    seconds: float = 0.0
    padding: int = 0
    """Bytes."""


class Report(msgspec.Struct):
    """How it went: everything that began has an end in it."""

    ends: dict[str, int] = {}
    """``ok`` or the error's code: how many."""
    calls: int = 0
    """Those of them that were calls."""
    by: dict[str, int] = {}
    """Which container answered how many."""
    errors: list[str] = []
    """The first few."""
    wrong: int = 0
    """Answers to something else than was asked."""
    slowest: float = 0.0
    overdue: int = 0
    accepted: list[str] = []
    """Names of the entries that the exchange took over."""
    open: list[str] = []
    """Names of the entries of which that is not known."""

    def note(self, end: str, took: float, most: float) -> None:
        self.ends[end] = self.ends.get(end, 0) + 1
        self.slowest = max(self.slowest, took)
        if took > most + OVERDUE:
            self.overdue += 1


class Load(ServiceProcess):
    name = "load"

    def __init__(self) -> None:
        super().__init__()
        self._report = Report({}, 0, {}, [])
        self._running: list[asyncio.Task[None]] = []
        self._stopped = False

    async def on_init(self) -> None:
        self._rng = self.world.rng("chaos.load")
        self._run_name = self.world.new_id()
        self._numbers = int(self.world.now() * 1000)  # others than before a restart

    @operation
    async def begin(self, request: LoadRequest) -> None:
        """Make load; more of it if there is some already."""
        for _ in range(request.workers):
            one = self._calls(request) if request.kind == "calls" else self._entries(request)
            self._running.append(self.start_task(one))

    @operation
    async def hand_in(self, entry: Entry) -> None:
        """One entry."""
        await self.send("service:ledger", "enter", entry)

    @operation
    async def finish(self, at_once: bool) -> Report:
        """Begin nothing new (or only what is still to be made), wait for what is under way, and tell."""
        self._stopped = at_once
        await asyncio.gather(*self._running)
        report, self._report = self._report, Report({}, 0, {}, [])
        self._running.clear()
        self._stopped = False
        return report

    async def _turns(self, request: LoadRequest) -> AsyncIterator[int]:
        made = 0
        while not self._stopped and not (request.most and made >= request.most):
            made += 1
            self._numbers += 1
            yield self._numbers
            await asyncio.sleep(request.pause * self._rng.uniform(0.5, 1.0))

    async def _calls(self, request: LoadRequest) -> None:
        report, work = self._report, client(Work, self, timeout=request.timeout)
        async for number in self._turns(request):
            began = self.world.monotonic()
            end = "ok"
            try:
                done = await work.do(Job(number, request.seconds, b"x" * request.padding))
                report.by[done.container] = report.by.get(done.container, 0) + 1
                report.wrong += done.number != number
            except PelagosError as error:
                end = self._failed(error)
            report.calls += 1
            report.note(end, self.world.monotonic() - began, request.timeout)

    async def _entries(self, request: LoadRequest) -> None:
        """Hand entries in. Whoever is not sure hands in again, under the same id; and some do so for no reason."""
        report, bare = self._report, request.kind == "bare"
        async for number in self._turns(request):
            name = f"{self._run_name}-{number}"
            for _ in range(20):
                began = self.world.monotonic()
                end = "ok"
                try:
                    deadline = began + request.timeout
                    with use_context(Context(DEFAULT_SCOPE, deadline, request_id=None if bare else name)):
                        await self.send("service:ledger", "enter", Entry(name, request.seconds))
                except PelagosError as error:
                    end = self._failed(error)
                report.note(end, self.world.monotonic() - began, request.timeout)
                if bare or (end == "ok" and self._rng.random() > 0.05):
                    break
                await asyncio.sleep(0.2 if end != "ok" else 0.0)
            (report.accepted if end == "ok" else report.open).append(name)

    def _failed(self, error: PelagosError) -> str:
        if len(self._report.errors) < 20:
            self._report.errors.append(f"{error.code}: {error.message}")
        overloaded = isinstance(error, Unavailable) and error.details.get("overloaded")
        return "overloaded" if overloaded else str(error.code)
