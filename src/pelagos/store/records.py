"""Once: a request's result is recorded in the very transaction of its effect.

A message may come again: the transport lost its settling, the caller lost the answer, a container died with work in
hand. A window in memory forgets with its process; a record written after the effect is missing if the process dies
between the two. Written in the same transaction, effect and record are there together or not at all, so a repeat finds
the result of the first time, in whichever process and after whatever restart.

The record is written first, empty, then the effect runs, then it gets the result: of two that come at once the second
waits for the first at that insert (PostgreSQL then runs it again, when it finds the record), and no effect is ever
begun twice and thrown away. Records are pruned by :func:`pelagos.store.prune` after the configured time, like all
history: a repeat must come sooner than that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Connection, bindparam, select, text, update

from pelagos.model.errors import Conflict, InvalidInput
from pelagos.model.scope import Scope
from pelagos.store.container_schema import request_records

__all__ = ["once"]

T = TypeVar("T")

_LONGEST = 128
"""Characters of a request id and of an operation's name, as the table has them."""

_MINE = (request_records.c.project_id == bindparam("project")) & (request_records.c.request_id == bindparam("request"))
_READ = select(request_records.c.op, request_records.c.reply_blob).where(_MINE)
_RECORD = update(request_records).where(_MINE).values(reply_blob=bindparam("reply"))
_CLAIM = text(  # the one clause that both engines write alike and SQLAlchemy has twice
    "INSERT INTO request_records (project_id, request_id, op, created_at, reply_blob) "
    "VALUES (:project_id, :request_id, :op, :created_at, :reply_blob) ON CONFLICT DO NOTHING"
)
_encode = msgspec.msgpack.Encoder().encode


def once(
    connection: Connection,
    scope: Scope,
    request_id: str,
    op: str,
    now: float,
    effect: Callable[[Connection], T],
    type_: type[T] | Any = Any,
) -> T:
    """Run ``effect`` on the connection the first time, and return what it returned then every time.

    ``request_id`` is unique in the scope's project (a handler finds its own in ``context.request_id``); ``now`` are
    the world's seconds; the result must be something msgpack carries, and is decoded as ``type_``. To be called in a
    writing transaction. If the effect raises, nothing is recorded: raise it out of the transaction. Raises
    :class:`Conflict` if the id was used for another operation, and :class:`InvalidInput` for an id or an
    operation that is empty or longer than 128 characters.
    """
    if not 0 < len(request_id) <= _LONGEST:
        raise InvalidInput(f"a request id has 1 to {_LONGEST} characters, not {len(request_id)}")
    if not 0 < len(op) <= _LONGEST:
        raise InvalidInput(f"an operation's name has 1 to {_LONGEST} characters, not {len(op)}")
    claim = {"project_id": scope.project_id, "request_id": request_id}
    mine = {"project": scope.project_id, "request": request_id}
    first = connection.execute(_CLAIM, {**claim, "op": op, "created_at": now, "reply_blob": b""}).rowcount == 1
    if first:
        value = effect(connection)
        connection.execute(_RECORD, {**mine, "reply": _encode(value)})
        return value
    before, reply = connection.execute(_READ, mine).one()
    if before != op:
        raise Conflict(
            f"request {request_id} was {before}, not {op}",
            advice="Give each request an id of its own.",
            details={"request_id": request_id, "op": before},
        )
    again: T = msgspec.msgpack.decode(reply, type=type_)
    return again
