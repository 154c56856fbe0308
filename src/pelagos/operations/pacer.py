"""How fast an account may be called: a token bucket, a hold for the whole account, and back-off with jitter.

Pure but for the clock it is given. A cloud's 429 holds every call of the account, not only the one that met it: the
others would meet it too, and some clouds count refused calls against the limit.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

__all__ = ["Pacer", "backoff"]

_GRAIN = 0.0005
"""Shortest wait, in seconds."""


def backoff(attempt: int, rng: random.Random, *, base: float, cap: float) -> float:  # noqa: TID251 - its type
    """Seconds before the next attempt after ``attempt`` of them: doubling, capped, with half of it drawn."""
    whole = min(cap, base * 2.0 ** min(attempt - 1, 30))
    return whole * (0.5 + 0.5 * rng.random())


class Pacer:
    """``rate`` calls a second with bursts of a second's worth (0: unlimited); ``clock`` in seconds, monotonic."""

    def __init__(self, rate: float, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._clock = clock
        self._burst = max(1.0, rate)
        self._tokens = self._burst
        self._filled_at = clock()
        self._held_until = self._filled_at
        self._queued = 0

    @property
    def held_for(self) -> float:
        """Seconds until the cloud wants to hear of us again."""
        return max(0.0, self._held_until - self._clock())

    def available(self, wanted: int) -> int:
        """How many of ``wanted`` calls may be sent now."""
        if self.held_for > 0:
            return 0
        if self._rate <= 0:
            return wanted
        self._fill()
        # Those who wait for their turn come first: a stream of creates must not starve the listings.
        return max(0, min(wanted, int(self._tokens) - self._queued))

    def take(self, count: int) -> None:
        """So many calls are sent."""
        if self._rate > 0:
            self._fill()
            self._tokens -= count

    def delay(self) -> float:
        """Seconds until a call may be sent; 0: now."""
        wait = self.held_for
        if self._rate > 0:
            self._fill()
            wait = max(wait, (1.0 - self._tokens) / self._rate)
        # Rounding may leave a wait too short to move a clock: whoever slept for it would sleep for it again.
        return max(wait, _GRAIN) if wait > 0 else 0.0

    def hold(self, seconds: float) -> None:
        """No call for so long."""
        self._held_until = max(self._held_until, self._clock() + seconds)

    async def turn(self) -> None:
        """Wait until one call may be sent, and take it."""
        # What is waited for is time itself; another may have taken the token meanwhile.
        self._queued += 1
        try:
            while (delay := self.delay()) > 0:  # noqa: ASYNC110
                await asyncio.sleep(delay)
        finally:
            self._queued -= 1
        self.take(1)

    def _fill(self) -> None:
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now
