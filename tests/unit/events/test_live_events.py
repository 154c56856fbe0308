"""Publishers and live subscribers: who gets what, in which order, and what happens to what is wrong."""

from __future__ import annotations

import asyncio
from functools import partial

import msgspec
import pytest

from pelagos.model.errors import Conflict, InvalidInput, NotFound
from pelagos.model.scope import DEFAULT_SCOPE, Scope
from pelagos.process import Context, client, use_context
from pelagos.services.events import (
    CATALOGUE,
    BusinessState,
    Catalogue,
    DataBlock,
    EventPublisher,
    EventsService,
    EventType,
    LifecycleEvents,
    Publish,
    history,
    subscribe,
    topic_of,
)
from pelagos.services.events.topics import check_patterns, matches_any, origin_words
from pelagos.store.schema import events
from support.services_world import Follower, until

pytestmark = pytest.mark.anyio


def following(patterns, **options):
    return Follower(lambda process: subscribe(process, patterns, process.record, **options))


async def test_an_event_reaches_those_whose_patterns_fit_and_is_a_row(system):
    node = await system.node()
    pump, everything, other = following("business_state.pump.*"), following("#"), following("data_block")
    for follower in (pump, everything, other):
        await node.container.spawn(follower)
    publisher = EventPublisher(node.container.edge, node.store)
    first = await publisher.publish("business_state", "pump.3", BusinessState("running"))
    second = await publisher.publish("business_state", "valve", {"state": "open"})
    third = await publisher.publish("data_block", "temperature.pump", DataBlock([20.5, 21.0]))
    await until(lambda: len(everything.seen) == 3 and other.seen)
    assert pump.seen == [first]
    assert everything.seen == [first, second, third]
    assert other.seen == [third]
    assert first.payload(BusinessState) == BusinessState("running")
    assert (first.position, second.position, third.position) == (1, 2, 0)
    kept, upto = await node.store.read(partial(history, scope=DEFAULT_SCOPE))
    assert kept == [first, second] and upto == 2


async def test_without_a_store_events_are_live(system):
    node = await system.node()
    follower = following("business_state")
    await node.container.spawn(follower)
    event = await EventPublisher(node.container.edge).publish("business_state", "a", BusinessState("on"))
    await until(lambda: follower.seen)
    assert follower.seen == [event] and event.position == 0
    assert await node.store.read(partial(history, scope=DEFAULT_SCOPE)) == ([], 0)


async def test_what_rooms_below_tell_is_an_event_too_and_rubbish_is_counted(system):
    node = await system.node()
    follower = following("container_lifecycle")
    await node.container.spawn(follower)
    edge = node.container.edge
    edge.publish("topic:event.container_lifecycle.c.1", {"state": "dead"})
    edge.publish("topic:event.container_lifecycle.c.2", 17)
    edge.publish("topic:event.container_lifecycle.c.3", {"state": "alive"})
    await until(lambda: len(follower.seen) == 2)
    assert [(e.type, e.origin, e.data) for e in follower.seen] == [
        ("container_lifecycle", "c.1", {"state": "dead"}),
        ("container_lifecycle", "c.3", {"state": "alive"}),
    ]
    assert follower.subscription.snapshot().foreign == 1


async def test_several_patterns_bring_an_event_once(system):
    node = await system.node()
    follower = following(("business_state.#", "*.a", "#"))
    await node.container.spawn(follower)
    publisher = EventPublisher(node.container.edge)
    sent = [await publisher.publish("business_state", origin, BusinessState("on")) for origin in "ab"]
    await until(lambda: len(follower.seen) >= 2)
    await asyncio.sleep(1)
    assert follower.seen == sent


async def test_only_the_own_projects_events_come(system):
    node = await system.node()
    mine, all_of_them = following("#"), following("#", every_project=True)
    await node.container.spawn(mine)
    await node.container.spawn(all_of_them)
    publisher = EventPublisher(node.container.edge, node.store)
    with use_context(Context(Scope("other", "someone"))):
        await publisher.publish("business_state", "a", BusinessState("theirs"))
    await publisher.publish("business_state", "a", BusinessState("ours"))
    await until(lambda: len(all_of_them.seen) == 2 and mine.seen)
    assert [e.data["state"] for e in mine.seen] == ["ours"]
    assert [e.project_id for e in all_of_them.seen] == ["other", "default"]
    assert mine.subscription.snapshot().foreign == 1


async def test_a_handler_that_fails_or_is_slow_costs_only_events(system):
    node = await system.node()
    gate = asyncio.Event()

    class Slow(Follower):
        async def record(self, value):
            await gate.wait()
            self.seen.append(value.data["state"])
            if value.data["state"] == "0":
                raise LookupError("the first one")

    slow = Slow(lambda process: subscribe(process, "#", process.record, capacity=4))
    await node.container.spawn(slow)
    publisher = EventPublisher(node.container.edge)
    for number in range(50):
        await publisher.publish("business_state", "a", BusinessState(str(number)))
        await asyncio.sleep(0)
    gate.set()
    await until(lambda: "49" in slow.seen)
    assert len(slow.seen) <= 9 and slow.seen[0] == "0" and slow.seen[-1] == "49"
    assert slow.seen == sorted(slow.seen, key=int)
    assert slow.subscription.snapshot().failed == 1


async def test_a_cancelled_subscription_and_an_ended_process_leave_no_queue(system):
    node = await system.node()
    one, two = following("#"), following(("a.#", "b.#"))
    await node.container.spawn(one)
    process_id = await node.container.spawn(two)
    topics = lambda: [q for q in system.transport.snapshot().queues if q.address.startswith("topic:")]  # noqa: E731
    assert len(topics()) == 3
    await one.subscription.cancel()
    await one.subscription.cancel()
    assert len(topics()) == 2
    await node.container.terminate(process_id)
    assert topics() == []


async def test_what_does_not_fit_the_catalogue_is_refused_before_anything_is_written(system):
    node = await system.node()
    publisher = EventPublisher(node.container.edge, node.store)
    with pytest.raises(NotFound, match="no event type busines_state"):
        await publisher.publish("busines_state", "a")
    with pytest.raises(InvalidInput, match="missing required field `state`"):
        await publisher.publish("business_state", "a", {"previous": "x"})
    with pytest.raises(InvalidInput, match="origin"):
        await publisher.publish("business_state", "", BusinessState("x"))
    with pytest.raises(InvalidInput, match="at most"):
        await publisher.publish("business_state", "a", BusinessState("x" * 300_000))
    assert await node.store.read(lambda c: c.execute(events.select()).all()) == []


async def test_users_register_their_own_types(system):
    class Tide(msgspec.Struct, frozen=True):
        height: float

    catalogue = Catalogue(CATALOGUE)
    tide = catalogue.register(EventType("tide", Tide, "The sea rose or fell."))
    assert catalogue.register(tide) is tide
    with pytest.raises(Conflict):
        catalogue.register(EventType("tide", None, "Something else."))
    for wrong in ("a.b", "", "Tide", "a-b", "x" * 49):
        with pytest.raises(InvalidInput):
            catalogue.register(EventType(wrong, None, ""))
    node = await system.node()
    follower = following("tide")
    await node.container.spawn(follower)
    await EventPublisher(node.container.edge, node.store, catalogue).publish("tide", "north sea", Tide(2.5))
    await until(lambda: follower.seen)
    assert follower.seen[0].payload(Tide) == Tide(2.5)
    assert follower.seen[0].origin == "north sea"


async def test_the_service_publishes_for_others_and_tells_the_catalogue(system):
    node = await system.node()
    await node.container.spawn(partial(EventsService, node.store))
    service = client(EventsService, node.container.edge)
    types = {one.name: one for one in await service.types()}
    assert types["scheduled_trigger"].number == 2001 and types["scheduled_trigger"].kept
    assert types["process_lifecycle"].fields == ("name", "kind", "state", "container", "cause")
    assert "server_active" in types and not types["data_block"].kept
    told = await service.publish_event(Publish(type="business_state", origin="a", payload={"state": "x"}))
    assert told.position == 1
    assert (await service.publish_event(Publish(type="data_block", origin="a.b", payload={"content": 1}))).position == 0


async def test_the_life_of_a_container_is_told_in_order(system):
    node = await system.node()
    follower, teller = (
        following(("process_lifecycle", "container_started", "app_lifecycle")),
        LifecycleEvents(node.store),
    )
    await node.container.spawn(follower)
    await node.container.spawn(teller)
    teller.process_changed(follower, "active")
    teller.app_changed("hello", "started", "1.0")
    teller.container_changed("started", host="here")
    await until(lambda: len(follower.seen) == 3)
    assert [(e.type, e.origin, e.data["state"]) for e in follower.seen] == [
        ("process_lifecycle", follower.id, "active"),
        ("app_lifecycle", "hello", "started"),
        ("container_started", node.container.id, "started"),
    ]


def test_patterns_and_origins():
    assert check_patterns("process_lifecycle") == ("process_lifecycle.#",)
    assert check_patterns(["*", "#", "a.*"]) == ("#", "a.*")
    for wrong in ("", "a..b", "a b", ".a"):
        with pytest.raises(InvalidInput):
            check_patterns(wrong)
    with pytest.raises(InvalidInput):
        check_patterns([])
    assert origin_words("a*b #%..c") == "a%2Ab%20%23%25.%.c"
    assert matches_any(("process_lifecycle.#",), topic_of("process_lifecycle", "c.1.2"))
    assert matches_any(("data_block.temperature.*",), topic_of("data_block", "temperature.pump"))
    assert not matches_any(("data_block.temperature.*",), topic_of("data_block", "salinity.pump"))
    hostile = "#.*"
    assert matches_any((f"x.{origin_words(hostile)}",), topic_of("x", hostile))
    assert not matches_any((f"x.{origin_words(hostile)}",), topic_of("x", "anything.else"))
