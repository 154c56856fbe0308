"""The scheduler at work: commands, exact times, several schedulers. Deaths are in tests/simulation."""

from __future__ import annotations

import asyncio
from functools import partial

import msgspec
import pytest
from sqlalchemy import select, update

from pelagos.model.errors import Conflict, InvalidInput, LeaseLost, NotFound
from pelagos.model.scope import DEFAULT_SCOPE, Fence
from pelagos.process import client
from pelagos.services.events import ScheduledTrigger, subscribe
from pelagos.services.scheduler import (
    CreateSchedule,
    ListSchedules,
    ScheduleRef,
    SchedulerService,
    UpdateSchedule,
)
from pelagos.services.scheduler.schedules import fire_due, update_schedule
from pelagos.simulation.world import EPOCH
from pelagos.store.container_schema import schedules
from pelagos.store.schema import events, leases
from support.services_world import Follower, until

pytestmark = pytest.mark.anyio


async def scheduler(node):
    await node.container.spawn(partial(SchedulerService, node.store, node.keeper))
    return client(SchedulerService, node.container.edge)


def fired(system, name=None):
    rows = system.database.connection.execute(
        select(events.c.data).where(events.c.kind == "scheduled_trigger").order_by(events.c.position)
    ).scalars()
    found = [msgspec.json.decode(row, type=ScheduledTrigger) for row in rows]
    return [one for one in found if name is None or one.name == name]


async def test_an_interval_does_not_drift_and_carries_its_payload(system):
    node = await system.node(before=(0.0, 0.3), after=(0.0, 0.3))
    service = await scheduler(node)
    follower = Follower(lambda process: subscribe(process, "scheduled_trigger.pump.3", process.record))
    await node.container.spawn(follower)
    made = await service.create(CreateSchedule(name="tick", origin="pump.3", interval=10.0, payload={"depth": 5}))
    assert made.next_at == made.starts_at and made.starts_at > made.created_at + 9.9
    await asyncio.sleep(101)
    told = fired(system)
    assert [one.due_at for one in told] == [made.starts_at + n * 10 for n in range(10)]
    assert [one.number for one in told] == list(range(1, 11))
    assert {one.missed for one in told} == {0} and told[0].payload == {"depth": 5}
    await until(lambda: len(follower.seen) == 10)
    assert all(0 <= event.at - one.due_at < 1.0 for event, one in zip(follower.seen, told, strict=True))
    assert [event.position for event in follower.seen] == list(range(1, 11))
    assert (await service.get(ScheduleRef("tick"))).fired == 10


async def test_start_end_and_count_bound_it(system):
    node = await system.node()
    service = await scheduler(node)
    now = EPOCH
    await service.create(CreateSchedule(name="ends", origin="a", interval=10.0, start=now + 50, end=now + 70))
    await service.create(CreateSchedule(name="three", origin="a", interval=1.0, max_count=3))
    await service.create(CreateSchedule(name="once", origin="a", once=now + 5))
    await service.create(CreateSchedule(name="cron", origin="a", cron="* * * * *", end=now + 130))
    await asyncio.sleep(1000)
    assert [one.due_at - now for one in fired(system, "ends")] == [50, 60, 70]
    assert len(fired(system, "three")) == 3
    assert [one.due_at - now for one in fired(system, "once")] == [5]
    assert [one.due_at % 60 for one in fired(system, "cron")] == [0, 0]
    assert {info.next_at for info in await service.list(ListSchedules())} == {None}


async def test_commands_are_repeatable_and_checked(system):
    node = await system.node()
    service = await scheduler(node)
    request = CreateSchedule(name="a", origin="o", interval=60.0)
    made = await service.create(request)
    again = await service.create(request)
    assert again.duplicate and again.id == made.id and not made.duplicate
    with pytest.raises(Conflict, match="another schedule"):
        await service.create(CreateSchedule(name="a", origin="o", interval=61.0))
    for wrong in (
        CreateSchedule(name="b", origin="o"),
        CreateSchedule(name="b", origin="o", interval=1.0, cron="* * * * *"),
        CreateSchedule(name="b", origin="", interval=1.0),
        CreateSchedule(name="b", origin="o", cron="0 0 30 2 *"),
        CreateSchedule(name="b", origin="o", interval=1.0, max_count=0),
        CreateSchedule(name="", origin="o", interval=1.0),
    ):
        with pytest.raises(InvalidInput):
            await service.create(wrong)
    for call in (service.get, service.delete):
        with pytest.raises(NotFound):
            await call(ScheduleRef("nobody"))
    changed = await service.update(UpdateSchedule(name="a", version=1, interval=5.0, payload="new"))
    assert (changed.version, changed.interval, changed.payload) == (2, 5.0, "new")
    with pytest.raises(Conflict, match="version 2"):
        await service.update(UpdateSchedule(name="a", version=1, interval=5.0))
    await service.create(CreateSchedule(name="ab", origin="p", once=EPOCH + 1e6))
    assert [one.name for one in await service.list(ListSchedules(prefix="a", limit=1))] == ["a"]
    assert [one.name for one in await service.list(ListSchedules(after="a"))] == ["ab"]
    assert [one.name for one in await service.list(ListSchedules(origin="p"))] == ["ab"]


async def test_a_change_wakes_the_sleeping_scheduler(system):
    node = await system.node()
    service = await scheduler(node)
    await service.create(CreateSchedule(name="a", origin="o", interval=86_400.0))
    await asyncio.sleep(5)
    await service.update(UpdateSchedule(name="a", interval=1.0))
    await asyncio.sleep(3.5)
    assert len(fired(system)) == 3
    await service.update(UpdateSchedule(name="a", enabled=False))
    await asyncio.sleep(100)
    assert len(fired(system)) == 3
    await service.update(UpdateSchedule(name="a", enabled=True))
    await asyncio.sleep(2.5)
    assert len(fired(system)) in (5, 6)
    await service.delete(ScheduleRef("a"))
    seen = len(fired(system))
    await asyncio.sleep(100)
    assert len(fired(system)) == seen


async def test_without_schedules_nothing_is_written(system):
    node = await system.node()
    service = await scheduler(node)
    await asyncio.sleep(3600)
    assert node.store.snapshot()["transactions"] == 0
    await service.create(CreateSchedule(name="a", origin="o", once=EPOCH + 3700))
    await asyncio.sleep(200)
    assert len(fired(system)) == 1
    written = node.store.snapshot()["transactions"]
    await asyncio.sleep(3600)
    assert node.store.snapshot()["transactions"] == written
    assert node.keeper.snapshot()["held"] == {}


async def test_thousands_of_schedules_fire_at_their_times_and_sleeping_costs_nothing(system):
    node = await system.node()
    service = await scheduler(node)
    for number in range(2000):
        await service.create(CreateSchedule(name=f"s{number}", origin="o", once=EPOCH + 3600 + number % 50))
    before = node.store.snapshot()["reads"]
    await asyncio.sleep(3500)
    # One look for each commit: here those of the lease's own renewals.
    assert node.store.snapshot()["reads"] - before <= 3500 / 5
    await asyncio.sleep(200)
    told = fired(system)
    assert len({one.name for one in told}) == len(told) == 2000
    assert all(one.due_at == EPOCH + 3600 + int(one.name[1:]) % 50 for one in told)


async def test_the_one_that_lost_its_lease_fires_nothing(system):
    one, two = await system.node(), await system.node()
    await scheduler(one)
    service = await scheduler(two)
    await service.create(CreateSchedule(name="a", origin="o", interval=1.0))
    await asyncio.sleep(3.5)
    row = system.database.connection.execute(select(leases).where(leases.c.name == "scheduler")).one()
    stale = Fence("scheduler", row.epoch)
    holder = one if row.holder == "n1" else two
    await holder.container.stop()
    await asyncio.sleep(20)
    before = len(fired(system))
    other = two if holder is one else one
    await other.store.run(lambda c: c.execute(update(schedules).values(next_at=0.0)) and None)
    with pytest.raises(LeaseLost):
        await other.store.run(partial(fire_due, fence=stale, now=EPOCH + 1e6))
    assert len(fired(system)) in (before, before + 1)
    assert before >= 20


async def test_a_payload_that_no_event_can_carry_is_refused_and_stops_nobody(system):
    node = await system.node()
    service = await scheduler(node)
    long_in_json = "\x00" * 60_000  # six bytes each there, one each in msgpack
    with pytest.raises(InvalidInput, match="JSON"):
        await service.create(CreateSchedule(name="bad", origin="a", interval=1.0, payload=long_in_json))
    await service.create(CreateSchedule(name="good", origin="a", interval=1.0, payload="\x00" * 33_000))
    with pytest.raises(InvalidInput, match="JSON"):
        await service.update(UpdateSchedule(name="good", payload=long_in_json))
    await asyncio.sleep(3.5)
    assert len(fired(system, "good")) == 3


async def test_a_firing_that_is_due_survives_a_change_of_something_else(system):
    node = await system.node()
    run = client(SchedulerService, node.container.edge)
    process = await node.container.spawn(partial(SchedulerService, node.store, node.keeper))
    await run.create(CreateSchedule(name="once", origin="a", once=EPOCH + 5))
    await run.create(CreateSchedule(name="each", origin="a", interval=60.0, start=EPOCH + 5))
    await node.container.terminate(process)  # nobody fires
    await asyncio.sleep(10)
    for name in ("once", "each"):
        change = UpdateSchedule(name=name, payload="new", enabled=True)
        await node.store.run(
            partial(update_schedule, scope=DEFAULT_SCOPE, request=change, now=node.container.world.now())
        )
    await scheduler(node)
    await asyncio.sleep(5)
    assert [one.payload for one in fired(system, "once")] == ["new"]
    assert [one.due_at for one in fired(system, "each")] == [EPOCH + 5]
