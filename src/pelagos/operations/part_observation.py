"""Observation of parts: what a listing of them says against what the store says, and what of it is written.

By the same rules as of servers (`observation`), and only for accounts of which the store knows a part: the others pay
nothing. Three things come of it: parts that vanished get a tombstone; those that came late, twice, or outlived their
delete are swept; and the parts of a server that is gone, which no operation is about, are deleted. A part whose server
is being made or deleted is that operation's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, bindparam, exists, insert, select, update

from pelagos import quotas
from pelagos.clouds.values import CloudPart, PartSpec
from pelagos.model.scope import DEFAULT_SCOPE, Fence, Scope
from pelagos.model.states import PartState
from pelagos.operations.kinds import CREATE_WITH_PARTS
from pelagos.operations.reading import chunks
from pelagos.operations.records import PartSweepParameters, part_quota
from pelagos.operations.rows import operation_row
from pelagos.store import append_many, check_fence
from pelagos.store.events import event_row
from pelagos.store.schema import attempts, events, operations, parts, servers

__all__ = [
    "KnownPart",
    "PartChanges",
    "Stranded",
    "StrayPart",
    "assembling",
    "compare_parts",
    "known_parts",
    "stranded",
    "stray_parts",
    "write_part_changes",
]

_encode = msgspec.msgpack.Encoder().encode
_decode_sweep = msgspec.msgpack.Decoder(PartSweepParameters).decode
_decode_spec = msgspec.msgpack.Decoder(PartSpec).decode

_STRANDED_PAUSE = 60.0
"""Seconds after a deletion of stranded parts failed before it is asked for again."""

_unfinished = operations.alias("unfinished")
_busy = exists().where(_unfinished.c.target_id == parts.c.server_id, _unfinished.c.finished_at.is_(None))
_known = select(parts.c.id, parts.c.kind, parts.c.provider_id, parts.c.state, parts.c.updated_at, _busy).where(
    parts.c.account == bindparam("b_account"), parts.c.deleted_at.is_(None), parts.c.provider_id.is_not(None)
)
_assembling = select(operations.c.target_id).where(
    operations.c.account == bindparam("b_account"),
    operations.c.finished_at.is_(None),
    operations.c.kind == "server.create",
    operations.c.step >= CREATE_WITH_PARTS,
)
_of_tokens = (
    select(
        attempts.c.token,
        attempts.c.state,
        attempts.c.provider_id,
        attempts.c.closed_at,
        operations.c.project_id,
        operations.c.user_id,
        operations.c.target_id,
        operations.c.infrastructure_id,
        parts.c.deleted_at,
    )
    .select_from(
        attempts.join(operations, operations.c.id == attempts.c.operation_id).outerjoin(
            parts, parts.c.token == attempts.c.token
        )
    )
    .where(attempts.c.token.in_(bindparam("b_tokens", expanding=True)))
)
_sweeps_of = select(operations.c.parameters_blob, operations.c.finished_at).where(
    operations.c.target_id.in_(bindparam("b_targets", expanding=True)), operations.c.kind == "part.sweep"
)
_told = select(events.c.data).where(events.c.kind == "part.unknown")
_deletions = operations.alias("deletions")
_stranded = (
    select(parts.c.server_id, parts.c.project_id, parts.c.user_id, parts.c.infrastructure_id)
    .select_from(parts.join(servers, servers.c.id == parts.c.server_id))
    .where(
        parts.c.account == bindparam("b_account"),
        parts.c.deleted_at.is_(None),
        parts.c.keep.is_(False),
        servers.c.deleted_at.is_not(None),
        ~_busy,
        ~exists().where(
            _deletions.c.target_id == parts.c.server_id,
            _deletions.c.kind == "parts.delete",
            _deletions.c.finished_at > bindparam("b_since"),
        ),
    )
    .distinct()
    .order_by(parts.c.server_id)
)
_now_rows = (
    select(
        parts.c.id,
        parts.c.project_id,
        parts.c.user_id,
        parts.c.server_id,
        parts.c.infrastructure_id,
        parts.c.key,
        parts.c.kind,
        parts.c.provider_id,
        parts.c.updated_at,
        parts.c.deleted_at,
        parts.c.spec_blob,
    )
    .where(parts.c.id.in_(bindparam("b_ids", expanding=True)))
    .order_by(parts.c.id)
    .with_for_update()
)
_vanish = (
    update(parts)
    .where(parts.c.id == bindparam("b_id"))
    .values(
        state=PartState.DELETED.value,
        reason="vanished",
        updated_at=bindparam("b_now"),
        deleted_at=bindparam("b_now"),
    )
)

KnownPart = tuple[str, str, str, str, float, bool]
"""id, kind, provider_id, state, updated_at, and whether an operation is about its server."""


class PartChanges(msgspec.Struct, frozen=True):
    """What a listing changes."""

    absent: tuple[tuple[str, float], ...]
    """Part id, ``updated_at`` that it was read with."""
    unclaimed: tuple[CloudPart, ...]


class StrayPart(msgspec.Struct, frozen=True):
    """A part of the cloud that is one too many."""

    scope: Scope
    target_id: str
    infrastructure_id: str | None
    part: CloudPart
    why: str


class Stranded(msgspec.Struct, frozen=True):
    """A server that is gone and left parts."""

    scope: Scope
    server_id: str
    infrastructure_id: str | None


def known_parts(connection: Connection, account: str) -> Sequence[KnownPart]:
    """All living parts of an account that its cloud has, in one query."""
    return connection.execute(_known, {"b_account": account}).all()


def assembling(connection: Connection, account: str) -> set[str]:
    """Ids of servers that are being made with parts: however far they are, their operation writes them."""
    return {row[0] for row in connection.execute(_assembling, {"b_account": account})}


def stranded(connection: Connection, account: str, now: float) -> list[Stranded]:
    """Servers that are gone and left parts which no operation is about."""
    rows = connection.execute(_stranded, {"b_account": account, "b_since": now - _STRANDED_PAUSE})
    return [Stranded(Scope(row.project_id, row.user_id), row.server_id, row.infrastructure_id) for row in rows]


def compare_parts(
    known: Sequence[KnownPart], listed: Sequence[CloudPart], *, started_at: float, settle: float
) -> PartChanges:
    """What differs. Pure."""
    by_id = {(part.kind.value, part.provider_id): part for part in listed}
    absent: list[tuple[str, float]] = []
    for id_, kind, provider_id, state, updated_at, busy in known:
        part = by_id.pop((kind, provider_id), None)
        if part is None and not busy and state != PartState.DELETING and started_at - updated_at > settle:
            absent.append((id_, updated_at))
    return PartChanges(tuple(absent), tuple(by_id.values()))


def stray_parts(
    connection: Connection, unclaimed: Sequence[CloudPart], *, started_at: float, settle: float
) -> tuple[list[StrayPart], list[CloudPart]]:
    """Of parts that no living record claims: those to sweep, and those whose token this store does not know."""
    rows = {
        row.token: row
        for tokens in chunks(part.token for part in unclaimed if part.token)
        for row in connection.execute(_of_tokens, {"b_tokens": tokens})
    }
    found: list[StrayPart] = []
    unknown: list[CloudPart] = []
    for part in unclaimed:
        row = rows.get(part.token)
        if row is None:
            unknown.append(part)
            continue
        why = _why_stray(row, part, started_at, settle)
        if why is not None:
            scope = Scope(row.project_id, row.user_id)
            found.append(StrayPart(scope, row.target_id, row.infrastructure_id, part, why))
    return found, unknown


def write_part_changes(
    connection: Connection,
    fence: Fence,
    account: str,
    *,
    vanished: Sequence[tuple[str, float]],
    strays: Sequence[StrayPart],
    left: Sequence[Stranded],
    unknown: Sequence[CloudPart],
    ids: Sequence[str],
    settle: float,
    now: float,
) -> None:
    """Write tombstones, journal sweeps and deletions (by ``ids``, one for each of both), tell of strangers once.

    Raises LeaseLost."""
    check_fence(connection, fence)
    told = _write_vanished(connection, vanished, now)
    fresh = iter(ids)
    swept = {
        (parameters.part.kind, parameters.part.provider_id)
        for targets in chunks(sorted({s.target_id for s in strays}))
        for blob, finished_at in connection.execute(_sweeps_of, {"b_targets": targets})
        if finished_at is None or finished_at > now - settle
        for parameters in (_decode_sweep(blob),)
    }
    rows = [
        operation_row(
            stray.scope,
            id_,
            "part.sweep",
            account,
            stray.target_id,
            stray.infrastructure_id,
            f"sweep-{id_}",
            now,
            parameters=_encode(PartSweepParameters(stray.part)),
        )
        for stray, id_ in zip(strays, fresh, strict=False)
        if (stray.part.kind, stray.part.provider_id) not in swept
    ]
    rows += [
        operation_row(
            server.scope, id_, "parts.delete", account, server.server_id, server.infrastructure_id, f"parts-{id_}", now
        )
        for server, id_ in zip(left, fresh, strict=False)
    ]
    if rows:
        connection.execute(insert(operations), rows)
    if unknown:
        told += _unknown_events(connection, account, unknown, now)
    append_many(connection, told)


def _write_vanished(connection: Connection, vanished: Sequence[tuple[str, float]], now: float) -> list[dict[str, Any]]:
    rows = {
        row.id: row
        for ids in chunks(sorted(id_ for id_, _ in vanished))
        for row in connection.execute(_now_rows, {"b_ids": ids})
    }
    told: list[dict[str, Any]] = []
    gone: list[dict[str, Any]] = []
    released: dict[str, dict[str, int]] = {}
    for id_, updated_at in vanished:
        row = rows.get(id_)
        if row is None or row.updated_at != updated_at or row.deleted_at is not None:
            continue
        gone.append({"b_id": id_, "b_now": now})
        held = released.setdefault(row.project_id, {})
        for resource, amount in part_quota(_decode_spec(row.spec_blob)).items():
            held[resource] = held.get(resource, 0) + amount
        told.append(
            event_row(
                Scope(row.project_id, row.user_id),
                "part.vanished",
                at=now,
                infrastructure_id=row.infrastructure_id,
                server_id=row.server_id,
                data={"key": row.key, "kind": row.kind, "provider_id": row.provider_id},
            )
        )
    if gone:
        connection.execute(_vanish, gone)
    for project_id, amounts in sorted(released.items()):
        quotas.release(connection, project_id, amounts)
    return told


def _unknown_events(
    connection: Connection, account: str, unknown: Sequence[CloudPart], now: float
) -> list[dict[str, Any]]:
    told = set()
    for (data,) in connection.execute(_told):
        entry = msgspec.json.decode(data)
        told.add((entry.get("account"), entry.get("kind"), entry.get("provider_id")))
    return [
        event_row(
            DEFAULT_SCOPE,
            "part.unknown",
            at=now,
            data={
                "account": account,
                "kind": part.kind.value,
                "provider_id": part.provider_id,
                "name": part.name,
                "token": part.token,
            },
        )
        for part in unknown
        if (account, part.kind.value, part.provider_id) not in told
    ]


def _why_stray(row: Any, part: CloudPart, started_at: float, settle: float) -> str | None:
    if row.state == "open" or row.closed_at > started_at:
        return None
    if row.state in ("absent", "refused"):
        return "it arrived after its attempt was given up"
    if row.provider_id != part.provider_id:
        return "another part has its record"
    if row.deleted_at is None or row.deleted_at + settle < started_at:
        return "it outlived its delete"
    return None
