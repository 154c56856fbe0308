"""A load generator: many calls, by a number at once or by a rate, and what they took.

With ``rate`` a call begins when its time has come, however slow those before it are, and its time counts from when it
should have begun. Counting from when it did begin leaves out the waiting of those that came late, which is the very
thing that an overloaded service causes ("coordinated omission"). Times are the loop's, so a load on virtual time gives
the same numbers in every run.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from pelagos.model.errors import InvalidInput, PelagosError

__all__ = ["LoadStatistics", "load"]


class LoadStatistics(msgspec.Struct, frozen=True):
    """Times in seconds; those of failed calls are not among the percentiles."""

    calls: int
    failed: int
    errors: dict[str, int]
    """How many failed, by the error's code, or class if it is none of the family."""
    seconds: float
    """From the first call's begin to the last one's end."""
    per_second: float
    """Of successful calls."""
    p50: float
    p95: float
    p99: float
    longest: float

    def __str__(self) -> str:
        failed = "".join(f", {count} {code}" for code, count in sorted(self.errors.items()))
        return (
            f"{self.calls} calls in {self.seconds:.2f} s ({self.per_second:.0f} a second{failed}); "
            f"p50 {_ms(self.p50)}, p95 {_ms(self.p95)}, p99 {_ms(self.p99)}, longest {_ms(self.longest)}"
        )


async def load(
    call: Callable[[int], Awaitable[Any]],
    *,
    concurrency: int | None = None,
    rate: float | None = None,
    for_seconds: float | None = None,
    count: int | None = None,
) -> LoadStatistics:
    """Make calls for a time, or ``count`` of them, or whichever ends first; returns when all have ended.

    ``call`` gets the number of the call, from 0. Either ``concurrency`` are made at once, one after the other, or
    ``rate`` a second are begun. Errors of :mod:`pelagos.model.errors` and time-outs are counted; others are defects of
    the test and are raised, in an exception group. Raises :class:`InvalidInput` without an end, or with none or both of
    the two."""
    given = [value for value in (concurrency, rate) if value is not None]
    if len(given) != 1 or given[0] <= 0:
        raise InvalidInput("a load has a concurrency or a rate, above 0")
    if for_seconds is None and count is None:
        raise InvalidInput("a load has an end", advice="Give for_seconds, count or both.")
    run = _Load(call, count, for_seconds)
    async with asyncio.TaskGroup() as group:
        if rate is not None:
            group.create_task(run.at_rate(rate, group))
        else:
            for _ in range(concurrency or 0):
                group.create_task(run.one_after_the_other())
    return run.statistics()


class _Load:
    def __init__(self, call: Callable[[int], Awaitable[Any]], count: int | None, seconds: float | None) -> None:
        self._call = call
        self._count = count
        self._time = asyncio.get_running_loop().time
        self._begin = self._time()
        self._until = None if seconds is None else self._begin + seconds
        self._begun = 0
        self._took: list[float] = []
        self._errors: Counter[str] = Counter()

    def _more(self) -> bool:
        if self._count is not None and self._begun >= self._count:
            return False
        return self._until is None or self._time() < self._until

    async def one_after_the_other(self) -> None:
        while self._more():
            await self._one(self._time())

    async def at_rate(self, rate: float, group: asyncio.TaskGroup) -> None:
        while True:
            due = self._begin + self._begun / rate
            if self._until is not None and due >= self._until:
                return
            await asyncio.sleep(max(0.0, due - self._time()))
            if self._count is not None and self._begun >= self._count:
                return
            number = self._begun
            self._begun += 1
            group.create_task(self._numbered(number, due))

    async def _one(self, due: float) -> None:
        number = self._begun
        self._begun += 1
        await self._numbered(number, due)

    async def _numbered(self, number: int, due: float) -> None:
        try:
            await self._call(number)
        except PelagosError as error:
            self._errors[error.code] += 1
        except TimeoutError:
            self._errors["TimeoutError"] += 1
        else:
            self._took.append(self._time() - due)

    def statistics(self) -> LoadStatistics:
        took = sorted(self._took)
        seconds = self._time() - self._begin
        return LoadStatistics(
            calls=self._begun,
            failed=self._errors.total(),
            errors=dict(self._errors),
            seconds=seconds,
            per_second=len(took) / seconds if seconds > 0 else 0.0,
            p50=_part(took, 0.5),
            p95=_part(took, 0.95),
            p99=_part(took, 0.99),
            longest=took[-1] if took else 0.0,
        )


def _part(ordered: list[float], part: float) -> float:
    """The nearest rank: the least value that so large a part of all does not exceed."""
    if not ordered:
        return 0.0
    return ordered[max(0, -(-len(ordered) * int(part * 100) // 100) - 1)]


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms"
