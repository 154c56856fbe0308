"""What really happened in the store: triggers write down each change of state, and acknowledgements are kept.

The problem: looking at rows after a commit shows only their last state, and several transactions share a commit. The
way chosen: temporary triggers on the simulated database's one connection log every change in the transaction that makes
it, with the writer and the lease that covers the row as it stands at that moment. What is rolled back leaves no line.
Temporary tables are not in the schema, so no migration and no program sees them.

Acknowledgement: each transaction carries a number that it writes with everything else; when its caller is told that it
succeeded, the number must be there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Connection

from pelagos.store import SimulatedDatabase, SimulatedStore
from pelagos.store.watching import Bell

__all__ = ["Change", "Recorder", "RecordingStore"]

T = TypeVar("T")


class Change(msgspec.Struct, frozen=True):
    """One change of one row. For ``leases``, ``old`` and ``new`` are ``epoch/holder``."""

    table: str
    id: str
    old: str | None
    """Its state before; None: it is new."""
    new: str | None
    """None: it is deleted."""
    detail: str
    """operations: kind; attempts: ``account/epoch/sent``; instances: ``infrastructure/node``;
    leases: expires_at before."""
    writer: str
    """Holder id of the process that wrote it; empty: the scenario itself."""
    holder: str
    """Who held the lease that covers the row, at that moment; ``-`` where none covers it."""
    epoch: int
    """That lease's epoch."""


_INFRASTRUCTURE = "'infrastructure:' || {row}.{column}"
_ACCOUNT = "'account:' || {row}.account"
_STATE = "{row}.state || CASE WHEN {row}.deleted_at IS NULL THEN '' ELSE '+' END"
"""A tombstone's state ends with a plus."""

_TABLES: dict[str, tuple[str, str, str, str]] = {
    # table: id, state, detail, name of the covering lease
    "operations": ("{row}.id", "{row}.state || ':' || {row}.step", "{row}.kind", _ACCOUNT),
    "attempts": (
        "{row}.token",
        "{row}.state",
        "{row}.account || '/' || {row}.epoch || '/' || ({row}.sent_at IS NOT NULL)",
        _ACCOUNT,
    ),
    "servers": ("{row}.id", _STATE, "{row}.account", _ACCOUNT),
    "parts": ("{row}.id", _STATE, "{row}.server_id || '/' || {row}.account", _ACCOUNT),
    "instances": (
        "{row}.id",
        _STATE,
        "{row}.infrastructure_id || '/' || {row}.node",
        _INFRASTRUCTURE.format(row="{row}", column="infrastructure_id"),
    ),
    "infrastructure_nodes": (
        "{row}.name",
        "{row}.target",
        "{row}.infrastructure_id",
        _INFRASTRUCTURE.format(row="{row}", column="infrastructure_id"),
    ),
    "infrastructures": ("{row}.id", _STATE, "{row}.id", _INFRASTRUCTURE.format(row="{row}", column="id")),
    "runs": (
        "{row}.id",
        "{row}.state",
        "{row}.infrastructure_id",
        _INFRASTRUCTURE.format(row="{row}", column="infrastructure_id"),
    ),
    "leases": (
        "{row}.name",
        "{row}.epoch || '/' || COALESCE({row}.holder, '')",
        "{row}.expires_at",
        "''",
    ),
    "events": ("{row}.position", "{row}.kind", "''", "''"),
}


class Recorder:
    """The log of one database. ``writer`` is who writes now."""

    def __init__(self, database: SimulatedDatabase) -> None:
        self._raw = database.raw
        self.writer = ""
        self._next_ack = 0
        self.lost_acks: list[int] = []
        self._raw.create_function("sim_writer", 0, lambda: self.writer)
        self._install()

    def _install(self) -> None:
        execute = self._raw.execute
        execute("CREATE TEMP TABLE sim_acks (number INTEGER PRIMARY KEY)")
        execute(
            "CREATE TEMP TABLE sim_log (seq INTEGER PRIMARY KEY AUTOINCREMENT, tab TEXT, id TEXT, old TEXT, new TEXT,"
            " detail TEXT, writer TEXT, holder TEXT, epoch INTEGER)"
        )
        for table, (id_, state, detail, lease) in _TABLES.items():
            for event, shown, old, new in (
                ("INSERT", "NEW", "NULL", state.format(row="NEW")),
                ("UPDATE", "NEW", state.format(row="OLD"), state.format(row="NEW")),
                ("DELETE", "OLD", state.format(row="OLD"), "NULL"),
            ):
                name = lease.format(row=shown)
                said = detail.format(row="OLD" if table == "leases" and event == "UPDATE" else shown)
                execute(
                    f"CREATE TEMP TRIGGER sim_{table}_{event.lower()} AFTER {event} ON main.{table} BEGIN "  # noqa: S608
                    "INSERT INTO sim_log (tab, id, old, new, detail, writer, holder, epoch) VALUES ("
                    f"'{table}', {id_.format(row=shown)}, {old}, {new}, {said}, sim_writer(),"
                    f" COALESCE((SELECT COALESCE(holder, '') FROM main.leases WHERE name = {name}), '-'),"
                    f" COALESCE((SELECT epoch FROM main.leases WHERE name = {name}), 0)); END"
                )

    def take(self) -> list[Change]:
        """The committed changes since the last call. Outside of any transaction."""
        rows = self._raw.execute(
            "SELECT tab, id, old, new, detail, writer, holder, epoch FROM sim_log ORDER BY seq"
        ).fetchall()
        if rows:
            self._raw.execute("DELETE FROM sim_log")
        return [
            Change(table, str(id_), old, new, str(detail), writer, holder, epoch)
            for table, id_, old, new, detail, writer, holder, epoch in rows
        ]

    def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Rows of a query on the committed state."""
        return self._raw.execute(sql, parameters).fetchall()

    def number(self) -> int:
        self._next_ack += 1
        return self._next_ack

    def mark(self, number: int) -> None:
        """In a transaction: it is this one."""
        self._raw.execute("INSERT INTO sim_acks VALUES (?)", (number,))

    def acknowledged(self, number: int) -> None:
        """Its caller was told that it is written."""
        if not self.query("SELECT 1 FROM sim_acks WHERE number = ?", number):
            self.lost_acks.append(number)


class RecordingStore:
    """A :class:`pelagos.store.Store` that says who writes, and keeps what was acknowledged. ``edge`` is passed by each
    transaction before it is handed over; ``check`` raises where the store is out of reach."""

    def __init__(
        self,
        store: SimulatedStore,
        recorder: Recorder,
        writer: Callable[[], str],
        edge: Callable[[], Awaitable[None]],
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.inner = store
        self._check = check
        self._recorder = recorder
        self._writer = writer
        self._edge = edge

    @property
    def dialect(self) -> str:
        return self.inner.dialect

    async def start(self) -> None:
        await self.inner.start()

    async def stop(self) -> None:
        await self.inner.stop()

    async def run(self, transaction: Callable[[Connection], T]) -> T:
        self._check()
        await self._edge()
        recorder = self._recorder
        number = recorder.number()

        def recorded(connection: Connection) -> T:
            recorder.writer = self._writer()
            try:
                value = transaction(connection)
                recorder.mark(number)
                return value
            finally:
                recorder.writer = ""

        value = await self.inner.run(recorded)
        recorder.acknowledged(number)
        return value

    async def read(self, query: Callable[[Connection], T]) -> T:
        self._check()
        return await self.inner.read(query)

    def watch(self) -> Bell:
        return self.inner.watch()

    def snapshot(self) -> dict[str, Any]:
        return self.inner.snapshot()
