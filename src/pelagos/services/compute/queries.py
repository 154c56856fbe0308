"""What the compute service lets others read: functions ``(connection, scope, ...) -> value``, a fixed number of
statements each, however many servers there are. Things of other projects are not found."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from sqlalchemy import Connection, bindparam, select

from pelagos.clouds.values import PartKind, ServerSpec
from pelagos.model.errors import NotFound
from pelagos.model.scope import Scope
from pelagos.model.states import PartState, ServerState
from pelagos.operations import OperationRecord, operations_by_id, operations_of_targets
from pelagos.store.schema import attempts, instances, operations, parts, servers

__all__ = [
    "ExpectedServer",
    "PartRow",
    "ServerRow",
    "expected_servers",
    "get_operation",
    "get_server",
    "list_parts",
    "list_servers",
    "living_server",
    "operations_of_infrastructure",
    "operations_of_server",
    "parts_of_server",
    "servers_by_id",
    "servers_of",
    "servers_of_account",
    "tokens_on_record",
]

_CHUNK = 500
_addresses = msgspec.json.Decoder(tuple[str, ...]).decode
_spec = msgspec.msgpack.Decoder(ServerSpec).decode
_STATES = {state.value: state for state in ServerState}


class ServerRow(msgspec.Struct, frozen=True, kw_only=True):
    """A server as the store has it. Times in wall-clock seconds; ``deleted_at`` set: a tombstone."""

    id: str
    project_id: str
    user_id: str
    name: str
    account: str
    provider_id: str | None
    state: ServerState
    reason: str
    addresses: tuple[str, ...]
    """Most public first."""
    private_addresses: tuple[str, ...]
    infrastructure_id: str | None
    instance_id: str | None
    created_at: float
    updated_at: float
    observed_at: float | None
    deleted_at: float | None
    spec: ServerSpec | None = None
    """Only where one server is asked for."""


class PartRow(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a server as the store has it: a volume, port, address or network that was made for it. Times in
    wall-clock seconds; ``deleted_at`` set: a tombstone."""

    id: str
    project_id: str
    user_id: str
    account: str
    server_id: str
    """For which it was made; a part that is kept outlives it."""
    infrastructure_id: str | None
    key: str
    """What the server calls it."""
    kind: PartKind
    name: str
    provider_id: str | None
    state: PartState
    reason: str
    address: str
    keep: bool
    """It stays when its server is deleted."""
    created_at: float
    updated_at: float
    deleted_at: float | None


_part_columns = tuple(parts.c[name] for name in PartRow.__struct_fields__)
_columns = (
    servers.c.id,
    servers.c.project_id,
    servers.c.user_id,
    servers.c.name,
    servers.c.account,
    servers.c.provider_id,
    servers.c.state,
    servers.c.reason,
    servers.c.addresses,
    servers.c.private_addresses,
    servers.c.infrastructure_id,
    servers.c.instance_id,
    servers.c.created_at,
    servers.c.updated_at,
    servers.c.observed_at,
    servers.c.deleted_at,
)
_of_project = select(*_columns).where(servers.c.project_id == bindparam("b_project"))
_one = select(*_columns, servers.c.spec_blob).where(
    servers.c.id == bindparam("b_id"), servers.c.project_id == bindparam("b_project")
)
_of_infrastructure = (
    select(*_columns)
    .where(servers.c.infrastructure_id == bindparam("b_infrastructure"), servers.c.deleted_at.is_(None))
    .order_by(servers.c.created_at, servers.c.id)
)
_by_id = select(*_columns).where(servers.c.id.in_(bindparam("b_ids", expanding=True)))
_operation_ids = (
    select(operations.c.id)
    .where(
        operations.c.infrastructure_id == bindparam("b_infrastructure"),
        operations.c.project_id == bindparam("b_project"),
    )
    .order_by(operations.c.created_at)
)


def list_servers(
    connection: Connection,
    scope: Scope,
    *,
    account: str | None = None,
    name: str | None = None,
    deleted: bool = False,
    after: str | None = None,
    limit: int = 1000,
) -> list[ServerRow]:
    """The project's servers, a page at a time, in the order of their ids: give the last id as ``after``."""
    query = _of_project
    if account is not None:
        query = query.where(servers.c.account == account)
    if name is not None:
        query = query.where(servers.c.name == name)
    if not deleted:
        query = query.where(servers.c.deleted_at.is_(None))
    if after is not None:
        query = query.where(servers.c.id > after)
    query = query.order_by(servers.c.id).limit(limit)
    return [_row(row) for row in connection.execute(query, {"b_project": scope.project_id})]


def get_server(connection: Connection, scope: Scope, server_id: str) -> ServerRow:
    """One server with its spec, also if it is a tombstone. Raises NotFound."""
    row = connection.execute(_one, {"b_id": server_id, "b_project": scope.project_id}).first()
    if row is None:
        raise NotFound(f"no server {server_id}", details={"id": server_id})
    *columns, spec = row
    return msgspec.structs.replace(_row(columns), spec=_spec(spec))


def list_parts(
    connection: Connection,
    scope: Scope,
    *,
    account: str | None = None,
    kind: PartKind | None = None,
    infrastructure_id: str | None = None,
    deleted: bool = False,
    after: str | None = None,
    limit: int = 1000,
) -> list[PartRow]:
    """The parts of the project's servers, a page at a time, in the order of their ids: give the last as ``after``."""
    query = select(*_part_columns).where(parts.c.project_id == scope.project_id)
    if account is not None:
        query = query.where(parts.c.account == account)
    if kind is not None:
        query = query.where(parts.c.kind == kind.value)
    if infrastructure_id is not None:
        query = query.where(parts.c.infrastructure_id == infrastructure_id)
    if not deleted:
        query = query.where(parts.c.deleted_at.is_(None))
    if after is not None:
        query = query.where(parts.c.id > after)
    return [_part(row) for row in connection.execute(query.order_by(parts.c.id).limit(limit))]


def parts_of_server(connection: Connection, scope: Scope, server_id: str) -> list[PartRow]:
    """The parts of one server, tombstones too, in the order of making."""
    query = select(*_part_columns).where(parts.c.project_id == scope.project_id, parts.c.server_id == server_id)
    return [_part(row) for row in connection.execute(query.order_by(parts.c.position))]


def servers_of(connection: Connection, infrastructure_id: str) -> list[ServerRow]:
    """The live servers of an infrastructure, oldest first, in one query. The caller has checked whose it is."""
    return [_row(row) for row in connection.execute(_of_infrastructure, {"b_infrastructure": infrastructure_id})]


def servers_of_account(connection: Connection, scope: Scope, account: str) -> list[ServerRow]:
    """The project's living servers of an account, in one query."""
    query = _of_project.where(servers.c.account == bindparam("b_account"), servers.c.deleted_at.is_(None))
    parameters = {"b_project": scope.project_id, "b_account": account}
    return [_row(row) for row in connection.execute(query, parameters)]


def servers_by_id(connection: Connection, ids: Iterable[str]) -> dict[str, ServerRow]:
    """Servers by id, tombstones too; unknown ids are missing. The caller has checked whose they are."""
    wanted = list(ids)
    return {
        row[0]: _row(row)
        for start in range(0, len(wanted), _CHUNK)
        for row in connection.execute(_by_id, {"b_ids": wanted[start : start + _CHUNK]})
    }


class ExpectedServer(msgspec.Struct, frozen=True, kw_only=True):
    """A living server that its cloud should show, as the record has it. ``options`` are what it was made of."""

    id: str
    account: str
    provider_id: str
    name: str
    state: ServerState
    addresses: tuple[str, ...]
    private_addresses: tuple[str, ...]
    options: dict[str, Any]


def expected_servers(connection: Connection, ids: Iterable[str]) -> list[ExpectedServer]:
    """Of these servers, those that live and that their cloud has an id for. The caller has checked whose they are."""
    wanted = list(ids)
    query = select(
        servers.c.id,
        servers.c.account,
        servers.c.provider_id,
        servers.c.name,
        servers.c.state,
        servers.c.addresses,
        servers.c.private_addresses,
        servers.c.spec_blob,
    ).where(
        servers.c.id.in_(bindparam("b_ids", expanding=True)),
        servers.c.deleted_at.is_(None),
        servers.c.provider_id.is_not(None),
        servers.c.state.not_in([ServerState.BUILD.value, ServerState.DELETING.value]),
    )
    return [
        ExpectedServer(
            id=row[0],
            account=row[1],
            provider_id=row[2],
            name=row[3],
            state=_STATES[row[4]],
            addresses=_addresses(row[5]),
            private_addresses=_addresses(row[6]),
            options=_spec(row[7]).options,
        )
        for start in range(0, len(wanted), _CHUNK)
        for row in connection.execute(query, {"b_ids": wanted[start : start + _CHUNK]})
    ]


def tokens_on_record(connection: Connection, tokens: Iterable[str]) -> set[str]:
    """Which of these tokens this store knows, of whatever project: those that its create calls and adoptions wrote, and
    that it has not let go of. Not those of what was protected, was taken for gone, and is there again."""
    wanted = sorted(set(tokens))
    query = (
        select(attempts.c.token)
        .select_from(
            attempts.join(operations, operations.c.id == attempts.c.operation_id)
            .outerjoin(servers, servers.c.id == operations.c.target_id)
            .outerjoin(instances, instances.c.id == servers.c.instance_id)
        )
        .where(
            attempts.c.token.in_(bindparam("b_tokens", expanding=True)),
            attempts.c.state != "released",
            servers.c.deleted_at.is_(None) | instances.c.protected.is_not(True),
        )
    )
    return {
        row[0]
        for start in range(0, len(wanted), _CHUNK)
        for row in connection.execute(query, {"b_tokens": wanted[start : start + _CHUNK]})
    }


def living_server(connection: Connection, account: str, provider_id: str) -> str | None:
    """The id of the living record of what the cloud calls ``provider_id``, of whatever project; None: it has none."""
    query = select(servers.c.id).where(
        servers.c.account == account, servers.c.deleted_at.is_(None), servers.c.provider_id == provider_id
    )
    return connection.execute(query).scalar()


def get_operation(connection: Connection, scope: Scope, operation_id: str) -> OperationRecord:
    """One operation. Raises NotFound."""
    record = operations_by_id(connection, [operation_id]).get(operation_id)
    if record is None or record.project_id != scope.project_id:
        raise NotFound(f"no operation {operation_id}", details={"id": operation_id})
    return record


def operations_of_server(connection: Connection, scope: Scope, server_id: str) -> list[OperationRecord]:
    """All operations of a server, oldest first: with their last error and next try. Raises NotFound."""
    get_server(connection, scope, server_id)
    return operations_of_targets(connection, [server_id])


def operations_of_infrastructure(connection: Connection, scope: Scope, infrastructure_id: str) -> list[OperationRecord]:
    """All operations of an infrastructure's servers in the project, oldest first."""
    parameters = {"b_infrastructure": infrastructure_id, "b_project": scope.project_id}
    ids = [row[0] for row in connection.execute(_operation_ids, parameters)]
    records = operations_by_id(connection, ids)
    return [records[id_] for id_ in ids]


def _row(row: Any) -> ServerRow:
    return ServerRow(
        id=row[0],
        project_id=row[1],
        user_id=row[2],
        name=row[3],
        account=row[4],
        provider_id=row[5],
        state=_STATES[row[6]],
        reason=row[7],
        addresses=_addresses(row[8]),
        private_addresses=_addresses(row[9]),
        infrastructure_id=row[10],
        instance_id=row[11],
        created_at=row[12],
        updated_at=row[13],
        observed_at=row[14],
        deleted_at=row[15],
    )


def _part(row: Any) -> PartRow:
    values = dict(zip(PartRow.__struct_fields__, row, strict=True))
    return PartRow(**{**values, "kind": PartKind(values["kind"]), "state": PartState(values["state"])})
