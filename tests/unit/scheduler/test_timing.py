"""When schedules fire: no drift, ends, catching up, cron and daylight saving."""

from __future__ import annotations

import datetime
import itertools
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelagos.model.errors import InvalidInput
from pelagos.services.scheduler import Missed, ScheduleKind
from pelagos.services.scheduler.timing import MOST_AT_ONCE, Firing, TimeTable, check, due, next_firing


def interval(seconds, start=1000.0, end=None):
    return TimeTable(ScheduleKind.INTERVAL, start, interval=seconds, ends_at=end)


def cron(expression, zone="UTC", start=0.0, end=None):
    return TimeTable(ScheduleKind.CRON, start, cron=expression, timezone=zone, ends_at=end)


def in_zone(zone, *moment, fold=0):
    return datetime.datetime(*moment, tzinfo=ZoneInfo(zone), fold=fold).timestamp()


@given(st.floats(0.1, 1e6), st.floats(0, 2e9), st.integers(0, 10_000))
def test_the_nth_firing_is_at_the_start_and_n_intervals(seconds, start, number):
    table = interval(seconds, start)
    at = start + number * seconds
    following = next_firing(table, at)
    assert following > at
    assert following == pytest.approx(start + (number + 1) * seconds, abs=1e-3)
    assert next_firing(table, None) == start


def test_an_interval_ends_and_a_one_shot_fires_once():
    table = interval(10, end=1020)
    assert [next_firing(table, t) for t in (None, 1000, 1010, 1020)] == [1000, 1010, 1020, None]
    once = TimeTable(ScheduleKind.ONCE, 50.0)
    assert next_firing(once, None) == 50 and next_firing(once, 49) == 50 and next_firing(once, 50) is None


def test_cron_in_a_time_zone():
    zone = "Europe/Rome"
    table = cron("30 4 * * MON-FRI", zone, start=in_zone(zone, 2025, 7, 4, 4, 30))
    friday = next_firing(table, None)
    assert friday == in_zone(zone, 2025, 7, 4, 4, 30)
    assert next_firing(table, friday) == in_zone(zone, 2025, 7, 7, 4, 30)


def test_cron_when_the_clocks_change():
    zone = "Europe/Rome"
    # The hour from 2 to 3 of 30 March 2025 is left out: what was to run in it runs at its end.
    spring = cron("30 2 * * *", zone, start=in_zone(zone, 2025, 3, 29, 3, 0))
    first = next_firing(spring, None)
    assert first == in_zone(zone, 2025, 3, 30, 3, 0)
    assert next_firing(spring, first) == in_zone(zone, 2025, 3, 31, 2, 30)
    # The hour from 2 to 3 of 26 October 2025 comes twice: once is enough.
    autumn = cron("30 2 * * *", zone, start=in_zone(zone, 2025, 10, 25, 3, 0))
    first = next_firing(autumn, None)
    assert first == in_zone(zone, 2025, 10, 26, 2, 30)
    assert next_firing(autumn, first) == in_zone(zone, 2025, 10, 27, 2, 30)
    # What runs each half hour follows the clock through it.
    half_hours = cron("*/30 * * * *", zone, start=in_zone(zone, 2025, 10, 26, 2, 0))
    times = [next_firing(half_hours, None)]
    while len(times) < 5:
        times.append(next_firing(half_hours, times[-1]))
    assert {b - a for a, b in itertools.pairwise(times)} == {1800.0}


@pytest.mark.parametrize(
    ("missed", "firings"),
    [
        (Missed.ALL, [Firing(1000), Firing(1010), Firing(1020), Firing(1030), Firing(1040)]),
        (Missed.ONCE, [Firing(1040, 4)]),
        (Missed.SKIP, [Firing(1020, 2), Firing(1030), Firing(1040)]),
    ],
)
def test_what_was_missed(missed, firings):
    assert due(interval(10), 1000.0, 1045.0, missed) == (firings, 1050.0)


def test_what_is_on_time_is_the_same_for_all():
    for missed in Missed:
        assert due(interval(10), 1000.0, 1000.0, missed) == ([Firing(1000)], 1010.0)
        assert due(interval(10), 1000.0, 1005.0, missed, remaining=1) == ([Firing(1000)], None)
        assert due(interval(10), 1000.0, 999.0, missed) == ([], 1000.0)


@pytest.mark.parametrize("table", [interval(1.0, 0.0), cron("* * * * *")])
def test_catching_up_is_bounded_and_ends_at_the_newest(table):
    year = 365 * 86_400.0
    firings, following = due(table, 0.0, year, Missed.ALL)
    assert len(firings) == MOST_AT_ONCE
    assert firings[-1].due_at == year and following == next_firing(table, year)
    assert firings[0].missed > MOST_AT_ONCE
    [one], _ = due(table, 0.0, year, Missed.ONCE)
    assert one.due_at == year
    [*skip], _ = due(table, 0.0, year, Missed.SKIP)
    assert 1 <= len(skip) <= 31 and skip[-1].due_at == year


def test_an_end_bounds_catching_up():
    firings, following = due(interval(1.0, 0.0, end=5000.0), 0.0, 1e9, Missed.ALL)
    assert following is None and firings[-1].due_at == 5000.0 and len(firings) == MOST_AT_ONCE


@pytest.mark.parametrize(
    "table",
    [
        interval(0.0),
        interval(float("nan")),
        interval(1.0, float("inf")),
        cron("61 * * * *"),
        cron("nonsense"),
        cron("0 0 30 2 *"),
        cron("* * * * *", "Mars/Olympus"),
        cron("* * * * *", "../../etc/passwd"),
    ],
)
def test_what_cannot_be_followed_is_refused(table):
    with pytest.raises(InvalidInput):
        check(table)


@pytest.mark.parametrize(
    "table", [interval(0.1, -1e23), interval(0.1, 1e23), interval(1e300), cron("* * * * *", start=1e15)]
)
def test_times_that_floats_cannot_count_with_are_refused(table):
    with pytest.raises(InvalidInput):
        check(table)


def test_what_was_missed_of_a_burst_still_fires_when_the_burst_is_over():
    monday = datetime.datetime(2026, 11, 16, 12, tzinfo=datetime.UTC).timestamp()
    firings, following = due(cron("* * * * * MON"), monday, monday + 3 * 86_400, Missed.ONCE)
    assert len(firings) == 1 and firings[0].missed >= MOST_AT_ONCE
    assert following == monday + 6.5 * 86_400
