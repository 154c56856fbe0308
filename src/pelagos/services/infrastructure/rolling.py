"""The next step of making a node's instances anew, and what a run may do at all. Pure.

The naive way, to destroy a node's instances and let them be made again, is what people fear of a change. Here a node
moves within two bounds of its policy: never fewer than ``target - max_unavailable`` instances are ready by our doing,
never more than ``target + surge`` exist. Each step is found from what is there now, so it does not matter who made the
step before, or whether instances came and went meanwhile.

Where all new ones are ready beside old ones, the old ones wait for dependents that are made anew too: those still know
the old addresses. So a data base of one instance is served by the old one until all who use it know the new one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

__all__ = ["Bounds", "Old", "Step", "next_step"]


class Old(NamedTuple):
    """An instance that is to be made anew."""

    id: str
    ready: bool


class Step(NamedTuple):
    """How many to create, and which to destroy."""

    create: int = 0
    destroy: tuple[str, ...] = ()


def next_step(
    *,
    target: int,
    unavailable: int,
    surge: int,
    old: Sequence[Old],
    new: int,
    new_ready: int,
    leaving: int,
    awaited: bool,
) -> Step:
    """``old``: to be made anew, in the order in which they go. ``new``: those that stay, growing ones among them,
    ``new_ready`` of which are ready. ``leaving``: being destroyed, and not refused by their cloud. ``awaited``:
    dependents are still to be told of the new ones.

    If nothing can move before something else has happened, the step is empty; then something is growing or leaving."""
    there = len(old) + new + leaving
    create = max(0, min(target - new, target + surge - there))
    ready = new_ready + sum(instance.ready for instance in old)
    if new_ready >= target and awaited:
        return Step(create)
    spare = max(0, ready - max(0, target - unavailable))
    destroy = [instance.id for instance in old if not instance.ready]
    destroy += [instance.id for instance in old if instance.ready][:spare]
    return Step(create, tuple(destroy))


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """What a saved plan allows: no more and no other."""

    creates: Mapping[str, int] = {}
    """Node -> how many instances are made; one that fails is made again."""
    destroys: frozenset[str] = frozenset()
    """Ids of the instances that go."""
    updates: frozenset[str] = frozenset()
    """Ids of the instances that are changed in place."""
