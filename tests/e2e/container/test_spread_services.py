"""The services of Pelagos spread over three containers by release files: one PostgreSQL, one RabbitMQ, three homes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection

from pelagos.clouds import AccountConfig
from pelagos.container import AgentProcess
from pelagos.container.control import Control, connect_control
from pelagos.container.messages import ProcessQuery, agent_of
from pelagos.model import DEFAULT_SCOPE, SystemWorld
from pelagos.model.states import RunState
from pelagos.process import client
from pelagos.runtime import Settings
from pelagos.runtime.hosting import HostReady, host
from pelagos.services.infrastructure import InfrastructureService, queries
from pelagos.store import open_store
from pelagos.wire.infrastructures import RunRequest, RunView
from support.brokers import skip_without_broker, throw_away_system
from support.databases import throw_away_postgresql
from support.infrastructure_world import describe

pytestmark = [pytest.mark.anyio, pytest.mark.amqp, pytest.mark.postgresql]

RELEASES = {
    "clouds": "release: clouds\napps: [compute, registry]\n",
    "builders": "release: builders\napps: [infrastructure]\n",
    "keepers": "release: keepers\napps: [infrastructure, events, scheduler]\n",
}


@asynccontextmanager
async def container(name: str, folder: Path, settings: Settings, system: str, broker: str) -> AsyncIterator[Control]:
    ready: asyncio.Future[HostReady] = asyncio.get_running_loop().create_future()
    world, stop = SystemWorld(environ={}), asyncio.Event()
    task = asyncio.ensure_future(
        host(
            settings,
            [folder / f"{name}.yaml"],
            system=system,
            container_id=name,
            broker=broker,
            ready=ready.set_result,
            world=world,
            stop=stop,
            signals=False,
        )
    )
    await asyncio.wait([task, ready], return_when=asyncio.FIRST_COMPLETED)
    if not ready.done():
        await task
    control = await connect_control(settings.home, system, name)
    try:
        yield control
    finally:
        await control.close()
        stop.set()
        await task
        world.close()


async def test_an_infrastructure_is_built_by_services_on_three_hosts(tmp_path: Path) -> None:
    broker = skip_without_broker()
    for name, text in RELEASES.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    pool = (AccountConfig(name="east", driver="simulated"),)
    with throw_away_postgresql() as database:
        async with throw_away_system(broker) as system, AsyncExitStack() as stack:
            controls = {}
            for name in RELEASES:
                settings = Settings(
                    home=tmp_path / name, store=database, pool=pool, keys=str(tmp_path / "keys"), log_level="critical"
                )
                running = container(name, tmp_path, settings, system, broker)
                controls[name] = await stack.enter_async_context(running)
            sources = describe(
                "spread",
                {
                    "db": {"check": "{ping: false}"},
                    "web": {"after": ("db",), "scaling": (3, 3), "check": "{ping: false}"},
                },
            )
            infrastructure = client(InfrastructureService, controls["clouds"], timeout=30.0)
            run = await infrastructure.start_run(
                RunRequest(kind="up", sources=sources, entries=("infra.yaml", "nodes.yaml"))
            )
            world = SystemWorld(environ={})
            store = open_store(database, world)
            await store.start()
            try:
                async with asyncio.timeout(60):
                    while not (now := await store.read(lambda c: _run(c, run.id))).state.final:  # noqa: ASYNC110 - a row
                        await asyncio.sleep(0.1)
                assert now.state is RunState.SUCCEEDED, now.error
                status = await store.read(lambda c: queries.status(c, DEFAULT_SCOPE, "spread"))
                assert {name: len(node.instances) for name, node in status.nodes.items()} == {"db": 1, "web": 3}
            finally:
                await store.stop()
                world.close()
            agent = client(AgentProcess, controls["keepers"], address=agent_of("keepers"))
            async with asyncio.timeout(30):  # who is asked in a busy moment may be named as silent
                while (where := await agent.all_processes(ProcessQuery())).silent:  # noqa: ASYNC110 - other containers
                    await asyncio.sleep(0.1)
            homes = {(p.name, p.container) for p in where.processes if p.app}
            assert {("compute", "clouds"), ("infrastructure", "builders"), ("infrastructure", "keepers")} <= homes
            assert {container for name, container in homes if name == "compute"} == {"clouds"}


def _run(connection: Connection, run_id: str) -> RunView:
    return queries.run(connection, DEFAULT_SCOPE, run_id)
