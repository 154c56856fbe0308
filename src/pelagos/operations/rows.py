"""Rows as the tables keep them: of a new operation, due at once, of a server that is to come; the record of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from pelagos.model.scope import Scope
from pelagos.model.states import OperationState, ServerState
from pelagos.operations.kinds import CREATE_WITH_PARTS, KINDS, PLAN
from pelagos.operations.records import Adoption, NewServer, OperationRecord

__all__ = ["encode_addresses", "first_step", "new_record", "operation_row", "server_row"]

_encode = msgspec.msgpack.Encoder().encode
_encode_json = msgspec.json.Encoder().encode


def encode_addresses(addresses: Sequence[str]) -> str:
    """As the servers table keeps them."""
    return _encode_json(addresses).decode() if addresses else "[]"


def operation_row(
    scope: Scope,
    operation_id: str,
    kind: str,
    account: str,
    target_id: str,
    infrastructure_id: str | None,
    request_id: str,
    created_at: float,
    *,
    expires_at: float | None = None,
    parameters: bytes = b"",
    step: int = 0,
) -> dict[str, Any]:
    """A new operation's row: due at once."""
    assert kind in KINDS
    return {
        "id": operation_id,
        "project_id": scope.project_id,
        "user_id": scope.user_id,
        "kind": kind,
        "account": account,
        "target_id": target_id,
        "infrastructure_id": infrastructure_id,
        "request_id": request_id,
        "state": OperationState.PENDING.value,
        "step": step,
        "attempts": 0,
        "next_at": created_at,
        "expires_at": expires_at,
        "cancel_requested": False,
        "parameters_blob": parameters,
        "error_blob": None,
        "created_at": created_at,
        "updated_at": created_at,
        "finished_at": None,
    }


def first_step(request: NewServer) -> int:
    """Where its creation begins: with finding out what its parts are, with them, or, having none, with itself."""
    if request.parts is None:
        return PLAN
    return CREATE_WITH_PARTS if request.parts else 0


def server_row(scope: Scope, request: NewServer | Adoption, now: float) -> dict[str, Any]:
    """A server that is to come."""
    return {
        "id": request.server_id,
        "project_id": scope.project_id,
        "user_id": scope.user_id,
        "name": request.spec.name,
        "account": request.account,
        "provider_id": None,
        "state": ServerState.BUILD.value,
        "reason": "",
        "spec_blob": _encode(request.spec),
        "addresses": "[]",
        "private_addresses": "[]",
        "infrastructure_id": request.infrastructure_id,
        "instance_id": request.instance_id,
        "created_at": now,
        "updated_at": now,
        "observed_at": None,
        "deleted_at": None,
    }


def new_record(scope: Scope, request: NewServer | Adoption, now: float, kind: str = "server.create") -> OperationRecord:
    """What was just journaled for the request."""
    return OperationRecord(
        id=request.operation_id,
        project_id=scope.project_id,
        user_id=scope.user_id,
        kind=kind,
        account=request.account,
        target_id=request.server_id,
        infrastructure_id=request.infrastructure_id,
        request_id=request.request_id,
        state=OperationState.PENDING,
        step=first_step(request) if isinstance(request, NewServer) else 0,
        attempts=0,
        next_at=now,
        error=None,
        created_at=now,
        updated_at=now,
        finished_at=None,
    )
