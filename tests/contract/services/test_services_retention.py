"""Retention of what the services keep: what is over goes, what somebody still waits for stays."""

from __future__ import annotations

from functools import partial

import pytest
from sqlalchemy import insert, select, update

from pelagos.model.scope import DEFAULT_SCOPE, Scope
from pelagos.services.events.subscriptions import advance, declare
from pelagos.services.registry import Register
from pelagos.services.registry.resources import register
from pelagos.services.scheduler import CreateSchedule, UpdateSchedule
from pelagos.services.scheduler.schedules import create_schedule, update_schedule
from pelagos.store import append, last_position, prune
from pelagos.store.container_schema import resource_attributes, resources, schedules
from pelagos.store.schema import events

pytestmark = pytest.mark.anyio

OLD, NOW = 100.0, 1000.0


async def test_events_wait_for_subscriptions_that_are_alive(make_store):
    store = await make_store()
    ids = {}
    for name, updated in (("alive", NOW), ("abandoned", OLD)):
        stored, _ = await store.run(
            partial(declare, scope=DEFAULT_SCOPE, id=name, name=name, patterns=("#",), now=updated, position=0)
        )
        ids[name] = stored.id
    first = await store.read(last_position)
    for scope in (DEFAULT_SCOPE, Scope("other", "someone")):
        await store.run(partial(append, scope=scope, kind="business_state", at=OLD, origin="a"))

    async def left():
        rows = await store.read(lambda c: c.execute(select(events.c.project_id).where(events.c.at == OLD)).all())
        return sorted({row[0] for row in rows})

    await store.run(partial(prune, before=500.0))
    assert await left() == ["default"], "nobody of the other project waits"
    await store.run(partial(advance, subscription_id=ids["alive"], known=0, position=first + 1, now=NOW))
    await store.run(partial(prune, before=500.0))
    assert await left() == []


async def test_schedules_that_can_fire_no_more_go(make_store):
    store = await make_store()
    for request in (
        CreateSchedule(name="once", origin="o", once=OLD),
        CreateSchedule(name="counted", origin="o", interval=1.0, max_count=3),
        CreateSchedule(name="ended", origin="o", interval=1.0, end=OLD + 50),
        CreateSchedule(name="stopped", origin="o", interval=1.0),
        CreateSchedule(name="alive", origin="o", interval=1.0),
    ):
        make = partial(create_schedule, scope=DEFAULT_SCOPE, id=request.name, request=request, now=OLD)
        await store.run(make)
    stop = UpdateSchedule(name="stopped", enabled=False)
    await store.run(partial(update_schedule, scope=DEFAULT_SCOPE, request=stop, now=OLD))

    def over(connection):
        finished = schedules.c.name.in_(["once", "counted", "ended"])
        connection.execute(update(schedules).where(finished).values(next_at=None, last_at=OLD, fired=3))

    await store.run(over)
    await store.run(partial(prune, before=50.0))
    names = lambda c: c.execute(select(schedules.c.name).order_by(schedules.c.name)).scalars().all()  # noqa: E731
    assert len(await store.read(names)) == 5
    await store.run(partial(prune, before=500.0))
    assert await store.read(names) == ["alive", "stopped"]


async def test_retired_resources_and_lost_containers_go_with_their_attributes(make_store):
    store = await make_store()

    def fill(connection):
        for name in ("retired", "new"):
            request = Register(type="pump", name=name, attributes={"depth": 1})
            register(connection, DEFAULT_SCOPE, name, request, OLD)
        connection.execute(update(resources).where(resources.c.id == "retired").values(state="retired"))
        for state in ("active", "inactive"):
            row = {"id": state, "project_id": "system", "user_id": "r", "type": "container", "name": state}
            row |= {"state": state, "created_at": OLD, "updated_at": OLD}
            connection.execute(insert(resources).values(**row))

    await store.run(fill)
    await store.run(partial(prune, before=500.0))
    left = await store.read(lambda c: c.execute(select(resources.c.id).order_by(resources.c.id)).scalars().all())
    assert left == ["active", "new"]
    of = await store.read(lambda c: c.execute(select(resource_attributes.c.resource_id)).scalars().all())
    assert of == ["new"]
