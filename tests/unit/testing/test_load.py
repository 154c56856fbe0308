"""The load generator, on virtual time: its numbers are exact."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pelagos.model.errors import InvalidInput, Unavailable
from pelagos.testing import load

pytestmark = pytest.mark.anyio


async def test_a_number_at_once() -> None:
    running, most = 0, 0

    async def call(number: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.1)
        running -= 1

    told = await load(call, concurrency=4, for_seconds=0.95)
    assert (told.calls, told.failed, most) == (40, 0, 4)
    assert told.seconds == pytest.approx(1.0)
    assert told.per_second == pytest.approx(40)
    assert (told.p50, told.longest) == pytest.approx((0.1, 0.1))
    assert str(told) == (
        "40 calls in 1.00 s (40 a second); p50 100.00 ms, p95 100.00 ms, p99 100.00 ms, longest 100.00 ms"
    )


async def test_a_count_is_kept_exactly() -> None:
    numbers: list[int] = []

    async def call(number: int) -> None:
        numbers.append(number)

    assert (await load(call, concurrency=3, count=10)).calls == 10
    assert (await load(call, rate=5, count=4)).calls == 4
    assert numbers == [*range(10), *range(4)]


async def test_at_a_rate_waiting_counts() -> None:
    lock = asyncio.Lock()

    async def call(number: int) -> None:
        async with lock:  # ten a second can be served, twenty come
            await asyncio.sleep(0.1)

    told = await load(call, rate=20, for_seconds=1.0)
    assert told.calls == 20
    assert told.seconds == pytest.approx(2.0)
    assert told.longest == pytest.approx(1.05)  # it should have begun at 0.95 and ended at 2.0
    assert told.p50 == pytest.approx(0.55)
    assert told.p95 == pytest.approx(1.0)


async def test_errors_are_counted_and_defects_raised() -> None:
    async def call(number: int) -> None:
        if number % 2:
            raise Unavailable("no")
        if number == 4:
            raise TimeoutError

    told = await load(call, concurrency=1, count=6)
    assert (told.failed, told.errors) == (4, {"unavailable": 3, "TimeoutError": 1})
    assert "3 unavailable" in str(told)

    async def broken(number: int) -> None:
        raise KeyError(number)

    with pytest.raises(ExceptionGroup) as raised:
        await load(broken, rate=1, for_seconds=1)
    assert isinstance(raised.value.exceptions[0], KeyError)


@pytest.mark.parametrize(
    "options", [{}, {"rate": 1, "concurrency": 1, "count": 1}, {"rate": 1}, {"rate": 0, "count": 1}]
)
async def test_what_is_no_load(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        await load(lambda number: asyncio.sleep(0), **options)
