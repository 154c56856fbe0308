"""The executor's contract, on every engine."""

import asyncio
import gc

import pytest
from sqlalchemy import func, insert, select, update
from sqlalchemy.exc import IntegrityError

from pelagos.model.errors import InternalError, LeaseLost, StoreUnavailable
from pelagos.store import Store, store_now
from pelagos.store.schema import quota_holdings, quota_limits

pytestmark = pytest.mark.anyio


def limit(resource, value=1):
    def transaction(connection):
        connection.execute(insert(quota_limits).values(project_id="p", resource=resource, limit=value))
        return resource

    return transaction


def resources(connection):
    return sorted(connection.execute(select(quota_limits.c.resource)).scalars())


async def test_a_value_returned_is_committed_and_every_store_reads_it(make_store):
    one, two = await make_store(), await make_store()
    assert await one.run(limit("cores")) == "cores"
    assert await one.read(resources) == ["cores"]
    assert await two.read(resources) == ["cores"]


async def test_a_raise_takes_back_its_own_writes_and_nobody_elses(make_store):
    store: Store = await make_store()

    def wrong(connection):
        limit("wrong")(connection)
        raise LeaseLost("over")

    outcomes = await asyncio.gather(
        store.run(limit("a")), store.run(wrong), store.run(limit("b")), return_exceptions=True
    )
    assert outcomes[0] == "a" and outcomes[2] == "b"
    assert isinstance(outcomes[1], LeaseLost)
    assert await store.read(resources) == ["a", "b"]
    assert store.snapshot()["batches"] == 1


async def test_a_broken_constraint_goes_to_its_caller_alone(make_store):
    store = await make_store()
    outcomes = await asyncio.gather(*[store.run(limit(name)) for name in "aab"], return_exceptions=True)
    assert outcomes[0] == "a" and outcomes[2] == "b"
    assert isinstance(outcomes[1], IntegrityError)
    assert await store.read(resources) == ["a", "b"]


async def test_a_later_transaction_of_a_batch_sees_an_earlier_one(make_store):
    store = await make_store()
    seen = (await asyncio.gather(store.run(limit("a")), store.run(resources)))[1]
    assert seen == ["a"]


async def test_what_is_submitted_at_once_is_committed_at_once(make_store):
    store = await make_store()
    await asyncio.gather(*[store.run(limit(f"r{i}")) for i in range(300)])
    assert store.snapshot()["largest_batch"] == 300
    assert len(await store.read(resources)) == 300


async def test_a_batch_has_a_greatest_size(make_store):
    store = await make_store(batch=10)
    await asyncio.gather(*[store.run(limit(f"r{i}")) for i in range(55)])
    assert store.snapshot()["largest_batch"] == 10
    assert len(await store.read(resources)) == 55


async def test_nested_savepoints_work_inside_a_transaction(make_store):
    store = await make_store()
    await store.run(limit("a"))

    def transaction(connection):
        try:
            with connection.begin_nested():
                limit("b")(connection)
                limit("a")(connection)
        except IntegrityError:
            limit("c")(connection)

    await store.run(transaction)
    assert await store.read(resources) == ["a", "c"]


async def test_a_query_that_writes_is_a_defect(make_store):
    store = await make_store()
    with pytest.raises(InternalError, match="tried to write"):
        await store.read(limit("a"))
    assert await store.run(limit("b")) == "b"
    assert await store.read(resources) == ["b"]


async def test_a_query_may_raise_and_the_next_one_works(make_store):
    store = await make_store()

    def query(connection):
        raise LookupError("none")

    with pytest.raises(LookupError):
        await store.read(query)
    assert await store.read(resources) == []


async def test_a_coroutine_function_is_refused(make_store):
    store = await make_store()

    async def transaction(connection):
        raise AssertionError("never runs")

    with pytest.raises(InternalError, match="plain function"):
        await store.run(transaction)


async def test_a_transaction_cancelled_before_its_batch_begins_is_not_run(make_store):
    store = await make_store()
    async with asyncio.TaskGroup() as group:
        withdrawn = group.create_task(store.run(limit("withdrawn")))
        kept = group.create_task(store.run(limit("kept")))
        # The tasks begin in the loop's next turn; the cancellation comes after the submission, before the dispatch.
        asyncio.get_running_loop().call_soon(withdrawn.cancel)
    assert kept.result() == "kept"
    assert await store.read(resources) == ["kept"]
    assert withdrawn.cancelled()


async def test_stop_finishes_what_was_accepted(make_store):
    store, witness = await make_store(), await make_store()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(store.run(limit(f"r{i}"))) for i in range(20)]
        await asyncio.sleep(0)
        await store.stop()
    assert [task.result() for task in tasks] == [f"r{i}" for i in range(20)]
    assert len(await witness.read(resources)) == 20
    with pytest.raises(StoreUnavailable, match="stopped"):
        await store.run(limit("late"))
    with pytest.raises(StoreUnavailable, match="stopped"):
        await store.read(resources)


async def test_counting_up_from_many_stores_loses_nothing(make_store):
    stores = [await make_store() for _ in range(3)]
    await stores[0].run(
        lambda c: c.execute(insert(quota_holdings).values(project_id="p", resource="n", used=0, reserved=0)) and None
    )

    def count(connection):
        used = connection.execute(select(quota_holdings.c.used)).scalar_one()
        connection.execute(update(quota_holdings).values(used=used + 1))

    async def many(store):
        for _ in range(10):
            await asyncio.gather(*[store.run(count) for _ in range(3)])

    await asyncio.gather(*[many(store) for store in stores])
    assert await stores[0].read(lambda c: c.execute(select(quota_holdings.c.used)).scalar_one()) == 90


async def test_the_store_has_a_clock(make_store, world):
    store = await make_store()
    before = world.now()
    told = await store.run(store_now)
    assert abs(told - before) < 60


async def test_foreign_keys_hold(make_store):
    store = await make_store()
    from pelagos.store.schema import infrastructure_nodes

    with pytest.raises(IntegrityError):
        await store.run(
            lambda c: c.execute(insert(infrastructure_nodes).values(infrastructure_id="none", name="n", target=1))
        )


async def test_a_query_sees_one_state(make_store):
    """Two statements of one query never see a commit between them."""
    store = await make_store()

    def transfer(connection):
        n = connection.execute(select(func.count()).select_from(quota_limits)).scalar_one()
        limit(f"x{n}")(connection)
        limit(f"y{n}")(connection)

    def both(connection):
        found = [connection.execute(select(func.count()).select_from(quota_limits)).scalar_one() for _ in range(2)]
        assert found[0] == found[1] and found[0] % 2 == 0
        return found[0]

    async with asyncio.TaskGroup() as group:
        writes = [group.create_task(store.run(transfer)) for _ in range(20)]
        while not all(task.done() for task in writes):
            await store.read(both)
            await asyncio.sleep(0)
    assert await store.read(both) == 40
    gc.collect()
