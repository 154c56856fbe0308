"""Which messages were here already: a bounded memory of signatures.

A message is acceptable until some time that follows from its own headers, so it need be remembered only until then. It
is kept in the set of the time slice in which that ends, and a slice is dropped as a whole when it has passed: no scan,
no entry for ever. If there are more than the limit, the slice that would end first goes early, and what belongs to it
is refused from then on, seen or not: memory stays bounded and a replay never passes, at the price of refusing a few
that were about to run out of time.
"""

from __future__ import annotations

__all__ = ["SeenMessages"]

_SLICE = 5.0
"""Seconds."""


class SeenMessages:
    def __init__(self, limit: int = 500_000) -> None:
        self._limit = limit
        self._slices: dict[int, set[int]] = {}
        self._count = 0
        self._floor = -1
        """Slices up to this one have been dropped."""

    def __len__(self) -> int:
        return self._count

    def add(self, key: int, until: float, now: float) -> bool:
        """Whether the message is new, and note it. ``until`` is when it stops being acceptable, the same each time it
        comes; both in seconds of one clock."""
        number = int(until / _SLICE)
        known = self._slices.get(number)
        if known is None:
            self._forget(int(now / _SLICE) - 1)
            if number <= self._floor:
                return False
            known = self._slices[number] = set()
        if key in known:
            return False
        if self._count >= self._limit:
            first = min(self._slices)
            self._forget(first)
            if number <= first:
                return False
        known.add(key)
        self._count += 1
        return True

    def _forget(self, up_to: int) -> None:
        self._floor = max(self._floor, up_to)
        for number in [number for number in self._slices if number <= up_to]:
            self._count -= len(self._slices.pop(number))
