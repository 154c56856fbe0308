"""What is journaled for servers that are on record: behind what each has in hand, or in its place.

An action decides by its server's row and queue, and each that was decided is seen by the next of the batch. A delete
overtakes what has not begun; see :mod:`journal`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

import msgspec
from sqlalchemy import Connection, bindparam, insert, update

from pelagos import quotas
from pelagos.model.errors import Conflict
from pelagos.model.scope import Scope
from pelagos.model.states import OperationState, ServerState
from pelagos.operations.kinds import DELETE_WITH_PARTS, KINDS, PLAN
from pelagos.operations.records import SERVER_QUOTA, WAITING, ServerAction, ServerUpdate, UpdateParameters
from pelagos.operations.rows import operation_row
from pelagos.store import append_many
from pelagos.store.events import event_row
from pelagos.store.schema import attempts, operations, servers

__all__ = ["Intake"]

_RELEASE = {resource: -amount for resource, amount in SERVER_QUOTA.items()}
_encode = msgspec.msgpack.Encoder().encode

_cancel_operations = (
    update(operations)
    .where(operations.c.id == bindparam("b_id"), operations.c.finished_at.is_(None))
    .values(state=OperationState.CANCELLED.value, finished_at=bindparam("b_now"), updated_at=bindparam("b_now"))
)
_ask_cancel = (
    update(operations)
    .where(operations.c.id == bindparam("b_id"), operations.c.finished_at.is_(None))
    .values(cancel_requested=True, updated_at=bindparam("b_now"))
)
# A part's step that waits for a time or for a listing looks at once; what is in hand is settled first.
_hurry = (
    update(operations)
    .where(operations.c.id == bindparam("b_id"), operations.c.finished_at.is_(None), operations.c.next_at < WAITING)
    .values(next_at=bindparam("b_now"))
)
_close_attempts = (
    update(attempts)
    .where(attempts.c.operation_id == bindparam("b_id"), attempts.c.state == "open")
    .values(state=bindparam("b_state"), closed_at=bindparam("b_now"))
)
_BEGINS = ("server.create", "server.adopt")
"""Kinds that bring a server onto its record."""
_server_deleting = (
    update(servers)
    .where(servers.c.id == bindparam("b_id"))
    .values(state=ServerState.DELETING.value, updated_at=bindparam("b_now"))
)
_server_never_made = (
    update(servers)
    .where(servers.c.id == bindparam("b_id"))
    .values(
        state=ServerState.DELETED.value,
        reason="cancelled before it was made",
        updated_at=bindparam("b_now"),
        deleted_at=bindparam("b_now"),
    )
)


class Intake:
    """Decides what each action changes, then writes all of it statement by statement, not action by action."""

    def __init__(self, scope: Scope, now: float, with_parts: Set[str]) -> None:
        self._scope = scope
        self._now = now
        self._with_parts = with_parts
        self._hurried: list[str] = []
        self._operations: list[dict[str, Any]] = []
        self._cancelled: dict[str, str] = {}
        """Operation -> its kind."""
        self._asked: list[str] = []
        self._never_made: list[str] = []
        self._deleting: list[str] = []
        self._releases: dict[str, Mapping[str, int]] = {}
        self._events: list[dict[str, Any]] = []

    def delete(self, action: ServerAction, server: Any, queue: list[Any]) -> None:
        """``queue``: what is unfinished of the server, in order; what this adds is put behind it."""
        if server.deleted_at is not None:
            self._add("server.delete", action, server, finished=True)
            return
        head, unsent = None, False
        for row in queue:
            if row.kind in _BEGINS and row.state == OperationState.PENDING and row.step in (0, PLAN):
                unsent = True
                self._cancelled[row.id] = row.kind
            elif row.kind in _BEGINS and KINDS[row.kind].steps[row.step].verb != "boot":
                self._asked.append(row.id)
                if KINDS[row.kind].steps[row.step].verb in ("part", "ready", "create"):
                    self._hurried.append(row.id)
                head = row
            elif row.kind == "server.delete" or (row.state != OperationState.PENDING and row.step == 0):
                head = row
            else:
                # A boot that nobody waits for any more, or a power verb that was not sent.
                self._cancelled[row.id] = row.kind
        if unsent or (server.provider_id is None and head is None):
            self._never_made.append(server.id)
            self._event("server.deleted", action, server, {"reason": "cancelled before it was made"})
            self._add("server.delete", action, server, finished=True)
            return
        if server.state != ServerState.DELETING:
            self._deleting.append(server.id)
            self._event("server.deleting", action, server, {})
        if not any(row.kind == "server.delete" for row in queue):
            self._releases[action.operation_id] = _RELEASE
        self._add("server.delete", action, server, queue=queue, waiting=head is not None)

    def power(self, kind: str, action: ServerAction, server: Any, queue: list[Any]) -> None:
        """A power verb or a change in place. Raises Conflict for a server that is deleted or being deleted."""
        if server.deleted_at is not None or server.state == ServerState.DELETING:
            raise Conflict(f"server {server.id} is being deleted or gone", advice="Make a new one instead.")
        self._event("operation.submitted", action, server, {"kind": kind})
        self._add(kind, action, server, queue=queue, waiting=bool(queue))

    def write(self, connection: Connection) -> None:
        """All that was decided."""
        now = self._now
        if self._deleting:
            connection.execute(_server_deleting, [{"b_id": i, "b_now": now} for i in self._deleting])
        if self._never_made:
            connection.execute(_server_never_made, [{"b_id": i, "b_now": now} for i in self._never_made])
        if self._cancelled:
            connection.execute(_cancel_operations, [{"b_id": i, "b_now": now} for i in self._cancelled])
            closed = [
                {"b_id": i, "b_state": "released" if kind == "server.adopt" else "refused", "b_now": now}
                for i, kind in self._cancelled.items()
            ]
            connection.execute(_close_attempts, closed)
            # A create that gave way while its server boots has committed its reservation: then this changes nothing.
            quotas.cancel_many(connection, self._cancelled)
        if self._asked:
            connection.execute(_ask_cancel, [{"b_id": i, "b_now": now} for i in self._asked])
        if self._hurried:
            connection.execute(_hurry, [{"b_id": i, "b_now": now} for i in self._hurried])
        quotas.reserve_many(connection, self._scope.project_id, self._releases)
        connection.execute(insert(operations), self._operations)
        append_many(connection, self._events)

    def _add(
        self,
        kind: str,
        action: ServerAction,
        server: Any,
        *,
        queue: Sequence[Any] = (),
        waiting: bool = False,
        finished: bool = False,
    ) -> None:
        # Strictly after what the target has: two submissions may carry the same clock reading.
        created_at = max([self._now, *(row.created_at + 1e-5 for row in queue)])
        row = operation_row(
            self._scope,
            action.operation_id,
            kind,
            server.account,
            server.id,
            server.infrastructure_id,
            action.request_id,
            created_at,
            expires_at=action.expires_at,
            step=DELETE_WITH_PARTS if kind == "server.delete" and server.id in self._with_parts else 0,
            parameters=_parameters(action),
        )
        if finished:
            row |= {"state": OperationState.SUCCEEDED.value, "finished_at": self._now}
        else:
            # What comes later in the same batch for this server is behind this one.
            queue_row = _QueueRow(action.operation_id, kind, OperationState.PENDING, 0, server.id, created_at)
            if isinstance(queue, list):
                queue.append(queue_row)
            if waiting:
                row["next_at"] = WAITING
        self._operations.append(row)

    def _event(self, kind: str, action: ServerAction, server: Any, data: dict[str, Any]) -> None:
        self._events.append(
            event_row(
                self._scope,
                kind,
                at=self._now,
                infrastructure_id=server.infrastructure_id,
                instance_id=server.instance_id,
                server_id=server.id,
                operation_id=action.operation_id,
                data=data,
            )
        )


def _parameters(action: ServerAction) -> bytes:
    if not isinstance(action, ServerUpdate):
        return b""
    return _encode(UpdateParameters(action.values, action.label, action.former))


class _QueueRow(msgspec.Struct, frozen=True):
    id: str
    kind: str
    state: OperationState
    step: int
    target_id: str
    created_at: float
