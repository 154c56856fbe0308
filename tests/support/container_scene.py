"""A container in the test's own process behind the commands' backs: each command gets a fresh one, with an agent, an
observer and a service, through a control that is the container's edge."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from pelagos.cli.invocation import Invocation
from pelagos.cli.main import main
from pelagos.container import Container, ContainerConfig
from pelagos.container.agent import AgentProcess
from pelagos.container.control.port import ContainerInfo
from pelagos.container.messages import AppInfo, AppRequest, SpawnRequest
from pelagos.container.observer import ObserverProcess
from pelagos.exchange import DeadLetter, Envelope, MemoryTransport, Performative
from pelagos.exchange.observing import Tap
from pelagos.model.errors import NotFound, Unavailable
from pelagos.model.world import SystemWorld
from pelagos.process import ServiceProcess, operation
from support.fake_client import Result

__all__ = ["HelloService", "Scene"]


class Basket(msgspec.Struct, frozen=True):
    item: str
    count: int = 1


class HelloService(ServiceProcess):
    name = "hello"

    def __init__(self, greeting: str = "Hello") -> None:
        super().__init__()
        self._greeting = greeting

    @operation
    async def hello(self, name: str) -> str:
        return f"{self._greeting}, {name}"

    @operation
    async def buy(self, basket: Basket) -> Basket:
        return msgspec.structs.replace(basket, count=basket.count + 1)

    @operation
    async def nothing(self) -> None: ...

    @operation
    async def lose(self) -> None:
        raise NotFound("it is lost", advice="Look under the sofa.")

    @operation
    async def wait(self) -> None:
        await asyncio.Event().wait()


class _Apps:
    """What an agent needs of the apps: one startable."""

    spawn_any = False

    def __init__(self, scene: Scene) -> None:
        self._scene = scene

    @property
    def startable(self) -> dict[str, str]:
        return {"hello": "support.container_scene:HelloService"}

    def running(self) -> tuple[AppInfo, ...]:
        return (AppInfo("greetings", "1.2", "Says hello", ("c-1.5",)),)

    def app_of(self, process_id: str) -> str:
        return "greetings" if process_id == "c-1.5" else ""

    async def spawn(self, request: SpawnRequest) -> tuple[str, ...]:
        if request.name not in self.startable:
            raise NotFound(f"c-1 cannot start {request.name!r}")
        self._scene.spawned.append(request)
        container = self._scene.container
        return tuple([await container.spawn(lambda: HelloService(**request.arguments)) for _ in range(request.count)])

    async def start_app(self, request: AppRequest) -> AppInfo:
        raise NotFound(request.name)

    async def stop_app(self, name: str) -> None:
        raise NotFound(name)

    async def reload_app(self, name: str) -> AppInfo:
        raise NotFound(name)


class _Letters:
    def __init__(self, scene: Scene) -> None:
        self._scene = scene

    async def list(self, limit: int = 100) -> list[DeadLetter]:
        return list(self._scene.letters.values())[:limit]

    async def get(self, letter_id: str) -> DeadLetter:
        if letter_id not in self._scene.letters:
            raise NotFound(f"there is no dead letter {letter_id}")
        return self._scene.letters[letter_id]

    async def retry(self, letter_id: str) -> None:
        letter = await self.get(letter_id)
        if letter.address == "service:pelagos.gone":
            raise Unavailable("nobody serves service:pelagos.gone")
        self._scene.retried.append(self._scene.letters.pop(letter.id).id)

    async def drop(self, letter_id: str) -> None:
        await self.get(letter_id)
        del self._scene.letters[letter_id]


class _Transport(MemoryTransport):
    def __init__(self, world: SystemWorld, letters: _Letters) -> None:
        super().__init__(world)
        self._test_letters = letters

    @property
    def dead_letters(self) -> Any:
        return self._test_letters


class EdgeControl:
    """:class:`pelagos.container.control.port.Control` of a container in this very loop."""

    def __init__(self, container: Container, close: Callable[[], Awaitable[None]], info: ContainerInfo) -> None:
        self._container = container
        self._close = close
        self.info = info

    @property
    def caller(self) -> Any:
        return self._container.edge.caller

    async def call(
        self, address: str, op: str, content: object = None, *, result: Any = Any, timeout: float | None = None
    ) -> Any:
        return await self._container.edge.call(address, op, content, result=result, timeout=timeout)

    async def send(self, address: str, op: str, content: object = None) -> None:
        if address.startswith(("fanout:", "topic:")):
            self._container.edge.publish(address, content, op=op)
        else:
            await self._container.edge.send(address, op, content)

    async def listen(self, address: str, content: Any = Any) -> AsyncIterator[Any]:
        queue: asyncio.Queue[Any] = asyncio.Queue()
        await self._container.edge.listen(address, queue.put, content)
        while True:
            yield await queue.get()

    async def close(self) -> None:
        await self._close()


def letter(name: str, address: str = "service:pelagos.hello", content: object = None) -> DeadLetter:
    envelope = Envelope(
        address,
        "process:c-9.2",
        "hello",
        Performative.REQUEST,
        "c-9.2#7",
        msgspec.msgpack.encode(content),
        sender_name="front",
    )
    return DeadLetter(name, 1_700_000_000.0, address, "handed out 5 times and lost", 5, envelope)


@dataclass
class Scene:
    """``pelagos("ps")`` runs a command. What a test sets is there in the container of the next one."""

    capsys: pytest.CaptureFixture[str]
    spawned: list[SpawnRequest] = field(default_factory=list)
    levels: list[tuple[str, str]] = field(default_factory=list)
    letters: dict[str, DeadLetter] = field(default_factory=dict)
    retried: list[str] = field(default_factory=list)
    asked: list[tuple[str | None, str | None]] = field(default_factory=list)
    absent: bool = False
    """No container runs."""
    answer: str | None = None
    """What the person at the terminal types; None: nobody is there."""
    before: Callable[[Container], Awaitable[None]] | None = None
    """Done in the container before the command connects."""
    container: Container = field(init=False)
    closed: int = 0

    def add(self, *letters: DeadLetter) -> None:
        self.letters.update({one.id: one for one in letters})

    async def connect(self, system: str | None, container: str | None) -> EdgeControl:
        self.asked.append((system, container))
        if self.absent:
            raise Unavailable("no container runs here", advice="Start one with `pelagos container`.")
        world = SystemWorld()
        tap = Tap(_Transport(world, _Letters(self)), world)
        self.container = hosted = Container(world, ContainerConfig(system="demo", id="c-1"), tap)
        await hosted.start()
        await hosted.spawn(
            AgentProcess(
                hosted,
                _Apps(self),
                host="host",
                pid=7,
                set_log_level=lambda *told: self.levels.append(told),
                log_levels=lambda: {"": "info", "pelagos.exchange": "debug"},
            )
        )
        await hosted.spawn(lambda: ObserverProcess(tap))
        await hosted.spawn(HelloService)
        if self.before is not None:
            await self.before(hosted)

        async def close() -> None:
            self.closed += 1
            await hosted.stop()
            world.close()

        classes = {"hello": "support.container_scene:HelloService"}
        info = ContainerInfo("c-1", "demo", 7, "0.1", "memory", world.now(), (), classes)
        return EdgeControl(hosted, close, info)

    def __call__(self, *arguments: str) -> Result:
        async def answer(question: str) -> str | None:
            return self.answer

        invocation = Invocation(connector=self.connect, answer=answer)
        code = main(list(arguments), invocation)
        captured = self.capsys.readouterr()
        return Result(code, captured.out, captured.err)
