"""What the scheduler is asked and answers."""

from __future__ import annotations

import enum
from typing import Any

import msgspec

__all__ = ["CreateSchedule", "ListSchedules", "Missed", "ScheduleInfo", "ScheduleKind", "ScheduleRef", "UpdateSchedule"]


class ScheduleKind(enum.StrEnum):
    INTERVAL = "interval"
    CRON = "cron"
    ONCE = "once"


class Missed(enum.StrEnum):
    """What becomes of firings that were due while no scheduler ran."""

    SKIP = "skip"
    """Nothing: only what is at most 30 s late still fires (that is how long a take-over may need)."""
    ONCE = "once"
    """One firing for all of them, which says how many it stands for."""
    ALL = "all"
    """Each fires, the last 1,000 of them."""


class CreateSchedule(msgspec.Struct, frozen=True, kw_only=True):
    """Give one of ``interval`` (seconds, at least 0.1), ``cron`` (five fields, or six with seconds first) or ``once``
    (wall-clock seconds).

    An interval's firings are at ``start`` + n * interval, n from 0; without ``start`` at creation + n * interval, n
    from 1. A cron expression is read in ``timezone`` (an IANA name); ``start`` and ``end`` (both inclusive) and
    ``max_count`` bound every kind. Each firing is an event ``scheduled_trigger`` of ``origin`` with ``payload`` (what
    JSON can say).

    Daylight saving: a job at a set time that falls into the hour which is left out runs at its end; one in the hour
    that comes twice runs once; jobs with ``*`` in minutes or hours simply follow the clock."""

    name: str
    origin: str
    interval: float | None = None
    cron: str | None = None
    once: float | None = None
    timezone: str = "UTC"
    start: float | None = None
    end: float | None = None
    max_count: int | None = None
    missed: Missed = Missed.ONCE
    payload: Any = None


class UpdateSchedule(msgspec.Struct, frozen=True, kw_only=True):
    """Changes what is given. ``version``, if given, must be the schedule's. A new time table counts from now on, or
    from ``start``; ``enabled`` False stops the firing, True takes it up again."""

    name: str
    version: int | None = None
    origin: str | None = None
    interval: float | None = None
    cron: str | None = None
    once: float | None = None
    timezone: str | None = None
    start: float | None = None
    end: float | msgspec.UnsetType | None = msgspec.UNSET
    max_count: int | msgspec.UnsetType | None = msgspec.UNSET
    missed: Missed | None = None
    payload: Any | msgspec.UnsetType = msgspec.UNSET
    enabled: bool | None = None


class ScheduleRef(msgspec.Struct, frozen=True):
    name: str


class ListSchedules(msgspec.Struct, frozen=True, kw_only=True):
    """By name, a page at a time: give the last name as ``after``. ``prefix`` of names; ``origin`` exactly."""

    prefix: str = ""
    origin: str | None = None
    after: str = ""
    limit: int = 1000


class ScheduleInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule. Times in wall-clock seconds; ``next_at`` None: it fires no more."""

    id: str
    name: str
    kind: ScheduleKind
    origin: str
    interval: float | None
    cron: str | None
    timezone: str
    starts_at: float
    ends_at: float | None
    next_at: float | None
    last_at: float | None
    fired: int
    max_count: int | None
    missed: Missed
    version: int
    created_at: float
    payload: Any = None
    duplicate: bool = False
    """In the answer to a creation: it was there already, just so."""
