"""Ids in the order in which they are made: UUIDs of version 7 (RFC 9562, 5.7).

Under random keys, the rows of one commit lie all over the indexes of their tables: the more a store holds, the more
pages a commit of the same size reads, changes and flushes, and the dearer each row becomes. Ids that rise put what is
written together side by side. The price is that an id begins with the time: its first characters tell nothing apart,
so what people read and abbreviate keeps a random id.
"""

from __future__ import annotations

__all__ = ["OrderedIds"]

_PER_MILLISECOND = 1 << 12
_CHANCE = 1 << 62


class OrderedIds:
    """Each behind the one before, also when the clock stands or goes back. Two makers' ids differ by chance alone."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = 0

    def next(self, now: float, chance: int) -> str:
        """``now``: seconds since the epoch; ``chance``: at least 62 random bits."""
        # 48 bits of milliseconds and 12 of their fraction (method 3 of RFC 9562, 6.2).
        stamp = self._last = max(int(now * 1000.0 * _PER_MILLISECOND), self._last + 1)
        value = f"{stamp >> 12:012x}7{stamp & 0xFFF:03x}{(1 << 63) | (chance % _CHANCE):016x}"
        return f"{value[:8]}-{value[8:12]}-{value[12:16]}-{value[16:20]}-{value[20:]}"
