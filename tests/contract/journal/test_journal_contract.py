"""One suite for the journal on SQLite, on the simulated store and on PostgreSQL."""

import asyncio
from functools import partial

import pytest

from pelagos.model import DEFAULT_SCOPE, OperationState, ServerState
from pelagos.model.errors import LeaseLost, QuotaExceeded
from pelagos.model.scope import Fence
from pelagos.operations import submit_creates, submit_deletes
from pelagos.quotas import Holding, cancel, commit, holdings, reserve, set_limit
from pelagos.store.schema import operations, servers
from support.operations_world import (
    ACCOUNT,
    Universe,
    event_kinds,
    holding,
    living_parts,
    open_attempts,
    rows,
    server_states,
    states,
    used,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
async def make_universe(make_store, world):
    async with Universe(world, open_store=make_store, options={"settle": 1.0}) as made:
        yield made


async def test_create_and_delete_through_the_engine(make_universe):
    universe = make_universe
    one = await universe.incarnate()
    new = universe.new(25)
    records = await one.engine.create_servers(DEFAULT_SCOPE, new)
    done = await one.engine.wait([r.id for r in records], 30)
    assert states(done) == {OperationState.SUCCEEDED}
    assert universe.cloud_names() == sorted(n.spec.name for n in new)
    assert (await holding(one.store)).used == 25
    refreshed = await one.engine.refresh([ACCOUNT])
    assert not refreshed.errors
    records = await one.engine.delete_servers(DEFAULT_SCOPE, universe.on(*(n.server_id for n in new)))
    done = await one.engine.wait([r.id for r in records], 30)
    assert states(done) == {OperationState.SUCCEEDED}
    assert universe.cloud.servers() == [] and await open_attempts(one.store) == []
    assert set((await server_states(one.store)).values()) == {ServerState.DELETED}
    assert (await holding(one.store)).used == 0
    kinds = await event_kinds(one.store)
    assert [kinds.count(k) for k in ("server.active", "server.deleting", "server.deleted")] == [25, 25, 25]


async def test_parts_are_made_and_taken_back_on_every_engine(make_universe):
    universe = make_universe
    one = await universe.incarnate()
    new = universe.new(5, resource={"volumes": 1, "volume_gb": 2, "address": True})
    universe.cloud.inject("create", "rejected")
    records = await one.engine.create_servers(DEFAULT_SCOPE, new)
    done = await one.engine.wait([r.id for r in records], 60)
    assert sorted(record.state for record in done.values()) == ["failed", *["succeeded"] * 4]
    assert await used(one.store) == {"servers": 4, "volumes": 4, "volume_gb": 8, "addresses": 4}
    assert len(universe.cloud.parts()) == 8
    # One server vanishes and leaves its parts, one loses a part, the others are deleted.
    vanished, robbed, *_ = universe.cloud.servers()
    lost = [
        p.provider_id for p in universe.cloud.parts() if universe.cloud.user_of(p.provider_id) == robbed.provider_id
    ]
    universe.cloud.lose_part(lost[0])
    universe.cloud.vanish(vanished.provider_id)
    async with asyncio.timeout(60):
        while len(await living_parts(one.store)) != 5:
            assert not (await one.engine.refresh([ACCOUNT])).errors
    assert await used(one.store) == {"servers": 3, "volumes": 2, "volume_gb": 4, "addresses": 3}
    records = await one.engine.delete_servers(DEFAULT_SCOPE, universe.on(*(n.server_id for n in new)))
    assert states(await one.engine.wait([r.id for r in records], 60)) == {OperationState.SUCCEEDED}
    assert universe.cloud.servers() == [] and universe.cloud.parts() == []
    assert await used(one.store) == {} and await open_attempts(one.store) == []


async def test_one_journals_the_other_works_and_takes_over(make_universe):
    universe = make_universe
    first, second = await universe.incarnate(), await universe.incarnate()
    a = await first.engine.create_servers(DEFAULT_SCOPE, universe.new(5))
    b = await second.engine.create_servers(DEFAULT_SCOPE, universe.new(5))
    ids = [r.id for r in (*a, *b)]
    assert states(await first.engine.wait(ids, 30)) == {OperationState.SUCCEEDED}
    serving, other = (first, second) if first.engine.snapshot()[ACCOUNT]["serving"] else (second, first)
    await serving.stop()
    c = await other.engine.create_servers(DEFAULT_SCOPE, universe.new(5))
    assert states(await other.engine.wait([r.id for r in c], 30)) == {OperationState.SUCCEEDED}
    universe.assert_nothing_doubled()
    assert len(universe.cloud.servers()) == 15


async def test_two_that_send_the_same_request_at_once_make_one_server(make_universe):
    universe = make_universe
    first, second = await universe.incarnate(start=False), await universe.incarnate(start=False)
    (new,) = universe.new()
    twin = type(new)(**{**{f: getattr(new, f) for f in new.__struct_fields__}, "operation_id": universe.world.new_id()})
    (a,), (b,) = await asyncio.gather(
        first.engine.create_servers(DEFAULT_SCOPE, [new]), second.engine.create_servers(DEFAULT_SCOPE, [twin])
    )
    assert a.id == b.id
    assert len(await rows(first.store, servers)) == 1 == len(await rows(first.store, operations))
    assert (await holding(first.store)).reserved == 1


async def test_a_stale_fence_journals_nothing(make_universe):
    universe = make_universe
    one = await universe.incarnate(start=False)
    fence = Fence(lease="infrastructure:x", epoch=7)
    with pytest.raises(LeaseLost):
        await one.engine.create_servers(DEFAULT_SCOPE, universe.new(), fence)
    assert await rows(one.store, servers) == []
    assert (await holding(one.store)).reserved == 0


async def test_the_quota_is_never_over_granted_by_racing_writers(make_universe):
    universe = make_universe
    limit = 20
    writers = [await universe.incarnate(start=False) for _ in range(3)]
    await writers[0].store.run(lambda c: set_limit(c, "default", "servers", limit))

    async def ask(number):
        writer = writers[number % len(writers)]
        try:
            await writer.store.run(
                partial(
                    submit_creates, scope=DEFAULT_SCOPE, requests=universe.new(1 + number % 3), now=universe.world.now()
                )
            )
        except QuotaExceeded:
            return 0
        return 1 + number % 3

    granted = sum(await asyncio.gather(*(ask(number) for number in range(40))))
    held = await holding(writers[0].store)
    assert held.reserved == granted == len(await rows(writers[0].store, servers)) <= limit
    assert granted >= limit - 2


async def test_settling_races_count_once(make_universe):
    universe = make_universe
    writers = [await universe.incarnate(start=False) for _ in range(3)]
    store = writers[0].store
    for number in range(10):
        await store.run(partial(reserve, project_id="p", operation_id=f"o{number}", amounts={"servers": 2}))
    jobs = [
        writer.store.run(partial(verb, operation_id=f"o{number}"))
        for number in range(10)
        for writer in writers
        for verb in (commit, cancel)
    ]
    await asyncio.gather(*jobs)
    held = (await store.read(partial(holdings, project_id="p")))["servers"]
    assert held.reserved == 0 and held.used % 2 == 0 and 0 <= held.used <= 20


async def test_a_delete_and_the_creates_outcome_at_once_never_leave_a_waiting_delete_behind(make_universe):
    universe = make_universe
    one, other = await universe.incarnate(), await universe.incarnate(start=False)
    new = universe.new(30)
    created = await one.engine.create_servers(DEFAULT_SCOPE, new)

    async def drop(request):
        (record,) = await other.store.run(
            partial(
                submit_deletes, scope=DEFAULT_SCOPE, actions=universe.on(request.server_id), now=universe.world.now()
            )
        )
        return record.id

    deleted = await asyncio.gather(*(drop(request) for request in new))
    done = await one.engine.wait([*(r.id for r in created), *deleted], 30)
    assert all(done[id_].state is OperationState.SUCCEEDED for id_ in deleted)
    assert universe.cloud.servers() == []
    assert (await holding(one.store)) == Holding()
