"""The journal: intents, written before any effect, in bulk, on the caller's connection.

A submission is one transaction: {fence, server rows, operation rows, quota reservation, events}. It is idempotent by
(project, request id): the rows that exist are returned, only the others are written; all ids come from the caller.

Operations of one target run strictly in order. The way chosen: a target has at most one operation that the clock takes
up (its head); those behind it are journaled with ``next_at`` = WAITING, and the transaction that finishes the head sets
the next one free. Both transactions lock the server's row first, so on PostgreSQL a submission either sees the head
unfinished, and then is seen waiting, or sees it finished. The way rejected, ordering in the worker's memory, loses the
order at each take-over and needs the whole backlog in memory; here the table with its index (account, finished_at,
next_at) is the queue, and a claim reads only what is due.

A delete overtakes what has not begun: a create that was not sent is cancelled with it on the spot, one whose server
boots gives way at once, one whose call is out or uncertain is told by ``cancel_requested`` and deleted when it settles.
One that makes parts is told so too, and takes them back itself before the delete's turn comes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, bindparam, insert, select

from pelagos import quotas
from pelagos.model.errors import Conflict, InvalidInput, NotFound
from pelagos.model.scope import Fence, Scope
from pelagos.operations.intake import Intake
from pelagos.operations.parts import part_quotas, plan_parts, servers_with_parts
from pelagos.operations.reading import chunks, operations_by_request
from pelagos.operations.records import (
    SERVER_QUOTA,
    Adoption,
    AdoptParameters,
    NewServer,
    OperationRecord,
    OrphanRemoval,
    ServerAction,
    ServerUpdate,
    SweepParameters,
)
from pelagos.operations.rows import first_step, new_record, operation_row, server_row
from pelagos.store import check_fence
from pelagos.store.schema import attempts, instances, operations, servers

__all__ = [
    "kept_servers",
    "submit_adoptions",
    "submit_creates",
    "submit_deletes",
    "submit_orphan_removals",
    "submit_power",
    "submit_refresh",
    "submit_updates",
]

_encode = msgspec.msgpack.Encoder().encode
_decode_adoption = msgspec.msgpack.Decoder(AdoptParameters).decode
_POWER = {"start": "server.start", "stop": "server.stop", "reboot": "server.reboot"}

_unfinished_of_targets = (
    select(
        operations.c.id,
        operations.c.kind,
        operations.c.state,
        operations.c.step,
        operations.c.target_id,
        operations.c.created_at,
    )
    .where(operations.c.target_id.in_(bindparam("b_targets", expanding=True)), operations.c.finished_at.is_(None))
    .order_by(operations.c.created_at, operations.c.id)
)
_own_servers = (
    select(
        servers.c.id,
        servers.c.account,
        servers.c.provider_id,
        servers.c.state,
        servers.c.infrastructure_id,
        servers.c.instance_id,
        servers.c.deleted_at,
    )
    .where(servers.c.project_id == bindparam("b_project"), servers.c.id.in_(bindparam("b_ids", expanding=True)))
    .order_by(servers.c.id)
    .with_for_update()
)
_known_server_ids = select(servers.c.id).where(servers.c.id.in_(bindparam("b_ids", expanding=True)))
_held_token = (
    select(attempts.c.token)
    .select_from(
        attempts.join(operations, operations.c.id == attempts.c.operation_id).outerjoin(
            servers, servers.c.id == operations.c.target_id
        )
    )
    .where(
        attempts.c.token == bindparam("b_token"),
        (attempts.c.state == "open") | ((attempts.c.state == "done") & servers.c.deleted_at.is_(None)),
    )
)


def submit_creates(
    connection: Connection, scope: Scope, requests: Sequence[NewServer], *, now: float, fence: Fence | None = None
) -> list[OperationRecord]:
    """Journal the creation of servers, all or none; one record a request, in their order.

    Raises QuotaExceeded; LeaseLost (the fence); Conflict if a server id is taken by another request."""
    if fence is not None:
        check_fence(connection, fence)
    known = operations_by_request(connection, scope, [r.request_id for r in requests])
    fresh = [r for r in _unique(requests) if r.request_id not in known]
    if fresh:
        taken = [
            row[0]
            for ids in chunks(r.server_id for r in fresh)
            for row in connection.execute(_known_server_ids, {"b_ids": ids})
        ]
        if taken:
            raise Conflict(f"server {taken[0]} exists already, made by another request")
        asked: dict[str, Mapping[str, int]] = {r.operation_id: SERVER_QUOTA for r in fresh}
        with_parts = [r for r in fresh if r.parts]
        for request in with_parts:
            asked |= part_quotas(request.server_id, request.parts or ())
        quotas.reserve_many(connection, scope.project_id, asked)
        connection.execute(insert(servers), [server_row(scope, r, now) for r in fresh])
        connection.execute(
            insert(operations),
            [
                operation_row(
                    scope,
                    r.operation_id,
                    "server.create",
                    r.account,
                    r.server_id,
                    r.infrastructure_id,
                    r.request_id,
                    now,
                    expires_at=r.expires_at,
                    step=first_step(r),
                )
                for r in fresh
            ],
        )
        for account in dict.fromkeys(r.account for r in with_parts):
            wanted = [(r.server_id, r.infrastructure_id, r.parts or ()) for r in with_parts if r.account == account]
            plan_parts(connection, scope, account, wanted, now)
        known.update({r.request_id: new_record(scope, r, now) for r in fresh})
    return [known[r.request_id] for r in requests]


def submit_adoptions(
    connection: Connection, scope: Scope, requests: Sequence[Adoption], *, now: float, fence: Fence | None = None
) -> list[OperationRecord]:
    """Journal that servers which are there already come on record, all or none; one record a request, in their order.

    They count into the quota, and its limit is not asked: they exist. Raises LeaseLost (the fence); Conflict if a
    server id is taken by another request, or if a server of the cloud has a record or is being adopted."""
    if fence is not None:
        check_fence(connection, fence)
    known = operations_by_request(connection, scope, [r.request_id for r in requests])
    fresh = [r for r in _unique(requests) if r.request_id not in known]
    if fresh:
        _refuse_known(connection, fresh)
        quotas.reserve_many(connection, scope.project_id, {r.operation_id: SERVER_QUOTA for r in fresh}, force=True)
        connection.execute(insert(servers), [server_row(scope, r, now) for r in fresh])
        connection.execute(
            insert(operations),
            [
                operation_row(
                    scope,
                    r.operation_id,
                    "server.adopt",
                    r.account,
                    r.server_id,
                    r.infrastructure_id,
                    r.request_id,
                    now,
                    expires_at=r.expires_at,
                    parameters=_encode(AdoptParameters(r.provider_id, r.token)),
                )
                for r in fresh
            ],
        )
        known.update({r.request_id: new_record(scope, r, now, "server.adopt") for r in fresh})
    return [known[r.request_id] for r in requests]


def submit_orphan_removals(
    connection: Connection, scope: Scope, requests: Sequence[OrphanRemoval], *, now: float
) -> list[OperationRecord]:
    """Journal the deletion of servers that carry a token which no record knows; one record a request, in their order.

    Raises Conflict, journaling nothing, if a token or a server is on record by now."""
    known = operations_by_request(connection, scope, [r.request_id for r in requests])
    fresh = [r for r in _unique(requests) if r.request_id not in known]
    for request in fresh:
        if (
            connection.execute(_held_token, {"b_token": request.token}).first() is not None
            or _record_of(connection, request.account, request.provider_id) is not None
        ):
            raise Conflict(
                f"{request.provider_id} in {request.account} is on record",
                advice="It is no orphan: what has a record goes with its infrastructure.",
            )
    if fresh:
        connection.execute(
            insert(operations),
            [
                operation_row(
                    scope,
                    r.operation_id,
                    "server.sweep",
                    r.account,
                    r.operation_id,
                    None,
                    r.request_id,
                    now,
                    parameters=_encode(SweepParameters(r.provider_id)),
                )
                for r in fresh
            ],
        )
        known.update(operations_by_request(connection, scope, [r.request_id for r in fresh]))
    return [known[r.request_id] for r in requests]


def _refuse_known(connection: Connection, requests: Sequence[Adoption]) -> None:
    under_way = {
        (row.account, _decode_adoption(row.parameters_blob).provider_id)
        for row in connection.execute(
            select(operations.c.account, operations.c.parameters_blob).where(
                operations.c.kind == "server.adopt",
                operations.c.finished_at.is_(None),
                operations.c.account.in_(sorted({r.account for r in requests})),
            )
        )
    }
    for request in requests:
        if connection.execute(_known_server_ids, {"b_ids": [request.server_id]}).first() is not None:
            raise Conflict(f"server {request.server_id} exists already, made by another request")
        place = (request.account, request.provider_id)
        owner = _record_of(connection, *place)
        if owner is not None or place in under_way:
            raise Conflict(
                f"{request.provider_id} in {request.account} is on record already"
                + (f", as server {owner}" if owner else ": it is being adopted"),
                advice="A server belongs to one node of one infrastructure.",
            )
        under_way.add(place)


def _record_of(connection: Connection, account: str, provider_id: str) -> str | None:
    """The id of the living server record of what the cloud calls ``provider_id``."""
    return connection.execute(
        select(servers.c.id).where(
            servers.c.account == account, servers.c.deleted_at.is_(None), servers.c.provider_id == provider_id
        )
    ).scalar()


def kept_servers(connection: Connection, instance_ids: Iterable[str]) -> set[str]:
    """Of these instances, those that are protected: their servers are not to be deleted by anybody."""
    table = instances
    return {
        row[0]
        for ids in chunks(instance_ids)
        for row in connection.execute(select(table.c.id).where(table.c.id.in_(ids), table.c.protected))
    }


def submit_deletes(
    connection: Connection, scope: Scope, actions: Sequence[ServerAction], *, now: float, fence: Fence | None = None
) -> list[OperationRecord]:
    """Journal the deletion of servers, all or none; one record an action, in their order.

    Deleting what is gone succeeds at once. Raises NotFound (no such server in the project); Conflict if the instance of
    one that lives is protected; LeaseLost."""
    return _submit(connection, scope, "server.delete", actions, now, fence)


def submit_power(
    connection: Connection,
    scope: Scope,
    verb: str,
    actions: Sequence[ServerAction],
    *,
    now: float,
    fence: Fence | None = None,
) -> list[OperationRecord]:
    """Journal ``verb`` (start, stop, reboot) for servers, all or none; one record an action, in their order.

    Raises NotFound; Conflict for a server deleted or being deleted; InvalidInput for another verb; LeaseLost."""
    if verb not in _POWER:
        raise InvalidInput(f"{verb!r} is no power verb", advice="Use start, stop or reboot.")
    return _submit(connection, scope, _POWER[verb], actions, now, fence)


def submit_updates(
    connection: Connection, scope: Scope, actions: Sequence[ServerUpdate], *, now: float, fence: Fence | None = None
) -> list[OperationRecord]:
    """Journal that servers get other values of keys of theirs, all or none; one record an action, in their order.

    Raises NotFound; Conflict for a server deleted or being deleted; LeaseLost."""
    return _submit(connection, scope, "server.update", actions, now, fence)


def submit_refresh(connection: Connection, scope: Scope, account: str, operation_id: str, *, now: float) -> None:
    """Ask whichever process works for ``account`` to list it once. The row is a note, not history: the asker reads
    its end and deletes it."""
    connection.execute(
        insert(operations),
        operation_row(scope, operation_id, "account.refresh", account, operation_id, None, operation_id, now),
    )


def _submit(
    connection: Connection, scope: Scope, kind: str, actions: Sequence[ServerAction], now: float, fence: Fence | None
) -> list[OperationRecord]:
    if fence is not None:
        check_fence(connection, fence)
    known = operations_by_request(connection, scope, [a.request_id for a in actions])
    fresh = [a for a in _unique(actions) if a.request_id not in known]
    if fresh:
        ids = sorted({a.server_id for a in fresh})
        rows = {
            row.id: row
            for chunk in chunks(ids)
            for row in connection.execute(_own_servers, {"b_project": scope.project_id, "b_ids": chunk})
        }
        missing = [i for i in ids if i not in rows]
        if missing:
            raise NotFound(f"no server {missing[0]}", details={"ids": missing})
        if kind == "server.delete":
            _refuse_protected(connection, rows.values())
        queue: dict[str, list[Any]] = {i: [] for i in ids}
        for chunk in chunks(ids):
            for row in connection.execute(_unfinished_of_targets, {"b_targets": chunk}):
                queue[row.target_id].append(row)
        with_parts = servers_with_parts(connection, ids) if kind == "server.delete" else set()
        intake = Intake(scope, now, with_parts)
        for action in fresh:
            if kind == "server.delete":
                intake.delete(action, rows[action.server_id], queue[action.server_id])
            else:
                intake.power(kind, action, rows[action.server_id], queue[action.server_id])
        intake.write(connection)
        known.update(operations_by_request(connection, scope, [a.request_id for a in fresh]))
    return [known[a.request_id] for a in actions]


def _refuse_protected(connection: Connection, rows: Iterable[Any]) -> None:
    """The last line of what keeps protected instances: whoever asks, and for whatever reason."""
    alive = {row.instance_id: row.id for row in rows if row.instance_id is not None and row.deleted_at is None}
    kept = kept_servers(connection, sorted(alive))
    if kept:
        names = ", ".join(sorted(alive[instance] for instance in kept))
        raise Conflict(
            f"protected, and not deleted: server {names}", advice="`pelagos protect INFRA NODE off` lifts it."
        )


def _unique(items: Sequence[Any]) -> Iterable[Any]:
    """The first of each request id: a batch may repeat itself."""
    return {item.request_id: item for item in reversed(items)}.values().__reversed__()
