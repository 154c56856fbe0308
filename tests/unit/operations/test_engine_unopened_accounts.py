"""An account whose cloud cannot be opened: creates are refused with the reason, all else waits and says why."""

from __future__ import annotations

import asyncio

import pytest

from pelagos.clouds import AccountConfig, CloudUnreachable
from pelagos.clouds.simulated import SimulatedPlugin
from pelagos.model import DEFAULT_SCOPE, OperationState
from pelagos.model.errors import InvalidInput, NotFound, PelagosError
from pelagos.operations.reading import operations_by_id
from pelagos.quotas import Holding
from support.operations_world import ACCOUNT, event_kinds, holding, open_attempts, states, until, until_event

pytestmark = pytest.mark.anyio

UNSET = NotFound("the secret is in the environment variable X, which is not set", advice="Set it.")


class Doors:
    """Whether the cloud can be opened. ``tries`` counts."""

    def __init__(self) -> None:
        self.shut: PelagosError | None = None
        self.tries = 0


@pytest.fixture
def doors(monkeypatch):
    doors, opened = Doors(), SimulatedPlugin.open

    async def open_(plugin, context):
        doors.tries += 1
        if doors.shut is not None:
            raise doors.shut
        return await opened(plugin, context)

    monkeypatch.setattr(SimulatedPlugin, "open", open_)
    return doors


async def record(one, operation_id):
    return (await one.store.read(lambda connection: operations_by_id(connection, [operation_id])))[operation_id]


async def test_creates_are_refused_with_the_reason_and_nothing_is_left(make_universe, doors):
    universe = await make_universe()
    doors.shut = UNSET
    one = await universe.incarnate()
    records = await one.engine.create_servers(DEFAULT_SCOPE, universe.new(3))
    done = await one.engine.wait([r.id for r in records], 10)
    assert states(done) == {OperationState.FAILED}
    assert {d.error.message for d in done.values()} == {UNSET.message}
    assert {d.error.code for d in done.values()} == {"not_found"}
    assert await holding(one.store) == Holding()
    assert await open_attempts(one.store) == []
    doors.shut = None
    (again,) = await one.engine.create_servers(DEFAULT_SCOPE, universe.new())
    assert states(await one.engine.wait([again.id], 10)) == {OperationState.SUCCEEDED}
    assert len(universe.cloud.servers()) == 1


async def test_one_failure_is_none(make_universe, doors):
    universe = await make_universe()
    doors.shut = UNSET
    one = await universe.incarnate()
    (made,) = await one.engine.create_servers(DEFAULT_SCOPE, universe.new())
    await until(lambda: one.engine.workers()[ACCOUNT].snapshot()["last_failure"] is not None)
    doors.shut = None
    assert states(await one.engine.wait([made.id], 60)) == {OperationState.SUCCEEDED}


async def test_what_is_there_waits_says_why_and_is_deleted_when_the_account_is_mended(make_universe, doors):
    universe = await make_universe()
    one = await universe.incarnate()
    (made,) = await one.engine.create_servers(DEFAULT_SCOPE, universe.new())
    await one.engine.wait([made.id], 60)
    doors.shut = InvalidInput("secret_key is missing")
    one.pool.reload([AccountConfig(name=ACCOUNT, driver="simulated", parallel_calls=2)])
    (delete,) = await one.engine.delete_servers(DEFAULT_SCOPE, universe.on(made.target_id))

    await until_event(one.store, "operation.retrying")
    waiting = await record(one, delete.id)
    assert waiting.state is OperationState.PENDING and waiting.error.message == "secret_key is missing"
    assert waiting.error.retry.value == "transient", "it is not the delete that is at fault"
    await asyncio.sleep(600)
    told_of = await event_kinds(one.store, operation_id=delete.id)
    assert told_of.count("operation.retrying") == 1, "told once, not at each try"
    assert len(universe.cloud.servers()) == 1
    doors.shut = None
    one.pool.reload([AccountConfig(name=ACCOUNT, driver="simulated")])
    assert states(await one.engine.wait([delete.id], 120)) == {OperationState.SUCCEEDED}
    assert universe.cloud.servers() == []


async def test_what_may_have_been_sent_is_not_given_up(make_universe, doors):
    universe = await make_universe(create_latency=3.0)
    first = await universe.incarnate()
    (made,) = await first.engine.create_servers(DEFAULT_SCOPE, universe.new())
    await until(lambda: universe.cloud.in_flight >= 1)
    await first.crash()
    doors.shut = UNSET
    second = await universe.incarnate()
    await asyncio.sleep(120)
    waiting = await record(second, made.id)
    assert waiting.state is OperationState.UNCERTAIN and waiting.error.message == UNSET.message
    assert doors.tries > 3
    doors.shut = None
    await second.engine.wait([made.id], 300)
    assert (await record(second, made.id)).state is OperationState.SUCCEEDED
    assert len(universe.cloud.servers()) == 1, "it is the one that the first process asked for"


async def test_a_cloud_that_is_away_when_it_is_opened_is_waited_for(make_universe, doors):
    universe = await make_universe()
    doors.shut = CloudUnreachable("nobody answers")
    one = await universe.incarnate()
    (made,) = await one.engine.create_servers(DEFAULT_SCOPE, universe.new())
    await asyncio.sleep(200)
    waiting = await record(one, made.id)
    assert waiting.state is OperationState.PENDING and waiting.error.message == "nobody answers"
    doors.shut = None
    assert states(await one.engine.wait([made.id], 60)) == {OperationState.SUCCEEDED}


async def test_an_account_that_another_process_serves_is_left_to_it(make_universe, doors):
    universe = await make_universe(create_latency=2.0)
    able = await universe.incarnate(idle_release=1000.0)
    (first,) = await able.engine.create_servers(DEFAULT_SCOPE, universe.new())
    await able.engine.wait([first.id], 60)
    doors.shut = UNSET
    unable = await universe.incarnate()
    (made,) = await unable.engine.create_servers(DEFAULT_SCOPE, universe.new())
    assert states(await unable.engine.wait([made.id], 60)) == {OperationState.SUCCEEDED}
    assert len(universe.cloud.servers()) == 2
