"""Never a second server, never an orphan: crashes at every edge, lost replies, take-overs, late arrivals."""

import asyncio

import pytest
from sqlalchemy import select, update

from pelagos.model import DEFAULT_SCOPE, OperationState, ServerState
from pelagos.model.errors import LeaseLost
from pelagos.model.scope import Fence
from pelagos.operations import claims
from pelagos.store.schema import attempts, events, leases, operations, servers
from support.operations_world import (
    ACCOUNT,
    CrashAt,
    event_kinds,
    holding,
    open_attempts,
    rows,
    server_states,
    states,
    until,
    until_operation,
)

pytestmark = pytest.mark.anyio

LOOKUPS = ["tag", "idempotent"]


@pytest.mark.parametrize("lookup", LOOKUPS)
@pytest.mark.parametrize("edge", range(14))
async def test_a_crash_at_any_edge_leaves_exactly_one_server(make_universe, lookup, edge):
    universe = await make_universe(token_lookup=lookup, create_latency=0.3, boot_seconds=1.0)
    hooks = CrashAt()
    first = await universe.incarnate(hooks=hooks)
    new = universe.new(2)
    hooks.edge = edge
    try:
        await first.engine.create_servers(DEFAULT_SCOPE, new)
    except BaseException as error:
        assert type(error).__name__ == "Crash"
    if not await first.died():
        await first.crash()
    second = await universe.incarnate()
    # Whoever asked and did not hear asks again, with the same ids.
    records = await second.engine.create_servers(DEFAULT_SCOPE, new)
    done = await second.engine.wait([r.id for r in records], 3600)
    assert states(done) == {OperationState.SUCCEEDED}
    universe.assert_nothing_doubled()
    assert universe.cloud_names() == sorted(n.spec.name for n in new)
    await second.engine.refresh([ACCOUNT])
    recorded = {row.provider_id for row in await rows(second.store, servers)}
    assert recorded == {server.provider_id for server in universe.cloud.servers()}
    assert (await holding(second.store)).used == 2 and (await holding(second.store)).reserved == 0
    assert await open_attempts(second.store) == []


@pytest.mark.parametrize("edge", range(10))
async def test_a_crash_while_deleting_leaves_nothing(make_universe, edge):
    universe = await make_universe(delete_latency=0.3)
    hooks = CrashAt()
    first = await universe.incarnate(hooks=hooks)
    new = universe.new(2)
    records = await first.engine.create_servers(DEFAULT_SCOPE, new)
    await first.engine.wait([r.id for r in records], 60)
    actions = universe.on(*(n.server_id for n in new))
    hooks.edge = edge
    try:
        await first.engine.delete_servers(DEFAULT_SCOPE, actions)
    except BaseException as error:
        assert type(error).__name__ == "Crash"
    if not await first.died():
        await first.crash()
    second = await universe.incarnate()
    records = await second.engine.delete_servers(DEFAULT_SCOPE, actions)
    done = await second.engine.wait([r.id for r in records], 3600)
    assert states(done) == {OperationState.SUCCEEDED}
    assert universe.cloud.servers() == []
    assert (await holding(second.store)).used == 0 and (await holding(second.store)).reserved == 0


async def test_an_idempotent_cloud_is_resumed_without_waiting_out_a_time_out(make_universe):
    universe = await make_universe(token_lookup="idempotent", create_latency=1.0, create_timeout=300.0)
    first = await universe.incarnate()
    # What arrived and what did not look alike from here: neither may cost the time-out.
    universe.cloud.inject("create", "request_lost", times=2)
    records = await first.engine.create_servers(DEFAULT_SCOPE, universe.new(3))
    await until(lambda: universe.cloud.calls["create"] == 3)
    await first.crash()
    second = await universe.incarnate()
    began = universe.world.monotonic()
    done = await second.engine.wait([r.id for r in records], 600)
    assert states(done) == {OperationState.SUCCEEDED} and len(universe.cloud.servers()) == 3
    assert universe.world.monotonic() - began < 5.0


@pytest.mark.parametrize("lookup", LOOKUPS)
@pytest.mark.parametrize("fault", ["reply_lost", "connection_closed", "error_after", "late"])
async def test_a_lost_reply_is_found_again(make_universe, lookup, fault):
    universe = await make_universe(token_lookup=lookup, late_by=8.0, visibility_delay=6.0)
    one = await universe.incarnate()
    universe.cloud.inject("create", fault)
    (record,) = await one.engine.create_servers(DEFAULT_SCOPE, universe.new())
    done = await one.engine.wait([record.id], 3600)
    assert states(done) == {OperationState.SUCCEEDED}
    universe.assert_nothing_doubled()
    assert len(universe.cloud.servers()) == 1
    assert len(await rows(one.store, attempts)) == 1


async def test_a_lost_request_is_sent_again_only_after_two_absences_beyond_the_settling_time(make_universe):
    universe = await make_universe(create_timeout=10.0, settle=20.0)
    one = await universe.incarnate()
    universe.cloud.inject("create", "request_lost")
    began = universe.world.now()
    (record,) = await one.engine.create_servers(DEFAULT_SCOPE, universe.new())
    done = await one.engine.wait([record.id], 3600)
    assert states(done) == {OperationState.SUCCEEDED}
    first, second = sorted(await rows(one.store, attempts), key=lambda row: row.sent_at)
    assert (first.state, second.state) == ("absent", "done")
    assert first.token != second.token
    assert first.negatives == 1, "the first absence is counted, the second closes"
    assert second.sent_at >= first.not_after >= began + 30.0
    assert len(universe.cloud.servers()) == 1
    assert "operation.uncertain" in await event_kinds(one.store)


async def test_a_delete_while_the_create_is_uncertain_leaves_nothing(make_universe):
    for fault in ("reply_lost", "request_lost"):
        universe = await make_universe(visibility_delay=5.0)
        one = await universe.incarnate()
        universe.cloud.inject("create", fault)
        (new,) = universe.new()
        (create,) = await one.engine.create_servers(DEFAULT_SCOPE, [new])
        await until_operation(one.store, OperationState.UNCERTAIN)
        (delete,) = await one.engine.delete_servers(DEFAULT_SCOPE, universe.on(new.server_id))
        assert delete.state is OperationState.PENDING and delete.next_at is None
        done = await one.engine.wait([create.id, delete.id], 3600)
        assert done[create.id].state is OperationState.CANCELLED
        assert done[delete.id].state is OperationState.SUCCEEDED
        assert universe.cloud.servers() == []
        assert (await holding(one.store)).used == 0 and (await holding(one.store)).reserved == 0


async def test_a_late_arrival_is_swept(make_universe):
    universe = await make_universe(create_timeout=10.0, settle=5.0)
    one = await universe.incarnate()
    universe.cloud.inject("create", "late", delay=300.0)
    (record,) = await one.engine.create_servers(DEFAULT_SCOPE, universe.new())
    await one.engine.wait([record.id], 3600)
    await asyncio.sleep(400.0)
    assert len(universe.cloud.servers()) == 2
    kept = (await rows(one.store, servers))[0].provider_id
    await one.engine.refresh([ACCOUNT])
    await until(lambda: len(universe.cloud.servers()) == 1)
    (left,) = universe.cloud.servers()
    assert left.provider_id == kept
    # A second pass finds nothing to do.
    await asyncio.sleep(60)
    await one.engine.refresh([ACCOUNT])
    assert len([r for r in await rows(one.store, operations) if r.kind == "server.sweep"]) == 1


async def test_what_is_not_ours_is_told_of_once_and_never_touched(make_universe):
    universe = await make_universe()
    theirs = await universe.incarnate()
    other = await make_universe()
    # A server that another installation made on the same account.
    foreign = await other.incarnate()
    foreign.universe.cloud.datacenter = universe.cloud.datacenter
    (record,) = await foreign.engine.create_servers(DEFAULT_SCOPE, other.new())
    await foreign.engine.wait([record.id], 60)
    for _ in range(3):
        await theirs.engine.refresh([ACCOUNT])
    assert (await event_kinds(theirs.store)).count("server.unknown") == 1
    await theirs.crash()
    again = await universe.incarnate()
    await again.engine.refresh([ACCOUNT])
    assert (await event_kinds(again.store)).count("server.unknown") == 1
    assert len(universe.cloud.servers()) == 1


async def test_another_engine_takes_over_at_once_and_the_old_epoch_never_writes(make_universe):
    universe = await make_universe(create_latency=4.0)
    first = await universe.incarnate()
    second = await universe.incarnate()
    records = await first.engine.create_servers(DEFAULT_SCOPE, universe.new(3))
    await until(lambda: universe.cloud.calls["create"] == 3)
    serving, other = (first, second) if first.engine.snapshot()[ACCOUNT]["serving"] else (second, first)
    epoch = serving.engine.snapshot()[ACCOUNT]["epoch"]
    await serving.crash()
    began = universe.world.monotonic()
    done = await other.engine.wait([r.id for r in records], 600)
    assert universe.world.monotonic() - began < 15.0, "a dead holder on this host is replaced at once"
    assert states(done) == {OperationState.SUCCEEDED}
    universe.assert_nothing_doubled()
    assert len(universe.cloud.servers()) == 3
    fence = Fence(lease=f"account:{ACCOUNT}", epoch=epoch)
    with pytest.raises(LeaseLost):
        await other.store.run(lambda c: claims.take_over(c, fence, ACCOUNT, universe.world.now()))


async def test_a_lease_stolen_in_mid_call_is_not_written_under_by_the_old_worker(make_universe):
    universe = await make_universe(create_latency=1.0, token_lookup="tag")
    one = await universe.incarnate()
    (record,) = await one.engine.create_servers(DEFAULT_SCOPE, universe.new())
    await until(lambda: universe.cloud.calls["create"] > 0)
    steal = update(leases).where(leases.c.name == f"account:{ACCOUNT}").values(epoch=leases.c.epoch + 1)
    await one.store.run(lambda c: c.execute(steal).rowcount)
    before = one.engine.snapshot()[ACCOUNT]
    await until(lambda: len(universe.cloud.servers()) == 1 and universe.cloud.in_flight == 0)
    done = await one.engine.wait([record.id], 600)
    after = one.engine.snapshot()[ACCOUNT]
    assert after["epoch"] > before["epoch"] + 1 and after["served"] == 2
    assert states(done) == {OperationState.SUCCEEDED}
    (attempt,) = await rows(one.store, attempts)
    # Found by whoever holds the newer epoch, which was sent by the older.
    assert attempt.state == "done" and len(universe.cloud.servers()) == 1


async def test_two_processes_one_store_one_works_both_see(make_universe):
    universe = await make_universe(create_latency=1.0)
    first = await universe.incarnate()
    second = await universe.incarnate()
    begun = await first.engine.create_servers(DEFAULT_SCOPE, universe.new(2))
    await first.engine.wait([r.id for r in begun], 60)
    records = await second.engine.create_servers(DEFAULT_SCOPE, universe.new(2))
    began = universe.world.monotonic()
    done = await second.engine.wait([r.id for r in records], 60)
    assert universe.world.monotonic() - began < 1.5, "the one that works notices promptly"
    assert states(done) == {OperationState.SUCCEEDED}
    serving = [i.engine.snapshot()[ACCOUNT]["serving"] for i in (first, second)]
    assert sorted(serving) == [False, True]
    # A refresh asked of either is in the store when it answers.
    provider = universe.cloud.servers()[0].provider_id
    universe.cloud.vanish(provider)
    await asyncio.sleep(60)
    idle, busy = (first, second) if serving[1] else (second, first)
    more = await busy.engine.create_servers(DEFAULT_SCOPE, universe.new(1))
    result = await idle.engine.refresh([ACCOUNT])
    assert not result.errors
    assert [r.state for r in await rows(first.store, servers, provider_id=provider)] == ["deleted"]
    await busy.engine.wait([r.id for r in more], 60)
    assert await rows(first.store, operations, kind="account.refresh") == []


async def test_a_stop_leaves_to_the_journal_what_does_not_come_back_in_time(make_universe):
    universe = await make_universe(create_latency=5.0)
    first = await universe.incarnate(drain=1.0)
    (record,) = await first.engine.create_servers(DEFAULT_SCOPE, universe.new())
    await until(lambda: universe.cloud.calls["create"] > 0)
    began = universe.world.monotonic()
    await first.stop()
    assert universe.world.monotonic() - began < 4.0
    second = await universe.incarnate()
    done = await second.engine.wait([record.id], 600)
    assert states(done) == {OperationState.SUCCEEDED}
    assert len(universe.cloud.servers()) == 1


async def test_what_vanishes_stops_or_comes_back_is_seen_by_a_refresh(make_universe):
    universe = await make_universe(settle=10.0)
    one = await universe.incarnate()
    new = universe.new(3)
    records = await one.engine.create_servers(DEFAULT_SCOPE, new)
    await one.engine.wait([r.id for r in records], 60)
    await asyncio.sleep(30)
    gone, stopped, _ = (r.provider_id for r in await rows(one.store, servers))
    universe.cloud.vanish(gone)
    universe.cloud.stop(stopped)
    result = await one.engine.refresh([ACCOUNT])
    assert not result.errors
    by_provider = {r.provider_id: r for r in await rows(one.store, servers)}
    assert (by_provider[gone].state, by_provider[gone].reason) == ("deleted", "vanished")
    assert by_provider[stopped].state == "stopped"
    assert (await holding(one.store)).used == 2
    kinds = await event_kinds(one.store)
    assert kinds.count("server.vanished") == 1 and kinds.count("server.stopped") == 1
    before = one.store.snapshot()["transactions"]
    calls = universe.cloud.calls["list"]
    await one.engine.refresh([ACCOUNT])
    assert universe.cloud.calls["list"] == calls + 1
    again = await one.engine.refresh([ACCOUNT], max_age=100.0)
    assert universe.cloud.calls["list"] == calls + 1 and again.observed_at == again.observed_at
    assert one.store.snapshot()["transactions"] == before, "a pass where nothing changed writes nothing"
    assert len(await event_kinds(one.store)) == len(kinds)


async def test_a_new_server_that_is_not_listed_yet_has_not_vanished(make_universe):
    universe = await make_universe(visibility_delay=15.0, settle=20.0)
    one = await universe.incarnate()
    (record,) = await one.engine.create_servers(DEFAULT_SCOPE, universe.new())
    await one.engine.wait([record.id], 60)
    for _ in range(5):
        await one.engine.refresh([ACCOUNT])
    assert set((await server_states(one.store)).values()) == {ServerState.ACTIVE}


async def test_many_uncertain_creates_are_looked_for_by_one_listing(make_universe):
    universe = await make_universe(create_latency=2.0, parallel_calls=50)
    first = await universe.incarnate()
    records = await first.engine.create_servers(DEFAULT_SCOPE, universe.new(50))
    await until(lambda: universe.cloud.calls["create"] == 50)
    await first.crash()
    await asyncio.sleep(5.0)
    second = await universe.incarnate()
    done = await second.engine.wait([r.id for r in records], 600)
    assert states(done) == {OperationState.SUCCEEDED}
    assert universe.cloud.calls["find"] == 0 and universe.cloud.calls["list"] < 10
    universe.assert_nothing_doubled()
    positions = await second.store.read(lambda c: [p for (p,) in c.execute(select(events.c.position))])
    assert positions == sorted(positions)
