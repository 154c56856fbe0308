"""Durable subscriptions: nothing is missed, whoever dies; and one reader at a time."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest
from sqlalchemy import insert, select

from pelagos.model.errors import DeadlineExceeded, InvalidInput, NotFound
from pelagos.model.scope import DEFAULT_SCOPE
from pelagos.process import client
from pelagos.services.events import (
    BusinessState,
    Declare,
    EventPublisher,
    EventsService,
    Seek,
    SubscriptionRef,
    follow,
    subscribe,
)
from pelagos.store import append
from pelagos.store.container_schema import attributes
from pelagos.store.schema import events
from support.services_world import Follower, until

pytestmark = pytest.mark.anyio


def reading(node, name="reader", patterns="business_state", **options):
    return Follower(lambda process: follow(process, node.store, node.keeper, name, patterns, process.record, **options))


async def publish(node, *states, origin="a"):
    publisher = EventPublisher(node.container.edge, node.store)
    return [await publisher.publish("business_state", origin, BusinessState(state)) for state in states]


def states(follower):
    return [event.data["state"] for event in follower.seen]


async def test_a_reader_goes_on_where_it_stopped(system):
    node = await system.node()
    await publish(node, "before")
    first = reading(node)
    process_id = await node.container.spawn(first)
    await publish(node, "1", "2")
    await until(lambda: states(first) == ["1", "2"])
    await node.container.terminate(process_id)
    await publish(node, "3", "4")
    second = reading(node)
    await node.container.spawn(second)
    await publish(node, "5")
    await until(lambda: len(second.seen) == 3)
    assert states(second) == ["3", "4", "5"]
    assert states(first) == ["1", "2"]


async def test_two_readers_share_by_turns_and_one_takes_over_when_the_other_dies(system):
    one, two = await system.node(), await system.node()
    reader, standby = reading(one), reading(two)
    await one.container.spawn(reader)
    await two.container.spawn(standby)
    await publish(two, *map(str, range(10)))
    await until(lambda: len(reader.seen) + len(standby.seen) == 10)
    first, second = (reader, standby) if reader.seen else (standby, reader)
    assert states(first) == list(map(str, range(10))) and second.seen == []
    assert first.subscription.snapshot().reading and not second.subscription.snapshot().reading
    await (one if first is reader else two).container.stop()
    other = two if first is reader else one
    await publish(other, "10", "11")
    await until(lambda: len(second.seen) == 2, 30)
    assert states(second) == ["10", "11"]


async def test_a_reader_that_lost_its_lease_stops_in_the_middle_and_the_other_repeats(system):
    one, two = await system.node(), await system.node()
    entered, ended = [], []

    class Hanging(Follower):
        async def record(self, value):
            entered.append(value.data["state"])
            try:
                await asyncio.sleep(1e6)
            finally:
                ended.append(value.data["state"])

    hanging = Hanging(lambda p: follow(p, one.store, one.keeper, "reader", "business_state", p.record))
    await one.container.spawn(hanging)
    await publish(two, "1")
    await until(lambda: entered)
    standby = reading(two)
    await two.container.spawn(standby)
    await one.keeper.stop()
    await until(lambda: standby.seen, 60)
    assert states(standby) == ["1"] and entered == ended == ["1"]


async def test_an_effect_in_the_readers_transaction_goes_on_where_it_stopped(system):
    node = await system.node()

    def count(connection, event):
        row = insert(attributes).values(
            project_id="default", name=event.data["state"], user_id="u", updated_at=0.0, value_blob=b""
        )
        connection.execute(row)

    def applying(at):
        return Follower(lambda p: follow(p, at.store, at.keeper, "once", "business_state", apply=count))

    await node.container.spawn(applying(node))
    for number in range(12):
        await publish(node, str(number))
    counted = lambda: system.database.connection.execute(select(attributes.c.name)).all()  # noqa: E731
    await until(lambda: len(counted()) == 12)
    await node.container.stop()
    with_replay = await system.node()
    told = partial(append, scope=DEFAULT_SCOPE, kind="business_state", at=1.0, data={"state": "x"})
    await with_replay.store.run(told)
    await with_replay.container.spawn(applying(with_replay))
    await until(lambda: len(counted()) == 13)


async def test_a_failing_event_is_tried_again_and_holds_up_the_rest(system):
    node = await system.node()
    failures = iter([True, True, False])

    class Failing(Follower):
        async def record(self, value):
            if value.data["state"] == "bad" and next(failures):
                raise LookupError("not yet")
            await super().record(value)

    follower = Failing(lambda p: follow(p, node.store, node.keeper, "f", "business_state", p.record))
    await node.container.spawn(follower)
    await publish(node, "bad", "good")
    await until(lambda: len(follower.seen) == 2)
    assert states(follower) == ["bad", "good"]
    snapshot = follower.subscription.snapshot()
    assert (snapshot.repeated, snapshot.skipped, snapshot.done) == (2, 0, 2)
    assert "not yet" in snapshot.last_error


async def test_an_event_given_up_is_told_of(system):
    node = await system.node()

    class Poisoned(Follower):
        async def record(self, value):
            if value.data["state"] == "poison":
                raise LookupError("never")
            await super().record(value)

    told = Follower(lambda p: subscribe(p, "event_skipped", p.record))
    poisoned = Poisoned(lambda p: follow(p, node.store, node.keeper, "f", "business_state", p.record, max_attempts=3))
    await node.container.spawn(told)
    await node.container.spawn(poisoned)
    [poison, _] = await publish(node, "poison", "good")
    await until(lambda: poisoned.seen and told.seen)
    assert states(poisoned) == ["good"]
    assert told.seen[0].data["position"] == poison.position and "never" in told.seen[0].data["error"]


async def test_replay_from_a_position_and_from_a_time_also_while_it_reads(system):
    node = await system.node()
    await node.container.spawn(partial(EventsService, node.store))
    service = client(EventsService, node.container.edge)
    published = []
    for state in "abc":
        published += await publish(node, state)
        await asyncio.sleep(10)
    follower = reading(node)
    await node.container.spawn(follower)
    await asyncio.sleep(1)
    assert follower.seen == []
    await service.seek(Seek(name="reader", position=0))
    await until(lambda: len(follower.seen) == 3)
    await service.seek(Seek(name="reader", at=published[1].at))
    await until(lambda: len(follower.seen) == 5)
    assert states(follower) == ["a", "b", "c", "b", "c"]
    late = reading(node, "late", at=published[2].at)
    await node.container.spawn(late)
    await until(lambda: late.seen)
    assert states(late) == ["c"]
    with pytest.raises(InvalidInput):
        await service.seek(Seek(name="reader"))
    with pytest.raises(NotFound):
        await service.seek(Seek(name="nobody", position=0))


async def test_lag_reader_and_removal(system):
    node = await system.node()
    await node.container.spawn(partial(EventsService, node.store))
    service = client(EventsService, node.container.edge)
    told = Follower(lambda p: subscribe(p, ("subscription_added", "subscription_removed"), p.record))
    await node.container.spawn(told)
    declared = await service.declare(Declare(name="reader", patterns=("business_state",)))
    assert declared == await service.declare(Declare(name="reader", patterns=("business_state.#",)))
    await publish(node, "1", "2")
    await node.store.run(partial(append, scope=DEFAULT_SCOPE, kind="server.active", at=1.0, server_id="s"))
    [info] = await service.subscriptions()
    assert (info.lag, info.reader, info.patterns) == (2, "", ("business_state.#",))
    follower = reading(node)
    await node.container.spawn(follower)
    await until(lambda: len(follower.seen) == 2)
    await asyncio.sleep(0.1)
    [info] = await service.subscriptions()
    assert info.lag == 0 and follower.id in info.reader
    await service.remove(SubscriptionRef("reader"))
    assert await service.subscriptions() == ()
    await publish(node, "3")
    await asyncio.sleep(60)
    assert states(follower) == ["1", "2"]
    assert node.keeper.snapshot()["held"] == {}
    assert [e.type for e in told.seen] == ["subscription_added", "subscription_removed"]
    assert told.seen[0].origin == info.id


async def test_the_history_of_infrastructures_can_be_followed(system):
    node = await system.node()
    follower = reading(node, patterns=("server_active", "instance_ready.i-1"))
    await node.container.spawn(follower)
    for kind, ids in (
        ("server.active", {"server_id": "s-1", "infrastructure_id": "x"}),
        ("server.deleted", {"server_id": "s-1"}),
        ("instance.ready", {"instance_id": "i-1"}),
        ("instance.ready", {"instance_id": "i-2"}),
    ):
        await node.store.run(partial(append, scope=DEFAULT_SCOPE, kind=kind, at=1.0, **ids))
    await until(lambda: len(follower.seen) == 2)
    await asyncio.sleep(1)
    assert [(e.type, e.origin) for e in follower.seen] == [("server_active", "s-1"), ("instance_ready", "i-1")]
    assert follower.seen[0].data["infrastructure_id"] == "x"


class Doubtful:
    """A store that does what it is told and then, now and then, cannot say whether it did (a failed-over server)."""

    def __init__(self, store):
        self.store = store
        self.doubts = 0

    def __getattr__(self, name):
        return getattr(self.store, name)

    async def run(self, transaction):
        result = await self.store.run(transaction)
        if self.doubts > 0:
            self.doubts -= 1
            raise DeadlineExceeded("it may have been done")
        return result


@pytest.mark.parametrize("max_attempts", [None, 1])
async def test_a_commit_that_nobody_can_vouch_for_is_not_applied_twice(system, max_attempts):
    node = await system.node()
    store = Doubtful(node.store)

    def apply(connection, event):
        append(connection, DEFAULT_SCOPE, "applied", at=event.at, data={"state": event.data["state"]})

    reader = Follower(
        lambda process: follow(
            process, store, node.keeper, "r", "business_state", apply=apply, max_attempts=max_attempts
        )
    )
    await node.container.spawn(reader)
    await publish(node, "0")
    await until(lambda: reader.subscription.snapshot().position >= 2)  # the declaration's own event is the first
    store.doubts = 3
    await publish(node, *map(str, range(1, 6)))
    await asyncio.sleep(60)
    rows = system.database.connection.execute(
        select(events.c.kind, events.c.data).where(events.c.kind.in_(["applied", "event_skipped"])).order_by("position")
    ).all()
    applied = [(kind, data) for kind, data in rows]
    assert applied == [("applied", f'{{"state":"{number}"}}') for number in range(6)]
    assert store.doubts == 0 and reader.subscription.snapshot().reading
