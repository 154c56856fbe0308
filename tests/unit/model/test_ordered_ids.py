"""Ids that rise: what they look like, and that no clock makes them fall."""

from __future__ import annotations

import contextlib
import uuid

from hypothesis import given
from hypothesis import strategies as st

from pelagos.model import SystemWorld, World
from pelagos.model.ordered_ids import OrderedIds
from pelagos.simulation import SimulatedWorld, VirtualLoop

NOW = 1_764_000_000.123
TIMES = st.floats(min_value=0.0, max_value=4e9)
CHANCE = st.integers(min_value=0, max_value=2**64 - 1)


def test_it_is_a_uuid_of_version_7_that_begins_with_the_milliseconds() -> None:
    made = OrderedIds().next(NOW, 2**64 - 1)
    told = uuid.UUID(made)
    assert (str(told), told.version, told.variant) == (made, 7, uuid.RFC_4122)
    assert told.int >> 80 == 1_764_000_000_123


@given(st.lists(st.tuples(TIMES, CHANCE), min_size=2, max_size=50))
def test_each_sorts_behind_the_one_before_whatever_the_clock_does(draws: list[tuple[float, int]]) -> None:
    ids = OrderedIds()
    made = [ids.next(now, chance) for now, chance in draws]
    assert made == sorted(made) and len(set(made)) == len(made)


def test_two_makers_at_one_time_differ_by_chance() -> None:
    assert OrderedIds().next(NOW, 1)[:18] == OrderedIds().next(NOW, 2)[:18]
    assert OrderedIds().next(NOW, 1) != OrderedIds().next(NOW, 2)


def test_the_worlds_make_them() -> None:
    with contextlib.closing(VirtualLoop()) as loop, contextlib.closing(SystemWorld()) as real:
        worlds: list[World] = [SimulatedWorld(7, loop), SimulatedWorld(7, loop), real]
        one, again, other = ([world.next_id() for _ in range(1000)] for world in worlds)
    assert one == again == sorted(set(one))
    assert other == sorted(set(other))


def test_those_of_several_worlds_are_told_apart() -> None:
    with contextlib.closing(SystemWorld()) as one, contextlib.closing(SystemWorld()) as other:
        made = [world.next_id() for _ in range(1000) for world in (one, other)]
    assert len(set(made)) == len(made)
