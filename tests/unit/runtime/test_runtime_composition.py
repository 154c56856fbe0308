"""The composition root: the whole program in one process, started in order, stopped in reverse."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pelagos.model.errors import Conflict, NotFound, StoreUnavailable
from pelagos.model.scope import DEFAULT_SCOPE
from pelagos.model.world import SystemWorld
from pelagos.runtime import HttpSettings, Runtime, Settings
from pelagos.runtime.home import daemon_pid
from pelagos.runtime.housekeeping import Housekeeping
from pelagos.runtime.serve import serve
from pelagos.services.infrastructure import InfrastructureService
from pelagos.store import append, read_events
from pelagos.wire.infrastructures import RunRequest

pytestmark = pytest.mark.anyio


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", simulated=True, http=HttpSettings(drain=1.0))


@pytest.fixture
async def world() -> AsyncIterator[SystemWorld]:
    world = SystemWorld()
    yield world
    world.close()


async def test_the_whole_program_answers_through_its_client(settings: Settings, world: SystemWorld) -> None:
    async with Runtime(settings, world=world) as runtime:
        async with runtime.client() as client:
            assert await client.infrastructures.list() == ()
        again = runtime.client()  # closing one client leaves the others
        health = await again.health()
        assert (health.status, health.mode) == ("ok", "embedded")
        with pytest.raises(NotFound):
            await again.infrastructures.status("nothing")
        names = {process.name for process in runtime.container.processes}
        assert {"compute", "infrastructure"} <= names
        assert runtime.snapshot()["edge"]["responses_2xx"] == 2
    assert (settings.home.stat().st_mode & 0o777) == 0o700


async def test_an_infrastructure_is_built_and_taken_down(settings: Settings, world: SystemWorld) -> None:
    sources = {
        "i.yaml": "infra_name: shop\nuser_id: me\nnodes:\n- {name: web, type: web}\n",
        "n.yaml": "'node_def:web':\n- resource: {type: simulated}\n  contextualisation: {type: basic}\n"
        "  health_check: {ping: false}\n",
    }
    async with asyncio.timeout(60), Runtime(settings, world=world) as runtime:
        client = runtime.client()
        run = await client.runs.start(RunRequest(kind="up", sources=sources, entries=("i.yaml", "n.yaml")))
        kinds = [event.kind async for event in client.runs.follow(run.id, after=run.position)]
        assert kinds[-1] == "run.succeeded"
        status = await client.infrastructures.status("shop")
        assert status.state == "ready"
        assert len(await client.servers.list()) == 1
        run = await client.runs.start(RunRequest(kind="down", infrastructure="shop"))
        kinds = [event.kind async for event in client.runs.follow(run.id, after=run.position)]
        assert kinds[-1] == "run.succeeded"
        assert await client.infrastructures.list() == ()


async def test_a_start_that_fails_leaves_nothing_running(
    settings: Settings, world: SystemWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[InfrastructureService] = []

    async def broken(self: InfrastructureService) -> None:
        seen.append(self)
        raise ZeroDivisionError

    monkeypatch.setattr(InfrastructureService, "on_activate", broken)
    with pytest.raises(ZeroDivisionError):
        async with Runtime(settings, world=world):
            raise AssertionError("not reached")
    [service] = seen
    assert service.state == "terminated"
    with pytest.raises(StoreUnavailable):
        await service._store.read(lambda connection: None)
    assert list((settings.home / "locks").iterdir()) == []
    assert [t.name for t in threading.enumerate() if "sqlite" in t.name.lower()] == []


async def test_errors_of_the_caller_stay_what_they_are(settings: Settings, world: SystemWorld) -> None:
    with pytest.raises(NotFound):
        async with Runtime(settings, world=world):
            raise NotFound("mine")


async def test_it_starts_once_and_its_parts_are_there_while_open(settings: Settings, world: SystemWorld) -> None:
    runtime = Runtime(settings, world=world)
    with pytest.raises(Conflict):
        _ = runtime.store
    async with runtime:
        assert runtime.store.dialect == "sqlite"
        with pytest.raises(Conflict):
            await runtime.__aenter__()


async def test_two_programs_share_a_home(settings: Settings, world: SystemWorld) -> None:
    async with Runtime(settings, world=world) as first, Runtime(settings, world=world) as second:
        position = await first.store.run(
            lambda c: append(c, DEFAULT_SCOPE, "hello", at=1.0, data={"from": "first"}) and None
        )
        assert position is None
        async with asyncio.timeout(10):
            event = await anext(second.client().events(follow=True))
        assert (event.kind, event.data) == ("hello", {"from": "first"})


async def test_doctor_knows_the_installation(settings: Settings, world: SystemWorld) -> None:
    async with Runtime(settings, world=world) as runtime:
        view = await runtime.doctor()
        facts = {fact.name: fact for fact in view.facts}
        assert {"python", "home", "daemon", "store", "disk", "local.isolation", "cloud.local"} <= set(facts)
        assert facts["store"].state == "ok"
        assert "schema" in facts["store"].fact
        assert facts["reserve"].state == "ok"
        settings.home.joinpath("pelagos.db.reserve").unlink()
        facts = {fact.name: fact for fact in (await runtime.doctor()).facts}
        assert facts["reserve"].state == "degraded" and "room" in facts["reserve"].advice
        settings.home.chmod(0o755)
        facts = {fact.name: fact for fact in (await runtime.doctor()).facts}
        assert facts["home"].state == "missing"
        assert facts["home"].advice


async def test_housekeeping_prunes_what_is_long_gone(settings: Settings, world: SystemWorld) -> None:
    async with Runtime(settings, world=world) as runtime:
        await runtime.store.run(lambda c: append(c, DEFAULT_SCOPE, "old", at=1.0) and None)
        await runtime.store.run(lambda c: append(c, DEFAULT_SCOPE, "new", at=world.now()) and None)
        keeper = Housekeeping(runtime.store, retention_days=1.0)
        await runtime.container.spawn(keeper)
        await keeper.pass_once()
        kinds = [e.kind for e in await runtime.store.read(lambda c: read_events(c, after=0))]
        assert "old" not in kinds
        assert "new" in kinds


async def test_serving_until_told_to_stop(settings: Settings, world: SystemWorld) -> None:
    from pelagos.clients import connect

    ready: asyncio.Future[tuple[str, ...]] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        group.create_task(
            serve(settings, listen="127.0.0.1:0", ready=ready.set_result, world=world, stop=stop, signals=False)
        )
        unix, tcp = await ready
        assert unix == f"unix://{settings.socket_path}"
        assert daemon_pid(settings.home) is not None
        async with connect(unix, world=world) as client:
            assert (await client.health()).mode == "serve"
            stream = client.events(follow=True)
            pending = group.create_task(_first(stream))
            token = (settings.home / "token").read_text().strip()
            async with connect(tcp, token, world=world) as other:
                assert (await other.health()).mode == "serve"
            with pytest.raises(Conflict, match="already"):
                await serve(settings, world=world, signals=False)
            stop.set()
            pending.cancel()
    assert not settings.socket_path.exists()
    assert daemon_pid(settings.home) is None


async def _first(stream: AsyncIterator[object]) -> object:
    return await anext(stream)
