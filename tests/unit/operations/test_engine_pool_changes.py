"""A pool that changes under the engine: calls that are out end, no work is lost, and none is done twice."""

import asyncio
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from pelagos.clouds import AccountConfig, Plugins, Pool
from pelagos.clouds.simulated import SimulatedDriver, SimulatedPlugin
from pelagos.model import DEFAULT_SCOPE, OperationState
from pelagos.model.errors import NotFound, Unsupported
from pelagos.operations import AccountState, OperationsEngine, use_of_accounts
from support.operations_world import ACCOUNT, states, until

pytestmark = pytest.mark.anyio


def account(**more):
    return AccountConfig(name=ACCOUNT, driver="simulated", **more)


async def workers_gone(one, name=ACCOUNT):
    await until(lambda: name not in one.engine.workers())


async def until_sent(universe, count=1):
    await until(lambda: universe.cloud.in_flight >= count)


async def test_an_account_that_is_as_before_keeps_its_worker_and_driver(make_universe):
    universe = await make_universe(create_latency=5.0)
    one = await universe.incarnate()
    records = await one.engine.create_servers(DEFAULT_SCOPE, universe.new(3))
    await until_sent(universe, 3)
    worker, driver = one.engine.workers()[ACCOUNT], await one.pool.driver(ACCOUNT)
    one.pool.reload([account(), AccountConfig(name="other", driver="simulated")])
    done = await one.engine.wait([r.id for r in records], 60)
    assert states(done) == {OperationState.SUCCEEDED}
    assert one.engine.workers()[ACCOUNT] is worker
    assert await one.pool.driver(ACCOUNT) is driver
    assert "other" in one.engine.workers()


async def test_a_changed_account_ends_its_calls_before_its_successor_begins(make_universe):
    universe = await make_universe(create_latency=8.0)
    one = await universe.incarnate()
    first = await one.engine.create_servers(DEFAULT_SCOPE, universe.new(2))
    await until_sent(universe, 2)
    old, driver = one.engine.workers()[ACCOUNT], await one.pool.driver(ACCOUNT)
    began = universe.world.monotonic()
    one.pool.reload([account(parallel_calls=1)])
    second = await one.engine.create_servers(DEFAULT_SCOPE, universe.new(2))
    await asyncio.sleep(0.1)
    assert old.retiring and old.in_flight == 2, "they are not cut off"
    assert one.pool.account(ACCOUNT) is not old.account

    done = await one.engine.wait([r.id for r in (*first, *second)], 600)
    assert states(done) == {OperationState.SUCCEEDED}
    assert one.engine.workers()[ACCOUNT] is not old
    assert await one.pool.driver(ACCOUNT) is not driver
    assert universe.world.monotonic() - began >= 3 * 8.0 - 0.5, "one at a time now"
    assert len(universe.cloud.servers()) == 4
    assert all(len(ids) == 1 for ids in universe.cloud.made().values()), "none was made twice"
    assert one.pool.retired() == []


async def test_what_is_journaled_for_an_account_that_went_waits_until_it_is_back(make_universe):
    universe = await make_universe(create_latency=1.0)
    one = await universe.incarnate()
    (made,) = await one.engine.create_servers(DEFAULT_SCOPE, universe.new())
    await one.engine.wait([made.id], 60)
    server = universe.cloud.servers()[0]

    one.pool.reload([])
    await workers_gone(one)
    (delete,) = await one.engine.delete_servers(DEFAULT_SCOPE, universe.on(made.target_id))
    with pytest.raises(NotFound):
        await one.engine.create_servers(DEFAULT_SCOPE, universe.new())
    await asyncio.sleep(600.0)
    assert [s.provider_id for s in universe.cloud.servers()] == [server.provider_id]
    use = (await one.store.read(use_of_accounts))[ACCOUNT]
    assert use.operations == {"pending": 1}

    one.pool.reload([account()])
    done = await one.engine.wait([delete.id], 60)
    assert states(done) == {OperationState.SUCCEEDED}
    assert universe.cloud.servers() == []


async def test_an_account_replaced_again_while_it_drains_ends_with_the_last_one(make_universe):
    universe = await make_universe(create_latency=8.0)
    one = await universe.incarnate()
    records = await one.engine.create_servers(DEFAULT_SCOPE, universe.new(2))
    await until_sent(universe, 2)
    for calls in (1, 2, 3):
        one.pool.reload([account(parallel_calls=calls)])
        await asyncio.sleep(0.5)
    done = await one.engine.wait([r.id for r in records], 60)
    assert states(done) == {OperationState.SUCCEEDED}
    await until(lambda: not one.engine.workers()[ACCOUNT].retiring)
    assert one.engine.workers()[ACCOUNT].account is one.pool.account(ACCOUNT)
    assert (await one.pool.account(ACCOUNT).capabilities()).parallel_calls == 3
    await until(lambda: one.pool.retired() == [])


async def test_the_engine_stops_while_an_account_drains(make_universe):
    universe = await make_universe(create_latency=8.0)
    one = await universe.incarnate()
    records = await one.engine.create_servers(DEFAULT_SCOPE, universe.new())
    await until_sent(universe)
    one.pool.reload([account(parallel_calls=1)])
    await asyncio.sleep(0.1)
    began = universe.world.monotonic()
    await one.stop()
    assert universe.world.monotonic() - began < 30.0
    two = await universe.incarnate()
    done = await two.engine.wait([r.id for r in records], 600)
    assert states(done) == {OperationState.SUCCEEDED}
    assert len(universe.cloud.servers()) == 1


async def test_health_is_what_the_calls_tell(make_universe):
    universe = await make_universe(list_latency=2.0)
    one = await universe.incarnate()
    health = one.engine.workers()[ACCOUNT].health
    assert health.state is AccountState.UNKNOWN
    assert await one.engine.check(ACCOUNT) == pytest.approx(2.0)
    assert (health.state, health.seconds, health.error) == (AccountState.OK, pytest.approx(2.0), None)
    for fault, state in (
        ("auth_failed", AccountState.REFUSED),
        ("unreachable", AccountState.UNREACHABLE),
        ("rate_limited", AccountState.LIMITED),
    ):
        universe.cloud.inject("list", fault)
        with pytest.raises(Exception, match=r"."):
            await one.engine.check(ACCOUNT)
        assert health.state is state
        assert health.error is not None
        assert health.error_at == universe.world.now()
    await one.engine.check(ACCOUNT)
    assert health.state is AccountState.OK
    assert health.error is not None, "the last one is still told"


async def test_what_a_cloud_offers_and_shows(make_universe):
    universe = await make_universe(images=["debian", "alpine"])
    one = await universe.incarnate()
    (made,) = await one.engine.create_servers(DEFAULT_SCOPE, universe.new())
    assert states(await one.engine.wait([made.id], 60)) == {OperationState.FAILED}, "there is no image 'default'"
    assert [image.id for image in await one.engine.images(ACCOUNT)] == ["debian", "alpine"]
    assert [flavor.vcpus for flavor in await one.engine.flavors(ACCOUNT)] == [1, 2, 4]
    foreign = universe.cloud.add_foreign("somebody-else")
    assert await one.engine.listing(ACCOUNT) == []
    [shown] = await one.engine.listing(ACCOUNT, foreign=True)
    assert (shown.provider_id, shown.token) == (foreign, "")
    with pytest.raises(NotFound):
        await one.engine.images("nowhere")


async def test_a_driver_without_a_catalogue_says_so(make_universe):
    universe = await make_universe()
    one = await universe.incarnate()
    driver = await one.pool.driver(ACCOUNT)

    class Bare:
        name = "bare"
        account_options = resource = SimulatedPlugin.resource

        async def open(self, context):
            return SimpleNamespace(
                capabilities=driver.capabilities, list_servers=driver.list_servers, close=driver.close
            )

    plugins = Plugins({"bare": Bare()}, source=lambda *, group: ())
    pool = Pool([AccountConfig(name="bare", driver="bare")], plugins, universe.world, Path("/nowhere"))
    engine = OperationsEngine(one.store, pool, one.keeper, universe.world)
    assert await engine.listing("bare") == []
    with pytest.raises(Unsupported, match="does not tell its images"):
        await engine.images("bare")
    with pytest.raises(Unsupported, match="servers of others"):
        await engine.listing("bare", foreign=True)


class FarAccount(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    endpoint: str


class Far:
    """A driver whose accounts resource sections mean by their endpoint alone."""

    name = "far"
    account_options = FarAccount
    resource = SimulatedPlugin.resource

    def __init__(self, cloud):
        self.cloud = cloud

    async def open(self, context):
        return SimulatedDriver(self.cloud)


async def test_an_account_that_a_description_means_is_found_again_by_what_is_journaled(make_universe):
    universe = await make_universe()
    one = await universe.incarnate(start=False)

    def far_pool():
        plugins = Plugins({"far": Far(universe.cloud)}, source=lambda *, group: ())
        return Pool([], plugins, universe.world, Path("/nowhere"))

    async with one.keeper.running():
        pool = far_pool()
        name = pool.for_resource("far", endpoint="https://far.example")
        [new] = universe.new()
        spec = msgspec.structs.replace(new.spec, account=pool.description(name))
        new = msgspec.structs.replace(new, account=name, spec=spec)
        for turn in ("made", "deleted"):
            # Another program each time, which has been told nothing of the account but what the first asks for.
            engine = OperationsEngine(one.store, far_pool(), one.keeper, universe.world)
            async with asyncio.TaskGroup() as group:
                group.create_task(engine.run())
                if turn == "made":
                    [record] = await engine.create_servers(DEFAULT_SCOPE, [new])
                else:
                    assert len(await engine.listing(name)) == 1
                    [record] = await engine.delete_servers(DEFAULT_SCOPE, universe.on(new.server_id))
                assert states(await engine.wait([record.id], 60)) == {OperationState.SUCCEEDED}
                await engine.stop()
    assert universe.cloud.servers() == []
