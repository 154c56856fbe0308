"""Bells ring for every commit, whoever made it, and stay silent otherwise."""

import asyncio

import pytest
from sqlalchemy import insert, select

from pelagos.model.errors import StoreUnavailable
from pelagos.store.schema import quota_limits

pytestmark = pytest.mark.anyio


def limit(resource):
    return lambda c: c.execute(insert(quota_limits).values(project_id="p", resource=resource, limit=1)) and None


async def test_a_bell_is_silent_until_the_next_commit(make_store):
    store = await make_store()
    await store.run(limit("before"))
    bell = store.watch()
    assert not await bell.changed(0.06)
    await store.run(limit("a"))
    assert await bell.changed(10)
    assert not await bell.changed(0.06)


async def test_a_commit_between_two_waits_rings_at_once(make_store):
    one, two = await make_store(), await make_store()
    bell = one.watch()
    await two.run(limit("a"))
    assert await bell.changed(10)


async def test_a_waiter_is_woken_by_its_own_and_by_another_store(make_store):
    one, two = await make_store(), await make_store()
    bell = one.watch()
    for store, resource in ((one, "a"), (two, "b"), (one, "c")):
        async with asyncio.TaskGroup() as group:
            waiter = group.create_task(bell.changed(20))
            await asyncio.sleep(0)
            group.create_task(store.run(limit(resource)))
        assert waiter.result() is True


async def test_every_bell_rings(make_store):
    store = await make_store()
    bells = [store.watch() for _ in range(5)]
    async with asyncio.TaskGroup() as group:
        waiters = [group.create_task(bell.changed(20)) for bell in bells]
        await asyncio.sleep(0)
        group.create_task(store.run(limit("a")))
    assert all(waiter.result() for waiter in waiters)


async def test_a_follower_that_looks_after_each_ring_misses_nothing(make_store):
    writer, reader = await make_store(), await make_store()
    bell = reader.watch()
    seen: set[str] = set()

    async def follow():
        while len(seen) < 50:
            assert await bell.changed(20)
            seen.update(await reader.read(lambda c: c.execute(select(quota_limits.c.resource)).scalars().all()))

    async with asyncio.TaskGroup() as group:
        group.create_task(follow())
        for i in range(50):
            await writer.run(limit(f"r{i}"))
    assert len(seen) == 50


async def test_what_was_taken_back_rings_for_nobody(make_store):
    store = await make_store()
    bell = store.watch()

    def wrong(connection):
        limit("a")(connection)
        raise LookupError

    with pytest.raises(LookupError):
        await store.run(wrong)
    assert not await bell.changed(0.06)


async def test_closing_and_stopping_free_who_waits(make_store):
    store = await make_store()
    closed, stopped = store.watch(), store.watch()
    async with asyncio.TaskGroup() as group:
        first = group.create_task(closed.changed())
        second = group.create_task(_outcome(stopped.changed()))
        await asyncio.sleep(0)
        closed.close()
        await store.stop()
    assert first.result() is False
    assert isinstance(second.result(), StoreUnavailable)
    assert store.snapshot()["waiting"] == 0


async def _outcome(awaitable):
    try:
        return await awaitable
    except StoreUnavailable as error:
        return error
