"""Subscribe: a conversation in which one side goes on talking until the other has heard enough.

A slow listener holds the talker back, and one that is gone is noticed after 30 seconds: a subscription is a lease.

Run it::

    pelagos container subscribe.yaml
    pelagos call listener hear --content '{"every": 0.1, "count": 3}'
"""

import asyncio
from collections.abc import AsyncIterator

import msgspec

from pelagos.process import ServiceProcess, operation
from pelagos.process.conversations import subscription


class Tick(msgspec.Struct, frozen=True):
    number: int
    at: float


class Hear(msgspec.Struct, frozen=True):
    every: float
    count: int


class ClockService(ServiceProcess):
    name = "clock"

    @subscription
    async def ticks(self, every: float) -> AsyncIterator[Tick]:
        number = 0
        while True:
            number += 1
            yield Tick(number, self.world.now())
            await asyncio.sleep(every)


class ListenerService(ServiceProcess):
    name = "listener"

    @operation
    async def hear(self, request: Hear) -> list[Tick]:
        """The next so many ticks; when the block is left, the subscription is cancelled."""
        heard: list[Tick] = []
        async with await self.converse("subscribe", "service:clock", "ticks", request.every) as ticks:
            async for tick in ticks.values(Tick):
                heard.append(tick)
                if len(heard) == request.count:
                    break
        return heard
