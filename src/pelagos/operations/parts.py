"""Parts in the store: what is journaled of a server's volumes, ports and addresses, and how it is read.

A part's row is written with its server's intent, in the same transaction as its quota; its id is made of the server's
and the part's key, so that the transaction may run twice. What happens to it then is `assembling`'s to write.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, bindparam, insert, select

from pelagos import quotas
from pelagos.clouds.values import PartKind, PartSpec
from pelagos.model.scope import Scope
from pelagos.model.states import PartState
from pelagos.operations.reading import chunks
from pelagos.operations.records import PartRecord, part_quota
from pelagos.store.schema import parts

__all__ = ["any_parts", "part_id", "part_quotas", "parts_of_servers", "plan_parts", "servers_with_parts"]

_encode = msgspec.msgpack.Encoder().encode
_decode_spec = msgspec.msgpack.Decoder(PartSpec).decode

_columns = (
    parts.c.id,
    parts.c.server_id,
    parts.c.key,
    parts.c.kind,
    parts.c.name,
    parts.c.provider_id,
    parts.c.token,
    parts.c.state,
    parts.c.address,
    parts.c.keep,
    parts.c.spec_blob,
)
_living = parts.c.deleted_at.is_(None)
_of_servers = (
    select(*_columns)
    .where(parts.c.server_id.in_(bindparam("b_ids", expanding=True)), _living)
    .order_by(parts.c.server_id, parts.c.position)
)
_with_parts = (
    select(parts.c.server_id).where(parts.c.server_id.in_(bindparam("b_ids", expanding=True)), _living).distinct()
)
_any = select(parts.c.id).where(parts.c.account == bindparam("b_account")).limit(1)


def part_id(server_id: str, key: str) -> str:
    """The id of a server's part: the same whenever it is asked for."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"pelagos:part:{server_id}:{key}"))


def part_quotas(server_id: str, specs: Sequence[PartSpec]) -> dict[str, Mapping[str, int]]:
    """What a server's parts reserve: each under its own id, since each has an outcome of its own."""
    return {part_id(server_id, spec.key): part_quota(spec) for spec in specs}


def plan_parts(
    connection: Connection,
    scope: Scope,
    account: str,
    servers: Iterable[tuple[str, str | None, Sequence[PartSpec]]],
    now: float,
    *,
    reserve: bool = False,
) -> None:
    """Write the rows of parts to be made: (server id, infrastructure id, its parts in the order of making).

    ``reserve``: their quota too, which may raise QuotaExceeded; else the caller has done so with its own."""
    rows: list[dict[str, Any]] = []
    asked: dict[str, Mapping[str, int]] = {}
    for server_id, infrastructure_id, specs in servers:
        asked |= part_quotas(server_id, specs)
        rows += [
            _row(scope, account, server_id, infrastructure_id, position, spec, now)
            for position, spec in enumerate(specs)
        ]
    if reserve:
        quotas.reserve_many(connection, scope.project_id, asked)
    if rows:
        connection.execute(insert(parts), rows)


def parts_of_servers(connection: Connection, server_ids: Iterable[str]) -> dict[str, tuple[PartRecord, ...]]:
    """The living parts of these servers, each server's in the order of making; those without are missing."""
    found: dict[str, list[PartRecord]] = {}
    for ids in chunks(server_ids):
        for row in connection.execute(_of_servers, {"b_ids": ids}):
            found.setdefault(row.server_id, []).append(_record(row))
    return {server_id: tuple(records) for server_id, records in found.items()}


def servers_with_parts(connection: Connection, server_ids: Iterable[str]) -> set[str]:
    """Which of these servers have living parts."""
    return {row[0] for ids in chunks(server_ids) for row in connection.execute(_with_parts, {"b_ids": ids})}


def any_parts(connection: Connection, account: str) -> bool:
    """Whether the store knows, or still remembers, any part of the account. One index look-up."""
    return connection.execute(_any, {"b_account": account}).first() is not None


def _row(
    scope: Scope,
    account: str,
    server_id: str,
    infrastructure_id: str | None,
    position: int,
    spec: PartSpec,
    now: float,
) -> dict[str, Any]:
    return {
        "id": part_id(server_id, spec.key),
        "project_id": scope.project_id,
        "user_id": scope.user_id,
        "account": account,
        "server_id": server_id,
        "infrastructure_id": infrastructure_id,
        "position": position,
        "key": spec.key,
        "kind": spec.kind.value,
        "name": spec.name,
        "provider_id": None,
        "token": "",
        "state": PartState.PLANNED.value,
        "reason": "",
        "address": "",
        "keep": spec.keep,
        "created_at": now,
        "updated_at": now,
        "deleted_at": None,
        "spec_blob": _encode(spec),
    }


def _record(row: Any) -> PartRecord:
    return PartRecord(
        id=row.id,
        server_id=row.server_id,
        key=row.key,
        kind=PartKind(row.kind),
        name=row.name,
        provider_id=row.provider_id,
        token=row.token,
        state=PartState(row.state),
        address=row.address,
        keep=row.keep,
        spec=_decode_spec(row.spec_blob),
    )
