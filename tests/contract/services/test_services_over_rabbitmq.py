"""Events and streams between two containers on a real broker."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import partial

import pytest

from pelagos.container import Container, ContainerConfig
from pelagos.model import SystemWorld
from pelagos.model.errors import Unavailable
from pelagos.process import client
from pelagos.services.events import BusinessState, EventPublisher, subscribe
from pelagos.services.streams import (
    DeclareStream,
    StreamPublisher,
    StreamRef,
    StreamsService,
    SubscribeStream,
    listen,
    work,
)
from pelagos.store import open_simulated_store
from support.brokers import skip_without_broker, throw_away_system
from support.services_world import Follower, until

pytestmark = [pytest.mark.anyio, pytest.mark.amqp]


class Reader(Follower):
    async def take(self, key, content):
        self.seen.append((key, content))


async def test_events_and_streams_go_from_one_container_to_another():
    url = skip_without_broker()
    from pelagos.exchange.amqp import AmqpConfig, AmqpTransport

    world = SystemWorld()
    async with AsyncExitStack() as stack:
        stack.callback(world.close)
        name = await stack.enter_async_context(throw_away_system(url))
        store = open_simulated_store(world)
        await store.start()
        stack.push_async_callback(store.stop)
        one, two = [
            await stack.enter_async_context(
                Container(world, ContainerConfig(id=id, system=name), AmqpTransport(world, AmqpConfig(url, name, id)))
            )
            for id in ("one", "two")
        ]
        events = Follower(lambda p: subscribe(p, ("business_state.pump.*", "business_state.#"), p.record))
        live = Reader(lambda p: listen(p, "ocean", p.take, "temperature.#"))
        await two.spawn(events)
        await two.spawn(live)
        await one.spawn(partial(StreamsService, store))
        service = client(StreamsService, two.edge)
        await service.declare(DeclareStream(name="ocean"))
        await service.subscribe(SubscribeStream(stream="ocean", name="archive", patterns=("temperature.#",)))

        publisher = EventPublisher(one.edge, store)
        told = [await publisher.publish("business_state", f"pump.{n}", BusinessState("on")) for n in range(3)]
        strange = await publisher.publish("business_state", "a b#*.c", BusinessState("on"))
        stream = StreamPublisher(one.edge, "ocean", store)
        for number in range(5):
            assert await stream.publish(f"temperature.{number}", number) == 1
        await until(lambda: len(events.seen) == 4 and len(live.seen) == 5, 20)
        assert events.seen == [*told, strange]
        assert live.seen == [(f"temperature.{n}", n) for n in range(5)]

        worker = Reader(lambda p: work(p, "ocean", "archive", p.take))
        at_work = await two.spawn(worker)
        await until(lambda: len(worker.seen) == 5, 20)
        assert sorted(worker.seen) == [(f"temperature.{n}", n) for n in range(5)]
        await events.subscription.cancel()
        await publisher.publish("business_state", "pump.9", BusinessState("off"))
        await asyncio.sleep(0)
        assert len(events.seen) == 4
        await two.terminate(at_work)
        await service.undeclare(StreamRef("ocean"))
        with pytest.raises(Unavailable):
            await one.edge.send("service:stream.default.ocean.archive", "take")
