"""One seed and the same calls give the same history, whoever looks in between, and whoever dies."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelagos.clouds import CloudError, ServerSpec
from pelagos.clouds.simulated import Delay, Faults, Happening, SimulatedCloud, SimulatedDriver, SimulatedOptions
from pelagos.model.states import ServerState
from pelagos.simulation import SimulatedWorld, VirtualLoop

Result = tuple[list[Any], list[Happening], dict[str, Any]]
Action = tuple[str, int, float, float]
"""A verb, which of the tokens it concerns, seconds before it, and seconds after which its caller is cancelled."""

OPTIONS = SimulatedOptions(
    create_latency=Delay(lognormal=(0.5, 1.0)),
    delete_latency=Delay(uniform=(0.1, 2.0)),
    list_latency=0.2,
    boot_seconds=Delay(lognormal=(5.0, 0.7)),
    delete_seconds=Delay(uniform=(0.0, 5.0)),
    power_seconds=1.0,
    visibility_delay=Delay(uniform=(0.0, 4.0)),
    settle=6.0,
    max_servers=5,
    rate_limit=3.0,
    burst=4,
    spot_after=Delay(uniform=(1.0, 20.0)),
    spot_state="stopped",
    faults=Faults(
        unreachable=0.05, error_after=0.05, reply_lost=0.1, late=0.1, busy=0.1, slow=0.05,
        connection_closed=0.05, stuck_build=0.1, failed_build=0.1, spot_kill=0.2, stuck_delete=0.1,
    ),
)  # fmt: skip

actions = st.lists(
    st.tuples(
        st.sampled_from(["create", "create", "delete", "stop", "start", "reboot", "list"]),
        st.integers(0, 5),
        st.floats(0.0, 3.0),
        st.sampled_from([0.0, 0.01, 0.3, 2.0, 1e6]),
    ),
    max_size=25,
)


async def act(driver: SimulatedDriver, action: Action, outcomes: list[Any], index: int) -> None:
    verb, which, _, patience = action
    token = f"token-{which}"
    try:
        async with asyncio.timeout(patience):
            if verb == "create":
                made = await driver.create_server(ServerSpec(name=token), token=token, timeout=5.0)
                outcomes[index] = made.provider_id
            elif verb == "list":
                outcomes[index] = await driver.list_servers(timeout=5.0)
            else:
                provider_id = f"sim-{which:06d}"
                call = driver.delete_server if verb == "delete" else getattr(driver, f"{verb}_server")
                await call(provider_id, timeout=5.0)
                outcomes[index] = "done"
    except CloudError as error:
        outcomes[index] = (error.code, error.message)
    except TimeoutError:
        outcomes[index] = "cancelled"


async def play(seed: int, script: list[Action], looks: list[float]) -> Result:
    world = SimulatedWorld(seed)
    cloud = SimulatedCloud(world, options=OPTIONS)
    driver = SimulatedDriver(cloud)
    outcomes: list[Any] = [None] * len(script)

    async def look() -> None:
        for pause in looks:
            await asyncio.sleep(pause)
            cloud.servers(), cloud.history(), cloud.under_way(), cloud.probe("10.0.0.1")

    async with asyncio.TaskGroup() as group:
        group.create_task(look())
        for index, action in enumerate(script):
            await asyncio.sleep(action[2])
            group.create_task(act(driver, action, outcomes, index))
    await asyncio.sleep(200.0)
    snapshot = cloud.snapshot()
    check_history(cloud)
    return outcomes, cloud.history(), snapshot


def check_history(cloud: SimulatedCloud) -> None:
    """Of every history: it is in order, each life in it has one begin and at most one end, and the truth agrees."""
    history = cloud.history()
    assert [h.at for h in history] == sorted(h.at for h in history)
    lives: dict[str, list[Happening]] = {}
    for happening in history:
        lives.setdefault(happening.provider_id, []).append(happening)
    for life in lives.values():
        assert life[0].cause == "create"
        assert all(h.state is not ServerState.DELETED for h in life[:-1])
        assert sum(h.cause == "create" for h in life) == 1
    alive = {name for name, life in lives.items() if life[-1].state is not ServerState.DELETED}
    assert {s.provider_id for s in cloud.servers()} == alive
    assert {s.provider_id: s.state for s in cloud.servers()} == {name: lives[name][-1].state for name in alive}
    assert cloud.under_way() == 0
    assert len(alive) <= (OPTIONS.max_servers or 0)


def run(seed: int, script: list[Action], looks: list[float]) -> Result:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(play(seed, script, looks))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), actions)
def test_one_seed_and_the_same_calls_give_one_history(seed: int, script: list[Action]) -> None:
    assert run(seed, script, []) == run(seed, script, [])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), actions, st.lists(st.floats(0.01, 5.0), max_size=30))
def test_looking_changes_nothing(seed: int, script: list[Action], looks: list[float]) -> None:
    assert run(seed, script, looks) == run(seed, script, [])


def test_another_seed_gives_another_history() -> None:
    script: list[Action] = [("create", n, 1.0, 1e6) for n in range(5)]
    assert len({str(run(seed, script, [])[1]) for seed in range(5)}) == 5


@pytest.mark.anyio
async def test_the_option_seed_holds_whatever_the_world() -> None:
    drawn = []
    for world_seed in (1, 2):
        cloud = SimulatedCloud(SimulatedWorld(world_seed), options=SimulatedOptions(seed=7))
        drawn.append(cloud.rng.random())
    assert drawn[0] == drawn[1]
