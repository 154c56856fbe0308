"""Many deadlines, one timer.

Nearly every call ends long before its deadline, so a loop timer for each (two heap operations and a handle, caller and
callee) is paid for nothing. Here an entry is one dictionary item, and a single timer stands at the earliest deadline
known when it was set. When it fires, the entries are walked once: under steady load that is once a time-out period.
Should many deadlines really pass one after another, walks are kept ``_GRAIN`` apart, so an entry may expire that much
late, never early.

:class:`Alarm` is that timer alone, for those who keep their deadlines themselves.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Alarm", "DeadlineWatch"]

K = TypeVar("K")
V = TypeVar("V")

_GRAIN = 0.002
"""Seconds between two walks at the least."""


class Alarm:
    """One timer for many deadlines: :meth:`arm` it for each that is earlier than ``armed``.

    ``look(reached)`` is called in the loop when the earliest has passed: it ends all that were to be over at
    ``reached``, and returns the earliest deadline of the rest, infinite if there is none.
    """

    __slots__ = ("_handle", "_look", "_loop", "_monotonic", "armed")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, monotonic: Callable[[], float], look: Callable[[float], float]
    ) -> None:
        self.armed = math.inf
        """When it will look; minus infinity once it is closed."""
        self._loop = loop
        self._monotonic = monotonic
        self._look = look
        self._handle: asyncio.TimerHandle | None = None

    def arm(self, deadline: float) -> None:
        """Look at ``deadline``, and not at the later one that was to be next."""
        if self._handle is not None:
            self._handle.cancel()
        self.armed = deadline
        self._handle = self._loop.call_later(deadline - self._monotonic(), self._reached)

    def close(self) -> None:
        """Stop the timer."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self.armed = -math.inf

    def _reached(self) -> None:
        now = self._monotonic()
        self.armed = math.inf
        self._handle = None
        earliest = self._look(now + 1e-6)  # the loop may fire its clock's resolution early
        if earliest < self.armed:
            self.arm(max(earliest, now + _GRAIN))


class DeadlineWatch(Generic[K, V]):
    """A dictionary whose values expire: ``entries[key] = (deadline, value)``, through :meth:`add`.

    ``expire(key, value)`` is called in the loop, once, after the deadline has passed; the entry is gone by then.
    """

    __slots__ = ("_alarm", "_expire", "entries")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, monotonic: Callable[[], float], expire: Callable[[K, V], None]
    ) -> None:
        self.entries: dict[K, tuple[float, V]] = {}
        self._expire = expire
        self._alarm = Alarm(loop, monotonic, self._look)

    def add(self, key: K, deadline: float, value: V) -> None:
        """Watch ``value`` until ``entries.pop(key)``; ``deadline`` may be infinite."""
        self.entries[key] = (deadline, value)
        if deadline < self._alarm.armed:
            self._alarm.arm(deadline)

    def close(self) -> None:
        """Stop the timer; entries stay."""
        self._alarm.close()

    def _look(self, reached: float) -> float:
        passed = [(key, value) for key, (deadline, value) in self.entries.items() if deadline <= reached]
        for key, _ in passed:
            del self.entries[key]
        for key, value in passed:
            self._expire(key, value)
        return min((deadline for deadline, _ in self.entries.values()), default=math.inf)
