"""Storms: seeded faults in every call and crashes at any moment; then calm, and nothing doubled, orphaned or lost."""

import asyncio
import contextlib
import random

import pytest

from pelagos.clouds.simulated import Faults
from pelagos.model import DEFAULT_SCOPE, OperationState, ServerState
from pelagos.model.errors import Conflict
from pelagos.quotas import Holding
from pelagos.store.schema import attempts, operations, servers
from support.operations_world import ACCOUNT, holding, rows

pytestmark = pytest.mark.anyio

POWER = ["stop", "start", "reboot"]
STORM = Faults(
    unreachable=0.05,
    rate_limited=0.03,
    error_before=0.04,
    error_after=0.04,
    request_lost=0.04,
    reply_lost=0.05,
    connection_closed=0.04,
    late=0.04,
    slow=0.05,
    failed_build=0.05,
    stuck_delete=0.05,
    no_capacity=0.03,
)


@pytest.mark.parametrize("seed", [*range(10), 61, 117])
async def test_after_a_storm_the_store_and_the_cloud_agree(make_universe, seed):
    dice = random.Random(seed)
    universe = await make_universe(
        token_lookup=dice.choice(["tag", "idempotent", "name"]),
        create_latency={"uniform": [0.1, 3.0]},
        delete_latency=0.5,
        power_latency=0.3,
        power_seconds=1.0,
        boot_seconds={"uniform": [0.0, 6.0]},
        visibility_delay={"uniform": [0.0, 4.0]},
        late_by={"uniform": [1.0, 15.0]},
        slow_by=3.0,
        parallel_calls=dice.choice([2, 8]),
        seed=seed,
    )
    universe.cloud.faults = STORM
    one = await universe.incarnate()
    asked, dropped = [], []
    for _ in range(8):
        new = universe.new(dice.randrange(1, 5))
        await one.engine.create_servers(DEFAULT_SCOPE, new)
        asked += new
        await asyncio.sleep(dice.uniform(0.0, 6.0))
        for request in dice.sample(asked, min(len(asked), dice.randrange(3))):
            await one.engine.delete_servers(DEFAULT_SCOPE, universe.on(request.server_id))
            dropped.append(request.server_id)
        for request in dice.sample(asked, min(len(asked), dice.randrange(2))):
            # Its server may be gone, or going.
            with contextlib.suppress(Conflict):
                await one.engine.power_servers(DEFAULT_SCOPE, dice.choice(POWER), universe.on(request.server_id))
        match dice.randrange(4):
            case 0:
                await one.crash()
                one = await universe.incarnate()
            case 1:
                # Two at once: one works, the other takes over when it dies.
                other = await universe.incarnate()
                await asyncio.sleep(dice.uniform(0.0, 2.0))
                await one.crash()
                one = other
            case 2:
                other = await universe.incarnate()
                await one.stop()
                one = other
        if dice.random() < 0.3:
            await one.engine.refresh([ACCOUNT])
    universe.cloud.calm()
    every = [row.id for row in await rows(one.store, operations)]
    done = await one.engine.wait(every, 4 * 3600)
    assert all(record.state.final for record in done.values())
    for _ in range(4):
        await asyncio.sleep(150.0)
        refreshed = await one.engine.refresh([ACCOUNT])
        assert not refreshed.errors
    await one.engine.wait([row.id for row in await rows(one.store, operations)], 3600)

    universe_ids = {server.provider_id for server in universe.cloud.servers()}
    live = {row.provider_id: row for row in await rows(one.store, servers) if row.deleted_at is None}
    assert set(live) == universe_ids, "the store and the cloud agree"
    by_provider = {server.provider_id: server.state for server in universe.cloud.servers()}
    assert {row.provider_id: row.state for row in live.values()} == by_provider
    assert set(by_provider.values()) <= {ServerState.ACTIVE, ServerState.STOPPED}
    assert not {row.id for row in live.values()} & set(dropped), "what was deleted is gone"
    created = {row.target_id: row for row in await rows(one.store, operations) if row.kind == "server.create"}
    assert {i for i, row in created.items() if row.state == OperationState.SUCCEEDED} - set(dropped) == {
        row.id for row in live.values()
    }, "every create that succeeded and was not deleted is there"
    assert all(row.state != "open" for row in await rows(one.store, attempts))
    assert await holding(one.store) == Holding(used=len(live))
    universe.assert_nothing_doubled()

    left = await one.engine.delete_servers(DEFAULT_SCOPE, universe.on(*(row.id for row in live.values())))
    await one.engine.wait([record.id for record in left], 3600)
    assert universe.cloud.servers() == []
    assert await holding(one.store) == Holding()
