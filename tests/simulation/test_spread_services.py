"""Services spread over three containers on one exchange and one database, in virtual time: an infrastructure is built,
and looked after by whoever is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pelagos.clouds import AccountConfig, Plugins, Pool
from pelagos.clouds.simulated import SimulatedCloud, SimulatedOptions, SimulatedPlugin
from pelagos.container import Container, ContainerConfig
from pelagos.container.apps import AppManager
from pelagos.exchange import MemoryTransport, Transport
from pelagos.model import DEFAULT_SCOPE
from pelagos.model.states import RunState
from pelagos.process import client
from pelagos.runtime import Settings
from pelagos.runtime.releases import builtin_plan
from pelagos.runtime.resources import HostResources
from pelagos.services.infrastructure import InfrastructureService, queries
from pelagos.services.infrastructure.health import Prober
from pelagos.simulation import SimulatedWorld, VirtualLoop, run_virtual
from pelagos.store import LeaseKeeper, Store, open_simulated_store
from pelagos.store.simulated import SimulatedDatabase
from pelagos.wire.infrastructures import RunRequest
from support.infrastructure_world import CloudProber, describe
from support.operations_world import Facts


class Site:
    """What the containers share."""

    def __init__(self, loop: VirtualLoop, seed: int) -> None:
        self.loop = loop
        self.world = SimulatedWorld(seed, loop)
        self.database = SimulatedDatabase(self.world)
        self.transport = MemoryTransport(self.world)
        self.east = SimulatedCloud(self.world, name="east", options=SimulatedOptions(boot_seconds=20.0))
        self.settings = Settings(maintain_interval=10.0)

    @asynccontextmanager
    async def container(
        self, name: str, apps: Sequence[str], exchange: Transport | None = None
    ) -> AsyncIterator[tuple[Container, LeaseKeeper]]:
        world = self.world
        store = open_simulated_store(world, database=self.database, before=(0.0, 0.01), after=(0.0, 0.01), name=name)
        await store.start()
        config = ContainerConfig(id=name, system="site", call_timeout=60.0)
        async with (
            LeaseKeeper(store, world, Facts(set()), holder_id=name).running() as keeper,
            Container(world, config, exchange or self.transport, shared_transport=True) as container,
        ):
            plugins = Plugins({"simulated": SimulatedPlugin({"east": self.east})}, source=lambda *, group: ())
            pool = Pool([AccountConfig(name="east", driver="simulated")], plugins, world, Path("/nowhere"))
            prober = CloudProber({"east": self.east})
            given: dict[type[Any], object] = {Store: store, LeaseKeeper: keeper, Pool: pool, Prober: prober}
            manager = AppManager(container, HostResources(container, self.settings, given))
            await manager.start(builtin_plan(*apps))
            yield container, keeper
            await manager.stop_all()
            await pool.close()
        await store.stop()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_build_on_three_containers_and_what_one_of_them_leaves(seed: int) -> None:
    async def main(loop: VirtualLoop) -> None:
        site = Site(loop, seed)
        await site.transport.start()
        eye = open_simulated_store(site.world, database=site.database, name="eye")
        await eye.start()
        async with (
            site.container("clouds", ["compute"]) as (front, _),
            AsyncExitStack() as second,
            AsyncExitStack() as first,
        ):
            keepers = {
                "one": (await first.enter_async_context(site.container("one", ["infrastructure"])))[1],
                "two": (await second.enter_async_context(site.container("two", ["infrastructure"])))[1],
            }
            commands = client(InfrastructureService, front.edge)
            sources = describe("shop", {"store": {}, "web": {"after": ("store",), "scaling": (3, 3)}})
            request = RunRequest(kind="up", sources=sources, entries=("infra.yaml", "nodes.yaml"))
            began = loop.time()
            run = await commands.start_run(request)
            read_run = partial(queries.run, scope=DEFAULT_SCOPE, run_id=run.id)
            while not (now := await eye.read(read_run)).state.final:  # noqa: ASYNC110 - a row
                await asyncio.sleep(0.1)
            assert now.state is RunState.SUCCEEDED, now.error
            assert 40.0 <= loop.time() - began < 60.0, "two levels of twenty seconds each"

            name = f"infrastructure:{run.infrastructure_id}"
            [holder] = [who for who, keeper in keepers.items() if keeper.held(name)]
            stopped, left = (first, "two") if holder == "one" else (second, "one")
            await stopped.aclose()
            gave_up = loop.time()
            while keepers[left].held(name) is None:  # noqa: ASYNC110 - virtual time
                await asyncio.sleep(0.01)
            assert loop.time() - gave_up < 2.0, "a lease that is given back is not waited for until it expires"

            site.east.vanish(site.east.servers()[-1].provider_id)
            assert len(site.east.servers()) == 3
            while len([server for server in site.east.servers() if site.east.healthy(server.provider_id)]) < 4:
                await asyncio.sleep(0.5)
                assert loop.time() - gave_up < 120.0, "it is healed by the one that is left"
            while (status := await eye.read(lambda c: queries.status(c, DEFAULT_SCOPE, "shop"))).state != "ready":
                await asyncio.sleep(0.5)
                assert loop.time() - gave_up < 120.0, status.reason
        await eye.stop()
        await site.transport.stop()

    run_virtual(main)
