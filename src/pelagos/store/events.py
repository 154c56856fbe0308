"""Events: rows with a rising position, written in the transaction of the state they tell.

A follower remembers the last position it saw and asks for what comes after. That is only right if positions become
visible in order: were 7 committed before 6, a follower that saw 7 would never look for 6. On SQLite there is one
writer at a time. On PostgreSQL a sequence hands out 6 and 7 to transactions that may commit in any order, so whoever
appends events takes an advisory lock first and holds it to the end of its transaction: positions are then drawn in
the order of the commits. The price is that transactions with events commit one after another, which group commit
makes cheap. The way not chosen, holding followers back behind the oldest open transaction (`pg_snapshot_xmin`), lets
any idle transaction in the database server stop every console.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, Integer, Select, bindparam, func, insert, select, text

from pelagos.model.scope import Scope
from pelagos.store.schema import events

__all__ = [
    "EVENTS_LOCKED",
    "Event",
    "append",
    "append_at",
    "append_many",
    "append_many_at",
    "event_row",
    "last_position",
    "position_at",
    "read_events",
]

EVENTS_LOCKED = "pelagos.events_locked"
"""In a connection's info while its transaction holds the lock; the engine clears it with each savepoint it undoes."""

_LOCK = text("SELECT pg_advisory_xact_lock(7809632123451)")
_INSERT = insert(events).inline()
_INSERT_AT = insert(events).returning(events.c.position)
_INSERT_MANY_AT = insert(events).returning(events.c.position, sort_by_parameter_order=True)
_COLUMNS = tuple(events.c)


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """What happened, to what, when. ``data`` is the kind's own; ``origin`` what a published event is about."""

    position: int
    at: float
    project_id: str
    user_id: str
    kind: str
    infrastructure_id: str | None = None
    node: str | None = None
    instance_id: str | None = None
    server_id: str | None = None
    operation_id: str | None = None
    run_id: str | None = None
    data: dict[str, Any] = {}
    origin: str | None = None


def event_row(
    scope: Scope,
    kind: str,
    *,
    at: float,
    infrastructure_id: str | None = None,
    node: str | None = None,
    instance_id: str | None = None,
    server_id: str | None = None,
    operation_id: str | None = None,
    run_id: str | None = None,
    data: dict[str, Any] | None = None,
    origin: str | None = None,
) -> dict[str, Any]:
    """A row for :func:`append_many`. ``at``: seconds by the world's clock; ``data``: what JSON can say."""
    return {
        "at": at,
        "project_id": scope.project_id,
        "user_id": scope.user_id,
        "kind": kind,
        "infrastructure_id": infrastructure_id,
        "node": node,
        "instance_id": instance_id,
        "server_id": server_id,
        "operation_id": operation_id,
        "run_id": run_id,
        "data": msgspec.json.encode(data).decode() if data else "{}",
        "origin": origin,
    }


def append(
    connection: Connection,
    scope: Scope,
    kind: str,
    *,
    at: float,
    infrastructure_id: str | None = None,
    node: str | None = None,
    instance_id: str | None = None,
    server_id: str | None = None,
    operation_id: str | None = None,
    run_id: str | None = None,
    data: dict[str, Any] | None = None,
    origin: str | None = None,
) -> None:
    """Append one event in the caller's transaction."""
    _lock(connection)
    row = event_row(
        scope,
        kind,
        at=at,
        infrastructure_id=infrastructure_id,
        node=node,
        instance_id=instance_id,
        server_id=server_id,
        operation_id=operation_id,
        run_id=run_id,
        data=data,
        origin=origin,
    )
    connection.execute(_INSERT, row)


def append_at(connection: Connection, row: dict[str, Any]) -> int:
    """Append one event made by :func:`event_row` and return its position."""
    _lock(connection)
    return int(connection.execute(_INSERT_AT, row).scalar_one())


def append_many(connection: Connection, rows: Iterable[dict[str, Any]]) -> None:
    """Append events made by :func:`event_row`, in their order, in one statement."""
    rows = list(rows)
    if rows:
        _lock(connection)
        connection.execute(_INSERT, rows)


def append_many_at(connection: Connection, rows: Iterable[dict[str, Any]]) -> list[int]:
    """As :func:`append_many`, and return their positions in the same order; it costs about twice as much."""
    rows = list(rows)
    if not rows:
        return []
    _lock(connection)
    return list(connection.execute(_INSERT_MANY_AT, rows).scalars())


def read_events(
    connection: Connection,
    *,
    after: int,
    limit: int = 500,
    project_id: str | None = None,
    infrastructure_id: str | None = None,
    run_id: str | None = None,
    kinds: Sequence[str] | None = None,
    origin: str | None = None,
    upto: int | None = None,
) -> list[Event]:
    """The first ``limit`` events after a position, oldest first; of one project, infrastructure, run or some kinds.

    ``origin``: of that origin alone, or of all that begin with it if it ends with ``*``; ``upto``: no later position.
    """
    asked = {
        "project_id": project_id,
        "infrastructure_id": infrastructure_id,
        "run_id": run_id,
        "kinds": None if kinds is None else list(kinds),
        "upto": upto,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    query = _reading(frozenset(given))
    if origin is not None:
        exact = events.c.origin == origin
        query = query.where(events.c.origin.startswith(origin[:-1], autoescape=True) if origin.endswith("*") else exact)
    parameters = {f"b_{name}": value for name, value in given.items()} | {"b_after": after, "b_limit": limit}
    return [_event(row) for row in connection.execute(query, parameters)]


@functools.cache
def _reading(given: frozenset[str]) -> Select[Any]:
    """The statement for what is given. Followers read all the time: to build it costs more than to run it."""
    query = select(*_COLUMNS).where(events.c.position > bindparam("b_after"))
    query = query.order_by(events.c.position).limit(bindparam("b_limit", type_=Integer))
    for name in ("project_id", "infrastructure_id", "run_id"):
        if name in given:
            query = query.where(events.c[name] == bindparam(f"b_{name}"))
    if "kinds" in given:
        query = query.where(events.c.kind.in_(bindparam("b_kinds", expanding=True)))
    if "upto" in given:
        query = query.where(events.c.position <= bindparam("b_upto"))
    return query


_LAST_POSITION = select(func.coalesce(func.max(events.c.position), 0))


def last_position(connection: Connection) -> int:
    """The newest position; 0 if there is no event. A follower that starts here sees only what comes."""
    return int(connection.execute(_LAST_POSITION).scalar_one())


def position_at(connection: Connection, at: float) -> int:
    """The position after which the events of a time and later stand: a follower that starts here replays from then.

    ``at``: seconds by the world's clock. Times of neighbours may be out of order by the time a commit takes."""
    first = connection.execute(select(func.min(events.c.position)).where(events.c.at >= at)).scalar_one()
    return last_position(connection) if first is None else int(first) - 1


def _event(row: Any) -> Event:
    *columns, data, origin = row
    columns.append({} if data == "{}" else msgspec.json.decode(data))
    columns.append(origin)
    return Event(*columns)


def _lock(connection: Connection) -> None:
    if connection.dialect.name != "postgresql" or connection.info.get(EVENTS_LOCKED):
        return
    connection.execute(_LOCK)
    # Undoing a savepoint gives back the locks taken since: inside one of the caller's own the lock is not remembered.
    if not connection.in_nested_transaction():
        connection.info[EVENTS_LOCKED] = True
