"""Events: rows in the order of their commits, which a follower by position never misses."""

import asyncio
from functools import partial

import pytest

from pelagos.model.scope import DEFAULT_SCOPE, Scope
from pelagos.store import append, append_at, append_many, last_position, position_at, read_events
from pelagos.store.events import event_row

pytestmark = pytest.mark.anyio

OTHER = Scope(project_id="other", user_id="someone")


async def test_an_event_comes_back_as_it_was_told(make_store):
    store = await make_store()
    await store.run(
        partial(
            append,
            scope=DEFAULT_SCOPE,
            kind="instance.ready",
            at=12.5,
            infrastructure_id="i",
            node="web",
            instance_id="n",
            server_id="s",
            operation_id="o",
            run_id="r",
            data={"address": "127.0.0.7", "n": [1, 2]},
        )
    )
    [event] = await store.read(partial(read_events, after=0))
    assert event.position == await store.read(last_position) > 0
    assert (event.at, event.kind, event.project_id, event.user_id) == (12.5, "instance.ready", "default", "default")
    assert (event.infrastructure_id, event.node, event.instance_id) == ("i", "web", "n")
    assert (event.server_id, event.operation_id, event.run_id) == ("s", "o", "r")
    assert event.data == {"address": "127.0.0.7", "n": [1, 2]}


async def test_reading_by_position_project_infrastructure_and_kind(make_store):
    store = await make_store()
    assert await store.read(last_position) == 0
    rows = [
        event_row(scope, kind, at=1.0, infrastructure_id=infrastructure)
        for scope in (DEFAULT_SCOPE, OTHER)
        for kind in ("a", "b")
        for infrastructure in ("i", "j")
    ]
    await store.run(partial(append_many, rows=rows))

    async def found(**options):
        return await store.read(partial(read_events, **{"after": 0, **options}))

    everything = await found()
    assert [(e.project_id, e.kind, e.infrastructure_id) for e in everything] == [
        (row["project_id"], row["kind"], row["infrastructure_id"]) for row in rows
    ]
    assert await found(after=everything[2].position) == everything[3:]
    assert await found(limit=3) == everything[:3]
    assert [e.project_id for e in await found(project_id="other")] == ["other"] * 4
    assert len(await found(project_id="other", infrastructure_id="i", kinds=["b"])) == 1
    assert await found(kinds=[]) == []


async def test_what_was_taken_back_told_nothing(make_store):
    store = await make_store()

    def wrong(connection):
        append(connection, DEFAULT_SCOPE, "a", at=1.0)
        raise LookupError

    with pytest.raises(LookupError):
        await store.run(wrong)
    assert await store.read(partial(read_events, after=0)) == []


async def test_a_follower_never_misses_an_event_of_many_writers(make_store):
    stores = [await make_store(batch=3) for _ in range(3)]
    follower = await make_store()
    expected = {f"{w}.{i}" for w in range(3) for i in range(60)}

    def write(kind, fails, connection):
        append(connection, DEFAULT_SCOPE, kind, at=1.0)
        if fails:
            raise LookupError(kind)

    async def writer(number):
        for start in range(0, 60, 6):
            await asyncio.gather(
                *[stores[number].run(partial(write, f"{number}.{start + i}", False)) for i in range(6)],
                *[stores[number].run(partial(write, "never", True)) for i in range(2)],
                return_exceptions=True,
            )

    seen: list[str] = []

    async def follow():
        bell = follower.watch()
        position = 0
        while len(seen) < len(expected):
            found = await follower.read(partial(read_events, after=position, limit=7))
            if not found:
                assert await bell.changed(30), f"no ring after {len(seen)} events"
                continue
            assert [e.position for e in found] == sorted(e.position for e in found)
            position = found[-1].position
            seen.extend(event.kind for event in found)

    async with asyncio.TaskGroup() as group:
        group.create_task(follow())
        for number in range(3):
            group.create_task(writer(number))
    assert len(seen) == len(set(seen)) and set(seen) == expected


async def test_events_of_an_origin_and_of_a_time(make_store):
    store = await make_store()
    origins = ("c.1", "c.2", "d_%.1", "dxy.1", None)
    for at, origin in enumerate(origins):
        row = event_row(DEFAULT_SCOPE, "process_lifecycle", at=float(at), origin=origin)
        assert await store.run(partial(append_at, row=row)) == await store.read(last_position)

    async def found(**options):
        return [e.origin for e in await store.read(partial(read_events, **{"after": 0, **options}))]

    assert await found() == list(origins)
    assert await found(origin="c.2") == ["c.2"]
    assert await found(origin="c.*") == ["c.1", "c.2"]
    assert await found(origin="d_%*") == ["d_%.1"]
    assert await found(after=await store.read(partial(position_at, at=2.0))) == ["d_%.1", "dxy.1", None]
    assert await store.read(partial(position_at, at=99.0)) == await store.read(last_position)
    assert await found(upto=await store.read(partial(position_at, at=1.0))) == ["c.1"]
