"""The store on PostgreSQL: two batchers (writes in groups, reads one by one) on their lanes, and a listener.

Commits of other processes are heard by LISTEN: a batch notifies once, in its own transaction. A notification can be
missed only while the listening connection is away, so whenever it comes back all bells ring. A slow look at the
server's transaction counter, while somebody waits, is the net below that, for connections that die without a word.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg
import structlog
from sqlalchemy import Connection, text

from pelagos.model.errors import StoreUnavailable
from pelagos.model.world import World
from pelagos.store.batcher import Batcher
from pelagos.store.executor import start_in_lane
from pelagos.store.lanes import ThreadLane
from pelagos.store.postgresql import CHANNEL, PostgresqlDatabase
from pelagos.store.watching import Bell, Bells

__all__ = ["PostgresqlStore"]

T = TypeVar("T")

_NET_EVERY = 5.0
_SNAPSHOT = text("SELECT pg_current_snapshot()::text")
_log = structlog.get_logger("pelagos.store.postgresql")


class PostgresqlStore:
    """A :class:`~pelagos.store.port.Store` on a PostgreSQL server (version 13 or newer)."""

    dialect = "postgresql"

    def __init__(self, url: str, world: World, *, patience: float, batch: int, slots: int) -> None:
        self._id = world.new_id()
        self._slots = slots
        self._writing = ThreadLane("pelagos-store-write", slots)
        self._reading = ThreadLane("pelagos-store-read", slots)
        self._listening = ThreadLane("pelagos-store-listen")
        self._database = PostgresqlDatabase(
            url,
            store_id=self._id,
            monotonic=world.monotonic,
            rng=world.rng("store"),
            wait=self._writing.wait,
            patience=patience,
            slots=slots,
        )
        self._bells = Bells(tick=self._look, poll=_NET_EVERY)
        self._batcher = Batcher(self._writing, self._database.execute, limit=batch, committed=self._bells.ring)
        self._reader = Batcher(self._reading, self._database.read, limit=1)
        self._listener: psycopg.Connection[Any] | None = None
        self._heard_on = -1
        self._connecting = False
        self._seen = ""
        self._started = False
        self._stopped = False

    async def start(self) -> None:
        try:
            await start_in_lane(self._writing, 0, self._database.open)
            await start_in_lane(self._listening, 0, self._connect_listener)
        except BaseException:
            self._drop_listener()
            self._writing.close()
            self._listening.close()
            self._database.close(0)
            raise
        self._attach_listener()
        self._started = True

    async def stop(self) -> None:
        if not self._started or self._stopped:
            return
        self._stopped = True
        await self._batcher.drain()
        await self._reader.drain()
        self._bells.close()
        for lane in (self._writing, self._reading, self._listening):
            lane.close()
        self._drop_listener()
        for slot in range(self._slots):
            self._database.close(slot)

    async def run(self, transaction: Callable[[Connection], T]) -> T:
        if not self._started:
            raise StoreUnavailable("the store is not started")
        return await self._batcher.submit(transaction)

    async def read(self, query: Callable[[Connection], T]) -> T:
        if not self._started:
            raise StoreUnavailable("the store is not started")
        return await self._reader.submit(query)

    def watch(self) -> Bell:
        return self._bells.watch()

    def snapshot(self) -> dict[str, Any]:
        return {
            "dialect": self.dialect,
            "path": self._database.where,
            "batches": self._batcher.batches,
            "transactions": self._batcher.jobs,
            "largest_batch": self._batcher.largest,
            "depth": self._batcher.depth,
            "reads": self._reader.jobs,
            "watches": len(self._bells),
            "waiting": self._bells.waiting,
            "conflicts": self._database.conflicts,
            "reconnections": self._database.reconnections,
            "listening": self._listener is not None,
        }

    def _connect_listener(self) -> None:
        """In its lane: a new connection that listens."""
        try:
            listener = psycopg.connect(
                self._database.conninfo, autocommit=True, connect_timeout=5, application_name="pelagos listener"
            )
            listener.execute(f"LISTEN {CHANNEL}")
        except psycopg.Error as error:
            raise StoreUnavailable(
                f"the store {self._database.where} is unavailable: {str(error).strip()}",
                advice="Check that the PostgreSQL server runs and can be reached.",
            ) from error
        self._listener = listener

    def _attach_listener(self) -> None:
        assert self._listener is not None
        self._heard_on = self._listener.fileno()
        asyncio.get_running_loop().add_reader(self._heard_on, self._hear)

    def _hear(self) -> None:
        """The listening connection has something to say, or is gone."""
        listener = self._listener
        assert listener is not None
        others = False
        try:
            listener.pgconn.consume_input()
            while (notification := listener.pgconn.notifies()) is not None:
                others = others or notification.extra.decode() != self._id
        except psycopg.Error as error:
            _log.warning("the listening connection was lost", error=str(error).strip())
            self._drop_listener()
            others = True
        if others:
            self._bells.ring()

    def _drop_listener(self) -> None:
        listener, self._listener = self._listener, None
        if self._heard_on >= 0:
            # By its number: a lost connection has forgotten its socket already.
            asyncio.get_running_loop().remove_reader(self._heard_on)
            self._heard_on = -1
        if listener is not None:
            listener.close()

    def _look(self) -> None:
        """The net, every few seconds while somebody waits."""
        if self._stopped:
            return
        if self._listener is None and not self._connecting:
            self._connecting = True
            self._listening.submit(0, self._reconnect, self._reconnected)
        self._reader.submit(_current).add_done_callback(self._looked)

    def _looked(self, answer: asyncio.Future[str]) -> None:
        if answer.cancelled() or answer.exception() is not None:
            # Whoever reads or writes next meets the cause; this was only a look.
            return
        before, self._seen = self._seen, answer.result()
        if before and before != self._seen:
            self._bells.ring()

    def _reconnect(self, _slot: int) -> None:
        try:
            self._connect_listener()
        except StoreUnavailable as error:
            _log.warning("not listening yet", error=str(error))

    def _reconnected(self) -> None:
        self._connecting = False
        if self._listener is not None and not self._stopped:
            self._attach_listener()
            self._bells.ring()


def _current(connection: Connection) -> str:
    return str(connection.execute(_SNAPSHOT).scalar_one())
