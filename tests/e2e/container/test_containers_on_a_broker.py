"""Containers of one system on RabbitMQ, each with a home as on a host of its own: keys decide who belongs to it."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pelagos.container import AgentProcess
from pelagos.container.control import Control, connect_control
from pelagos.container.inventory import AgentSettings
from pelagos.container.messages import ProcessQuery, SpawnRequest, TerminateRequest, agent_of
from pelagos.exchange.interceptors.keyring import create_identity, trust
from pelagos.model import SystemWorld
from pelagos.model.errors import Conflict, Unauthenticated
from pelagos.process import client
from pelagos.runtime import Settings
from pelagos.runtime.hosting import HostReady, host
from support.brokers import skip_without_broker, throw_away_system

pytestmark = [pytest.mark.anyio, pytest.mark.amqp]

HELLO = """
from pelagos.process import ServiceProcess, operation

class HelloService(ServiceProcess):
    name = "hello"

    @operation
    async def hello(self, name: str) -> str:
        return f"Hello, {name}, from {self.container.id}"
"""
BEATS = AgentSettings(heartbeat=0.2, suspect_beats=5.0, dead_after=5.0)


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "hello_on_a_broker.py").write_text(HELLO)
    (tmp_path / "hello.yaml").write_text("name: hello\nprocesses: ['hello_on_a_broker:HelloService']\n")
    path = list(sys.path)
    yield tmp_path / "hello.yaml"
    sys.path[:] = path
    sys.modules.pop("hello_on_a_broker", None)


class Site:
    def __init__(self, url: str, system: str, app: Path, stack: AsyncExitStack) -> None:
        self._stack = stack
        self._url = url
        self.system = system
        self._app = app

    async def start(self, name: str, home: Path, stop: asyncio.Event | None = None) -> Control:
        return await self._stack.enter_async_context(self._running(name, home, stop or asyncio.Event()))

    @asynccontextmanager
    async def _running(self, name: str, home: Path, stop: asyncio.Event) -> AsyncIterator[Control]:
        ready: asyncio.Future[HostReady] = asyncio.get_running_loop().create_future()
        world = SystemWorld(environ={})
        task = asyncio.ensure_future(
            host(
                Settings(home=home, agent=BEATS, log_level="critical"),
                [self._app],
                system=self.system,
                container_id=name,
                broker=self._url,
                ready=ready.set_result,
                world=world,
                stop=stop,
                signals=False,
            )
        )
        await asyncio.wait([task, ready], return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            await task
        control = await connect_control(home, self.system, name)
        try:
            yield control
        finally:
            await control.close()
            stop.set()
            await task
            world.close()


@pytest.fixture
async def site(app: Path) -> AsyncIterator[Site]:
    url = skip_without_broker()
    async with throw_away_system(url) as system, AsyncExitStack() as stack:
        yield Site(url, system, app, stack)


async def until(condition: Callable[[], Awaitable[Any]]) -> None:
    """What other containers have heard comes when it comes."""
    async with asyncio.timeout(20):
        while not await condition():  # noqa: ASYNC110 - what others have heard
            await asyncio.sleep(0.05)


def states(control: Control) -> Callable[[], Awaitable[dict[str, str]]]:
    async def ask() -> dict[str, str]:
        agent = client(AgentProcess, control, address=agent_of(control.info.id))
        return {node.id: node.state for node in await agent.nodes()}

    return ask


async def test_three_containers_are_one_system(site: Site, tmp_path: Path) -> None:
    leave = asyncio.Event()
    a = await site.start("a", tmp_path / "home")
    b = await site.start("b", tmp_path / "home")
    c = await site.start("c", tmp_path / "home", leave)

    async def all_alive() -> bool:
        return await states(a)() == {"a": "alive", "b": "alive", "c": "alive"} == await states(b)()

    await until(all_alive)
    answers = {(await a.call("service:hello", "hello", "you")).rpartition(" ")[2] for _ in range(30)}
    assert answers == {"a", "b", "c"}
    agent = client(AgentProcess, a, address=agent_of("a"))
    made = await agent.spawn(SpawnRequest("hello", on="b", count=2))
    assert made.container == "b"
    everyone = await agent.all_processes(ProcessQuery("hello"))
    assert everyone.silent == () and len(everyone.processes) == 5
    assert await b.call(f"process:{made.processes[0]}", "hello", "you") == "Hello, you, from b"
    await agent.terminate(TerminateRequest(made.processes[0]))
    await client(AgentProcess, c, address=agent_of("c")).terminate(TerminateRequest(made.processes[1]))
    assert len((await agent.all_processes(ProcessQuery("hello"))).processes) == 3
    leave.set()

    async def c_left() -> bool:
        return (await states(a)())["c"] == "left"

    await until(c_left)
    answers = {(await a.call("service:hello", "hello", "you")).rpartition(" ")[2] for _ in range(20)}
    assert answers == {"a", "b"}


async def test_a_container_whose_keys_nobody_trusts_does_not_start_and_takes_no_work(
    site: Site, tmp_path: Path
) -> None:
    a = await site.start("a", tmp_path / "home")
    with pytest.raises(Unauthenticated, match=f"the containers of system {site.system} use other keys.*: a") as caught:
        await site.start("thief", tmp_path / "elsewhere")
    assert str(tmp_path / "elsewhere" / "keys" / site.system) in caught.value.advice
    for _ in range(6):
        assert await a.call("service:hello", "hello", "you") == "Hello, you, from a"
    assert await states(a)() == {"a": "alive"}
    shutil.rmtree(tmp_path / "elsewhere" / "keys")
    shutil.copytree(tmp_path / "home" / "keys", tmp_path / "elsewhere" / "keys")
    b = await site.start("thief", tmp_path / "elsewhere")
    answers = {(await b.call("service:hello", "hello", "you")).rpartition(" ")[2] for _ in range(20)}
    assert answers == {"a", "thief"}


async def test_a_second_container_of_an_id_does_not_start_from_another_home(site: Site, tmp_path: Path) -> None:
    a = await site.start("a", tmp_path / "home")
    shutil.copytree(tmp_path / "home" / "keys", tmp_path / "elsewhere" / "keys")
    (tmp_path / "elsewhere").chmod(0o700)
    with pytest.raises(Conflict, match="container 'a' of the system") as caught:
        await site.start("a", tmp_path / "elsewhere")
    assert "--id" in caught.value.advice
    for _ in range(4):
        assert await a.call("service:hello", "hello", "you") == "Hello, you, from a"
    await site.start("b", tmp_path / "elsewhere")


async def test_a_container_without_a_trusted_key_spawns_and_ends_nothing(site: Site, tmp_path: Path) -> None:
    """Another container trusts it, so that it starts."""
    rings = {name: tmp_path / name / "keys" / site.system for name in ("home", "elsewhere", "between")}
    for ring in rings.values():
        ring.mkdir(mode=0o700, parents=True)
        ring.parent.parent.chmod(0o700)
        create_identity(ring)
    for name in ("home", "elsewhere"):
        trust(rings[name], rings["between"] / "identity.pub")
        trust(rings["between"], rings[name] / "identity.pub")
    await site.start("between", tmp_path / "between")
    a = await site.start("a", tmp_path / "home")
    stranger = await site.start("x", tmp_path / "elsewhere")
    agent = client(AgentProcess, a, address=agent_of("a"))
    before = [process.id for process in await agent.processes(ProcessQuery("hello"))]
    far = client(AgentProcess, stranger, address=agent_of("a"), timeout=5.0)
    with pytest.raises(Unauthenticated, match="do not match"):
        await far.spawn(SpawnRequest("hello"))
    with pytest.raises(Unauthenticated):
        await far.terminate(TerminateRequest(before[0]))
    assert [process.id for process in await agent.processes(ProcessQuery("hello"))] == before
    assert await states(a)() == {"a": "alive", "between": "alive"}
    assert await states(stranger)() == {"between": "alive", "x": "alive"}


async def test_hosts_whose_key_rings_trust_one_another_are_one_system(site: Site, tmp_path: Path) -> None:
    a = await site.start("a", tmp_path / "home")
    keys = next((tmp_path / "home" / "keys").iterdir())
    assert oct(keys.stat().st_mode & 0o777) == "0o700"
    shutil.copytree(tmp_path / "home" / "keys", tmp_path / "elsewhere" / "keys", dirs_exist_ok=False)
    (tmp_path / "elsewhere").chmod(0o700)
    b = await site.start("b", tmp_path / "elsewhere")

    async def both() -> bool:
        return await states(a)() == {"a": "alive", "b": "alive"} == await states(b)()

    await until(both)
    made = await client(AgentProcess, b, address=agent_of("b")).spawn(SpawnRequest("hello", on="a"))
    assert made.container == "a"
