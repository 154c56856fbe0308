"""Leases: one holder at a time, an epoch that only rises, and a lower epoch that never writes."""

import asyncio
from functools import partial

import pytest
from sqlalchemy import insert, select, update

from pelagos.model.errors import LeaseHeld, LeaseLost
from pelagos.model.scope import Fence
from pelagos.store import Holder, LeaseKeeper, SystemHostFacts, acquire, check_fence, read_lease, release, renew
from pelagos.store.schema import leases, quota_limits

pytestmark = pytest.mark.anyio


def holder(name: str) -> Holder:
    return Holder(name, f"host-{name}", "boot", 1, "1", "")


A, B = holder("a"), holder("b")


def take(name, by, ttl=60.0, **options):
    return partial(acquire, name=name, holder=by, ttl=ttl, **options)


def expire(connection):
    connection.execute(update(leases).values(expires_at=1.0))


async def test_one_holder_at_a_time_and_the_refusal_tells_who(make_store):
    store = await make_store()
    lease = await store.run(take("x", A, purpose="build guestbook"))
    with pytest.raises(LeaseHeld) as refused:
        await store.run(take("x", B))
    details = refused.value.details
    assert (details["holder"], details["host"], details["pid"]) == ("a", "host-a", 1)
    assert details["purpose"] == "build guestbook" and 0 < details["expires_in"] <= 60
    assert "build guestbook" in str(refused.value) and refused.value.advice
    assert lease.epoch == 1


async def test_the_epoch_rises_with_every_acquisition(make_store):
    store = await make_store()
    first = await store.run(take("x", A))
    again = await store.run(take("x", A))
    assert again.epoch > first.epoch
    assert await store.run(partial(release, lease=again, holder_id="a"))
    other = await store.run(take("x", B))
    assert other.epoch > again.epoch
    await store.run(expire)
    assert (await store.run(take("x", A))).epoch > other.epoch


async def test_an_expired_holder_is_replaced_and_a_dead_one_at_once(make_store):
    store = await make_store()
    await store.run(take("x", A))
    await store.run(expire)
    assert (await store.run(take("x", B))).epoch == 2
    asked = []

    def is_dead(row):
        asked.append(row.holder)
        return row.holder == "b"

    assert (await store.run(take("x", A, is_dead=is_dead))).epoch == 3
    assert set(asked) == {"b"}


async def test_a_lower_epoch_never_writes(make_store):
    store = await make_store()
    old = await store.run(take("x", A))

    def write(fence: Fence, resource: str, connection):
        check_fence(connection, fence)
        connection.execute(insert(quota_limits).values(project_id="p", resource=resource, limit=fence.epoch))

    await store.run(partial(write, old.fence, "before"))
    await store.run(expire)
    # Expired and not taken: nobody else can have written.
    await store.run(partial(write, old.fence, "expired"))
    new = await store.run(take("x", B))
    with pytest.raises(LeaseLost):
        await store.run(partial(write, old.fence, "after"))
    await store.run(partial(write, new.fence, "new"))
    with pytest.raises(LeaseLost):
        await store.run(partial(write, Fence(lease="never", epoch=1), "never"))
    await store.run(partial(release, lease=new, holder_id="b"))
    with pytest.raises(LeaseLost):
        await store.run(partial(write, new.fence, "released"))
    written = await store.read(lambda c: c.execute(select(quota_limits.c.resource)).scalars().all())
    assert sorted(written) == ["before", "expired", "new"]


async def test_renewal_is_one_statement_for_all_and_only_of_ones_own(make_store):
    store = await make_store()
    for name in "xyz":
        await store.run(take(name, A, ttl=5.0))
    await store.run(take("other", B, ttl=5.0))
    assert await store.run(partial(renew, holder_id="a", ttl=1000.0)) == {"x": 1, "y": 1, "z": 1}
    rows = {name: await store.read(partial(read_lease, name=name)) for name in ("x", "other")}
    assert rows["x"].expires_at - rows["x"].acquired_at > 900
    assert rows["other"].expires_at - rows["other"].acquired_at < 100


async def test_releasing_an_old_epoch_frees_nothing(make_store):
    store = await make_store()
    old = await store.run(take("x", A))
    new = await store.run(take("x", A))
    assert not await store.run(partial(release, lease=old, holder_id="a"))
    assert (await store.read(partial(read_lease, name="x"))).holder == "a"
    assert await store.run(partial(release, lease=new, holder_id="a"))


async def test_of_many_that_try_at_once_one_gets_it(make_store):
    stores = [await make_store() for _ in range(3)]
    tries = [stores[i % 3].run(take("x", holder(f"h{i}"))) for i in range(12)]
    outcomes = await asyncio.gather(*tries, return_exceptions=True)
    won = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    assert len(won) == 1
    assert all(isinstance(outcome, LeaseHeld) for outcome in outcomes if outcome is not won[0])


async def test_a_write_checked_before_a_take_over_is_seen_by_the_new_holder(make_store):
    """Whatever the old holder's fence let through is there when the new holder looks, and nothing comes later."""
    old_store, new_store = await make_store(), await make_store()
    for round_ in range(10):
        name = f"lease-{round_}"
        old = await old_store.run(take(name, A))

        def write(fence, mark, connection):
            check_fence(connection, fence)
            connection.execute(insert(quota_limits).values(project_id=fence.lease, resource=mark, limit=1))

        def marks(project, connection):
            found = select(quota_limits.c.resource).where(quota_limits.c.project_id == project)
            return sorted(connection.execute(found).scalars())

        async def take_over(name=name, marks=marks):
            await new_store.run(take(name, B, is_dead=lambda row: True))
            return await new_store.read(partial(marks, name))

        async with asyncio.TaskGroup() as group:
            writes = [
                group.create_task(_quiet(old_store.run(partial(write, old.fence, f"{i}"))), name=str(i))
                for i in range(8)
            ]
            taken = group.create_task(take_over())
        written = sorted(task.get_name() for task in writes if task.result())
        assert taken.result() == written == await old_store.read(partial(marks, name))


async def _quiet(awaitable) -> bool:
    try:
        await awaitable
    except LeaseLost:
        return False
    return True


# The keeper.


def keeper(store, world, tmp_path, **options) -> LeaseKeeper:
    return LeaseKeeper(store, world, SystemHostFacts(tmp_path / "locks"), **options)


async def test_a_keeper_acquires_renews_and_releases(make_store, world, tmp_path):
    store = await make_store()
    async with keeper(store, world, tmp_path, ttl=0.3).running() as mine:
        held = await mine.acquire("x", "build")
        first = held.valid_until
        bell = store.watch()
        while held.valid_until == first:
            assert await bell.changed(10)
            await asyncio.sleep(0)
        assert held.epoch == 1 and not held.lost.is_set()
        assert mine.valid_until("x") > first
        await mine.release(held)
        assert mine.valid_until("x") is None
        assert (await store.read(partial(read_lease, name="x"))).holder is None
        kept = await mine.acquire("y")
    assert kept.lost.is_set()
    assert (await store.read(partial(read_lease, name="y"))).holder is None
    assert list((tmp_path / "locks").iterdir()) == []


async def test_a_second_keeper_waits_until_the_first_lets_go(make_store, world, tmp_path):
    one, two = await make_store(), await make_store()
    async with keeper(one, world, tmp_path).running() as first, keeper(two, world, tmp_path).running() as second:
        held = await first.acquire("x", "build")
        with pytest.raises(LeaseHeld):
            await second.acquire("x", wait=0.05)
        async with asyncio.TaskGroup() as group:
            waiter = group.create_task(second.acquire("x", wait=30))
            await asyncio.sleep(0)
            group.create_task(first.release(held))
        assert waiter.result().epoch == 2


async def test_two_tasks_of_one_container_do_not_share_a_lease(make_store, world, tmp_path):
    store = await make_store()
    async with keeper(store, world, tmp_path).running() as mine:
        held = await mine.acquire("x", "first")
        with pytest.raises(LeaseHeld, match="this very process"):
            await mine.acquire("x", "second")
        async with asyncio.TaskGroup() as group:
            waiter = group.create_task(mine.acquire("x", "second", wait=30))
            await asyncio.sleep(0)
            group.create_task(mine.release(held))
        assert waiter.result().epoch == 2


async def test_a_lease_taken_away_is_lost_at_the_next_renewal(make_store, world, tmp_path):
    store = await make_store()
    async with keeper(store, world, tmp_path, ttl=0.3).running() as mine:
        held = await mine.acquire("x")
        told = []
        held.on_lost(lambda: told.append("lost"))
        await store.run(take("x", B, is_dead=lambda row: True))
        async with asyncio.timeout(10):
            await held.lost.wait()
        assert told == ["lost"]
        assert mine.held("x") is None
    assert (await store.read(partial(read_lease, name="x"))).holder == "b"


async def test_an_acquisition_whose_caller_was_cancelled_is_given_back(make_store, world, tmp_path):
    store = await make_store()
    async with keeper(store, world, tmp_path, ttl=0.6).running() as mine:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(mine.acquire("x"))
            bell = store.watch()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
        assert mine.held("x") is None
        async with asyncio.timeout(10):
            while (row := await store.read(partial(read_lease, name="x"))) is not None and row.holder is not None:
                await bell.changed(1)
        assert (await mine.acquire("x", wait=10)).name == "x"
