"""Observation: what a listing says against what the store says, and what of it is written.

A pass is one listing and one bulk read; where nothing changed it writes nothing. ``compare`` is pure. Three doubts are
settled in favour of the record:

- a listing is older than what was written since it began: rows written after its start are left alone, and each write
  is made only if the row is as it was read;
- a server may be missing for the cloud's settling time after its create call: before that, absent means nothing unless
  the cloud, asked for it by id, says that it has ended it; after it, it is gone if the cloud knows of none, or if it
  was absent twice;
- what operations have in hand (a boot awaited, a delete under way) is theirs to write.

The sweep looks at the rest of the listing, what no live record claims. By its token it is a late arrival (its attempt
was closed as absent or refused), a second one (another has the record), or one that outlived its delete: those are
deleted, through the journal. A token unknown to this store is somebody else's: it is told of once and never touched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

import msgspec
from sqlalchemy import Connection, bindparam, insert, select, update

from pelagos import quotas
from pelagos.clouds.values import CloudServer
from pelagos.model.scope import DEFAULT_SCOPE, Fence, Scope
from pelagos.model.states import ServerState
from pelagos.operations.reading import chunks
from pelagos.operations.records import SERVER_QUOTA, SweepParameters
from pelagos.operations.rows import encode_addresses, operation_row
from pelagos.store import append_many, check_fence
from pelagos.store.events import event_row
from pelagos.store.schema import attempts, events, instances, operations, servers

__all__ = [
    "Changes",
    "Known",
    "Stray",
    "compare",
    "known_servers",
    "strays",
    "unknown_events",
    "write_changes",
    "write_sweeps",
]

_encode = msgspec.msgpack.Encoder().encode
_decode_sweep = msgspec.msgpack.Decoder(SweepParameters).decode

Known = tuple[str, str | None, str, str, str, float]
"""id, provider_id, state, addresses, private_addresses, updated_at: a plain tuple, ten thousand of them are read."""

_known = select(
    servers.c.id,
    servers.c.provider_id,
    servers.c.state,
    servers.c.addresses,
    servers.c.private_addresses,
    servers.c.updated_at,
).where(servers.c.account == bindparam("b_account"), servers.c.deleted_at.is_(None))
_now_rows = (
    select(
        servers.c.id,
        servers.c.project_id,
        servers.c.user_id,
        servers.c.infrastructure_id,
        servers.c.instance_id,
        servers.c.state,
        servers.c.updated_at,
        servers.c.deleted_at,
    )
    .where(servers.c.id.in_(bindparam("b_ids", expanding=True)))
    .order_by(servers.c.id)
    .with_for_update()
)
_seen = (
    update(servers)
    .where(servers.c.id == bindparam("b_id"))
    .values(
        state=bindparam("b_state"),
        reason=bindparam("b_reason"),
        addresses=bindparam("b_addresses"),
        private_addresses=bindparam("b_private"),
        observed_at=bindparam("b_now"),
        updated_at=bindparam("b_now"),
    )
)
_vanish = (
    update(servers)
    .where(servers.c.id == bindparam("b_id"))
    .values(
        state=ServerState.DELETED.value,
        reason="vanished",
        observed_at=bindparam("b_now"),
        updated_at=bindparam("b_now"),
        deleted_at=bindparam("b_now"),
    )
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
        servers.c.deleted_at,
        instances.c.protected,
    )
    .select_from(
        attempts.join(operations, operations.c.id == attempts.c.operation_id)
        .outerjoin(servers, servers.c.id == operations.c.target_id)
        .outerjoin(instances, instances.c.id == servers.c.instance_id)
    )
    .where(attempts.c.token.in_(bindparam("b_tokens", expanding=True)))
)
_sweeps_of = select(operations.c.parameters_blob, operations.c.finished_at).where(
    operations.c.target_id.in_(bindparam("b_targets", expanding=True)), operations.c.kind == "server.sweep"
)
_told = select(events.c.data).where(events.c.kind == "server.unknown")

_DELETING_PATIENCE = 60.0
_JUST_AFTER = 0.001

_EVENTS = {
    ServerState.ACTIVE: "server.active",
    ServerState.STOPPED: "server.stopped",
    ServerState.ERROR: "server.error",
}
_IN_HAND = frozenset({ServerState.DELETING.value})


class Changes(msgspec.Struct, frozen=True):
    """What a listing changes: servers that look different, ids to ask the cloud about, and servers nobody claims."""

    changed: tuple[tuple[str, float, CloudServer], ...]
    """Server id, the ``updated_at`` it was read with, what the cloud says."""
    absent: tuple[tuple[str, float, str], ...]
    """Server id, ``updated_at``, provider id."""
    early: tuple[tuple[str, float, str, float], ...]
    """Absent, but for so short a time that it means nothing yet: server id, ``updated_at``, provider id, when it will.
    """
    gone: tuple[tuple[str, float], ...]
    """The listing itself says that they are no more: server id, ``updated_at``."""
    unclaimed: tuple[CloudServer, ...]


class Stray(msgspec.Struct, frozen=True):
    """A server of the cloud that is one too many."""

    scope: Scope
    target_id: str
    infrastructure_id: str | None
    provider_id: str
    why: str


def known_servers(connection: Connection, account: str) -> Sequence[Known]:
    """All live servers of an account, in one query."""
    return connection.execute(_known, {"b_account": account}).all()


def compare(
    known: Sequence[Known],
    listed: Sequence[CloudServer],
    *,
    started_at: float,
    settle: float,
    in_hand: Set[str],
) -> Changes:
    """What differs. ``in_hand``: ids of servers that operations write themselves. Pure; a few microseconds a server."""
    by_id = {server.provider_id: server for server in listed}
    changed: list[tuple[str, float, CloudServer]] = []
    absent: list[tuple[str, float, str]] = []
    early: list[tuple[str, float, str, float]] = []
    gone: list[tuple[str, float]] = []
    for id_, provider_id, state, addresses, private, updated_at in known:
        if provider_id is None:
            continue
        server = by_id.pop(provider_id, None)
        if updated_at > started_at or state in _IN_HAND or id_ in in_hand:
            continue
        if server is None:
            if started_at - updated_at > settle:
                absent.append((id_, updated_at, provider_id))
            else:
                early.append((id_, updated_at, provider_id, updated_at + settle + _JUST_AFTER))
        elif server.state is ServerState.DELETED:
            gone.append((id_, updated_at))
        elif (
            server.state.value != state
            or encode_addresses(server.addresses) != addresses
            or encode_addresses(server.private_addresses) != private
        ):
            changed.append((id_, updated_at, server))
    return Changes(tuple(changed), tuple(absent), tuple(early), tuple(gone), tuple(by_id.values()))


def write_changes(
    connection: Connection,
    fence: Fence,
    changed: Sequence[tuple[str, float, CloudServer]],
    vanished: Sequence[tuple[str, float]],
    now: float,
) -> int:
    """Write what was seen, of the rows that are as they were read. Returns how many. Raises LeaseLost."""
    check_fence(connection, fence)
    rows = {
        row.id: row
        for ids in chunks(sorted({*(c[0] for c in changed), *(v[0] for v in vanished)}))
        for row in connection.execute(_now_rows, {"b_ids": ids})
    }
    told: list[dict[str, Any]] = []
    seen = []
    for id_, updated_at, server in changed:
        row = rows.get(id_)
        if row is None or row.updated_at != updated_at or row.deleted_at is not None:
            continue
        seen.append(
            {
                "b_id": id_,
                "b_state": server.state.value,
                "b_reason": server.reason,
                "b_addresses": encode_addresses(server.addresses),
                "b_private": encode_addresses(server.private_addresses),
                "b_now": now,
            }
        )
        kind = _EVENTS.get(server.state)
        if kind == "server.active":
            told.append(_event(row, kind, now, {"addresses": list(server.addresses)}))
        elif kind is not None and row.state != server.state:
            told.append(_event(row, kind, now, {"reason": server.reason} if server.reason else {}))
    gone = []
    released: dict[str, int] = {}
    for id_, updated_at in vanished:
        row = rows.get(id_)
        if row is None or row.updated_at != updated_at or row.deleted_at is not None:
            continue
        gone.append({"b_id": id_, "b_now": now})
        released[row.project_id] = released.get(row.project_id, 0) + 1
        told.append(_event(row, "server.vanished", now, {}))
    if seen:
        connection.execute(_seen, seen)
    if gone:
        connection.execute(_vanish, gone)
    for project_id, count in sorted(released.items()):
        quotas.release(connection, project_id, {name: each * count for name, each in SERVER_QUOTA.items()})
    append_many(connection, told)
    return len(seen) + len(gone)


def strays(
    connection: Connection, unclaimed: Sequence[CloudServer], *, started_at: float, settle: float
) -> tuple[list[Stray], list[CloudServer]]:
    """Of servers that no live record claims: those to sweep, and those whose token this store does not know."""
    rows = {
        row.token: row
        for tokens in chunks(s.token for s in unclaimed if s.token)
        for row in connection.execute(_of_tokens, {"b_tokens": tokens})
    }
    found: list[Stray] = []
    unknown: list[CloudServer] = []
    for server in unclaimed:
        row = rows.get(server.token)
        if row is None or row.protected:
            # What was protected, was taken for gone, and is there again: a person decides.
            unknown.append(server)
            continue
        why = _why_stray(row, server, started_at, settle)
        if why is not None:
            scope = Scope(row.project_id, row.user_id)
            found.append(Stray(scope, row.target_id, row.infrastructure_id, server.provider_id, why))
    return found, unknown


def write_sweeps(
    connection: Connection,
    fence: Fence,
    account: str,
    found: Sequence[Stray],
    ids: Sequence[str],
    *,
    settle: float,
    now: float,
) -> int:
    """Journal the deletion of strays, as operations with these ids; one that is being swept, or was a moment ago, is
    left alone. Returns how many. Raises LeaseLost."""
    check_fence(connection, fence)
    swept = set()
    for targets in chunks(sorted({s.target_id for s in found})):
        for blob, finished_at in connection.execute(_sweeps_of, {"b_targets": targets}):
            if finished_at is None or finished_at > now - settle:
                swept.add(_decode_sweep(blob).provider_id)
    rows = [
        operation_row(
            stray.scope,
            id_,
            "server.sweep",
            account,
            stray.target_id,
            stray.infrastructure_id,
            f"sweep-{id_}",
            now,
            parameters=_encode(SweepParameters(stray.provider_id)),
        )
        for stray, id_ in zip(found, ids, strict=True)
        if stray.provider_id not in swept
    ]
    if rows:
        connection.execute(insert(operations), rows)
    return len(rows)


def unknown_events(
    connection: Connection, fence: Fence, account: str, found: Sequence[CloudServer], now: float
) -> None:
    """Tell of servers whose token is not ours, each once in the life of the store."""
    check_fence(connection, fence)
    told = set()
    for (data,) in connection.execute(_told):
        entry = msgspec.json.decode(data)
        told.add((entry.get("account"), entry.get("provider_id")))
    append_many(
        connection,
        [
            event_row(
                DEFAULT_SCOPE,
                "server.unknown",
                at=now,
                data={"account": account, "provider_id": s.provider_id, "name": s.name, "token": s.token},
            )
            for s in found
            if (account, s.provider_id) not in told
        ],
    )


def _why_stray(row: Any, server: CloudServer, started_at: float, settle: float) -> str | None:
    # What is being deleted is given time; one that is stuck in it is deleted again.
    patience = _DELETING_PATIENCE if server.state is ServerState.DELETING else 0.0
    if (
        row.state in ("open", "released")
        or row.closed_at + patience > started_at
        or server.state is ServerState.DELETED
    ):
        return None
    if row.state in ("absent", "refused"):
        return "it arrived after its attempt was given up"
    if row.provider_id != server.provider_id:
        return "another server has its record"
    if row.deleted_at is not None and row.deleted_at + settle + patience < started_at:
        return "it outlived its delete"
    return None


def _event(row: Any, kind: str, now: float, data: Mapping[str, Any]) -> dict[str, Any]:
    return event_row(
        Scope(row.project_id, row.user_id),
        kind,
        at=now,
        infrastructure_id=row.infrastructure_id,
        instance_id=row.instance_id,
        server_id=row.id,
        data=dict(data),
    )
