"""When a schedule fires: pure functions of a time table and a time.

An interval's firings are counted from its start, ``start + n * interval``, so nothing drifts, however late one firing
was; the ancestor waited one interval after each (reference section 10.2). Cron's times come from `cronsim` in the
schedule's own time zone, with Debian cron's rule for daylight saving.
"""

from __future__ import annotations

import datetime
import math
import zoneinfo
from collections import deque

import msgspec
from cronsim import CronSim, CronSimError

from pelagos.model.errors import InvalidInput
from pelagos.services.scheduler.messages import Missed, ScheduleKind

__all__ = ["Firing", "TimeTable", "check", "due", "next_firing"]

LATE = 30.0
"""Seconds: up to here a firing is late, and not missed."""
MOST_AT_ONCE = 1000
"""Firings of one schedule that are made up for."""
SHORTEST = 0.1
LATEST = 253_402_300_799.0
"""Seconds: the end of the year 9999. Beyond, floats are too coarse to count intervals with."""


class TimeTable(msgspec.Struct, frozen=True):
    """``starts_at``, in seconds: an interval's first firing, a one-shot's only one, where a cron schedule begins."""

    kind: ScheduleKind
    starts_at: float
    interval: float | None = None
    cron: str | None = None
    timezone: str = "UTC"
    ends_at: float | None = None


class Firing(msgspec.Struct, frozen=True):
    due_at: float
    missed: int = 0
    """Firings before it that were left out, at least."""


def check(table: TimeTable) -> None:
    """Raises InvalidInput if it says nothing that can be followed."""
    for value in (table.starts_at, table.ends_at, table.interval):
        if value is not None and not math.isfinite(value):
            raise InvalidInput("times and intervals are finite numbers of seconds")
        if value is not None and not 0 <= value <= LATEST:
            raise InvalidInput(f"{value:g} s is no time", advice="Times are between the years 1970 and 9999.")
    if table.kind is ScheduleKind.INTERVAL and (table.interval is None or table.interval < SHORTEST):
        raise InvalidInput(f"an interval is at least {SHORTEST} s")
    if table.kind is ScheduleKind.CRON:
        zone = _zone(table.timezone)
        try:
            CronSim(table.cron or "", datetime.datetime.fromtimestamp(0.0, zone))
        except CronSimError as error:
            raise InvalidInput(
                f"{table.cron!r} is not a cron expression: {error}",
                advice="Write minute hour day-of-month month day-of-week, for example 30 4 * * MON-FRI.",
            ) from error


def next_firing(table: TimeTable, after: float | None) -> float | None:
    """The first firing later than ``after`` (None: the very first), or None if there is none before the end."""
    match table.kind:
        case ScheduleKind.ONCE:
            at: float | None = table.starts_at if after is None or after < table.starts_at else None
        case ScheduleKind.INTERVAL:
            at = _next_interval(table, after)
        case ScheduleKind.CRON:
            at = _next_cron(table, after)
    return None if at is None or (table.ends_at is not None and at > table.ends_at) else at


def due(
    table: TimeTable, next_at: float, now: float, missed: Missed, remaining: int | None = None
) -> tuple[list[Firing], float | None]:
    """What fires at ``now`` of a schedule whose next firing was to be at ``next_at``, and when it fires next.

    ``remaining``: how many firings it has left; None: any number."""
    times, dropped, following = _due_times(table, next_at, now)
    match missed:
        case Missed.ALL:
            firings = [Firing(time, dropped if index == 0 else 0) for index, time in enumerate(times)]
        case Missed.ONCE:
            firings = [Firing(times[-1], dropped + len(times) - 1)] if times else []
        case Missed.SKIP:
            recent = [time for time in times if now - time <= LATE]
            skipped = dropped + len(times) - len(recent)
            firings = [Firing(time, skipped if index == 0 else 0) for index, time in enumerate(recent)]
    if remaining is not None and len(firings) >= remaining:
        return firings[:remaining], None
    return firings, following


def _due_times(table: TimeTable, next_at: float, now: float) -> tuple[list[float], int, float | None]:
    """The last 1,000 times that are due; how many were before those, at least; and the first that is not due."""
    at: float | None = next_at
    dropped = 0
    if table.kind is ScheduleKind.INTERVAL and table.interval is not None:
        # Counted and not walked: an interval of a second, a year later, is thirty million steps.
        last = now if table.ends_at is None else min(now, table.ends_at)
        dropped = max(0, math.floor((last - next_at) / table.interval) - MOST_AT_ONCE + 1)
        number = round((next_at - table.starts_at) / table.interval) + dropped
        at = table.starts_at + number * table.interval
    times: deque[float] = deque(maxlen=MOST_AT_ONCE)
    leaped = False
    before_leap: list[float] = []
    while at is not None and at <= now:
        if len(times) == MOST_AT_ONCE:
            dropped += 1
            begin = now - (times[-1] - times[0]) - 1.0
            if not leaped and begin > at:
                leaped = True
                dropped += MOST_AT_ONCE
                before_leap = list(times)
                times.clear()
                at = next_firing(table, begin)
                continue
        times.append(at)
        at = next_firing(table, at)
    if before_leap and not times:
        # A table of bursts: since then was none. Those before the leap are the last that are known.
        return before_leap, dropped - MOST_AT_ONCE, at
    return list(times), dropped, at


def _next_interval(table: TimeTable, after: float | None) -> float:
    assert table.interval is not None
    if after is None or after < table.starts_at:
        return table.starts_at
    number = math.floor((after - table.starts_at) / table.interval)
    while (at := table.starts_at + number * table.interval) <= after:
        number += 1
    return at


def _next_cron(table: TimeTable, after: float | None) -> float | None:
    # From just before the start, so that a start which is itself a time of the table counts.
    begin = table.starts_at - 1.0 if after is None or after < table.starts_at else after
    moment = datetime.datetime.fromtimestamp(math.floor(begin), _zone(table.timezone))
    for found in CronSim(table.cron or "", moment):
        at = found.timestamp()
        if at >= table.starts_at and (after is None or at > after):
            return at
    return None


def _zone(name: str) -> zoneinfo.ZoneInfo:
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidInput(
            f"no time zone {name!r}", advice="Take an IANA name, for example Europe/Rome, or UTC."
        ) from error
