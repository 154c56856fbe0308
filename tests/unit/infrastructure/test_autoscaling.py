"""From a metric to a number of instances: rules, and what holds for any load."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelagos.services.infrastructure.autoscaling import Limits, Sample, decide, wanted_number
from pelagos.services.infrastructure.policies import AutoscalePolicy, MetricSource

METRIC = MetricSource(type="http", url="http://x", path="load")


def policy(**more):
    return AutoscalePolicy(metric=METRIC, target=10.0, **more)


def decided(total, *, target, ready=None, at=1000.0, changed_at=None, before=(), limits=(0, 10), missing=0, **more):
    return decide(
        policy(**more),
        Limits(*limits),
        Sample(at, total, answered=1, missing=missing),
        target=target,
        ready=target if ready is None else ready,
        changed_at=changed_at,
        wanted_before=before,
    )


LONG_AGO = ((0.0, 0),)


@pytest.mark.parametrize(
    ("total", "target", "wanted"),
    [
        (30.0, 1, 3),
        (30.1, 1, 4),
        (0.0, 0, 0),
        (0.1, 0, 1),
        (21.0, 2, 2),  # within the tolerance
        (19.0, 2, 2),
        (23.0, 2, 3),
        (15.0, 2, 2),  # 1.5 instances are two
        (10.0, 2, 1),
        (0.1 + 0.2 + 9.7, 1, 1),  # a hair above 10
    ],
)
def test_how_many_are_wanted(total, target, wanted):
    assert wanted_number(policy(), Sample(0.0, total, 1), target, target) == wanted


def test_it_rises_at_once_and_sinks_when_it_was_low_for_long():
    assert decided(35.0, target=1).target == 4
    assert decided(5.0, target=4).target == 4  # nobody watched yet
    assert decided(5.0, target=4, before=LONG_AGO).target == 1
    assert decided(5.0, target=4, before=(*LONG_AGO, (800.0, 3))).target == 3  # three were wanted lately
    assert decided(5.0, target=4, before=LONG_AGO, changed_at=900.0).target == 4
    assert decided(35.0, target=1, changed_at=990.0).target == 1
    assert decided(35.0, target=1, changed_at=960.0).target == 4


def test_limits_and_steps():
    assert decided(500.0, target=2, limits=(1, 6)).target == 6
    assert decided(500.0, target=2, limits=(1, 6), max_step=2).target == 4
    assert decided(0.0, target=6, before=LONG_AGO, limits=(1, 6)).target == 1
    assert decided(0.0, target=6, before=LONG_AGO, limits=(0, 6), max_step=1).target == 5
    assert decided(0.0, target=1, before=LONG_AGO, limits=(0, 6)).target == 0
    assert decided(30.0, target=9, limits=(1, 6)).target == 6  # limits that became narrower hold at once


def test_what_does_not_answer_changes_nothing():
    assert decided(30.0, target=4, before=LONG_AGO, missing=1).target == 4
    assert decided(50.0, target=4, missing=1).target == 5
    silent = decide(
        policy(), Limits(0, 10), Sample(1.0, 0.0, 0, 3), target=3, ready=3, changed_at=None, wanted_before=LONG_AGO
    )
    assert (silent.target, silent.reason) == (3, "nothing answered")


def test_the_reason_says_what_was_measured():
    assert decided(35.0, target=1).reason == "load is 35 an instance, 10 is wanted"


@given(
    total=st.floats(0.0, 1e6),
    target=st.integers(0, 50),
    ready=st.integers(0, 50),
    least=st.integers(0, 20),
    room=st.integers(0, 30),
    missing=st.integers(0, 5),
    changed=st.one_of(st.none(), st.floats(0.0, 1000.0)),
)
def test_any_decision_is_within_its_limits_and_towards_what_is_wanted(
    total, target, ready, least, room, missing, changed
):
    limits = Limits(least, least + room)
    decision = decided(
        total,
        target=target,
        ready=ready,
        limits=(least, least + room),
        missing=missing,
        changed_at=changed,
        before=LONG_AGO,
    )
    assert limits.least <= decision.target <= limits.most
    inside = limits.clamp(target)
    low, high = sorted((inside, limits.clamp(decision.wanted)))
    assert low <= decision.target <= high


@given(
    load=st.floats(0.0, 95.0),
    start=st.integers(0, 10),
    noise=st.lists(st.floats(-0.05, 0.05), min_size=60, max_size=60),
)
def test_a_steady_load_is_followed_and_then_nothing_flaps(load, start, noise):
    """A load with five per cent of noise: after the first cool-downs the number changes at most once more."""
    wish, limits = policy(), Limits(0, 10)
    target, changed_at, before, history = start, None, [], []
    for step, wobble in enumerate(noise):
        now = 30.0 * step
        sample = Sample(now, load * (1.0 + wobble), 1)
        decision = decide(
            wish, limits, sample, target=target, ready=target, changed_at=changed_at, wanted_before=before
        )
        before.append((now, decision.wanted))
        if decision.target != target:
            target, changed_at = decision.target, now
        history.append(target)
    turns = [b - a for a, b in itertools.pairwise(history) if b != a]
    assert len(turns) <= 4, history
    assert math.floor(load / 10.0 * 0.9) <= target <= math.ceil(load / 10.0 * 1.06), history
    late = [b - a for a, b in itertools.pairwise(history[-20:]) if b != a]
    assert len(late) <= 1, history  # the noise may bring one change late; flapping would be more
