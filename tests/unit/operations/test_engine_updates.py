"""Servers changed in place: in order, as often as it takes, and never undone by what comes late."""

from __future__ import annotations

import msgspec
import pytest

from pelagos.clouds import ServerSpec
from pelagos.model import DEFAULT_SCOPE, OperationState
from pelagos.model.errors import Conflict
from pelagos.operations import ServerUpdate
from pelagos.store.schema import servers
from support.operations_world import event_kinds, holding, rows, states, until

pytestmark = pytest.mark.anyio

CAN = {"updates": ["flavor"]}


def wanted(universe, server_id, flavor, **options):
    (action,) = universe.on(server_id)
    values = options.pop("values", {"flavor": flavor})
    return ServerUpdate(**msgspec.structs.asdict(action) | options, values=values, label=flavor, former="before")


async def made(universe, one):
    (new,) = universe.new(resource={"flavor": "small", "image": "one"})
    records = await one.engine.create_servers(DEFAULT_SCOPE, [new])
    assert states(await one.engine.wait([r.id for r in records], 60)) == {OperationState.SUCCEEDED}
    return new.server_id


async def changed(one, *updates, timeout=600):
    records = await one.engine.update_servers(DEFAULT_SCOPE, list(updates))
    done = await one.engine.wait([r.id for r in records], timeout)
    return [done[r.id] for r in records]


async def spec(one):
    (row,) = await rows(one.store, servers)
    return msgspec.msgpack.decode(row.spec_blob, type=ServerSpec)


def flavor(universe):
    (server,) = universe.cloud.servers()
    return server.flavor


async def test_the_server_and_its_record_are_changed(make_universe):
    universe = await make_universe(**CAN)
    one = await universe.incarnate()
    server_id = await made(universe, one)
    before = await holding(one.store)
    update = wanted(universe, server_id, "large")
    for _ in range(2):  # a repeat of the request finds the first one's operation
        (record,) = await changed(one, update)
        assert record.state is OperationState.SUCCEEDED and record.kind == "server.update"
    assert flavor(universe) == "large" and universe.cloud.calls["update"] == 1
    assert (await spec(one)).options == {"flavor": "large", "image": "one"}
    assert await holding(one.store) == before
    assert (await event_kinds(one.store)).count("server.updated") == 1
    assert await one.engine.updates("cloud") == {"flavor"}


async def test_a_key_without_a_value_is_as_if_nobody_had_said_it(make_universe):
    universe = await make_universe(**CAN)
    one = await universe.incarnate()
    server_id = await made(universe, one)
    await changed(one, wanted(universe, server_id, "large"))
    await changed(one, wanted(universe, server_id, "none", values={"flavor": None}))
    assert flavor(universe) == "small" and (await spec(one)).options == {"image": "one"}


async def test_they_are_carried_out_in_order_and_after_the_create(make_universe):
    universe = await make_universe(**CAN, create_latency=2.0, power_latency=1.0)
    one = await universe.incarnate()
    (new,) = universe.new(resource={"flavor": "small"})
    await one.engine.create_servers(DEFAULT_SCOPE, [new])
    updates = [wanted(universe, new.server_id, name) for name in ("large", "huge", "small", "tiny")]
    done = await changed(one, *updates)
    assert states({r.id: r for r in done}) == {OperationState.SUCCEEDED}
    finished = [record.finished_at for record in done]
    assert finished == sorted(finished) and flavor(universe) == "tiny"


@pytest.mark.parametrize("fault", ["reply_lost", "connection_closed", "request_lost", "error_before", "late"])
async def test_an_unknown_outcome_is_repeated_when_the_first_call_has_had_its_time(make_universe, fault):
    universe = await make_universe(**CAN, late_by=14.0)
    one = await universe.incarnate()
    server_id = await made(universe, one)
    universe.cloud.inject("update", fault)
    first, second = await changed(one, wanted(universe, server_id, "large"), wanted(universe, server_id, "huge"))
    assert (first.state, second.state) == (OperationState.SUCCEEDED,) * 2
    capabilities = universe.cloud.options
    assert first.finished_at - first.created_at >= capabilities.call_timeout + capabilities.settle
    assert universe.cloud.calls["update"] == 3 and universe.cloud.under_way() == 0
    assert flavor(universe) == "huge"


async def test_what_a_dead_worker_had_in_hand_never_undoes_a_later_change(make_universe):
    universe = await make_universe(**CAN, late_by=14.0)
    one = await universe.incarnate()
    server_id = await made(universe, one)
    universe.cloud.inject("update", "late")
    (record,) = await one.engine.update_servers(DEFAULT_SCOPE, [wanted(universe, server_id, "large")])
    await until(lambda: universe.cloud.calls["update"] == 1)
    await one.crash()
    two = await universe.incarnate()
    (last,) = await changed(two, wanted(universe, server_id, "huge"))
    (first,) = (await two.engine.wait([record.id], 60)).values()
    assert (first.state, last.state) == (OperationState.SUCCEEDED,) * 2
    assert universe.cloud.under_way() == 0 and flavor(universe) == "huge"
    universe.assert_nothing_doubled()


async def test_a_key_that_the_cloud_does_not_change_is_refused(make_universe):
    universe = await make_universe(**CAN)
    one = await universe.incarnate()
    server_id = await made(universe, one)
    (record,) = await changed(one, wanted(universe, server_id, "x", values={"flavor": "large", "image": "two"}))
    assert record.state is OperationState.FAILED and record.error.code == "unsupported"
    assert flavor(universe) == "small" and (await spec(one)).options["image"] == "one"


async def test_one_that_its_cloud_does_not_take_fails_in_the_end(make_universe):
    universe = await make_universe(**CAN, faults={"unreachable": 0.0})
    one = await universe.incarnate()
    server_id = await made(universe, one)
    universe.cloud.inject("update", "busy", delay=1000.0)
    update = wanted(universe, server_id, "large", expires_at=universe.world.now() + 60.0)
    (record,) = await changed(one, update)
    assert record.state is OperationState.FAILED and record.error.code == "cloud_busy"
    assert 55.0 <= record.finished_at - record.created_at <= 100.0


async def test_a_delete_overtakes_it(make_universe):
    universe = await make_universe(**CAN, power_latency=3.0)
    one = await universe.incarnate()
    server_id = await made(universe, one)
    updates = [wanted(universe, server_id, name) for name in ("large", "huge")]
    records = await one.engine.update_servers(DEFAULT_SCOPE, updates)
    await until(lambda: universe.cloud.calls["update"] == 1)
    (delete,) = await one.engine.delete_servers(DEFAULT_SCOPE, universe.on(server_id))
    done = await one.engine.wait([*(r.id for r in records), delete.id], 600)
    assert done[delete.id].state is OperationState.SUCCEEDED and universe.cloud.servers() == []
    assert done[records[1].id].state is OperationState.CANCELLED
    with pytest.raises(Conflict):
        await one.engine.update_servers(DEFAULT_SCOPE, [wanted(universe, server_id, "tiny")])


async def test_a_server_that_is_gone(make_universe):
    universe = await make_universe(**CAN)
    one = await universe.incarnate()
    server_id = await made(universe, one)
    universe.cloud.vanish(universe.cloud.servers()[0].provider_id)
    (record,) = await changed(one, wanted(universe, server_id, "large"))
    assert record.state is OperationState.FAILED and record.error.code == "server_not_found"
