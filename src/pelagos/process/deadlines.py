"""Many deadlines, one timer.

Nearly every call ends long before its deadline, so a loop timer for each (two heap operations and a handle, caller and
callee) is paid for nothing. Here an entry is one dictionary item, and a single timer stands at the earliest deadline
known when it was set. When it fires, the entries are walked once: under steady load that is once a time-out period.
Should many deadlines really pass one after another, walks are kept ``_GRAIN`` apart, so an entry may expire that much
late, never early.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["DeadlineWatch"]

K = TypeVar("K")
V = TypeVar("V")

_GRAIN = 0.002
"""Seconds between two walks at the least."""


class DeadlineWatch(Generic[K, V]):
    """A dictionary whose values expire: ``entries[key] = (deadline, value)``, through :meth:`add`.

    ``expire(key, value)`` is called in the loop, once, after the deadline has passed; the entry is gone by then.
    """

    __slots__ = ("_armed", "_expire", "_handle", "_loop", "_monotonic", "entries")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, monotonic: Callable[[], float], expire: Callable[[K, V], None]
    ) -> None:
        self.entries: dict[K, tuple[float, V]] = {}
        self._loop = loop
        self._monotonic = monotonic
        self._expire = expire
        self._armed = math.inf
        self._handle: asyncio.TimerHandle | None = None

    def add(self, key: K, deadline: float, value: V) -> None:
        """Watch ``value`` until ``entries.pop(key)``; ``deadline`` may be infinite."""
        self.entries[key] = (deadline, value)
        if deadline < self._armed:
            self._arm(deadline)

    def close(self) -> None:
        """Stop the timer; entries stay."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._armed = -math.inf

    def _arm(self, deadline: float) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._armed = deadline
        self._handle = self._loop.call_later(deadline - self._monotonic(), self._walk)

    def _walk(self) -> None:
        now = self._monotonic()
        reached = now + 1e-6  # the loop may fire its clock's resolution early
        passed = [(key, value) for key, (deadline, value) in self.entries.items() if deadline <= reached]
        for key, _ in passed:
            del self.entries[key]
        self._armed = math.inf
        self._handle = None
        earliest = min((deadline for deadline, _ in self.entries.values()), default=math.inf)
        if earliest < math.inf:
            self._arm(max(earliest, now + _GRAIN))
        for key, value in passed:
            self._expire(key, value)
