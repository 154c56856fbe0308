"""Descriptions that other people wrote for the ancestor are built, unchanged, on a simulated cloud in place of theirs.

They are read where a checkout of them is found (``PELAGOS_TEST_OCCOPUS`` names its directory), and never copied here.
Nothing is left out but the clouds: health is asked by the real prober, of the stand-in.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pelagos.clients.bundle import read_bundle
from pelagos.clouds import AccountConfig, Plugins, Pool
from pelagos.clouds.simulated import SimulatedCloud, SimulatedOptions, SimulatedPlugin
from pelagos.container import Container, ContainerConfig
from pelagos.container.apps import AppManager
from pelagos.exchange import MemoryTransport
from pelagos.model import DEFAULT_SCOPE
from pelagos.model.errors import DescriptionError, Unsupported
from pelagos.model.states import InfrastructureState, RunState
from pelagos.process import client
from pelagos.runtime import Settings
from pelagos.runtime.releases import builtin_plan
from pelagos.runtime.resources import HostResources
from pelagos.services.infrastructure import InfrastructureService, queries
from pelagos.services.infrastructure.messages import ImportDefinitions
from pelagos.simulation import SimulatedWorld, VirtualLoop, run_virtual
from pelagos.store import LeaseKeeper, Store, open_simulated_store
from pelagos.store.simulated import SimulatedDatabase
from pelagos.wire.infrastructures import PlanRequest, PlanView, RunRequest
from support.operations_world import Facts

CORPUS = Path(
    os.environ.get("PELAGOS_TEST_OCCOPUS", Path(__file__).parents[3] / "shared" / "corpus" / "occopus")
).resolve()
NAMES = sorted(path.parent.name for path in CORPUS.glob("*/infra*.yaml"))

needs_corpus = pytest.mark.skipif(
    not NAMES, reason=f"the ancestor's examples are not at {CORPUS} (set PELAGOS_TEST_OCCOPUS)"
)


class Site:
    """One container with the services, and a pool with a simulated cloud and the drivers there are."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.world = SimulatedWorld(1, loop)
        self.database = SimulatedDatabase(self.world)
        self.cloud = SimulatedCloud(self.world, name="simulated", options=SimulatedOptions(boot_seconds=20.0))
        self.commands: Any = None
        self.store: Any = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Site]:
        world, transport = self.world, MemoryTransport(self.world)
        await transport.start()
        self.store = store = open_simulated_store(world, database=self.database)
        await store.start()
        async with (
            LeaseKeeper(store, world, Facts(set()), holder_id="one").running() as keeper,
            Container(
                world, ContainerConfig(id="one", call_timeout=60.0), transport, shared_transport=True
            ) as container,
        ):
            plugins = Plugins({"simulated": SimulatedPlugin({"simulated": self.cloud})})
            pool = Pool([AccountConfig(name="simulated", driver="simulated")], plugins, world, Path("/nowhere"))
            given: dict[type[Any], object] = {Store: store, LeaseKeeper: keeper, Pool: pool}
            apps = AppManager(container, HostResources(container, Settings(maintain_interval=10.0), given))
            await apps.start(builtin_plan("compute", "infrastructure"))
            self.commands = client(InfrastructureService, container.edge)
            yield self
            await apps.stop_all()
            await pool.close()
        await store.stop()
        await transport.stop()

    async def run(self, request: RunRequest) -> str:
        """Carry out a run; the infrastructure's id."""
        run = await self.commands.start_run(request)
        read = partial(queries.run, scope=DEFAULT_SCOPE, run_id=run.id)
        while not (now := await self.store.read(read)).state.final:  # noqa: ASYNC110 - a row
            await asyncio.sleep(1.0)
        assert now.state is RunState.SUCCEEDED, now.error
        return str(run.infrastructure_id)


def files(name: str) -> list[Path]:
    return [*(CORPUS / name).glob("infra*.yaml"), CORPUS / name / "nodes" / "node_definitions.yaml"]


@needs_corpus
@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_planned_built_and_destroyed_on_a_stand_in(name: str) -> None:
    sources, entries = read_bundle(files(name))

    async def main(loop: VirtualLoop) -> None:
        async with Site(loop).open() as site:
            plan: PlanView = await site.commands.plan(
                PlanRequest(sources=sources, entries=tuple(entries), map_clouds="simulated")
            )
            wanted = {action.node: action.count for action in plan.actions}
            assert wanted
            assert all(action.action == "create" for action in plan.actions)

            request = RunRequest(kind="up", sources=sources, entries=tuple(entries), map_clouds="simulated")
            infrastructure = await site.run(request)
            status = await site.store.read(partial(queries.status, scope=DEFAULT_SCOPE, name_or_id=infrastructure))
            assert status.state is InfrastructureState.READY
            assert {node: len(one.instances) for node, one in status.nodes.items()} == wanted
            assert all(i.cloud == "simulated" for one in status.nodes.values() for i in one.instances.values())
            assert len(site.cloud.servers()) == sum(wanted.values())

            again: PlanView = await site.commands.plan(
                PlanRequest(sources=sources, entries=tuple(entries), map_clouds="simulated")
            )
            assert not again.changes
            await site.run(RunRequest(kind="down", infrastructure=infrastructure))
            assert site.cloud.servers() == []

    run_virtual(main)


@needs_corpus
@pytest.mark.parametrize("name", NAMES)
def test_the_definitions_of_an_example_are_imported_for_a_stand_in(name: str) -> None:
    sources, entries = read_bundle(files(name)[-1:])

    async def main(loop: VirtualLoop) -> None:
        async with Site(loop).open() as site:
            request = ImportDefinitions(sources=sources, entries=tuple(entries), map_clouds="simulated")
            assert (await site.commands.import_definitions(request)).items

    run_virtual(main)


DESCRIPTION = "infra_name: shop\nuser_id: me\nnodes: [{name: db, type: db}]\n"
DEFINITION = """\
'node_def:db':
  - resource:
      type: nova
      endpoint: replace_with_endpoint
      project_id: replace_with_project
      image_id: replace_with_image
      flavour_name: replace_with_flavor
"""


def test_a_stand_in_forgives_values_and_no_keys() -> None:
    sources = {"infra.yaml": DESCRIPTION, "nodes.yaml": DEFINITION}
    request = PlanRequest(sources=sources, entries=("infra.yaml", "nodes.yaml"), map_clouds="simulated")

    async def main(loop: VirtualLoop) -> None:
        async with Site(loop).open() as site:
            with pytest.raises(DescriptionError) as caught:
                await site.commands.plan(request)
            found = caught.value.diagnostics
            assert any("flavour_name" in one.summary and str(one.position) == "nodes.yaml:7:7" for one in found), found
            assert any("flavor_name" in one.summary for one in found)
            assert not any("replace_with" in one.summary for one in found)

    run_virtual(main)


def test_only_some_clouds_can_stand_in_for_others() -> None:
    async def main(loop: VirtualLoop) -> None:
        world = SimulatedWorld(1, loop)
        plugins = Plugins({"proud": _Plain(), "simulated": SimulatedPlugin()}, source=lambda *, group: ())
        accounts = [AccountConfig(name="lab", driver="proud"), AccountConfig(name="east", driver="simulated")]
        pool = Pool(accounts, plugins, world, Path("/nowhere"))
        assert pool.stand_in("east") == pool.stand_in("simulated") == "east"
        with pytest.raises(Unsupported) as caught:
            pool.stand_in("lab")
        assert "east" in caught.value.advice

    run_virtual(main)


class _Plain:
    """A plug-in with nothing but what all have."""

    name = "proud"
    resource = SimulatedPlugin.resource
    account_options = SimulatedPlugin.account_options
