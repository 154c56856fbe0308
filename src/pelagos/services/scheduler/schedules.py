"""Schedules as rows, and their firing: functions on a connection.

A firing is one transaction: the event row and the schedule's next time are written together, under the epoch of the
lease ``scheduler``. So a firing that happened is recorded, and one that is recorded happened, whoever died in between;
and a scheduler that lost its lease fires nothing more. The message that follows the commit is a hint.
"""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import Connection, bindparam, delete, insert, select, update

from pelagos.model.errors import Conflict, InvalidInput, NotFound
from pelagos.model.scope import Fence, Scope
from pelagos.services.events import PublishedEvent, ScheduledTrigger, make_event, topic_of, write_events
from pelagos.services.scheduler.messages import (
    CreateSchedule,
    ListSchedules,
    Missed,
    ScheduleInfo,
    ScheduleKind,
    UpdateSchedule,
)
from pelagos.services.scheduler.timing import TimeTable, check, due, next_firing
from pelagos.store import check_fence
from pelagos.store.container_schema import schedules

__all__ = [
    "LEASE",
    "Fired",
    "create_schedule",
    "delete_schedule",
    "fire_due",
    "get_schedule",
    "list_schedules",
    "next_due",
    "update_schedule",
]

LEASE = "scheduler"
_MOST_BYTES = 65_536
_MOST_JSON = 200_000
"""Bytes of a payload as JSON, which is what its events are bounded by; what is refused here cannot stop the firing."""
_COLUMNS = tuple(schedules.c)
_ADVANCE = (
    update(schedules)
    .where(schedules.c.id == bindparam("b_id"))
    .values(next_at=bindparam("b_next_at"), last_at=bindparam("b_last_at"), fired=bindparam("b_fired"))
)
_NEXT = select(schedules.c.next_at).where(schedules.c.next_at.is_not(None)).order_by(schedules.c.next_at).limit(1)


class Fired(msgspec.Struct, frozen=True):
    events: list[PublishedEvent]
    next_at: float | None
    """Of all schedules; it may be due already."""


def create_schedule(connection: Connection, scope: Scope, id: str, request: CreateSchedule, now: float) -> ScheduleInfo:
    """The schedule of that name; ``duplicate`` is set if it was there already, just so.

    Raises InvalidInput, and Conflict if there is another one of that name."""
    if not request.name or len(request.name) > 200:
        raise InvalidInput("a schedule has a name of 1 to 200 characters")
    topic_of("scheduled_trigger", request.origin)
    kind, table = _table(request, now)
    if request.max_count is not None and request.max_count < 1:
        raise InvalidInput("a schedule fires at least once")
    payload = _payload(request.payload)
    known = _find(connection, scope, request.name, lock=True)
    if known is not None:
        info = _info(known)
        asked = (
            kind,
            request.origin,
            request.interval,
            request.cron,
            request.timezone,
            request.end,
            request.max_count,
            request.missed,
            payload,
        )
        there = (
            info.kind,
            info.origin,
            info.interval,
            info.cron,
            info.timezone,
            info.ends_at,
            info.max_count,
            info.missed,
            known.payload_blob,
        )
        start = request.once if kind is ScheduleKind.ONCE else request.start
        if asked == there and (start is None or start == info.starts_at):
            return msgspec.structs.replace(info, duplicate=True)
        raise Conflict(
            f"there is another schedule {request.name}",
            advice="Update that one, or take another name.",
            details={"id": info.id},
        )
    row: dict[str, Any] = {
        "id": id,
        "project_id": scope.project_id,
        "user_id": scope.user_id,
        "name": request.name,
        "kind": kind.value,
        "origin": request.origin,
        "interval": table.interval,
        "cron": table.cron,
        "timezone": table.timezone,
        "starts_at": table.starts_at,
        "ends_at": table.ends_at,
        "next_at": next_firing(table, None),
        "last_at": None,
        "fired": 0,
        "max_count": request.max_count,
        "missed": request.missed.value,
        "version": 1,
        "created_at": now,
        "payload_blob": payload,
    }
    if row["next_at"] is None:
        raise InvalidInput("this schedule would never fire", advice="Look at its start, end and cron expression.")
    connection.execute(insert(schedules).values(**row))
    return get_schedule(connection, scope, request.name)


def update_schedule(connection: Connection, scope: Scope, request: UpdateSchedule, now: float) -> ScheduleInfo:
    """Raises NotFound, InvalidInput, and Conflict if ``version`` is not the schedule's any more."""
    row = _find(connection, scope, request.name, lock=True)
    if row is None:
        raise _unknown(request.name)
    if request.version is not None and request.version != row.version:
        raise Conflict(
            f"schedule {request.name} was changed meanwhile: it is at version {row.version}",
            advice="Read it again and decide anew.",
            details={"version": row.version},
        )
    values: dict[str, Any] = {"version": row.version + 1}
    if request.origin is not None:
        topic_of("scheduled_trigger", request.origin)
        values["origin"] = request.origin
    if request.missed is not None:
        values["missed"] = request.missed.value
    if request.max_count is not msgspec.UNSET:
        values["max_count"] = request.max_count
    if request.payload is not msgspec.UNSET:
        values["payload_blob"] = _payload(request.payload)
    retimed = [given for given in (request.interval, request.cron, request.once) if given is not None]
    end = row.ends_at if request.end is msgspec.UNSET else request.end
    if retimed:
        wanted = CreateSchedule(
            name=request.name,
            origin=row.origin,
            interval=request.interval,
            cron=request.cron,
            once=request.once,
            timezone=request.timezone or row.timezone,
            start=request.start,
            end=end,
        )
        kind, table = _table(wanted, now)
    else:
        kind = ScheduleKind(row.kind)
        table = msgspec.structs.replace(
            _table_of(row),
            ends_at=end,
            timezone=request.timezone or row.timezone,
            starts_at=row.starts_at if request.start is None else request.start,
        )
        check(table)
    values.update(msgspec.structs.asdict(table), kind=kind.value)
    max_count = values.get("max_count", row.max_count)
    left = max_count is None or row.fired < max_count
    wanted_on = request.enabled if request.enabled is not None else (row.next_at is not None or bool(retimed))
    retimed_by = (request.start, request.timezone)
    if not wanted_on or not left:
        values["next_at"] = None
    elif retimed or row.next_at is None or any(given is not None for given in retimed_by):
        values["next_at"] = next_firing(table, now)
    elif end is not None and row.next_at > end:
        values["next_at"] = None
    # Else it stays as it is: a firing that is due and was not made yet is not lost by a change of something else.
    connection.execute(update(schedules).where(schedules.c.id == row.id).values(**values))
    return get_schedule(connection, scope, request.name)


def delete_schedule(connection: Connection, scope: Scope, name: str) -> ScheduleInfo:
    """What it was. Raises NotFound."""
    info = get_schedule(connection, scope, name)
    connection.execute(delete(schedules).where(schedules.c.id == info.id))
    return info


def get_schedule(connection: Connection, scope: Scope, name: str) -> ScheduleInfo:
    """Raises NotFound."""
    row = _find(connection, scope, name)
    if row is None:
        raise _unknown(name)
    return _info(row)


def list_schedules(connection: Connection, scope: Scope, request: ListSchedules) -> list[ScheduleInfo]:
    """A page of the project's schedules, by name."""
    query = select(*_COLUMNS).where(schedules.c.project_id == scope.project_id, schedules.c.name > request.after)
    if request.prefix:
        query = query.where(schedules.c.name.startswith(request.prefix, autoescape=True))
    if request.origin is not None:
        query = query.where(schedules.c.origin == request.origin)
    query = query.order_by(schedules.c.name).limit(max(1, min(request.limit, 1000)))
    return [_info(row) for row in connection.execute(query)]


def next_due(connection: Connection) -> float | None:
    """When the next schedule of any project fires; None: none does."""
    return connection.execute(_NEXT).scalar_one_or_none()


def fire_due(connection: Connection, fence: Fence, now: float, limit: int = 200) -> Fired:
    """Fire up to ``limit`` schedules that are due. Returns the events to announce. Raises LeaseLost."""
    check_fence(connection, fence)
    query = select(*_COLUMNS).where(schedules.c.next_at <= now).order_by(schedules.c.next_at).limit(limit)
    told: list[PublishedEvent] = []
    changes = []
    for row in connection.execute(query.with_for_update()).all():
        remaining = None if row.max_count is None else max(0, row.max_count - row.fired)
        firings, following = due(_table_of(row), row.next_at, now, Missed(row.missed), remaining)
        scope = Scope(row.project_id, row.user_id)
        payload = msgspec.msgpack.decode(row.payload_blob)
        for number, firing in enumerate(firings, row.fired + 1):
            content = ScheduledTrigger(row.id, row.name, number, firing.due_at, firing.missed, payload)
            told.append(make_event(scope, "scheduled_trigger", row.origin, content, at=now))
        changes.append(
            {
                "b_id": row.id,
                "b_next_at": following,
                "b_last_at": firings[-1].due_at if firings else row.last_at,
                "b_fired": row.fired + len(firings),
            }
        )
    if changes:
        connection.execute(_ADVANCE, changes)
    return Fired(write_events(connection, told), next_due(connection))


def _table(request: CreateSchedule, now: float) -> tuple[ScheduleKind, TimeTable]:
    if sum(given is not None for given in (request.interval, request.cron, request.once)) != 1:
        raise InvalidInput("a schedule has an interval, a cron expression or one moment: give one of the three")
    if request.once is not None:
        kind, start = ScheduleKind.ONCE, request.once
    elif request.interval is not None:
        kind = ScheduleKind.INTERVAL
        start = now + request.interval if request.start is None else request.start
    else:
        kind, start = ScheduleKind.CRON, now if request.start is None else request.start
    table = TimeTable(kind, start, request.interval, request.cron, request.timezone, request.end)
    check(table)
    return kind, table


def _payload(payload: object) -> bytes:
    try:
        told = len(msgspec.json.encode(payload))
        blob = msgspec.msgpack.encode(payload)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInput(f"a payload that JSON cannot say: {error}") from error
    if told > _MOST_JSON:
        raise InvalidInput(f"a payload of {told} bytes of JSON; at most {_MOST_JSON} are carried")
    if len(blob) > _MOST_BYTES:
        raise InvalidInput(f"a payload of {len(blob)} bytes; at most {_MOST_BYTES} are carried")
    return blob


def _table_of(row: Any) -> TimeTable:
    return TimeTable(ScheduleKind(row.kind), row.starts_at, row.interval, row.cron, row.timezone, row.ends_at)


def _find(connection: Connection, scope: Scope, name: str, *, lock: bool = False) -> Any:
    query = select(*_COLUMNS).where(schedules.c.project_id == scope.project_id, schedules.c.name == name)
    return connection.execute(query.with_for_update() if lock else query).first()


def _info(row: Any) -> ScheduleInfo:
    return ScheduleInfo(
        id=row.id,
        name=row.name,
        kind=ScheduleKind(row.kind),
        origin=row.origin,
        interval=row.interval,
        cron=row.cron,
        timezone=row.timezone,
        starts_at=row.starts_at,
        ends_at=row.ends_at,
        next_at=row.next_at,
        last_at=row.last_at,
        fired=row.fired,
        max_count=row.max_count,
        missed=Missed(row.missed),
        version=row.version,
        created_at=row.created_at,
        payload=msgspec.msgpack.decode(row.payload_blob),
    )


def _unknown(name: str) -> NotFound:
    return NotFound(f"no schedule {name}", advice="See `list` of the scheduler for those there are.")
