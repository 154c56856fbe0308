"""The store of the simulation: the same batcher, savepoints and SQL, on the loop and on virtual time.

A :class:`SimulatedDatabase` is what survives a crash: a SQLite database in memory (or a file) on one connection.
Stores are incarnations that open it. Work runs in one piece on the loop, so that batches of several stores never
interleave, which is what a write lock would see to; but a seeded delay lies before each batch and another between its
commit and its acknowledgement, and there anything may happen.

A crash is an exception that is no :class:`Exception`, raised by a hook or given to :meth:`SimulatedStore.kill`. Then
the incarnation is dead: what was not committed is rolled back, nobody is acknowledged, every call in flight and every
later one gets the same exception, so that no `finally` and no error handler of the dead program writes anything more.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection

from pelagos.model.errors import InternalError, StoreUnavailable
from pelagos.model.world import World
from pelagos.store.batcher import Batcher, Job
from pelagos.store.faults import Fault, driver_error, sqlite_fault, unavailable
from pelagos.store.lanes import InlineLane
from pelagos.store.migrating import bring_up_to_date
from pelagos.store.sqlite import CommitHooks, SqliteWriter, connect_sqlite, raw_sqlite
from pelagos.store.watching import Bell, Bells

__all__ = ["SimulatedDatabase", "SimulatedStore", "open_simulated_store"]

T = TypeVar("T")


class SimulatedDatabase:
    """The data, and the clock by which leases expire. ``path`` None: in memory."""

    def __init__(self, world: World, path: Path | None = None) -> None:
        self.where = "in memory" if path is None else str(path)
        self.connection = connect_sqlite(":memory:" if path is None else str(path), world.now)
        self.raw: sqlite3.Connection = raw_sqlite(self.connection)
        # Durability is not what is simulated here: a crash of the program loses nothing that was committed.
        self.raw.execute("PRAGMA synchronous=OFF")
        self.stores: list[SimulatedStore] = []

    def close(self) -> None:
        """Let the data go."""
        self.connection.close()


def open_simulated_store(
    world: World,
    *,
    database: SimulatedDatabase | None = None,
    path: Path | None = None,
    hooks: CommitHooks | None = None,
    before: tuple[float, float] = (0.0, 0.0),
    after: tuple[float, float] = (0.0, 0.0),
    batch: int = 512,
    name: str = "store",
) -> SimulatedStore:
    """A new incarnation on ``database`` (by default a new one of its own).

    ``before`` and ``after``: bounds in seconds of the delays around a batch, drawn from ``world.rng(name)``.
    ``hooks``: called before the commit, and after it before the acknowledgement; what they raise is a crash."""
    own = database is None
    return SimulatedStore(
        world,
        database or SimulatedDatabase(world, path),
        own,
        hooks,
        InlineLane(world.rng(name), before=before, after=after),
        batch,
    )


class SimulatedStore:
    """A :class:`~pelagos.store.port.Store` without thread, file lock or clock of its own."""

    dialect = "sqlite"

    def __init__(
        self,
        world: World,
        database: SimulatedDatabase,
        owns: bool,
        hooks: CommitHooks | None,
        lane: InlineLane,
        batch: int,
    ) -> None:
        self._world = world
        self.database = database
        self._owns = owns
        self._lane = lane
        self._writer = SqliteWriter(database.connection, hooks)
        self._bells = Bells()
        self._batcher = Batcher(lane, self._execute, limit=batch)
        self._state = "new"
        self._crash: BaseException | None = None
        self._reads = 0

    async def start(self) -> None:
        self._check_alive()
        bring_up_to_date(self.database.connection, self.database.raw.execute, self.database.where)
        self.database.stores.append(self)
        self._state = "started"

    async def stop(self) -> None:
        if self._state != "started" or self._crash is not None:
            return
        self._state = "stopped"
        await self._batcher.drain()
        self._bells.close()
        self._lane.close()
        self._leave()
        if self._owns:
            self.database.close()

    def kill(self, crash: BaseException) -> None:
        """End this incarnation now, wherever it is; the database stays for the next one."""
        if self._crash is not None:
            return
        self._crash = crash
        self._lane.close()
        self._leave()
        self._batcher.kill(crash)
        self._bells.close(crash)

    async def run(self, transaction: Callable[[Connection], T]) -> T:
        self._check_started()
        return await self._batcher.submit(transaction)

    async def read(self, query: Callable[[Connection], T]) -> T:
        self._check_started()
        self._reads += 1
        raw = self.database.raw
        # Nothing else runs meanwhile: without a transaction, too, it sees one state.
        raw.execute("PRAGMA query_only=ON")
        try:
            return query(self.database.connection)
        except Exception as error:
            if sqlite_fault(error) is Fault.READ_ONLY:
                raise InternalError(f"a query tried to write ({driver_error(error)})") from error
            raise
        finally:
            raw.execute("PRAGMA query_only=OFF")

    def watch(self) -> Bell:
        return self._bells.watch()

    def snapshot(self) -> dict[str, Any]:
        return {
            "dialect": self.dialect,
            "batches": self._batcher.batches,
            "transactions": self._batcher.jobs,
            "largest_batch": self._batcher.largest,
            "depth": self._batcher.depth,
            "reads": self._reads,
            "watches": len(self._bells),
            "waiting": self._bells.waiting,
            "crashed": self._crash is not None,
        }

    def _execute(self, slot: int, jobs: list[Job[Any]]) -> None:
        try:
            self._writer.attempt(jobs)
        except Exception as error:
            fault = sqlite_fault(error)
            if fault is None:
                raise
            for job in jobs:
                job.error = unavailable(self.database.where, fault, error)
            return
        except BaseException as crash:
            # After the commit the others see what was written, though its writer will never hear of it.
            self.kill(crash)
            self._ring_all()
            raise
        if any(job.error is None for job in jobs):
            self._ring_all()

    def _ring_all(self) -> None:
        for store in self.database.stores:
            store._bells.ring()

    def _leave(self) -> None:
        if self in self.database.stores:
            self.database.stores.remove(self)

    def _check_alive(self) -> None:
        if self._crash is not None:
            raise self._crash

    def _check_started(self) -> None:
        self._check_alive()
        if self._state != "started":
            raise StoreUnavailable("the store is stopped" if self._state == "stopped" else "the store is not started")
