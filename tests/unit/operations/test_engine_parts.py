"""Servers that need volumes and an address first: made in order, taken back in reverse, never leaked nor doubled."""

from functools import partial

import pytest

from pelagos.clouds import PartKind
from pelagos.clouds.errors import CloudAuthFailed
from pelagos.clouds.simulated import SimulatedPlugin
from pelagos.model import DEFAULT_SCOPE, OperationState, Scope, ServerState
from pelagos.model.errors import QuotaExceeded
from pelagos.model.states import PartState
from pelagos.operations.parts import part_id
from pelagos.quotas import set_limit
from pelagos.services.compute import list_parts, parts_of_server
from pelagos.store.schema import attempts, operations, parts, servers
from support.operations_world import (
    ACCOUNT,
    CrashAt,
    event_kinds,
    living_parts,
    open_attempts,
    operation_states,
    rows,
    server_states,
    states,
    until,
    until_operation,
    used,
)

pytestmark = pytest.mark.anyio

RESOURCE = {"volumes": 2, "volume_gb": 5, "address": True}
SLOW = {
    "part_latency": 0.2,
    "part_seconds": 3.0,
    "part_delete_seconds": 1.0,
    "create_latency": 0.3,
    "boot_seconds": 2.0,
}
EVERYTHING = {"servers": 1, "volumes": 2, "volume_gb": 10, "addresses": 1}


async def build(one, universe, **resource):
    new = universe.new(resource={**RESOURCE, **resource})
    (record,) = await one.engine.create_servers(DEFAULT_SCOPE, new)
    done = await one.engine.wait([record.id], 3600)
    return new[0], done[record.id]


async def later(universe, seconds):
    """So much (virtual) time passes."""
    end = universe.world.monotonic() + seconds
    await until(lambda: universe.world.monotonic() >= end)


async def nothing_left(universe, store):
    assert universe.cloud.servers() == [] and universe.cloud.parts() == []
    assert await living_parts(store) == [] and await open_attempts(store) == []
    assert await used(store) == {}


async def test_parts_are_made_in_order_before_their_server_which_then_has_them(make_universe):
    universe = await make_universe(**SLOW)
    one = await universe.incarnate()
    _, done = await build(one, universe)
    assert done.state is OperationState.SUCCEEDED
    made = await living_parts(one.store)
    assert [(p.key, p.kind, p.state) for p in sorted(made, key=lambda p: p.position)] == [
        ("volume-1", "volume", PartState.READY),
        ("volume-2", "volume", PartState.READY),
        ("address", "address", PartState.READY),
    ]
    assert {p.provider_id for p in made} == {p.provider_id for p in universe.cloud.parts()}
    (server,) = universe.cloud.servers()
    assert {universe.cloud.user_of(p.provider_id) for p in made} == {server.provider_id}
    # Its address is the one that was made for it, and it was not there before it had it.
    address = next(p.address for p in made if p.key == "address")
    assert server.addresses[0] == address
    assert [row.addresses for row in await rows(one.store, servers)] == [f'["{address}","{server.addresses[1]}"]']
    kinds = await event_kinds(one.store)
    assert kinds == [
        *["part.created", "part.ready"] * 3,
        "server.building",
        "server.active",
    ]
    assert await used(one.store) == EVERYTHING
    assert len(await rows(one.store, attempts)) == 4
    assert await open_attempts(one.store) == []


async def test_what_is_asked_of_parts(make_universe):
    universe = await make_universe(**SLOW)
    one = await universe.incarnate()
    new, _ = await build(one, universe)
    listed = await one.store.read(partial(list_parts, scope=DEFAULT_SCOPE, account=ACCOUNT))
    assert {part.key for part in listed} == {"volume-1", "volume-2", "address"}
    volumes = await one.store.read(partial(list_parts, scope=DEFAULT_SCOPE, kind=PartKind.VOLUME, limit=1))
    following = partial(list_parts, scope=DEFAULT_SCOPE, kind=PartKind.VOLUME, after=volumes[0].id)
    assert {volumes[0].key, *(part.key for part in await one.store.read(following))} == {"volume-1", "volume-2"}
    of_server = partial(parts_of_server, scope=DEFAULT_SCOPE, server_id=new.server_id)
    assert [part.key for part in await one.store.read(of_server)] == ["volume-1", "volume-2", "address"]
    stranger = Scope("other", "other")
    assert await one.store.read(partial(list_parts, scope=stranger)) == []
    assert await one.store.read(partial(parts_of_server, scope=stranger, server_id=new.server_id)) == []
    (record,) = await one.engine.delete_servers(DEFAULT_SCOPE, universe.on(new.server_id))
    await one.engine.wait([record.id], 3600)
    assert await one.store.read(partial(list_parts, scope=DEFAULT_SCOPE)) == []
    gone = await one.store.read(partial(list_parts, scope=DEFAULT_SCOPE, deleted=True))
    assert {part.state for part in gone} == {PartState.DELETED} and len(gone) == 3


async def test_a_delete_takes_the_server_first_and_its_parts_in_reverse(make_universe):
    universe = await make_universe(**SLOW, delete_seconds=4.0)
    one = await universe.incarnate()
    new, _ = await build(one, universe)
    order = [p.provider_id for p in universe.cloud.parts()]
    (record,) = await one.engine.delete_servers(DEFAULT_SCOPE, universe.on(new.server_id))
    done = await one.engine.wait([record.id], 3600)
    assert states(done) == {OperationState.SUCCEEDED}
    await nothing_left(universe, one.store)
    gone = sorted(await rows(one.store, parts), key=lambda p: p.deleted_at)
    assert [p.provider_id for p in gone] == list(reversed(order))
    (server,) = await rows(one.store, servers)
    assert server.deleted_at >= gone[-1].deleted_at
    assert (await event_kinds(one.store))[-4:] == ["part.deleted"] * 3 + ["server.deleted"]


async def test_a_part_in_use_is_deleted_as_soon_as_the_cloud_lets_it_go(make_universe):
    universe = await make_universe(**SLOW, refuse_for=30.0)
    one = await universe.incarnate()
    new, _ = await build(one, universe)
    universe.cloud.inject("unpart", "busy")
    (record,) = await one.engine.delete_servers(DEFAULT_SCOPE, universe.on(new.server_id))
    await one.engine.wait([record.id], 3600)
    await nothing_left(universe, one.store)
    assert "operation.retrying" in await event_kinds(one.store)


async def test_kept_volumes_stay_and_are_counted(make_universe):
    universe = await make_universe(**SLOW)
    one = await universe.incarnate()
    new, _ = await build(one, universe, keep_volumes=True)
    (record,) = await one.engine.delete_servers(DEFAULT_SCOPE, universe.on(new.server_id))
    assert states(await one.engine.wait([record.id], 3600)) == {OperationState.SUCCEEDED}
    assert [p.kind for p in universe.cloud.parts()] == ["volume", "volume"]
    assert await used(one.store) == {"volumes": 2, "volume_gb": 10}
    for _ in range(3):
        await one.engine.refresh([ACCOUNT])
    assert len(universe.cloud.parts()) == 2 and len(await living_parts(one.store)) == 2


@pytest.mark.parametrize(
    ("verb", "fault"),
    [
        ("part", "rejected"),
        ("part", "no_capacity"),
        ("part", "failed_build"),
        ("create", "rejected"),
        ("create", "failed_build"),
        ("create", "stuck_build"),
    ],
)
@pytest.mark.parametrize("nth", [1, 3])
async def test_a_failure_takes_back_what_was_made(make_universe, verb, fault, nth):
    universe = await make_universe(**SLOW, build_timeout=60.0)
    one = await universe.incarnate(give_up_after=200.0)
    for _ in range(nth - 1 if verb == "part" else 0):
        universe.cloud.inject(verb, "slow", delay=0.1)
    # What may pass by itself is tried again until the operation gives up.
    universe.cloud.inject(verb, fault, times=1000 if fault == "no_capacity" else 1)
    new, done = await build(one, universe)
    assert done.state is OperationState.FAILED and done.error is not None
    await nothing_left(universe, one.store)
    assert set((await server_states(one.store)).values()) == {ServerState.DELETED}
    # A delete of it has nothing to do.
    (record,) = await one.engine.delete_servers(DEFAULT_SCOPE, universe.on(new.server_id))
    assert record.state is OperationState.SUCCEEDED


async def test_volumes_of_a_failed_create_are_not_kept(make_universe):
    universe = await make_universe(**SLOW)
    one = await universe.incarnate()
    universe.cloud.inject("create", "rejected")
    _, done = await build(one, universe, keep_volumes=True)
    assert done.state is OperationState.FAILED
    await nothing_left(universe, one.store)


@pytest.mark.parametrize(
    "fault", ["reply_lost", "connection_closed", "error_after", "late", "request_lost", "error_before"]
)
@pytest.mark.parametrize("lookup", ["tag", "idempotent"])
@pytest.mark.parametrize("verb", ["part", "finish"])
async def test_an_unknown_outcome_makes_no_second_part(make_universe, verb, lookup, fault):
    universe = await make_universe(**SLOW, token_lookup=lookup, late_by=8.0, visibility_delay=6.0)
    one = await universe.incarnate()
    universe.cloud.inject(verb, fault)
    _, done = await build(one, universe)
    assert done.state is OperationState.SUCCEEDED
    universe.assert_nothing_doubled()
    assert len(universe.cloud.parts()) == 3
    assert await used(one.store) == EVERYTHING


async def test_a_part_that_arrives_after_its_attempt_was_given_up_is_swept(make_universe):
    universe = await make_universe(**SLOW)
    one = await universe.incarnate()
    universe.cloud.inject("part", "late", delay=400.0)
    _, done = await build(one, universe)
    assert done.state is OperationState.SUCCEEDED
    assert len(universe.cloud.parts()) == 3
    await until(lambda: len(universe.cloud.parts()) == 4)
    await one.engine.refresh([ACCOUNT])
    await until(lambda: len(universe.cloud.parts()) == 3)
    await until_operation(one.store, OperationState.RUNNING, gone=True)
    assert "part.swept" in await event_kinds(one.store)
    assert {p.provider_id for p in universe.cloud.parts()} == {p.provider_id for p in await living_parts(one.store)}


async def test_the_parts_of_a_server_that_vanished_are_deleted(make_universe):
    universe = await make_universe(**SLOW)
    one = await universe.incarnate()
    await build(one, universe, keep_volumes=True)
    (server,) = universe.cloud.servers()
    universe.cloud.vanish(server.provider_id)
    await later(universe, 60.0)
    for _ in range(2):
        await one.engine.refresh([ACCOUNT])
    await until(lambda: len(universe.cloud.parts()) == 2)
    await until_operation(one.store, OperationState.RUNNING, gone=True)
    assert {p.kind for p in await living_parts(one.store)} == {"volume"}
    assert await used(one.store) == {"volumes": 2, "volume_gb": 10}


async def test_a_part_that_vanished_has_a_tombstone(make_universe):
    universe = await make_universe(**SLOW)
    one = await universe.incarnate()
    new, _ = await build(one, universe)
    universe.cloud.lose_part(universe.cloud.parts()[0].provider_id)
    await later(universe, 60.0)
    for _ in range(2):
        await one.engine.refresh([ACCOUNT])
    assert len(await living_parts(one.store)) == 2 and "part.vanished" in await event_kinds(one.store)
    assert await used(one.store) == {"servers": 1, "volumes": 1, "volume_gb": 5, "addresses": 1}
    (record,) = await one.engine.delete_servers(DEFAULT_SCOPE, universe.on(new.server_id))
    await one.engine.wait([record.id], 3600)
    await nothing_left(universe, one.store)


async def test_a_stranger_with_a_token_is_told_of_once_and_left_alone(make_universe):
    universe = await make_universe(**SLOW)
    one = await universe.incarnate()
    await build(one, universe)
    driver = await one.pool.account(ACCOUNT).driver()
    (spec,) = [p for p in driver.parts(universe.new(resource=RESOURCE)[0].spec) if p.key == "address"]
    await driver.create_part(spec, token="somebody-elses", timeout=5.0)
    for _ in range(3):
        await one.engine.refresh([ACCOUNT])
    assert (await event_kinds(one.store)).count("part.unknown") == 1
    assert len(universe.cloud.parts()) == 4


async def test_a_server_being_finished_is_not_seen_as_active(make_universe):
    universe = await make_universe(**SLOW)
    one = await universe.incarnate()
    universe.cloud.inject("finish", "unreachable", times=6)
    (record,) = await one.engine.create_servers(DEFAULT_SCOPE, universe.new(resource=RESOURCE))
    await until(lambda: universe.cloud.calls["finish"] >= 2)
    await one.engine.refresh([ACCOUNT])
    assert set((await server_states(one.store)).values()) == {ServerState.BUILD}
    assert states(await one.engine.wait([record.id], 3600)) == {OperationState.SUCCEEDED}
    assert (await event_kinds(one.store)).count("server.active") == 1


# -- quotas ------------------------------------------------------------------------------------------------------------


async def test_a_quota_of_parts_refuses_the_whole_request_at_once(make_universe):
    universe = await make_universe(**SLOW)
    one = await universe.incarnate()
    await one.store.run(partial(set_limit, project_id=DEFAULT_SCOPE.project_id, resource="volumes", limit=3))
    with pytest.raises(QuotaExceeded, match="volumes"):
        await one.engine.create_servers(DEFAULT_SCOPE, universe.new(2, resource=RESOURCE))
    assert await rows(one.store, parts) == [] and await rows(one.store, servers) == []
    assert await used(one.store) == {}
    _, done = await build(one, universe)
    assert done.state is OperationState.SUCCEEDED


async def test_a_cloud_that_cannot_be_opened_yet_is_asked_for_parts_by_its_worker(make_universe, monkeypatch):
    universe = await make_universe(**SLOW)
    one = await universe.incarnate(start=False)
    opening = SimulatedPlugin.open

    async def closed(self, context):
        raise CloudAuthFailed("not now")

    monkeypatch.setattr(SimulatedPlugin, "open", closed)
    within, beyond = universe.new(2, resource=RESOURCE)
    await one.engine.create_servers(DEFAULT_SCOPE, [within, beyond])
    assert await rows(one.store, parts) == []
    await one.store.run(partial(set_limit, project_id=DEFAULT_SCOPE.project_id, resource="addresses", limit=1))
    monkeypatch.setattr(SimulatedPlugin, "open", opening)
    await one.start()
    done = await one.engine.wait([within.operation_id, beyond.operation_id], 3600)
    ended = sorted(done.values(), key=lambda record: record.state)
    assert [record.state for record in ended] == [OperationState.FAILED, OperationState.SUCCEEDED]
    assert ended[0].error is not None and ended[0].error.code == "quota_exceeded"
    assert len(universe.cloud.parts()) == 3 and await used(one.store) == EVERYTHING


# -- crashes and overtaking --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lookup", ["tag", "idempotent"])
@pytest.mark.parametrize("edge", range(0, 40, 4))
async def test_a_crash_at_any_edge_leaves_one_server_with_its_parts(make_universe, lookup, edge):
    universe = await make_universe(token_lookup=lookup, **SLOW)
    hooks = CrashAt()
    first = await universe.incarnate(hooks=hooks)
    new = universe.new(resource=RESOURCE)
    hooks.edge = edge
    try:
        await first.engine.create_servers(DEFAULT_SCOPE, new)
    except BaseException as error:
        assert type(error).__name__ == "Crash"
    if not await first.died():
        await first.crash()
    second = await universe.incarnate()
    (record,) = await second.engine.create_servers(DEFAULT_SCOPE, new)
    assert states(await second.engine.wait([record.id], 3600)) == {OperationState.SUCCEEDED}
    universe.assert_nothing_doubled()
    await second.engine.refresh([ACCOUNT])
    assert len(universe.cloud.servers()) == 1
    assert {p.provider_id for p in universe.cloud.parts()} == {p.provider_id for p in await living_parts(second.store)}
    assert await used(second.store) == EVERYTHING
    assert await open_attempts(second.store) == []


@pytest.mark.parametrize("edge", range(0, 30, 3))
async def test_a_crash_while_deleting_leaves_nothing(make_universe, edge):
    universe = await make_universe(**SLOW)
    hooks = CrashAt()
    first = await universe.incarnate(hooks=hooks)
    new, _ = await build(first, universe)
    action = universe.on(new.server_id)
    hooks.edge = edge
    try:
        await first.engine.delete_servers(DEFAULT_SCOPE, action)
    except BaseException as error:
        assert type(error).__name__ == "Crash"
    if not await first.died():
        await first.crash()
    second = await universe.incarnate()
    (record,) = await second.engine.delete_servers(DEFAULT_SCOPE, action)
    assert states(await second.engine.wait([record.id], 3600)) == {OperationState.SUCCEEDED}
    await nothing_left(universe, second.store)


@pytest.mark.parametrize("after", [0.0, 0.1, 1.0, 3.5, 5.0, 7.2, 7.5, 9.0, 9.6, 20.0])
async def test_a_delete_overtakes_at_any_moment(make_universe, after):
    universe = await make_universe(**SLOW)
    one = await universe.incarnate()
    new = universe.new(resource=RESOURCE)
    await one.engine.create_servers(DEFAULT_SCOPE, new)
    await later(universe, after)
    (record,) = await one.engine.delete_servers(DEFAULT_SCOPE, universe.on(new[0].server_id))
    assert states(await one.engine.wait([record.id], 3600)) == {OperationState.SUCCEEDED}
    assert not set(await operation_states(one.store)) & {OperationState.PENDING, OperationState.RUNNING}
    await nothing_left(universe, one.store)
    universe.assert_nothing_doubled()


async def test_a_delete_does_not_wait_for_a_part_that_never_becomes_ready(make_universe):
    universe = await make_universe(**SLOW, build_timeout=3000.0)
    one = await universe.incarnate()
    universe.cloud.inject("part", "stuck_build")
    new = universe.new(resource=RESOURCE)
    await one.engine.create_servers(DEFAULT_SCOPE, new)
    await until(lambda: len(universe.cloud.parts()) == 1)
    (record,) = await one.engine.delete_servers(DEFAULT_SCOPE, universe.on(new[0].server_id))
    assert states(await one.engine.wait([record.id], 100)) == {OperationState.SUCCEEDED}
    await nothing_left(universe, one.store)


async def test_what_was_never_made_is_not_counted_where_the_cloud_refuses_to_take_back_the_rest(make_universe):
    universe = await make_universe(**SLOW)
    one = await universe.incarnate()
    # The second volume fails, and the first one is not to be deleted.
    universe.cloud.inject("part", "slow", delay=0.1)
    universe.cloud.inject("part", "rejected")
    universe.cloud.inject("unpart", "auth_failed")
    _, done = await build(one, universe)
    assert done.state is OperationState.FAILED
    assert len(universe.cloud.parts()) == 1 and await used(one.store) == {"volumes": 1, "volume_gb": 5}
    await later(universe, 70.0)
    await one.engine.refresh([ACCOUNT])
    await until(lambda: universe.cloud.parts() == [])
    await until_operation(one.store, OperationState.RUNNING, gone=True)
    await nothing_left(universe, one.store)


async def test_a_part_that_no_listing_shows_yet_is_not_taken_for_gone(make_universe):
    """The cloud forgot its delete, and it becomes visible only afterwards: nobody would look for it any more."""
    universe = await make_universe(**SLOW, visibility_delay=6.0, settle=8.0)
    one = await universe.incarnate()
    universe.cloud.inject("unpart", "stuck_delete")
    new = universe.new(resource={"address": True})
    await one.engine.create_servers(DEFAULT_SCOPE, new)
    await until(lambda: len(universe.cloud.parts()) == 1)
    (record,) = await one.engine.delete_servers(DEFAULT_SCOPE, universe.on(new[0].server_id))
    assert states(await one.engine.wait([record.id], 600)) == {OperationState.SUCCEEDED}
    await nothing_left(universe, one.store)


async def test_the_deletion_of_parts_that_failed_is_asked_for_again(make_universe):
    universe = await make_universe(**SLOW)
    one = await universe.incarnate()
    await build(one, universe)
    # The server vanished, and the cloud refuses to delete what it left.
    (server,) = universe.cloud.servers()
    universe.cloud.vanish(server.provider_id)
    universe.cloud.inject("unpart", "auth_failed")
    await later(universe, 60.0)
    for _ in range(2):
        await one.engine.refresh([ACCOUNT])
    await until_operation(one.store, OperationState.FAILED)
    await later(universe, 70.0)
    await one.engine.refresh([ACCOUNT])
    await until(lambda: universe.cloud.parts() == [])
    await until_operation(one.store, OperationState.RUNNING, gone=True)
    await nothing_left(universe, one.store)


def test_a_parts_id_is_always_the_same():
    assert part_id("a", "volume-1") == part_id("a", "volume-1") != part_id("b", "volume-1")
    assert len(part_id("a", "volume-1")) == 36


async def test_without_parts_nothing_of_it_is_touched(make_universe):
    universe = await make_universe()
    one = await universe.incarnate()
    (record,) = await one.engine.create_servers(DEFAULT_SCOPE, universe.new())
    await one.engine.wait([record.id], 60)
    await one.engine.refresh([ACCOUNT])
    assert not {verb for verb in universe.cloud.calls if verb in ("part", "parts", "unpart", "finish")}
    assert {row.step for row in await rows(one.store, operations)} <= {0, 1}
