"""A young server that its listing lacks: in doubt, unless its cloud still tells that it has ended it."""

import pytest

from pelagos.clouds import CloudServer, ServerGone
from pelagos.clouds.simulated.driver import SimulatedDriver
from pelagos.model import DEFAULT_SCOPE, ServerState
from pelagos.operations.observation import compare
from support.operations_world import ACCOUNT, event_kinds, server_states

pytestmark = pytest.mark.anyio


async def _built(make_universe):
    universe = await make_universe()
    one = await universe.incarnate()
    records = await one.engine.create_servers(DEFAULT_SCOPE, universe.new(2))
    await one.engine.wait([record.id for record in records], 60)
    universe.cloud.vanish(universe.cloud.servers()[0].provider_id)
    return universe, one


@pytest.mark.parametrize("answer", ["gone", "deleted"])
async def test_one_that_its_cloud_has_ended_is_gone_at_once(make_universe, monkeypatch, answer):
    universe, one = await _built(make_universe)

    async def get_server(self, provider_id, *, timeout):
        if answer == "gone":
            raise ServerGone(f"{provider_id} was terminated")
        return CloudServer(provider_id=provider_id, name="", state=ServerState.DELETED)

    monkeypatch.setattr(SimulatedDriver, "get_server", get_server)
    began = universe.world.monotonic()
    result = await one.engine.refresh([ACCOUNT])
    assert universe.world.monotonic() - began < 1.0 and (result.errors, result.doubts) == ({}, {})
    assert sorted((await server_states(one.store)).values()) == ["active", "deleted"]
    assert (await event_kinds(one.store)).count("server.vanished") == 1


async def test_one_that_its_cloud_does_not_know_is_in_doubt_for_the_settling_time(make_universe):
    _, one = await _built(make_universe)
    result = await one.engine.refresh([ACCOUNT])
    assert len(result.doubts) == 1 and set((await server_states(one.store)).values()) == {"active"}


async def test_one_that_is_listed_as_deleted_is_gone():
    ended, left = (
        CloudServer(provider_id=f"i-{state.value}", name="web", state=state)
        for state in (ServerState.DELETED, ServerState.ACTIVE)
    )
    known = [(server.provider_id, server.provider_id, "active", "", "", 100.0) for server in (ended, left)]
    changes = compare(known, [ended], started_at=101.0, settle=20.0, in_hand=set())
    assert changes.gone == (("i-deleted", 100.0),)
    assert changes.early == (("i-active", 100.0, "i-active", 120.001),)
    assert not changes.changed and not changes.absent
