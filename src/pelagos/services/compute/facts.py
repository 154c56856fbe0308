"""What another service wants to know of many servers at once: two selects, however many there are."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import ColumnElement, Connection, func, or_, select

from pelagos.model.errors import ErrorPayload
from pelagos.model.states import OperationState, ServerState
from pelagos.store.schema import instances, operations, servers

__all__ = ["ServerFacts", "server_facts", "server_facts_of", "servers_by_account"]

_CHUNK = 500
_addresses = msgspec.json.Decoder(tuple[str, ...])
_error = msgspec.msgpack.Decoder(ErrorPayload)
_STATES = {state.value: state for state in ServerState}


class ServerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A server with what went wrong, if anything, in the operations on it that matter now."""

    id: str
    state: ServerState
    reason: str
    addresses: tuple[str, ...]
    private_addresses: tuple[str, ...]
    uncertain: bool = False
    """Its create call may or may not have had its effect."""
    create_error: ErrorPayload | None = None
    """Why it was not created, once that is final."""
    delete_error: ErrorPayload | None = None
    """What the cloud said last when it was to be deleted."""
    delete_failed: bool = False
    """The cloud refuses for good to delete it."""


def server_facts_of(connection: Connection, infrastructure_id: str) -> list[ServerFacts]:
    """Of the servers of an infrastructure's living instances, gone ones among them."""
    living = select(instances.c.server_id).where(
        instances.c.infrastructure_id == infrastructure_id, instances.c.deleted_at.is_(None)
    )
    return _facts(connection, servers.c.id.in_(living), operations.c.infrastructure_id == infrastructure_id)


def server_facts(connection: Connection, server_ids: Sequence[str]) -> list[ServerFacts]:
    """Of these servers; unknown ids are left out."""
    found: list[ServerFacts] = []
    for start in range(0, len(server_ids), _CHUNK):
        chunk = list(server_ids[start : start + _CHUNK])
        found += _facts(connection, servers.c.id.in_(chunk), operations.c.target_id.in_(chunk))
    return found


def servers_by_account(connection: Connection, *, without: str) -> dict[str, int]:
    """Account -> its servers that are not gone, of all projects, less those of the infrastructure ``without``."""
    others = or_(servers.c.infrastructure_id.is_(None), servers.c.infrastructure_id != without)
    query = select(servers.c.account, func.count()).where(servers.c.deleted_at.is_(None), others)
    return {row[0]: row[1] for row in connection.execute(query.group_by(servers.c.account))}


def _facts(
    connection: Connection, which: ColumnElement[bool], which_operations: ColumnElement[bool]
) -> list[ServerFacts]:
    rows = connection.execute(
        select(servers.c.id, servers.c.state, servers.c.reason, servers.c.addresses, servers.c.private_addresses).where(
            which
        )
    ).all()
    troubles = connection.execute(
        select(operations.c.target_id, operations.c.kind, operations.c.state, operations.c.error_blob)
        .where(
            which_operations,
            operations.c.state != OperationState.SUCCEEDED.value,
            operations.c.kind.in_(("server.create", "server.delete")),
            (operations.c.error_blob.is_not(None)) | (operations.c.state == OperationState.UNCERTAIN.value),
        )
        .order_by(operations.c.created_at)
    ).all()
    create: dict[str, tuple[str, ErrorPayload | None]] = {}
    delete: dict[str, tuple[str, ErrorPayload | None]] = {}
    for target, kind, state, blob in troubles:
        (create if kind == "server.create" else delete)[target] = (state, _error.decode(blob) if blob else None)
    nothing: tuple[str, ErrorPayload | None] = ("", None)
    result = []
    for server_id, state, reason, addresses, private in rows:
        create_state, create_error = create.get(server_id, nothing)
        delete_state, delete_error = delete.get(server_id, nothing)
        result.append(
            ServerFacts(
                id=server_id,
                state=_STATES[state],
                reason=reason,
                addresses=_addresses.decode(addresses),
                private_addresses=_addresses.decode(private),
                uncertain=create_state == OperationState.UNCERTAIN.value,
                create_error=create_error if create_state == OperationState.FAILED.value else None,
                delete_error=delete_error,
                delete_failed=delete_state == OperationState.FAILED.value,
            )
        )
    return result
