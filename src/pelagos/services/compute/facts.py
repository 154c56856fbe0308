"""What another service wants to know of many servers at once: two selects, however many there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import BindParameter, ColumnElement, Connection, Select, and_, bindparam, func, or_, select

from pelagos.model.errors import ErrorPayload
from pelagos.model.states import OperationState, ServerState
from pelagos.operations import UpdateParameters
from pelagos.store.schema import instances, operations, servers

__all__ = ["ServerFacts", "UpdateFacts", "server_facts", "server_facts_of", "servers_by_account"]

_CHUNK = 500
_addresses = msgspec.json.Decoder(tuple[str, ...])
_error = msgspec.msgpack.Decoder(ErrorPayload)
_BEGINS = ("server.create", "server.adopt")
_UPDATE = "server.update"
_update_parameters = msgspec.msgpack.Decoder(UpdateParameters)
_POWER = ("server.start", "server.stop", "server.reboot")
_STATES = {state.value: state for state in ServerState}


class UpdateFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The last change in place that was asked of a server. While it has not succeeded, the server may be as before, as
    asked for, or something between."""

    request: str
    """Id of the request."""
    label: str
    """What whoever asked calls a server that is so."""
    former: str
    """What whoever asked called it before that."""
    state: OperationState
    error: ErrorPayload | None = None


class ServerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A server with what went wrong, if anything, in the operations on it that matter now."""

    id: str
    state: ServerState
    reason: str
    addresses: tuple[str, ...]
    private_addresses: tuple[str, ...]
    made: bool = True
    """Its cloud has made it, as far as is known; it may be gone since."""
    uncertain: bool = False
    """Its create call may or may not have had its effect."""
    create_error: ErrorPayload | None = None
    """Why it was not created, once it is certain that it will not be: what was made of it may still be taken back."""
    create_trouble: ErrorPayload | None = None
    """Why it is not created yet: the call is made again."""
    delete_error: ErrorPayload | None = None
    """What the cloud said last when it was to be deleted."""
    delete_failed: bool = False
    """The cloud refuses for good to delete it."""
    power_error: ErrorPayload | None = None
    """Why the last start, stop or reboot that failed did so."""
    power_request: str = ""
    """Id of the request that failed so: a later one may have succeeded."""
    update: UpdateFacts | None = None
    """The last change in place; None: none was asked for."""


def server_facts_of(connection: Connection, infrastructure_id: str) -> list[ServerFacts]:
    """Of the servers of an infrastructure's living instances, gone ones among them."""
    return _facts(connection, *_OF_INFRASTRUCTURE, {"b_infrastructure": infrastructure_id})


def server_facts(connection: Connection, server_ids: Sequence[str]) -> list[ServerFacts]:
    """Of these servers; unknown ids are left out."""
    found: list[ServerFacts] = []
    for start in range(0, len(server_ids), _CHUNK):
        found += _facts(connection, *_OF_SERVERS, {"b_ids": list(server_ids[start : start + _CHUNK])})
    return found


def servers_by_account(connection: Connection, *, without: str) -> dict[str, int]:
    """Account -> its servers that are not gone, of all projects, less those of the infrastructure ``without``."""
    others = or_(servers.c.infrastructure_id.is_(None), servers.c.infrastructure_id != without)
    query = select(servers.c.account, func.count()).where(servers.c.deleted_at.is_(None), others)
    return {row[0]: row[1] for row in connection.execute(query.group_by(servers.c.account))}


def _statements(which: ColumnElement[bool], which_operations: ColumnElement[bool]) -> tuple[Select[Any], Select[Any]]:
    """Their rows, and the operations on them that met trouble; also those that changed them in place."""
    return (
        select(
            servers.c.id,
            servers.c.state,
            servers.c.reason,
            servers.c.addresses,
            servers.c.private_addresses,
            servers.c.provider_id,
        ).where(which),
        select(
            operations.c.target_id,
            operations.c.kind,
            operations.c.state,
            operations.c.error_blob,
            operations.c.request_id,
            operations.c.parameters_blob,
        )
        .where(
            which_operations,
            or_(
                operations.c.kind == _UPDATE,
                and_(
                    operations.c.state != OperationState.SUCCEEDED.value,
                    operations.c.kind.in_((*_BEGINS, "server.delete", *_POWER)),
                    (operations.c.error_blob.is_not(None)) | (operations.c.state == OperationState.UNCERTAIN.value),
                ),
            ),
        )
        .order_by(operations.c.created_at),
    )


_LIVING = select(instances.c.server_id).where(
    instances.c.infrastructure_id == bindparam("b_infrastructure"), instances.c.deleted_at.is_(None)
)
_OF_INFRASTRUCTURE = _statements(
    servers.c.id.in_(_LIVING), operations.c.infrastructure_id == bindparam("b_infrastructure")
)
_IDS: BindParameter[Any] = bindparam("b_ids", expanding=True)
_OF_SERVERS = _statements(servers.c.id.in_(_IDS), operations.c.target_id.in_(_IDS))


def _facts(
    connection: Connection, of_servers: Select[Any], of_operations: Select[Any], parameters: dict[str, Any]
) -> list[ServerFacts]:
    rows = connection.execute(of_servers, parameters).all()
    troubles = connection.execute(of_operations, parameters).all()
    create: dict[str, tuple[str, ErrorPayload | None]] = {}
    delete: dict[str, tuple[str, ErrorPayload | None]] = {}
    power: dict[str, tuple[str, ErrorPayload | None]] = {}
    updates: dict[str, UpdateFacts] = {}
    for target, kind, state, blob, request_id, parameters_blob in troubles:
        error = _error.decode(blob) if blob else None
        if kind == _UPDATE:
            asked = _update_parameters.decode(parameters_blob)
            updates[target] = UpdateFacts(
                request=request_id, label=asked.label, former=asked.former, state=OperationState(state), error=error
            )
            continue
        if kind in _POWER:
            if state == OperationState.FAILED.value:
                power[target] = (request_id, error)
            continue
        (create if kind in _BEGINS else delete)[target] = (state, error)
    nothing: tuple[str, ErrorPayload | None] = ("", None)
    result = []
    for server_id, state, reason, addresses, private, provider_id in rows:
        create_state, create_error = create.get(server_id, nothing)
        delete_state, delete_error = delete.get(server_id, nothing)
        power_request, power_error = power.get(server_id, nothing)
        result.append(
            ServerFacts(
                id=server_id,
                state=_STATES[state],
                reason=reason,
                addresses=_addresses.decode(addresses),
                private_addresses=_addresses.decode(private),
                made=bool(provider_id),
                uncertain=create_state == OperationState.UNCERTAIN.value,
                create_error=create_error
                if create_state == OperationState.FAILED.value or (create_state and state == ServerState.ERROR.value)
                else None,
                create_trouble=create_error if create_state == OperationState.PENDING.value else None,
                delete_error=delete_error,
                delete_failed=delete_state == OperationState.FAILED.value,
                power_error=power_error,
                power_request=power_request,
                update=updates.get(server_id),
            )
        )
    return result
