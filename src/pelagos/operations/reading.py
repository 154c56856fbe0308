"""Reading the journal: operations as values, in chunks that fit a statement, never one query an operation."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

import msgspec
from sqlalchemy import Connection, bindparam, select

from pelagos.model.errors import ErrorPayload
from pelagos.model.scope import Scope
from pelagos.model.states import OperationState
from pelagos.operations.records import WAITING, OperationRecord
from pelagos.store.schema import operations

__all__ = ["chunks", "operations_by_id", "operations_by_request", "operations_of_targets"]

_CHUNK = 500
_decode_error = msgspec.msgpack.Decoder(ErrorPayload).decode

_columns = (
    operations.c.id,
    operations.c.project_id,
    operations.c.user_id,
    operations.c.kind,
    operations.c.account,
    operations.c.target_id,
    operations.c.infrastructure_id,
    operations.c.request_id,
    operations.c.state,
    operations.c.step,
    operations.c.attempts,
    operations.c.next_at,
    operations.c.error_blob,
    operations.c.created_at,
    operations.c.updated_at,
    operations.c.finished_at,
)
_by_request = select(*_columns).where(
    operations.c.project_id == bindparam("b_project"),
    operations.c.request_id.in_(bindparam("b_requests", expanding=True)),
)
_by_id = select(*_columns).where(operations.c.id.in_(bindparam("b_ids", expanding=True)))
_of_targets = select(*_columns).where(operations.c.target_id.in_(bindparam("b_targets", expanding=True)))


def operations_by_request(
    connection: Connection, scope: Scope, request_ids: Iterable[str]
) -> dict[str, OperationRecord]:
    """The operations that these requests of a project led to, by request id."""
    return {
        row.request_id: row
        for ids in chunks(request_ids)
        for row in map(_record, connection.execute(_by_request, {"b_project": scope.project_id, "b_requests": ids}))
    }


def operations_by_id(connection: Connection, ids: Iterable[str]) -> dict[str, OperationRecord]:
    """Operations by id, of any project; unknown ids are missing."""
    return {row.id: row for chunk in chunks(ids) for row in map(_record, connection.execute(_by_id, {"b_ids": chunk}))}


def operations_of_targets(connection: Connection, target_ids: Iterable[str]) -> list[OperationRecord]:
    """All operations of these servers, finished ones too, oldest first."""
    found = [
        row
        for chunk in chunks(target_ids)
        for row in map(_record, connection.execute(_of_targets, {"b_targets": chunk}))
    ]
    return sorted(found, key=lambda row: (row.created_at, row.id))


def chunks(ids: Iterable[str]) -> Iterable[list[str]]:
    """The ids in lists that fit a statement."""
    iterator = iter(ids)
    while chunk := list(islice(iterator, _CHUNK)):
        yield chunk


def _record(row: Any) -> OperationRecord:
    error = row.error_blob
    return OperationRecord(
        id=row.id,
        project_id=row.project_id,
        user_id=row.user_id,
        kind=row.kind,
        account=row.account,
        target_id=row.target_id,
        infrastructure_id=row.infrastructure_id,
        request_id=row.request_id,
        state=OperationState(row.state),
        step=row.step,
        attempts=row.attempts,
        next_at=None if row.next_at >= WAITING or row.finished_at is not None else row.next_at,
        error=None if error is None else _decode_error(error),
        created_at=row.created_at,
        updated_at=row.updated_at,
        finished_at=row.finished_at,
    )
