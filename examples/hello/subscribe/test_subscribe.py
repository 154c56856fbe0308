import asyncio

import pytest
from subscribe import ClockService, Hear, ListenerService

from pelagos.process import client

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]  # an hour passes at once


async def test_three_ticks_an_hour_apart_and_then_no_more(container, recorder):
    clock = await container.spawn(ClockService)
    await container.spawn(ListenerService)
    listener = client(ListenerService, container.edge, timeout=86_400)
    heard = await listener.hear(Hear(every=3600, count=3))
    assert [tick.number for tick in heard] == [1, 2, 3]
    assert heard[2].at - heard[0].at == pytest.approx(7200)
    await recorder.wait_for("clock.ticks", where=lambda one: one.error == "cancelled")  # it was told, and said so
    assert container.process(clock).snapshot().conversations == ()


async def test_each_listener_is_told_its_own(make_container):
    one, two = await make_container("one"), await make_container("two")
    await one.spawn(ClockService)
    await two.spawn(ListenerService)
    listener = client(ListenerService, one.edge)
    fast, slow = await asyncio.gather(listener.hear(Hear(every=1, count=5)), listener.hear(Hear(every=2, count=3)))
    assert [tick.number for tick in fast] == [1, 2, 3, 4, 5]
    assert [tick.number for tick in slow] == [1, 2, 3]
