"""Retention: tombstones and old history are pruned, a bounded batch at a time.

Nothing alive is touched, nor what a live thing needs: its attempts' tokens (by which late arrivals are recognised), the
operation that made it, the run that made it, its own events, and whatever has not ended. Lease rows stay: their
epochs must never fall.

One call is one transaction of at most ``batch`` rows a table; the caller repeats it until it returns 0. The order is
that of the references: what is referred to goes when nothing refers to it any more.
"""

from __future__ import annotations

from sqlalchemy import ColumnElement, Connection, Table, and_, delete, exists, not_, or_, select, tuple_

from pelagos.store.container_schema import (
    event_subscriptions,
    repositories,
    request_records,
    resources,
    schedules,
)
from pelagos.store.schema import (
    attempts,
    events,
    infrastructures,
    instance_sources,
    instances,
    operations,
    parts,
    quota_reservations,
    runs,
    servers,
)

__all__ = ["prune"]


def prune(connection: Connection, before: float, batch: int = 500) -> int:
    """Delete what ended before ``before`` (world's clock); returns how many rows went, 0 when nothing is left to do."""
    gone = 0
    for table, old in _rules(before):
        key = next(iter(table.primary_key.columns))
        some = select(key).where(old).order_by(key).limit(batch)
        found = connection.execute(some).scalars().all()
        if found:
            if table is operations:
                _prune_details(connection, list(found))
            connection.execute(delete(table).where(key.in_(found)))
            gone += len(found)
    return gone + _prune_records(connection, before, batch) + _prune_sources(connection, batch)


def _prune_records(connection: Connection, before: float, batch: int) -> int:
    """Records of requests, whose key is of two columns: a repeat that comes later is a new request."""
    key = (request_records.c.project_id, request_records.c.request_id)
    some = select(*key).where(request_records.c.created_at < before).order_by(*key).limit(batch)
    found = [(project, request) for project, request in connection.execute(some)]
    if found:
        connection.execute(delete(request_records).where(tuple_(*key).in_(found)))
    return len(found)


def _prune_sources(connection: Connection, batch: int) -> int:
    """What no living instance is made from any more. It has no age: it serves to compare with what lives."""
    key = (instance_sources.c.infrastructure_id, instance_sources.c.digest)
    used = exists().where(
        instances.c.infrastructure_id == instance_sources.c.infrastructure_id,
        instances.c.source == instance_sources.c.digest,
        instances.c.deleted_at.is_(None),
    )
    found = [
        (infrastructure, digest)
        for infrastructure, digest in connection.execute(select(*key).where(not_(used)).order_by(*key).limit(batch))
    ]
    if found:
        connection.execute(delete(instance_sources).where(tuple_(*key).in_(found)))
    return len(found)


def _prune_details(connection: Connection, operation_ids: list[str]) -> None:
    connection.execute(delete(attempts).where(attempts.c.operation_id.in_(operation_ids)))
    connection.execute(delete(quota_reservations).where(quota_reservations.c.operation_id.in_(operation_ids)))


def _rules(before: float) -> list[tuple[Table, ColumnElement[bool]]]:
    """What may go of each table, in order."""
    open_operation = operations.alias("open_operation")
    live_instance = instances.alias("live_instance")
    live_server = servers.alias("live_server")
    live_part = parts.alias("live_part")
    return [
        (events, _old_events(before)),
        (
            operations,
            and_(
                operations.c.finished_at < before,
                not_(
                    exists().where(
                        attempts.c.operation_id == operations.c.id,
                        or_(attempts.c.closed_at.is_(None), attempts.c.closed_at >= before),
                    )
                ),
                not_(
                    exists().where(
                        quota_reservations.c.operation_id == operations.c.id,
                        quota_reservations.c.state == "reserved",
                    )
                ),
                # What made a thing is kept as long as the thing: its token is how the cloud knows it.
                not_(
                    and_(
                        operations.c.kind.like("%.create"),
                        or_(
                            exists().where(
                                live_server.c.id == operations.c.target_id, live_server.c.deleted_at.is_(None)
                            ),
                            exists().where(
                                live_part.c.server_id == operations.c.target_id, live_part.c.deleted_at.is_(None)
                            ),
                        ),
                    )
                ),
            ),
        ),
        (
            parts,
            and_(
                parts.c.deleted_at < before,
                not_(
                    exists().where(
                        open_operation.c.target_id == parts.c.server_id,
                        open_operation.c.finished_at.is_(None),
                    )
                ),
            ),
        ),
        (
            servers,
            and_(
                servers.c.deleted_at < before,
                not_(
                    exists().where(
                        open_operation.c.target_id == servers.c.id,
                        open_operation.c.finished_at.is_(None),
                    )
                ),
                not_(exists().where(live_instance.c.server_id == servers.c.id, live_instance.c.deleted_at.is_(None))),
            ),
        ),
        (instances, and_(instances.c.deleted_at < before, _server_is_gone(instances.c.server_id))),
        (
            runs,
            and_(
                runs.c.finished_at < before,
                not_(exists().where(live_instance.c.run_id == runs.c.id, live_instance.c.deleted_at.is_(None))),
                not_(_is_last_run_of_a_live_infrastructure()),
            ),
        ),
        (
            infrastructures,
            and_(
                infrastructures.c.deleted_at < before,
                not_(exists().where(instances.c.infrastructure_id == infrastructures.c.id)),
                not_(exists().where(runs.c.infrastructure_id == infrastructures.c.id)),
                not_(exists().where(servers.c.infrastructure_id == infrastructures.c.id)),
                not_(
                    exists().where(
                        operations.c.infrastructure_id == infrastructures.c.id, operations.c.finished_at.is_(None)
                    )
                ),
            ),
        ),
        (
            repositories,
            or_(
                repositories.c.deleted_at < before,
                # An infrastructure's history goes with its tombstone. Its objects are collected afterwards.
                and_(
                    repositories.c.kind == "infrastructure",
                    repositories.c.updated_at < before,
                    not_(exists().where(infrastructures.c.id == repositories.c.id)),
                ),
            ),
        ),
        (schedules, _ended_schedules(before)),
        (
            resources,
            and_(
                resources.c.updated_at < before,
                # Containers and services are in no project; one that is gone does not retire, it is only not seen.
                or_(
                    resources.c.state == "retired",
                    and_(resources.c.project_id == "system", resources.c.state == "inactive"),
                ),
            ),
        ),
    ]


def _ended_schedules(before: float) -> ColumnElement[bool]:
    """Those that can fire no more; one that somebody stopped is his to go on with."""
    return and_(
        schedules.c.next_at.is_(None),
        or_(
            schedules.c.ends_at < before,
            and_(
                schedules.c.last_at < before,
                or_(schedules.c.kind == "once", schedules.c.fired >= schedules.c.max_count),
            ),
        ),
    )


def _server_is_gone(server_id: ColumnElement[str | None]) -> ColumnElement[bool]:
    remaining = servers.alias("remaining_server")
    return not_(exists().where(remaining.c.id == server_id, remaining.c.deleted_at.is_(None)))


def _is_last_run_of_a_live_infrastructure() -> ColumnElement[bool]:
    later = runs.alias("later_run")
    return and_(
        exists().where(infrastructures.c.id == runs.c.infrastructure_id, infrastructures.c.deleted_at.is_(None)),
        not_(
            exists().where(
                later.c.infrastructure_id == runs.c.infrastructure_id,
                later.c.created_at > runs.c.created_at,
            )
        ),
    )


def _old_events(before: float) -> ColumnElement[bool]:
    """Old events that tell neither of a live thing itself nor of an operation or run that has not ended, and that no
    durable subscription still waits to read. One whose reader has not moved for as long holds nothing up."""
    of_infrastructure_itself = and_(
        events.c.instance_id.is_(None),
        events.c.server_id.is_(None),
        events.c.operation_id.is_(None),
        events.c.run_id.is_(None),
        exists().where(infrastructures.c.id == events.c.infrastructure_id, infrastructures.c.deleted_at.is_(None)),
    )
    return and_(
        events.c.at < before,
        not_(of_infrastructure_itself),
        not_(exists().where(instances.c.id == events.c.instance_id, instances.c.deleted_at.is_(None))),
        not_(exists().where(servers.c.id == events.c.server_id, servers.c.deleted_at.is_(None))),
        not_(exists().where(operations.c.id == events.c.operation_id, operations.c.finished_at.is_(None))),
        not_(exists().where(runs.c.id == events.c.run_id, runs.c.finished_at.is_(None))),
        not_(
            exists().where(
                event_subscriptions.c.project_id == events.c.project_id,
                event_subscriptions.c.position < events.c.position,
                event_subscriptions.c.updated_at >= before,
            )
        ),
    )
