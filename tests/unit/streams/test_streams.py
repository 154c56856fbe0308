"""Streams: live readers without a registry, durable queues by it, and what undeclaring leaves."""

from __future__ import annotations

import asyncio
import gc
from functools import partial

import msgspec
import pytest

from pelagos.model.errors import Conflict, InvalidInput, NotFound, Unavailable
from pelagos.model.scope import Scope
from pelagos.process import Context, client, use_context
from pelagos.services.streams import (
    Bind,
    DeclareStream,
    FindStreams,
    StreamPublisher,
    StreamRef,
    StreamsService,
    SubscribeStream,
    SubscriptionName,
    listen,
    work,
)
from support.services_world import Follower, until

pytestmark = pytest.mark.anyio


class Sample(msgspec.Struct, frozen=True):
    value: float


class Reader(Follower):
    async def take(self, key, content):
        self.seen.append((key, content))


async def streams(node):
    await node.container.spawn(partial(StreamsService, node.store))
    return client(StreamsService, node.container.edge)


async def test_live_readers_need_no_registry_and_get_types(system):
    node = await system.node()
    reader = Reader(lambda p: listen(p, "ocean", p.take, ("temperature.*", "salinity.#"), type_=Sample))
    await node.container.spawn(reader)
    publisher = StreamPublisher(node.container.edge, "ocean")
    assert await publisher.publish("temperature.north", Sample(4.5)) == 0
    await publisher.publish("oxygen.north", Sample(1.0))
    await publisher.publish("salinity.a.b", {"value": "salty"})
    await publisher.publish("salinity.a.b", Sample(35.0))
    with use_context(Context(Scope("other", "someone"))):
        await publisher.publish("salinity.theirs", Sample(0.0))
    await until(lambda: len(reader.seen) == 2 and reader.subscription.foreign == 2)
    assert reader.seen == [("temperature.north", Sample(4.5)), ("salinity.a.b", Sample(35.0))]
    await reader.subscription.cancel()
    typed = StreamPublisher(node.container.edge, "ocean", type_=Sample)
    with pytest.raises(InvalidInput):
        await typed.publish("temperature.north", {"value": "warm"})
    for key in ("", "a..b", "a.*", "#", "a b"):
        with pytest.raises(InvalidInput):
            await publisher.publish(key, 1)


async def test_workers_of_a_subscription_share_its_work_and_it_waits_for_them(system):
    node = await system.node()
    service = await streams(node)
    await service.declare(DeclareStream(name="ocean", description="of all"))
    made = await service.subscribe(SubscribeStream(stream="ocean", name="archive", patterns=("temperature.#",)))
    assert made == await service.subscribe(SubscribeStream(stream="ocean", name="archive", patterns=("temperature.#",)))
    publisher = StreamPublisher(node.container.edge, "ocean", node.store)
    for number in range(10):
        assert await publisher.publish(f"temperature.{number}", number) == 1
        assert await publisher.publish(f"oxygen.{number}", number) == 0

    class Slow(Reader):
        async def take(self, key, content):
            await asyncio.sleep(0.1)
            await super().take(key, content)

    workers = [Slow(lambda p: work(p, "ocean", "archive", p.take)) for _ in range(2)]
    for worker in workers:
        await node.container.spawn(worker)
    await until(lambda: sum(len(worker.seen) for worker in workers) == 10)
    assert sorted(content for worker in workers for _, content in worker.seen) == list(range(10))
    assert all(len(worker.seen) > 2 for worker in workers)


async def test_binding_and_unbinding_count_from_the_next_message(system):
    node = await system.node()
    service = await streams(node)
    await service.declare(DeclareStream(name="ocean"))
    await service.subscribe(SubscribeStream(stream="ocean", name="w", patterns=("a",)))
    publisher = StreamPublisher(node.container.edge, "ocean", node.store)
    assert [await publisher.publish(key, 1) for key in "ab"] == [1, 0]
    bound = await service.bind(Bind(stream="ocean", name="w", patterns=("b",)))
    assert bound.patterns == ("a", "b")
    assert [await publisher.publish(key, 1) for key in "ab"] == [1, 1]
    await service.unbind(Bind(stream="ocean", name="w", patterns=("a", "b")))
    assert [await publisher.publish(key, 1) for key in "ab"] == [0, 0]
    with pytest.raises(NotFound):
        await service.bind(Bind(stream="ocean", name="x", patterns=("b",)))


async def test_a_failing_message_is_tried_again_and_then_a_dead_letter(system):
    node = await system.node()
    service = await streams(node)
    await service.declare(DeclareStream(name="ocean"))
    await service.subscribe(SubscribeStream(stream="ocean", name="w"))
    tries = []

    class Failing(Reader):
        async def take(self, key, content):
            if key == "poison":
                tries.append(content)
                raise LookupError("never")
            await super().take(key, content)

    worker = Failing(lambda p: work(p, "ocean", "w", p.take, type_=int, attempts=3))
    await node.container.spawn(worker)
    publisher = StreamPublisher(node.container.edge, "ocean", node.store)
    for key, content in (("poison", 1), ("text", "no number"), ("good", 2)):
        await publisher.publish(key, content)
    await until(lambda: worker.seen)
    assert worker.seen == [("good", 2)] and tries == [1, 1, 1]
    reasons = [letter.reason for letter in await system.transport.dead_letters.list()]
    assert len(reasons) == 2 and "LookupError: never" in reasons[0] and "not a message" in reasons[1]


async def test_undeclaring_removes_and_names_are_found(system):
    node = await system.node()
    service = await streams(node)
    for name in ("ocean", "ocean-2", "air"):
        await service.declare(DeclareStream(name=name))
    again = await service.declare(DeclareStream(name="air", description="above"))
    assert [(s.name, s.description) for s in await service.find(FindStreams(name="a?r"))] == [("air", "above")]
    assert again.id == (await service.find(FindStreams(name="air")))[0].id
    await service.subscribe(SubscribeStream(stream="ocean", name="w"))
    publisher = StreamPublisher(node.container.edge, "ocean", node.store)
    assert await publisher.publish("a", 1) == 1
    await service.undeclare(StreamRef("ocean"))
    assert await publisher.publish("a", 1) == 0
    assert [s.name for s in await service.find(FindStreams(name="ocean*"))] == ["ocean-2"]
    assert [s.name for s in await service.find(FindStreams(after="air", limit=1))] == ["ocean-2"]
    for call in (
        service.undeclare(StreamRef("ocean")),
        service.subscribe(SubscribeStream(stream="ocean", name="w")),
        service.unsubscribe(SubscriptionName("ocean-2", "w")),
    ):
        with pytest.raises(NotFound):
            await call
    with use_context(Context(Scope("other", "someone"))):
        assert await service.find(FindStreams()) == ()
    for wrong in ("", "a.b", "a b", "x" * 65):
        with pytest.raises(InvalidInput):
            await service.declare(DeclareStream(name=wrong))


async def test_removing_a_subscription_removes_its_queue_and_keeps_or_drops_what_waits(system):
    node = await system.node()
    service = await streams(node)
    await service.declare(DeclareStream(name="ocean"))
    made = {name: await service.subscribe(SubscribeStream(stream="ocean", name=name)) for name in ("a", "b", "c")}
    publisher = StreamPublisher(node.container.edge, "ocean", node.store)
    assert await publisher.publish("t", 1) == 3

    def queues():
        found = {queue.address for queue in system.transport.snapshot().queues}
        return {name for name, one in made.items() if node.container.names.full(one.address) in found}

    worker = Reader(lambda p: work(p, "ocean", "c", p.take))
    await node.container.spawn(worker)
    await until(lambda: worker.seen == [("t", 1)])
    for refused in (
        service.unsubscribe(SubscriptionName("ocean", "c")),
        service.undeclare(StreamRef("ocean")),
    ):
        with pytest.raises(Conflict, match="workers receive"):
            await refused
    assert await publisher.publish("t", 2) == 3
    await service.unsubscribe(SubscriptionName("ocean", "a"))
    await service.unsubscribe(SubscriptionName("ocean", "b", drop=True))
    assert queues() == {"c"}
    letters = await system.transport.dead_letters.list()
    assert [letter.reason for letter in letters] == ["subscription ocean/a was removed"] * 2
    await node.container.terminate(worker.id)
    await service.undeclare(StreamRef("ocean"))
    assert queues() == set()
    assert await publisher.publish("t", 3) == 0


async def test_a_publisher_that_has_not_heard_of_a_removal_passes_over_it(system):
    node = await system.node()
    service = await streams(node)
    await service.declare(DeclareStream(name="ocean"))
    for name in ("a", "b"):
        await service.subscribe(SubscribeStream(stream="ocean", name=name))
    publisher = StreamPublisher(node.container.edge, "ocean", node.store)
    assert await publisher.publish("t", 1) == 2
    before = dict(publisher._bindings)
    await service.unsubscribe(SubscriptionName("ocean", "a"))
    await publisher._bell.changed(0)
    publisher._bindings.update(before)  # as if the bell had not rung yet
    assert await publisher.publish("t", 2) == 1
    [left] = (await service.find(FindStreams()))[0].subscriptions
    await system.transport.delete_durable(node.container.names.full(left.address))  # an accident: no row says so
    with pytest.raises(Unavailable):
        await publisher.publish("t", 3)


async def test_a_subscription_without_a_queue_is_none(system, monkeypatch):
    """The broker is away while somebody subscribes: who publishes is not hurt, and the request may come again."""
    node = await system.node()
    service = await streams(node)
    publisher = StreamPublisher(node.container.edge, "ocean", node.store)
    await service.declare(DeclareStream(name="ocean"))
    whole = system.transport.subscribe

    async def away(receiver, handler):
        if receiver.durable:
            raise Unavailable("the broker is away")
        return await whole(receiver, handler)

    monkeypatch.setattr(system.transport, "subscribe", away)
    with pytest.raises(Unavailable):
        await service.subscribe(SubscribeStream(stream="ocean", name="w"))
    monkeypatch.undo()
    assert await publisher.publish("a", 1) == 0
    await service.subscribe(SubscribeStream(stream="ocean", name="w"))
    assert await publisher.publish("a", 2) == 1
    reader = Reader(lambda p: work(p, "ocean", "w", p.take))
    await node.container.spawn(reader)
    await until(lambda: reader.seen == [("a", 2)])


async def test_publishers_made_for_one_message_leave_no_bells(system):
    node = await system.node()
    before = node.store.snapshot()["watches"]
    for _ in range(50):
        await StreamPublisher(node.container.edge, "ocean", node.store).publish("a", 1)
    gc.collect()
    assert node.store.snapshot()["watches"] <= before + 1
