"""Container programs in this process: what they say, what reaches them, how they end."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pelagos.container import AgentProcess
from pelagos.container.control import Control, connect_control
from pelagos.container.messages import AppRequest, LogLevelRequest, ProcessQuery, SpawnRequest, TerminateRequest
from pelagos.model import SystemWorld
from pelagos.model.errors import Conflict, DescriptionError, InvalidInput, NotFound, ProcessFailed, Unavailable
from pelagos.process import client
from pelagos.runtime import Settings, hosting
from pelagos.runtime.hosting import HostReady, host
from pelagos.runtime.log_levels import LEVELS
from pelagos.services.events import PublishedEvent

pytestmark = pytest.mark.anyio

HELLO = """
from pelagos.process import ServiceProcess, operation

class HelloService(ServiceProcess):
    name = "hello"

    def __init__(self, greeting: str = "Hello", fails: bool = False) -> None:
        super().__init__()
        self.greeting = greeting
        self.fails = fails

    async def on_activate(self) -> None:
        if self.fails:
            raise OSError("it was told to fail")

    @operation
    async def hello(self, name: str) -> str:
        return f"{self.greeting}, {name}{self.container.settings.get('mark', '')}"

    @operation
    async def die(self) -> None:
        async def fail() -> None:
            raise OSError("dead")
        self.start_task(fail())
"""
APP = """
name: hello
version: "1.0"
processes:
  - {name: hello, class: "hello_of_test_hosting:HelloService"}
supervision: {max_restarts: 0}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "hello_of_test_hosting.py").write_text(HELLO)
    (tmp_path / "hello.yaml").write_text(APP)
    path = list(sys.path)
    yield tmp_path
    sys.path[:] = path
    sys.modules.pop("hello_of_test_hosting", None)


class Hosted:
    def __init__(self, told: HostReady, control: Control, stop: asyncio.Event, task: asyncio.Task[None]) -> None:
        self.told = told
        self.control = control
        self.stop = stop
        self.task = task

    @property
    def agent(self) -> AgentProcess:
        return client(AgentProcess, self.control)


@asynccontextmanager
async def hosted(
    folder: Path, *files: str, settings: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[Hosted]:
    made = Settings(home=folder / "home", **(settings or {}))
    world = SystemWorld(environ=options.pop("environ", {}))
    stop = asyncio.Event()
    ready: asyncio.Future[HostReady] = asyncio.get_running_loop().create_future()
    task = asyncio.ensure_future(
        host(
            made,
            [folder / f"{name}.yaml" for name in files],
            ready=ready.set_result,
            world=world,
            stop=stop,
            signals=False,
            **options,
        )
    )
    await asyncio.wait([task, ready], return_when=asyncio.FIRST_COMPLETED)
    if not ready.done():
        await task
    told = ready.result()
    control = await connect_control(folder / "home", told.system, told.container)
    try:
        yield Hosted(told, control, stop, task)
    finally:
        await control.close()
        stop.set()
        await asyncio.wait([task])
        world.close()
    await task


async def test_an_app_with_arguments_and_settings_alone_in_memory(folder: Path) -> None:
    settings = {"app_config": {"mark": "!"}, "log_levels": {"exchange": "debug"}}
    options = {"system": "demo", "container_id": "one", "arguments": ["hello.greeting=Ahoy"]}
    async with hosted(folder, "hello", settings=settings, **options) as it:
        assert it.told == HostReady(
            "demo", "one", "memory", str(folder / "home" / "control" / "demo" / "one.sock"), ("hello",)
        )
        assert stat.S_IMODE(os.stat(it.told.socket).st_mode) == 0o600
        assert await it.control.call("service:hello", "hello", "you") == "Ahoy, you!"
        assert it.control.info.files == (str(folder / "hello.yaml"),)
        assert it.control.info.classes == {"hello": "hello_of_test_hosting:HelloService"}
        assert [(n.id, n.state, n.pid) for n in await it.agent.nodes()] == [("one", "alive", os.getpid())]
        made = await it.agent.spawn(SpawnRequest("hello", arguments={"greeting": "Moin"}))
        other: Any = await it.control.call(f"process:{made.processes[0]}", "hello", "you")
        assert other == "Moin, you!"
        assert {p.name for p in await it.agent.processes(ProcessQuery())} >= {"hello", "agent", "observer"}
        assert LEVELS.snapshot()["pelagos.exchange"] == "debug"
        await it.agent.set_log_level(LogLevelRequest("exchange", "error"))
        assert LEVELS.snapshot()["pelagos.exchange"] == "error"
        await it.agent.set_log_level(LogLevelRequest("exchange", ""))
        assert LEVELS.snapshot()["pelagos.exchange"] == "debug"
        with pytest.raises(InvalidInput, match="no log level"):
            await it.agent.set_log_level(LogLevelRequest("exchange", "loud"))
    assert not (folder / "home" / "control" / "demo" / "one.sock").exists()
    with pytest.raises(Unavailable):
        await connect_control(folder / "home", "demo")


async def test_readiness_is_told_by_file_descriptor_and_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reading, writing = os.pipe()
    stop = asyncio.Event()
    stop.set()  # it starts, is ready, and ends
    await host(
        Settings(home=folder / "home"),
        [folder / "hello.yaml"],
        container_id="c",
        ready_file=folder / "ready",
        notify_fd=writing,
        stop=stop,
        signals=False,
    )
    assert capsys.readouterr().out == "pelagos: container c of system pelagos is ready\n"
    assert json.loads((folder / "ready").read_text())["apps"] == ["hello"]
    with os.fdopen(reading) as pipe:
        assert pipe.read() == "ready c\n"


async def test_mistakes_come_before_anything_starts(folder: Path) -> None:
    (folder / "wrong.yaml").write_text("name: wrong\nprocesses: [{class: 'a:B', cuont: 1}]\n")
    with pytest.raises(DescriptionError):
        async with hosted(folder, "hello", "wrong"):
            pass
    for options, message in (
        ({"system": "a b"}, "system's name"),
        ({"container_id": "../x"}, "container's id"),
        ({"broker": "http://x"}, "amqp://"),
        ({"broker": "amqp://${NO_SUCH}@x"}, "environment variable NO_SUCH"),
        ({"processes": ["nonsense"]}, "no process to start"),
    ):
        with pytest.raises(InvalidInput, match=message):
            async with hosted(folder, "hello", **options):
                pass
    assert not (folder / "home" / "control").exists() or not list((folder / "home" / "control").rglob("*.sock"))


async def test_a_start_that_fails_leaves_nothing_and_raises_the_cause(folder: Path) -> None:
    with pytest.raises(ProcessFailed, match="told to fail"):
        async with hosted(folder, "hello", arguments=["fails=true"]):
            pass
    assert list((folder / "home" / "control").rglob("*.sock")) == []


async def test_a_container_that_fails_for_good_raises_the_cause(folder: Path) -> None:
    with pytest.raises(Unavailable, match="gave up"):
        async with hosted(folder, "hello") as it:
            for _ in range(10):
                try:
                    await it.control.call("service:hello", "die", timeout=1.0)
                except Unavailable:
                    pass
                await asyncio.wait([it.task], timeout=0.2)
                if it.task.done():
                    break
            assert it.task.done()


async def test_one_container_of_an_id(folder: Path) -> None:
    async with hosted(folder, container_id="one"):
        with pytest.raises(Conflict, match="'one' of system 'pelagos' runs already"):
            async with hosted(folder, container_id="one"):
                pass


async def test_apps_are_started_by_name_while_it_runs(folder: Path) -> None:
    (folder / "more").mkdir()
    (folder / "more" / "late.yaml").write_text("name: late\nprocesses: ['pelagos.process:Process']\n")
    async with hosted(folder, settings={"apps": (str(folder / "more"),)}) as it:
        assert await it.agent.apps() == []
        told = await it.agent.start_app(AppRequest("late"))
        assert (told.name, len(told.processes)) == ("late", 1)
        await it.agent.stop_app(AppRequest("late"))
        with pytest.raises(DescriptionError):
            await it.agent.start_app(AppRequest("late", arguments={"no": 1}))
        with pytest.raises((NotFound, InvalidInput)):
            await it.agent.start_app(AppRequest("later"))


async def test_what_lives_and_ends_is_told_as_events(folder: Path) -> None:
    async with hosted(folder, "hello", container_id="one") as it:
        heard = it.control.listen("topic:event.#", PublishedEvent)
        first = asyncio.ensure_future(anext(heard))
        await asyncio.sleep(0)
        made = await it.agent.spawn(SpawnRequest("hello"))
        event = await first
        while event.origin != made.processes[0]:
            event = await anext(heard)
        assert (event.type, event.data["state"], event.data["container"]) == ("process_lifecycle", "init", "one")
        await it.agent.stop_app(AppRequest("hello"))
        while event.type != "app_lifecycle":
            event = await anext(heard)
        assert (event.origin, event.data["state"], event.data["version"]) == ("hello", "stopped", "1.0")
        await heard.aclose()  # type: ignore[attr-defined]


async def test_a_resource_is_not_terminated_below_the_services_that_use_it(folder: Path) -> None:
    shared = "name: shared\nprocesses:\n  - {name: shared, class: 'pelagos.runtime.factories:attributes'}\n"
    (folder / "shared.yaml").write_text(shared)
    async with hosted(folder, "shared") as program:
        store = next(one for one in await program.agent.processes(ProcessQuery()) if "_Holder" in one.kind)
        with pytest.raises(Conflict, match="cannot live without"):
            await program.agent.terminate(TerminateRequest(store.id))
        assert store.id in [one.id for one in await program.agent.processes(ProcessQuery())]


async def test_a_start_that_is_cancelled_while_it_reads_files_ends_the_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, ended = threading.Event(), threading.Event()

    def endless(*arguments: Any, check: Callable[[], None], **options: Any) -> None:
        reading.set()
        try:
            while not ended.wait(0.001):
                check()
        finally:
            ended.set()

    monkeypatch.setattr(hosting, "find_apps", endless)
    world = SystemWorld()
    finding = asyncio.ensure_future(hosting._find_apps(world, [], [], processes=[], here=False))
    assert await asyncio.to_thread(reading.wait, 10)
    finding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await finding
    assert await asyncio.to_thread(ended.wait, 10)
    world.close()


def test_a_policy_file_goes_into_the_policy_that_is_configured_or_is_refused() -> None:
    """A file that nobody reads would leave open what its writer closed."""
    with_policy = hosting._with_policy
    named: Any = ["trace", {"policy": {"system_roles": []}}, "identity"]
    assert with_policy(["policy", "identity"], "/p.yaml") == [{"policy": {"file": "/p.yaml"}}, "identity"]
    assert with_policy(named, "/p.yaml")[1] == {"policy": {"system_roles": [], "file": "/p.yaml"}}
    with pytest.raises(InvalidInput, match="has no 'policy' that would read it"):
        with_policy(["trace"], "/p.yaml")
    with pytest.raises(InvalidInput, match="two policy files"):
        with_policy([{"policy": {"file": "other.yaml"}}, "identity"], "/p.yaml")


async def test_a_broken_policy_file_stops_a_start_also_with_a_stack_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text("rules:\n  - {alow: hello.hello}\n")
    settings = Settings(
        home=tmp_path / "home",
        policy=str(tmp_path / "policy.yaml"),
        interceptors=("trace", "deadline", "statistics", "policy", "identity"),
    )
    with pytest.raises(DescriptionError, match="policy"):
        await host(settings, [], system="s", container_id="c", signals=False, world=SystemWorld(environ={}))
