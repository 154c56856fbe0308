"""What the daemon runs is a release, which the settings may name."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pelagos.clients import connect
from pelagos.container import AgentProcess
from pelagos.container.apps import find_apps, resolve
from pelagos.container.apps.finding import builtin_directory
from pelagos.container.control import connect_control
from pelagos.container.control.sockets import live_sockets
from pelagos.container.messages import LogLevelRequest, ProcessQuery
from pelagos.container.observer import ObserverProcess, observer_of
from pelagos.model import SystemWorld
from pelagos.model.errors import Conflict, DescriptionError, Unavailable
from pelagos.process import client
from pelagos.runtime import Settings
from pelagos.runtime.home import daemon_pid
from pelagos.runtime.hosting import HostReady, host
from pelagos.runtime.serve import serve
from pelagos.services.compute import ComputeService
from pelagos.wire.infrastructures import RunRequest

pytestmark = pytest.mark.anyio


def test_every_app_that_comes_with_pelagos_can_be_resolved() -> None:
    files = sorted(builtin_directory().glob("*.yaml"))
    assert {"pelagos.yaml", "compute.yaml", "infrastructure.yaml"} <= {file.name for file in files}
    for file in files:
        plan = resolve(find_apps([file], here=False))
        assert plan.apps and not any(app.trusted for app in plan.apps)
        assert all(process.kind.startswith("pelagos.") for app in plan.apps for process in app.processes)


@asynccontextmanager
async def daemon(settings: Settings, **options: Any) -> AsyncIterator[tuple[str, ...]]:
    """A daemon in this process; its addresses."""
    world, stop = SystemWorld(environ={}), asyncio.Event()
    ready: asyncio.Future[tuple[str, ...]] = asyncio.get_running_loop().create_future()
    running = serve(settings, ready=ready.set_result, world=world, stop=stop, signals=False, **options)
    task = asyncio.ensure_future(running)
    try:
        await asyncio.wait([task, ready], return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            await task
        yield ready.result()
    finally:
        stop.set()
        await asyncio.wait([task])
        world.close()
    await task


async def services_of(settings: Settings, **options: Any) -> set[str]:
    async with daemon(settings, **options):
        [(system, container, _)] = live_sockets(settings.home)
        control = await connect_control(settings.home, system, container)
        try:
            found = await client(AgentProcess, control).processes(ProcessQuery())
        finally:
            await control.close()
    return {process.name for process in found if process.app and process.name}


async def test_all_services_by_default_and_those_of_another_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pelagos.yaml").write_text("log_level: debug\n")  # somebody's configuration, and no release
    (tmp_path / "site.yaml").write_text("release: site\napps: [compute]\n")
    monkeypatch.chdir(tmp_path)
    expected = {"compute", "infrastructure", "events", "scheduler", "associations", "repository"}
    assert expected <= await services_of(Settings(home=tmp_path / "a"))
    assert await services_of(Settings(home=tmp_path / "b", release=str(tmp_path / "site.yaml"))) == {"compute"}


async def test_a_mistake_in_the_release_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text("release: site\napps: [computer]\n")
    with pytest.raises(DescriptionError, match=r"site.yaml:2:8: release 'site' has the app 'computer'") as raised:
        await services_of(Settings(home=tmp_path / "a", release=str(tmp_path / "site.yaml")))
    assert raised.value.advice == "Did you mean 'compute'?"


async def test_an_edge_without_services_reads_and_says_what_to_start(tmp_path: Path) -> None:
    (tmp_path / "front.yaml").write_text("release: front\napps: [housekeeping, edge]\n")
    settings = Settings(home=tmp_path / "a")
    async with daemon(settings, release=tmp_path / "front.yaml") as addresses, connect(addresses[0], patience=0) as api:
        assert await api.infrastructures.list() == ()
        with pytest.raises(Unavailable, match="no container of this system serves infrastructures") as raised:
            await api.runs.start(RunRequest(kind="down", infrastructure="shop"))
        assert raised.value.status == 503 and "app `infrastructure`" in raised.value.advice
        with pytest.raises(Conflict, match="already"):
            async with daemon(settings):
                raise AssertionError("not reached")


async def test_an_edge_in_a_container_program_holds_the_homes_lock(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "a", dependency_timeout=0.2)
    world, stop = SystemWorld(environ={}), asyncio.Event()
    told: list[HostReady] = []

    def ready(found: HostReady) -> None:
        told.append(found)
        assert daemon_pid(settings.home) is not None
        stop.set()

    await host(settings, ["edge"], here=False, ready=ready, world=world, stop=stop, signals=False)
    assert told[0].addresses == (f"unix://{settings.socket_path}",)
    assert daemon_pid(settings.home) is None and not settings.socket_path.exists()
    arguments = {"edge": {"depends": ["infrastructure"]}}
    with pytest.raises(Unavailable, match="depends on infrastructure"):
        await host(settings, ["edge"], arguments=arguments, here=False, world=world, stop=stop, signals=False)
    assert daemon_pid(settings.home) is None
    world.close()


async def test_the_daemons_container_is_asked_like_any_other(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "a", system="mine")
    async with daemon(settings):
        [(system, container, path)] = live_sockets(settings.home)
        assert system == "mine" and path.stat().st_mode & 0o777 == 0o600
        control = await connect_control(settings.home, system, container)
        try:
            agent = client(AgentProcess, control)
            [node] = await agent.nodes()
            assert (node.id, node.pid) == (container, os.getpid())
            assert {"compute", "infrastructure", "edge", "housekeeping"} <= {app.name for app in await agent.apps()}
            assert (await client(ComputeService, control).describe()).name == "compute"
            assert await client(ObserverProcess, control, address=observer_of(container)).ping() == "pong"
            assert await agent.set_log_level(LogLevelRequest("services.streams", "debug")) == [container]
            assert "debug" in (await agent.log_levels()).values()
            await agent.set_log_level(LogLevelRequest("services.streams", ""))
        finally:
            await control.close()
