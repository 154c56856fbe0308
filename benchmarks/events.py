"""An event published to 100 subscribers in a container, against as many bare asyncio queues.

The floor: a hundred consumers, each with a queue of its own; the publisher encodes the event once and puts the bytes
into every queue; each consumer decodes it and counts. No patterns, no bounds, no scopes, no error handling. Ours does
the same through publisher, topic, transport and subscription. An event is kept by no store in either: that cost is the
store's.
"""

from __future__ import annotations

import asyncio
import gc
import time
from typing import Any

import msgspec

from benchmarks.report import Row
from pelagos.container import Container
from pelagos.model import DEFAULT_SCOPE, SystemWorld
from pelagos.process import Process
from pelagos.services.events import BusinessState, EventPublisher, PublishedEvent, make_event, subscribe

SUBSCRIBERS = 100
EVENTS = 400
BURST = 20
"""Events published before the subscribers are waited for."""
ROUNDS = 5
AIM = 4.5
STATE = BusinessState("running", "starting", "all valves open")


class _Counting:
    """Counts what all consumers together have seen."""

    def __init__(self) -> None:
        self.left = 0
        self.done = asyncio.Event()

    def expect(self, count: int) -> None:
        self.left = count
        self.done.clear()

    def one(self) -> None:
        self.left -= 1
        if not self.left:
            self.done.set()


class _Subscriber(Process):
    def __init__(self, counting: _Counting) -> None:
        super().__init__()
        self._counting = counting

    async def on_activate(self) -> None:
        await subscribe(self, "business_state.pump.#", self._handle)

    async def _handle(self, event: PublishedEvent) -> None:
        self._counting.one()


async def _floor() -> float:
    counting = _Counting()
    encode = msgspec.msgpack.Encoder().encode
    decode = msgspec.msgpack.Decoder(PublishedEvent).decode
    queues: list[asyncio.Queue[bytes]] = [asyncio.Queue() for _ in range(SUBSCRIBERS)]

    async def consume(queue: asyncio.Queue[bytes]) -> None:
        while True:
            decode(await queue.get())
            counting.one()

    world = SystemWorld()

    async def publish() -> None:
        event = make_event(DEFAULT_SCOPE, "business_state", "pump.3", STATE, at=world.now())
        content = encode(event)
        for queue in queues:
            queue.put_nowait(content)

    async with asyncio.TaskGroup() as group:
        consumers = [group.create_task(consume(queue)) for queue in queues]
        took = await _time(publish, counting)
        for consumer in consumers:
            consumer.cancel()
    world.close()
    return took


async def _ours() -> float:
    counting = _Counting()
    world = SystemWorld()
    async with Container(world) as container:
        for _ in range(SUBSCRIBERS):
            await container.spawn(_Subscriber(counting))
        publisher = EventPublisher(container.edge)

        async def publish() -> None:
            await publisher.publish("business_state", "pump.3", STATE)

        took = await _time(publish, counting)
    world.close()
    return took


async def _time(publish: Any, counting: _Counting) -> float:
    counting.expect(SUBSCRIBERS)
    await publish()
    await counting.done.wait()
    gc.collect()
    # The processor's time: what else runs on the machine is not to be counted.
    begin = time.process_time()
    for _ in range(EVENTS // BURST):
        counting.expect(SUBSCRIBERS * BURST)
        for _ in range(BURST):
            await publish()
        await counting.done.wait()
    return (time.process_time() - begin) / EVENTS


def measure() -> list[Row]:
    """One row: seconds an event, until all subscribers have had it; the best of some rounds taken in turn."""
    measured, floor = [], []
    for _ in range(ROUNDS):
        floor.append(asyncio.run(_floor()))
        measured.append(asyncio.run(_ours()))
    best, least = min(measured), min(floor)
    return [
        Row(
            name=f"event fan-out to {SUBSCRIBERS} subscribers",
            measured=best,
            floor=least,
            floor_name=f"{SUBSCRIBERS} asyncio queues",
            aim=AIM,
            aim_text=f"<= {AIM:.1f} x",
            judged=best / least,
        )
    ]
