"""The store of real life on SQLite, and :func:`open_store`, which chooses the engine by the target.

What a caller meets is the port (:mod:`pelagos.store.port`); below it a batcher (group commit), a lane (threads) and
an engine (SQLite or PostgreSQL) do one thing each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection

from pelagos.model.errors import InternalError, StoreUnavailable
from pelagos.model.world import World
from pelagos.store.batcher import Batcher
from pelagos.store.faults import Fault, driver_error, unavailable
from pelagos.store.lanes import Lane, ThreadLane
from pelagos.store.port import Store
from pelagos.store.sqlite import SqliteDatabase
from pelagos.store.watching import Bell, Bells

__all__ = ["RESERVE_BYTES", "SqliteStore", "open_store", "start_in_lane"]

T = TypeVar("T")

RESERVE_BYTES = 4 * 1024 * 1024


def open_store(
    target: str | Path,
    world: World,
    *,
    patience: float = 30.0,
    poll: float = 0.025,
    reserve: int = RESERVE_BYTES,
    batch: int = 512,
    slots: int = 4,
    pragmas: dict[str, int | str] | None = None,
) -> Store:
    """The store at ``target``: a path or ``sqlite:///path``, or ``postgresql://…`` (not opened yet: see ``start``).

    ``patience``: seconds a batch is tried again while another process is in its way, or the server away.
    ``poll``: seconds between looks for other processes' commits while somebody waits (SQLite).
    ``reserve``: most bytes kept back for a full disk, fewer on a small one (SQLite).
    ``batch``: most transactions in one commit.
    ``slots``: connections that write, and as many that read (PostgreSQL). ``pragmas``: for the writer (SQLite)."""
    text = str(target)
    if text.startswith(("postgresql://", "postgres://", "postgresql+psycopg://")):
        try:
            from pelagos.store.postgresql_store import PostgresqlStore
        except ImportError as error:
            raise StoreUnavailable(
                f"PostgreSQL cannot be used: {error}", advice="Install it with `pip install 'pelagos[postgresql]'`."
            ) from error
        return PostgresqlStore(text, world, patience=patience, batch=batch, slots=slots)
    if text.startswith("sqlite:///"):
        text = text.removeprefix("sqlite:///")
    elif "://" in text:
        raise StoreUnavailable(
            f"no store is known for {text.split('://')[0]}://",
            advice="Use a file's path, sqlite:///path or postgresql://user@host/database.",
        )
    return SqliteStore(
        Path(text), world, patience=patience, poll=poll, reserve=reserve, batch=batch, pragmas=pragmas or {}
    )


async def start_in_lane(lane: Lane, slot: int, function: Callable[[], None]) -> None:
    """Run a function in a lane, outside any batch, and wait for it."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    outcome: list[BaseException] = []

    def work(_slot: int) -> None:
        try:
            function()
        except BaseException as error:  # noqa: BLE001 - the edge of the lane: forwarded to who waits
            outcome.append(error)

    def done() -> None:
        if future.done():
            return
        if outcome:
            future.set_exception(outcome[0])
        else:
            future.set_result(None)

    lane.submit(slot, work, done)
    await future


class SqliteStore:
    """A :class:`~pelagos.store.port.Store` on a SQLite file, which several processes may share."""

    dialect = "sqlite"

    def __init__(
        self,
        path: Path,
        world: World,
        *,
        patience: float,
        poll: float,
        reserve: int,
        batch: int,
        pragmas: dict[str, int | str],
    ) -> None:
        self._world = world
        self._patience = patience
        self._lane = ThreadLane("pelagos-store")
        self._database = SqliteDatabase(
            path,
            now=world.now,
            monotonic=world.monotonic,
            rng=world.rng("store"),
            wait=self._lane.wait,
            patience=patience,
            reserve=reserve,
            pragmas=pragmas,
        )
        self._bells = Bells(refresh=self._look, poll=poll)
        self._batcher = Batcher(self._lane, self._database.execute, limit=batch, committed=self._committed)
        self._started = False
        self._stopped = False
        self._reads = 0

    async def start(self) -> None:
        try:
            await start_in_lane(self._lane, 0, self._database.open)
        except BaseException:
            await start_in_lane(self._lane, 0, self._database.close)
            self._lane.close()
            raise
        self._started = True

    async def stop(self) -> None:
        if not self._started or self._stopped:
            return
        self._stopped = True
        await self._batcher.drain()
        self._bells.close()
        # The writer last: whoever closes last empties the log, which takes its time and belongs in the lane.
        self._database.close_readers()
        await start_in_lane(self._lane, 0, self._database.close)
        self._lane.close()

    async def run(self, transaction: Callable[[Connection], T]) -> T:
        if not self._started:
            raise StoreUnavailable("the store is not started")
        return await self._batcher.submit(transaction)

    async def read(self, query: Callable[[Connection], T]) -> T:
        if not self._started or self._stopped:
            raise StoreUnavailable("the store is stopped" if self._stopped else "the store is not started")
        self._reads += 1
        end = self._world.monotonic() + self._patience
        while True:
            try:
                result: T = self._database.read(query)
                return result
            except Exception as error:
                fault = self._database.fault(error)
                if fault is None:
                    raise
                if fault is Fault.FULL and self._database.make_room_to_read():
                    continue
                if fault is Fault.READ_ONLY and "attempt to write" in str(driver_error(error)):
                    raise InternalError(f"a query tried to write ({driver_error(error)})") from error
                # A reader meets a busy database only while somebody opens, recovers or removes the log.
                if fault is not Fault.BUSY or self._world.monotonic() >= end:
                    raise unavailable(self._database.path, fault, error) from error
            await asyncio.sleep(0.005)

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
            **self._database.snapshot(),
        }

    def _look(self) -> None:
        if self._database.changed():
            self._bells.ring()

    def _committed(self) -> None:
        # Through the same look as others' commits, so that one commit rings once.
        if len(self._bells):
            self._look()
