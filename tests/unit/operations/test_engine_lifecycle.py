"""Create, power and delete through the engine against the simulated cloud."""

import asyncio
from itertools import groupby, pairwise

import pytest
from sqlalchemy import update

from pelagos.clouds.simulated import Faults, SimulatedDriver
from pelagos.model import DEFAULT_SCOPE, OperationState, Scope, ServerState
from pelagos.model.errors import Conflict, NotFound, QuotaExceeded
from pelagos.operations.records import WAITING
from pelagos.operations.succession import free_successors
from pelagos.quotas import Holding, set_limit
from pelagos.store.schema import attempts, operations, servers
from support.operations_world import (
    ACCOUNT,
    event_kinds,
    holding,
    open_attempts,
    rows,
    server_states,
    states,
    until,
    until_event,
    until_operation,
)

pytestmark = pytest.mark.anyio


async def created(universe, one, count=1, **options):
    new = universe.new(count, **options)
    records = await one.engine.create_servers(DEFAULT_SCOPE, new)
    done = await one.engine.wait([r.id for r in records], 3600)
    assert states(done) == {OperationState.SUCCEEDED}
    return [n.server_id for n in new]


@pytest.mark.parametrize("boot", [0.0, 7.0])
async def test_a_server_is_created_and_deleted_and_nothing_is_left(make_universe, boot):
    universe = await make_universe(boot_seconds=boot, create_latency=0.5)
    one = await universe.incarnate()
    (server_id,) = await created(universe, one)
    (row,) = await rows(one.store, servers)
    (real,) = universe.cloud.servers()
    assert (row.provider_id, row.state) == (real.provider_id, "active")
    assert real.addresses and row.addresses != "[]"
    assert (await holding(one.store)).used == 1
    (record,) = await one.engine.delete_servers(DEFAULT_SCOPE, universe.on(server_id))
    done = await one.engine.wait([record.id], 3600)
    assert states(done) == {OperationState.SUCCEEDED}
    assert universe.cloud.servers() == []
    assert await server_states(one.store) == {server_id: ServerState.DELETED}
    assert await holding(one.store) == Holding()
    assert await open_attempts(one.store) == []
    expected = ["server.active", "server.deleting", "server.deleted"]
    assert await event_kinds(one.store) == (["server.building", *expected] if boot else expected)


async def test_waiting_for_boots_costs_little_and_lists_rather_than_asks(make_universe):
    universe = await make_universe(boot_seconds=60.0, poll_interval=10.0)
    one = await universe.incarnate()
    began = universe.world.monotonic()
    await created(universe, one, 40)
    assert universe.world.monotonic() - began < 60.0 * 1.04
    calls = universe.cloud.calls
    assert calls["get"] == 0 and calls["find"] == 0 and calls["list"] < 200


@pytest.mark.parametrize(("awaited", "apart"), [(1, 2.0), (2, 1.5), (40, 1.025)])
async def test_a_cloud_rests_between_listings_the_less_the_more_wait_for_them(
    make_universe, monkeypatch, awaited, apart
):
    universe = await make_universe(boot_seconds=20.0, list_latency=1.0, poll_interval=10.0, parallel_calls=64)
    began = []
    list_servers = SimulatedDriver.list_servers

    async def listed(self, *, timeout):
        began.append(universe.world.monotonic())
        return await list_servers(self, timeout=timeout)

    monkeypatch.setattr(SimulatedDriver, "list_servers", listed)
    one = await universe.incarnate()
    await created(universe, one, awaited)
    assert len(began) >= 9
    assert [later - earlier for earlier, later in pairwise(began)] == pytest.approx([apart] * (len(began) - 1))


async def test_ids_are_made_for_what_is_due_and_not_for_all_that_might_be_sent(make_universe, monkeypatch):
    universe = await make_universe(parallel_calls=200)
    one = await universe.incarnate()
    made = []
    next_id = universe.world.next_id

    def counted():
        made.append(next_id())
        return made[-1]

    monkeypatch.setattr(universe.world, "next_id", counted)
    await created(universe, one, 3)
    tokens = {row.token for row in await rows(one.store, attempts)}
    assert len(tokens) == 3 and tokens == set(made)


async def test_a_repeated_request_finds_the_first_ones_rows(make_universe):
    universe = await make_universe()
    one = await universe.incarnate()
    new = universe.new(3)
    first = await one.engine.create_servers(DEFAULT_SCOPE, new)
    await one.engine.wait([r.id for r in first], 60)
    repeat = [type(n)(**{**_fields(n), "operation_id": universe.world.new_id()}) for n in reversed(new)]
    again = await one.engine.create_servers(DEFAULT_SCOPE, repeat)
    assert [r.id for r in again] == [r.id for r in reversed(first)]
    assert states({r.id: r for r in again}) == {OperationState.SUCCEEDED}
    assert len(universe.cloud.servers()) == 3
    actions = universe.on(new[0].server_id)
    (delete,) = await one.engine.delete_servers(DEFAULT_SCOPE, actions)
    (same,) = await one.engine.delete_servers(DEFAULT_SCOPE, actions)
    assert delete.id == same.id


async def test_a_server_id_is_not_taken_twice(make_universe):
    universe = await make_universe()
    one = await universe.incarnate()
    (new,) = universe.new()
    await one.engine.create_servers(DEFAULT_SCOPE, [new])
    other = type(new)(**{**_fields(new), "operation_id": universe.world.new_id(), "request_id": "another"})
    with pytest.raises(Conflict):
        await one.engine.create_servers(DEFAULT_SCOPE, [other])


async def test_the_quota_is_asked_before_anything_is_made(make_universe):
    universe = await make_universe()
    one = await universe.incarnate()
    await one.store.run(lambda c: set_limit(c, "default", "servers", 3))
    await created(universe, one, 2)
    with pytest.raises(QuotaExceeded) as refused:
        await one.engine.create_servers(DEFAULT_SCOPE, universe.new(2))
    assert refused.value.details == {"resource": "servers", "limit": 3, "used": 2, "reserved": 0, "asked": 2}
    assert len(await rows(one.store, servers)) == 2
    await created(universe, one, 1)


async def test_a_refusal_is_final_and_gives_the_quota_back(make_universe):
    universe = await make_universe()
    one = await universe.incarnate()
    universe.cloud.inject("create", "no_capacity")
    (record,) = await one.engine.create_servers(DEFAULT_SCOPE, universe.new())
    (final,) = (await one.engine.wait([record.id], 60)).values()
    assert (final.state, final.error.code) == (OperationState.FAILED, "cloud_capacity")
    (row,) = await rows(one.store, servers)
    assert row.state == "deleted" and row.deleted_at is not None and row.reason == final.error.message
    assert (await holding(one.store)).reserved == 0 and (await holding(one.store)).used == 0
    (attempt,) = await rows(one.store, attempts)
    assert attempt.state == "refused"


async def test_a_transient_error_is_tried_again_with_the_same_token(make_universe):
    universe = await make_universe()
    one = await universe.incarnate()
    universe.cloud.inject("create", "unreachable", times=3)
    (record,) = await one.engine.create_servers(DEFAULT_SCOPE, universe.new())
    (final,) = (await one.engine.wait([record.id], 600)).values()
    assert final.state is OperationState.SUCCEEDED
    (attempt,) = await rows(one.store, attempts)
    assert attempt.state == "done"
    assert universe.cloud.calls["create"] == 4
    assert (await event_kinds(one.store)).count("operation.retrying") == 3


async def test_no_new_attempt_is_made_after_the_expiry(make_universe):
    universe = await make_universe()
    universe.cloud.faults = Faults(unreachable=1.0)
    one = await universe.incarnate()
    expires_at = universe.world.now() + 30
    (record,) = await one.engine.create_servers(DEFAULT_SCOPE, universe.new(expires_at=expires_at))
    (final,) = (await one.engine.wait([record.id], 600)).values()
    assert (final.state, final.error.code) == (OperationState.FAILED, "cloud_unreachable")
    assert universe.world.now() >= expires_at


async def test_a_rate_limit_holds_the_whole_account(make_universe):
    universe = await make_universe(parallel_calls=1)
    one = await universe.incarnate()
    universe.cloud.inject("create", "rate_limited", retry_after=50.0)
    began = universe.world.monotonic()
    records = await one.engine.create_servers(DEFAULT_SCOPE, universe.new(5))
    done = await one.engine.wait([r.id for r in records], 600)
    assert states(done) == {OperationState.SUCCEEDED}
    assert 50.0 <= universe.world.monotonic() - began < 60.0
    assert universe.cloud.calls["create"] == 6


async def test_the_pacer_keeps_the_rate_and_the_cloud_never_says_429(make_universe):
    universe = await make_universe(rate_limit=5.0, burst=5, calls_per_second=4.0)
    one = await universe.incarnate()
    await created(universe, one, 40)
    assert universe.cloud.calls["fault.rate_limited"] == 0


async def test_calls_in_flight_never_exceed_the_limit(make_universe):
    universe = await make_universe(create_latency=1.0, parallel_calls=7)
    one = await universe.incarnate()
    began = universe.world.monotonic()
    await created(universe, one, 70)
    assert universe.cloud.most_in_flight == 7
    assert universe.world.monotonic() - began < 10.0 * 1.05


async def test_a_failed_build_is_discarded_and_tells_why(make_universe):
    universe = await make_universe(boot_seconds=5.0)
    one = await universe.incarnate()
    universe.cloud.inject("create", "failed_build")
    (record,) = await one.engine.create_servers(DEFAULT_SCOPE, universe.new())
    (final,) = (await one.engine.wait([record.id], 600)).values()
    assert final.state is OperationState.FAILED and "could not build" in final.error.message
    assert universe.cloud.servers() == []
    assert (await holding(one.store)).used == 0
    assert set((await server_states(one.store)).values()) == {ServerState.DELETED}


async def test_a_server_stuck_in_build_is_discarded_after_the_time_out(make_universe):
    universe = await make_universe(boot_seconds=5.0, build_timeout=100.0)
    one = await universe.incarnate()
    universe.cloud.inject("create", "stuck_build")
    (record,) = await one.engine.create_servers(DEFAULT_SCOPE, universe.new())
    (final,) = (await one.engine.wait([record.id], 600)).values()
    assert (final.state, final.error.code) == (OperationState.FAILED, "deadline_exceeded")
    assert universe.cloud.servers() == []


async def test_a_delete_that_the_cloud_forgets_is_sent_again(make_universe):
    universe = await make_universe()
    one = await universe.incarnate()
    (server_id,) = await created(universe, one)
    universe.cloud.inject("delete", "stuck_delete")
    (record,) = await one.engine.delete_servers(DEFAULT_SCOPE, universe.on(server_id))
    (final,) = (await one.engine.wait([record.id], 600)).values()
    assert final.state is OperationState.SUCCEEDED and universe.cloud.servers() == []
    assert universe.cloud.calls["delete"] == 2


async def test_stop_start_reboot(make_universe):
    universe = await make_universe(power_seconds=2.0)
    one = await universe.incarnate()
    (server_id,) = await created(universe, one)
    for verb, state in (("stop", "stopped"), ("start", "active"), ("reboot", "active")):
        (record,) = await one.engine.power_servers(DEFAULT_SCOPE, verb, universe.on(server_id))
        done = await one.engine.wait([record.id], 600)
        assert states(done) == {OperationState.SUCCEEDED}
        (row,) = await rows(one.store, servers)
        assert row.state == state == universe.cloud.servers()[0].state.value


async def test_operations_of_one_server_run_in_order(make_universe):
    universe = await make_universe(create_latency=2.0, power_latency=1.0, power_seconds=1.0)
    one = await universe.incarnate()
    (new,) = universe.new()
    records = await one.engine.create_servers(DEFAULT_SCOPE, [new])
    for verb in ("stop", "start", "reboot", "stop"):
        records += await one.engine.power_servers(DEFAULT_SCOPE, verb, universe.on(new.server_id))
    done = await one.engine.wait([r.id for r in records], 600)
    finished = [done[r.id].finished_at for r in records]
    assert finished == sorted(finished) and len(set(finished)) == 5
    causes = [h.cause for h in universe.cloud.history() if h.cause in ("create", "stop", "start", "reboot")]
    # A reboot goes down and comes up: two changes of one cause.
    assert [cause for cause, _ in groupby(causes)] == ["create", "stop", "start", "reboot", "stop"]
    assert universe.cloud.servers()[0].state is ServerState.STOPPED


async def test_a_delete_before_the_create_was_sent_cancels_it(make_universe):
    universe = await make_universe()
    one = await universe.incarnate(start=False)
    new = universe.new(2)
    await one.engine.create_servers(DEFAULT_SCOPE, new)
    (record,) = await one.engine.delete_servers(DEFAULT_SCOPE, universe.on(new[0].server_id))
    assert record.state is OperationState.SUCCEEDED
    assert (await holding(one.store)).reserved == 1
    await one.start()
    await until_operation(one.store, OperationState.PENDING, gone=True)
    await until_operation(one.store, OperationState.RUNNING, gone=True)
    assert [s.name for s in universe.cloud.servers()] == [new[1].spec.name]
    assert (await server_states(one.store))[new[0].server_id] is ServerState.DELETED


async def test_a_delete_overtakes_a_boot(make_universe):
    universe = await make_universe(boot_seconds=500.0)
    one = await universe.incarnate()
    (new,) = universe.new()
    (create,) = await one.engine.create_servers(DEFAULT_SCOPE, [new])
    await until_event(one.store, "server.building")
    (delete,) = await one.engine.delete_servers(DEFAULT_SCOPE, universe.on(new.server_id))
    done = await one.engine.wait([create.id, delete.id], 60)
    assert done[create.id].state is OperationState.CANCELLED
    assert done[delete.id].state is OperationState.SUCCEEDED
    assert universe.cloud.servers() == [] and (await holding(one.store)).used == 0


async def test_a_delete_waits_for_a_create_that_is_out(make_universe):
    universe = await make_universe(create_latency=5.0, boot_seconds=100.0)
    one = await universe.incarnate()
    (new,) = universe.new()
    (create,) = await one.engine.create_servers(DEFAULT_SCOPE, [new])
    await until(lambda: universe.cloud.calls["create"] > 0)
    (delete,) = await one.engine.delete_servers(DEFAULT_SCOPE, universe.on(new.server_id))
    done = await one.engine.wait([create.id, delete.id], 60)
    assert done[create.id].state is OperationState.CANCELLED
    assert done[delete.id].state is OperationState.SUCCEEDED
    assert universe.cloud.servers() == [] and (await holding(one.store)).used == 0


async def test_other_projects_servers_are_not_found(make_universe):
    universe = await make_universe()
    one = await universe.incarnate()
    (server_id,) = await created(universe, one)
    other = Scope("other", "somebody")
    with pytest.raises(NotFound):
        await one.engine.delete_servers(other, universe.on(server_id))
    with pytest.raises(NotFound):
        await one.engine.power_servers(other, "stop", universe.on(server_id))
    new = universe.new()
    same = [type(n)(**{**_fields(n), "request_id": "create-1"}) for n in new]
    (record,) = await one.engine.create_servers(other, same)
    assert record.id == new[0].operation_id, "request ids are the project's own"


async def test_an_unknown_account_is_not_found(make_universe):
    universe = await make_universe()
    one = await universe.incarnate()
    (new,) = universe.new()
    with pytest.raises(NotFound):
        await one.engine.create_servers(DEFAULT_SCOPE, [type(new)(**{**_fields(new), "account": "nowhere"})])


async def test_the_lease_is_given_back_when_there_is_nothing_to_do(make_universe):
    universe = await make_universe()
    one = await universe.incarnate(idle_release=3.0)
    await created(universe, one)
    assert one.engine.snapshot()[ACCOUNT]["serving"]
    await asyncio.sleep(4.0)
    assert not one.engine.snapshot()[ACCOUNT]["serving"]
    assert (await rows(one.store, operations))[0].state == "succeeded"


def _fields(struct):
    return {name: getattr(struct, name) for name in struct.__struct_fields__}


async def test_a_delete_of_what_is_being_taken_back_counts_once(make_universe):
    universe = await make_universe(boot_seconds=2.0)
    one = await universe.incarnate()
    universe.cloud.inject("create", "failed_build")
    universe.cloud.inject("delete", "unreachable", times=3)
    (new,) = universe.new()
    (create,) = await one.engine.create_servers(DEFAULT_SCOPE, [new])
    await until_event(one.store, "operation.retrying")
    (delete,) = await one.engine.delete_servers(DEFAULT_SCOPE, universe.on(new.server_id))
    done = await one.engine.wait([create.id, delete.id], 600)
    assert done[create.id].state is OperationState.FAILED and done[delete.id].state is OperationState.SUCCEEDED
    assert universe.cloud.servers() == [] and await holding(one.store) == Holding()


async def test_only_a_listener_oracle_is_asked_who_listens(make_universe, monkeypatch):
    class Oracle(SimulatedDriver):
        async def verify_listener(self, provider_id, address, port, *, timeout):
            assert timeout == self.capabilities.call_timeout
            return port == 80

    universe = await make_universe()
    plain = await universe.incarnate(start=False)
    assert await plain.engine.owns_listener(ACCOUNT, "sim-1", "127.0.0.1", 80) is None
    monkeypatch.setattr("pelagos.clouds.simulated.plugin.SimulatedDriver", Oracle)
    oracle = await universe.incarnate(start=False)
    assert await oracle.engine.owns_listener(ACCOUNT, "sim-1", "127.0.0.1", 80) is True
    assert await oracle.engine.owns_listener(ACCOUNT, "sim-1", "127.0.0.1", 81) is False


async def test_the_queue_of_a_server_has_one_order_also_where_times_are_equal(make_universe):
    universe = await make_universe()
    one = await universe.incarnate()
    (server_id,) = await created(universe, one)
    await one.stop()
    two = await universe.incarnate(start=False)
    queue = [
        (await two.engine.power_servers(DEFAULT_SCOPE, verb, universe.on(server_id)))[0]
        for verb in ("stop", "start", "reboot", "stop")
    ]
    ids = {record.id for record in queue}

    def same_time(connection):
        connection.execute(update(operations).where(operations.c.id.in_(ids)).values(created_at=5.0))

    def finish(operation_id):
        def write(connection):
            connection.execute(update(operations).where(operations.c.id == operation_id).values(finished_at=6.0))

        return write

    def free(connection):
        return free_successors(connection, ACCOUNT, 7.0)

    async def up():
        return [row.id for row in await rows(two.store, operations, finished_at=None) if row.next_at < WAITING]

    await two.store.run(same_time)
    order = [queue[0].id, *sorted(record.id for record in queue[1:])]
    for operation_id in order:
        assert await up() == [operation_id]
        assert await two.store.run(free) == 0  # nobody overtakes who is up
        await two.store.run(finish(operation_id))
        await two.store.run(free)
    assert await up() == []
