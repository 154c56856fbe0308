"""Reserve with the intent, commit or cancel with the outcome: functions on a connection.

The problem: two writers that both read "one left" and both take it. Reading, comparing and writing in one transaction
does not prevent that on PostgreSQL below SERIALIZABLE. The way chosen: the comparison is the WHERE of the one UPDATE
that takes, so that the row's lock orders the takers and the later one's comparison sees the earlier one's result,
at any isolation level and on any database. Settling is as safe: a reservation's state changes by one UPDATE that names
the state it expects and returns what it changed, so nothing is counted twice however often it is asked.

The way rejected: counting the things themselves at each request. It is exact only under a lock of all of them, and
costs a scan.

A batch is one statement a resource, whatever its size; resources are taken in sorted order, so no two writers wait for
each other. A negative amount is a release that is taken at its commit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

from sqlalchemy import Connection, bindparam, delete, func, insert, select, text, update

from pelagos.quotas.arithmetic import UNLIMITED, Holding, exceeded
from pelagos.store.schema import quota_holdings as held
from pelagos.store.schema import quota_limits as limits
from pelagos.store.schema import quota_reservations as reservations

__all__ = [
    "cancel",
    "cancel_many",
    "commit",
    "commit_many",
    "holdings",
    "release",
    "reserve",
    "reserve_many",
    "set_limit",
]

_CHUNK = 500

_limit_of_row = (
    select(limits.c.limit)
    .where(limits.c.project_id == held.c.project_id, limits.c.resource == held.c.resource)
    .correlate(held)
    .scalar_subquery()
)
_this_row = (held.c.project_id == bindparam("b_project"), held.c.resource == bindparam("b_resource"))
_take = update(held).where(*_this_row).values(reserved=held.c.reserved + bindparam("b_amount"))
_take_if_it_fits = _take.where(
    held.c.used + held.c.reserved + bindparam("b_amount") <= func.coalesce(_limit_of_row, UNLIMITED)
)
# Written out, since SQLAlchemy has this statement once a dialect, and a dialect is long to import; both understand it.
_make_row = text(
    "INSERT INTO quota_holdings (project_id, resource, used, reserved) VALUES (:project_id, :resource, 0, 0) "
    "ON CONFLICT DO NOTHING"
)
_settle_row = (
    update(held)
    .where(*_this_row)
    .values(used=held.c.used + bindparam("b_used"), reserved=held.c.reserved + bindparam("b_reserved"))
)
_settle_reserved = (
    update(reservations)
    .where(reservations.c.operation_id.in_(bindparam("b_ids", expanding=True)), reservations.c.state == "reserved")
    .values(state=bindparam("b_state"))
    .returning(reservations.c.project_id, reservations.c.resource, reservations.c.amount)
)


def reserve(
    connection: Connection, project_id: str, operation_id: str, amounts: Mapping[str, int], *, force: bool = False
) -> None:
    """Reserve ``{resource: amount}`` for an operation, all or nothing of it.

    Raises QuotaExceeded, naming resource, limit, used, reserved and asked. With ``force`` (what exists already is
    adopted) the limit is not asked."""
    reserve_many(connection, project_id, {operation_id: amounts}, force=force)


def reserve_many(
    connection: Connection, project_id: str, requests: Mapping[str, Mapping[str, int]], *, force: bool = False
) -> None:
    """Reserve for several operations of a project, all or none: ``{operation id: {resource: amount}}``.

    Raises as :func:`reserve`; ``asked`` is the sum over the operations."""
    totals: dict[str, int] = {}
    rows = []
    for operation_id, amounts in requests.items():
        for resource, amount in amounts.items():
            totals[resource] = totals.get(resource, 0) + max(0, amount)
            rows.append(
                {
                    "operation_id": operation_id,
                    "resource": resource,
                    "project_id": project_id,
                    "amount": amount,
                    "state": "reserved",
                }
            )
    for resource in sorted(totals):
        if totals[resource]:
            _reserve_total(connection, project_id, resource, totals[resource], force)
    if rows:
        connection.execute(insert(reservations), rows)


def commit(connection: Connection, operation_id: str) -> None:
    """What the operation reserved is there now, or given back. A second commit changes nothing."""
    commit_many(connection, [operation_id])


def commit_many(connection: Connection, operation_ids: Iterable[str]) -> None:
    """:func:`commit` for many operations, of any projects."""
    _settle(connection, operation_ids, "committed")


def cancel(connection: Connection, operation_id: str) -> None:
    """What the operation reserved will not be. After a commit, or a second time, it changes nothing."""
    cancel_many(connection, [operation_id])


def cancel_many(connection: Connection, operation_ids: Iterable[str]) -> None:
    """:func:`cancel` for many operations, of any projects."""
    _settle(connection, operation_ids, "cancelled")


def release(connection: Connection, project_id: str, amounts: Mapping[str, int]) -> None:
    """Give back what is gone without an operation of its own (vanished, or discarded by the cloud)."""
    _change(connection, {(project_id, resource): (-amount, 0) for resource, amount in amounts.items()})


def set_limit(connection: Connection, project_id: str, resource: str, limit: int | None) -> None:
    """Set a limit, or take it away (None). Below what is held, nothing is taken back and nothing more is granted."""
    connection.execute(delete(limits).where(limits.c.project_id == project_id, limits.c.resource == resource))
    if limit is not None:
        connection.execute(insert(limits), {"project_id": project_id, "resource": resource, "limit": limit})


def holdings(connection: Connection, project_id: str) -> dict[str, Holding]:
    """What a project holds, and its limits, by resource in sorted order."""
    rows = connection.execute(select(limits.c.resource, limits.c.limit).where(limits.c.project_id == project_id))
    known: dict[str, int] = {row.resource: row.limit for row in rows}
    found = {
        resource: Holding(known.get(resource, UNLIMITED), used, reserved)
        for resource, used, reserved in connection.execute(
            select(held.c.resource, held.c.used, held.c.reserved).where(held.c.project_id == project_id)
        )
    }
    for resource, limit in known.items():
        found.setdefault(resource, Holding(limit))
    return dict(sorted(found.items()))


def _reserve_total(connection: Connection, project_id: str, resource: str, amount: int, force: bool) -> None:
    values = {"b_project": project_id, "b_resource": resource, "b_amount": amount}
    statement = _take if force else _take_if_it_fits
    if connection.execute(statement, values).rowcount:
        return
    _ensure_row(connection, project_id, resource)
    if connection.execute(statement, values).rowcount:
        return
    raise exceeded(resource, holdings(connection, project_id).get(resource, Holding()), amount)


def _ensure_row(connection: Connection, project_id: str, resource: str) -> None:
    """Make the holding's row, unless somebody else made it a moment ago."""
    connection.execute(_make_row, {"project_id": project_id, "resource": resource})


def _settle(connection: Connection, operation_ids: Iterable[str], state: str) -> None:
    changes: dict[tuple[str, str], tuple[int, int]] = {}
    for chunk in _chunks(operation_ids):
        for project_id, resource, amount in connection.execute(_settle_reserved, {"b_ids": chunk, "b_state": state}):
            used, reserved = changes.get((project_id, resource), (0, 0))
            if state == "committed":
                used += amount
            changes[project_id, resource] = (used, reserved - max(0, amount))
    _change(connection, changes)


def _change(connection: Connection, changes: Mapping[tuple[str, str], tuple[int, int]]) -> None:
    for (project_id, resource), (used, reserved) in sorted(changes.items()):
        if used == 0 and reserved == 0:
            continue
        values = {"b_project": project_id, "b_resource": resource, "b_used": used, "b_reserved": reserved}
        if not connection.execute(_settle_row, values).rowcount:
            _ensure_row(connection, project_id, resource)
            connection.execute(_settle_row, values)


def _chunks(ids: Iterable[str]) -> Iterable[Sequence[str]]:
    iterator = iter(ids)
    while chunk := list(islice(iterator, _CHUNK)):
        yield chunk
