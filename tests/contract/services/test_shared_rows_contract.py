"""Subscriptions, schedules and streams on every engine, also when several make the same ones at once."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest
from sqlalchemy import select

from pelagos.model.errors import LeaseLost, NotFound
from pelagos.model.scope import DEFAULT_SCOPE, Fence, Scope
from pelagos.services.events import BusinessState, append_event, history, list_subscriptions
from pelagos.services.events.subscriptions import Moved, advance, declare, read_page, remove, seek
from pelagos.services.registry.inventory import Seen, is_current, write_inventory
from pelagos.services.scheduler import CreateSchedule, ListSchedules, Missed, list_schedules
from pelagos.services.scheduler.schedules import LEASE, create_schedule, fire_due, next_due
from pelagos.services.streams import Bind, DeclareStream, FindStreams, SubscribeStream, find_streams
from pelagos.services.streams.rows import bind, bindings, declare_stream, subscribe_stream, undeclare_stream
from pelagos.store import Holder, acquire
from pelagos.store.schema import leases

pytestmark = pytest.mark.anyio

OTHER = Scope(project_id="other", user_id="someone")


def tell(state, scope=DEFAULT_SCOPE):
    payload = BusinessState(state)
    return partial(append_event, scope=scope, event_type="business_state", origin="a.b", payload=payload, at=1.0)


async def at_once(make_store, transaction):
    """The same transaction in three stores at once; ``transaction(n)`` makes it."""
    stores = [await make_store() for _ in range(3)]
    results = await asyncio.gather(
        *[store.run(transaction(n)) for n, store in enumerate(stores)], return_exceptions=True
    )
    failed = [result for result in results if isinstance(result, BaseException)]
    assert not failed, failed
    return stores[0], results


async def test_a_subscription_is_declared_once_read_by_pages_and_moved_by_its_reader(make_store):
    store, results = await at_once(
        make_store,
        lambda n: partial(declare, scope=DEFAULT_SCOPE, id=f"s{n}", name="r", patterns=("business_state",), now=1.0),
    )
    assert len({stored.id for stored, _ in results}) == 1
    assert sum(added is not None for _, added in results) == 1
    subscription = results[0][0].id
    told = [await store.run(tell(state)) for state in "abc"]
    await store.run(tell("theirs", OTHER))
    start = results[0][0].position
    page = await store.read(partial(read_page, subscription_id=subscription, after=None, known=start, limit=2))
    assert page.events == told[:2] and page.more and page.upto == told[1].position
    page = await store.read(partial(read_page, subscription_id=subscription, after=page.upto, known=start))
    assert page.events == told[2:] and not page.more and page.upto > told[2].position
    move = partial(advance, subscription_id=subscription, now=2.0)
    await store.run(partial(move, known=start, position=told[0].position))
    await store.run(partial(move, known=start, position=told[0].position))
    with pytest.raises(Moved):
        await store.run(partial(move, known=start, position=told[1].position))
    [info] = await store.read(partial(list_subscriptions, scope=DEFAULT_SCOPE))
    assert info.lag == 2
    assert await store.read(partial(list_subscriptions, scope=OTHER)) == []
    with pytest.raises(NotFound):
        await store.run(partial(remove, scope=OTHER, name="r", now=1.0))
    await store.run(partial(seek, scope=DEFAULT_SCOPE, name="r", now=3.0, at=1.0))
    page = await store.read(partial(read_page, subscription_id=subscription, after=page.upto, known=told[0].position))
    assert page.events == told
    await store.run(partial(remove, scope=DEFAULT_SCOPE, name="r", now=1.0))
    with pytest.raises(NotFound):
        await store.run(partial(move, known=0, position=1))


async def test_schedules_fire_under_the_lease_alone(make_store):
    request = CreateSchedule(name="s", origin="o.1", interval=10.0, start=100.0, missed=Missed.ALL, payload={"n": 1})
    store, results = await at_once(
        make_store, lambda n: partial(create_schedule, scope=DEFAULT_SCOPE, id=f"s{n}", request=request, now=1.0)
    )
    assert len({info.id for info in results}) == 1 and sum(not info.duplicate for info in results) == 1
    assert await store.read(next_due) == 100.0
    holder = Holder("h", "host", "", 1, "", "")
    lease = await store.run(partial(acquire, name=LEASE, holder=holder, ttl=1000.0))
    fired = await store.run(partial(fire_due, fence=lease.fence, now=125.0))
    assert [event.data["due_at"] for event in fired.events] == [100.0, 110.0, 120.0]
    kept, _ = await store.read(partial(history, scope=DEFAULT_SCOPE, patterns=("scheduled_trigger.o.*",)))
    assert kept == fired.events and fired.next_at == 130.0
    with pytest.raises(LeaseLost):
        await store.run(partial(fire_due, fence=Fence(LEASE, lease.epoch + 1), now=200.0))
    assert (await store.read(lambda c: c.execute(select(leases.c.epoch)).scalar_one())) == lease.epoch
    [info] = await store.read(partial(list_schedules, scope=DEFAULT_SCOPE, request=ListSchedules()))
    assert (info.fired, info.last_at, info.next_at, info.payload) == (3, 120.0, 130.0, {"n": 1})
    assert await store.read(partial(list_schedules, scope=OTHER, request=ListSchedules())) == []


async def test_streams_are_declared_once_and_undeclared_with_their_bindings(make_store):
    declaring = DeclareStream(name="ocean")
    store, results = await at_once(
        make_store, lambda n: partial(declare_stream, scope=DEFAULT_SCOPE, id=f"s{n}", request=declaring, now=1.0)
    )
    assert len({stream.id for stream in results}) == 1
    wanted = SubscribeStream(stream="ocean", name="w", patterns=("a.*",))
    store, made = await at_once(
        make_store, lambda n: partial(subscribe_stream, scope=DEFAULT_SCOPE, id=f"u{n}", request=wanted, now=1.0)
    )
    assert len({subscription.id for subscription, _ in made}) == 1
    bound = Bind(stream="ocean", name="w", patterns=("b",))
    assert (await store.run(partial(bind, scope=DEFAULT_SCOPE, request=bound))).patterns == ("a.*", "b")
    assert await store.read(partial(bindings, scope=OTHER, stream="ocean")) == ()
    told = await store.run(partial(undeclare_stream, scope=DEFAULT_SCOPE, name="ocean", now=2.0))
    assert [event.type for event in told] == ["subscription_removed"]
    assert await store.read(partial(bindings, scope=DEFAULT_SCOPE, stream="ocean")) == ()
    assert await store.read(partial(find_streams, scope=DEFAULT_SCOPE, request=FindStreams())) == []


async def test_several_registries_write_one_inventory(make_store):
    seen = [Seen("container", f"c{n}", n != 2, {"host": "h"}) for n in range(5)]
    store, _ = await at_once(make_store, lambda n: partial(write_inventory, seen=seen, now=1.0))
    assert await store.read(partial(is_current, seen=seen))
    fewer = seen[1:]
    assert not await store.read(partial(is_current, seen=fewer, complete=True))
    await store.run(partial(write_inventory, seen=fewer, now=2.0, complete=True))
    assert await store.read(partial(is_current, seen=fewer, complete=True))
