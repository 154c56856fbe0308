"""The control socket: real sockets, real bytes, also those of somebody who does not keep to the protocol."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pelagos.container import AgentProcess, Container, ContainerConfig
from pelagos.container.control import ContainerInfo, Control, ControlProcess, connect_control, running_containers
from pelagos.container.control import frames as wire
from pelagos.container.control.sockets import answers, bind_control, live_sockets, socket_path
from pelagos.container.messages import NodeInfo, agent_of
from pelagos.exchange import Envelope, MemoryTransport
from pelagos.model import SystemWorld
from pelagos.model.errors import (
    Ambiguous,
    Conflict,
    DeadlineExceeded,
    InvalidInput,
    NotFound,
    Refused,
    StoreUnavailable,
    Unavailable,
)
from pelagos.process import ServiceProcess, State, client, operation

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # real sockets need the real loop


class Bell(ServiceProcess):
    name = "bell"

    def __init__(self) -> None:
        super().__init__()
        self.began = asyncio.Event()
        self.heard: list[str] = []

    @operation
    async def ring(self, text: str) -> str:
        return text.upper()

    @operation
    async def note(self, text: str) -> None:
        self.heard.append(text)

    @operation
    async def decline(self) -> None:
        raise Refused("not today", advice="Come tomorrow.")

    @operation
    async def wait(self) -> None:
        self.began.set()
        await asyncio.Event().wait()

    @operation
    async def large(self, size: int) -> bytes:
        return bytes(size)

    @operation
    async def tell(self, count: int) -> None:
        for number in range(count):
            self.publish("topic:news.bell", number)


class Scene:
    def __init__(self, container: Container, control: ControlProcess, bell: Bell, path: Path) -> None:
        self.container = container
        self.control = control
        self.bell = bell
        self.path = path


@asynccontextmanager
async def running(home: Path, name: str = "one", system: str = "demo") -> AsyncIterator[Scene]:
    container = Container(SystemWorld(), ContainerConfig(id=name, system=system, shutdown=0.2))
    async with container:
        bell = Bell()
        await container.spawn(bell)

        def info() -> ContainerInfo:
            return ContainerInfo(name, system, os.getpid(), "1", "memory", 0.0)

        control = ControlProcess(container, home, info)
        await container.spawn(control)
        yield Scene(container, control, bell, home / "control" / system / f"{name}.sock")


@asynccontextmanager
async def connected(home: Path, *args: Any) -> AsyncIterator[Control]:
    control = await connect_control(home, *args)
    try:
        yield control
    finally:
        await control.close()


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 - what becomes true is in other objects, which have no event for tests
        await asyncio.sleep(0)


def _listened(scene: Scene) -> bool:
    return any(q.address.startswith("topic:") for q in scene.container.snapshot().transport.queues)


async def test_calls_errors_and_typed_clients_go_through(tmp_path: Path) -> None:
    async with running(tmp_path) as scene, connected(tmp_path) as control:
        assert (control.info.id, control.info.system) == ("one", "demo")
        assert await control.call("service:bell", "ring", "ding") == "DING"
        bell = client(Bell, control)
        assert await bell.ring("dong") == "DONG"
        with pytest.raises(Refused, match="not today") as refused:
            await bell.decline()
        assert refused.value.advice == "Come tomorrow."
        with pytest.raises(Unavailable, match="nothing"):
            await control.call("service:nothing", "ring", "x")
        with pytest.raises(InvalidInput):
            await control.call("bell", "ring", "x")
        with pytest.raises(DeadlineExceeded):
            await control.call("service:bell", "wait", timeout=0.05)
        with pytest.raises(InvalidInput, match="bytes"):
            await bell.large(wire.MAX_FRAME)
        assert await asyncio.gather(*(bell.ring(f"n{n}") for n in range(600))) == [f"N{n}" for n in range(600)]
        assert await bell.ping() == "pong"
        assert scene.bell.heard == []


class SilentBroker(MemoryTransport):
    """What goes to a service, as it would through a broker, is never taken."""

    async def publish(self, envelope: Envelope) -> None:
        if envelope.receiver.startswith("service:"):
            raise Unavailable("the broker did not confirm the message")
        await super().publish(envelope)


async def test_its_own_agent_is_reached_while_the_broker_is_silent(tmp_path: Path) -> None:
    world = SystemWorld()
    config = ContainerConfig(id="one", system="demo", shutdown=0.2)
    async with Container(world, config, SilentBroker(world)) as container:
        info = ContainerInfo("one", "demo", os.getpid(), "1", "memory", 0.0)
        await container.spawn(ControlProcess(container, tmp_path, lambda: info))
        await container.spawn(AgentProcess(container))
        async with connected(tmp_path) as control:
            nodes = await control.call(agent_of("one"), "nodes", result=list[NodeInfo], timeout=30)
            assert [node.id for node in nodes] == ["one"]
            with pytest.raises(Unavailable, match="did not confirm"):
                await control.call(agent_of("two"), "nodes")


async def test_who_comes_before_all_is_there_waits_until_it_is(tmp_path: Path) -> None:
    async with Container(SystemWorld(), ContainerConfig(id="one", system="demo", shutdown=0.2)) as container:
        info = ContainerInfo("one", "demo", os.getpid(), "1", "memory", 0.0)
        control = ControlProcess(container, tmp_path, lambda: info, held=True)
        await container.spawn(control)
        early = asyncio.ensure_future(connect_control(tmp_path, "demo", "one"))
        done, _ = await asyncio.wait([early], timeout=0.05)
        assert not done
        await container.spawn(AgentProcess(container))
        await control.open()
        connection = await early
        assert (await connection.call(agent_of("one"), "info", result=NodeInfo)).id == "one"
        await connection.close()


async def test_the_socket_is_for_this_user_alone_and_goes_with_the_container(tmp_path: Path) -> None:
    async with running(tmp_path) as scene:
        assert stat.S_IMODE(scene.path.stat().st_mode) == 0o600
        assert stat.S_IMODE(scene.path.parent.stat().st_mode) == 0o700
        assert stat.S_IMODE(scene.path.parent.parent.stat().st_mode) == 0o700
    assert list(scene.path.parent.iterdir()) == []
    with pytest.raises(Unavailable, match="no container of system 'demo' runs here") as none:
        await connect_control(tmp_path, "demo")
    assert "pelagos container" in none.value.advice


async def test_an_open_directory_gets_no_socket(tmp_path: Path) -> None:
    (tmp_path / "control").mkdir(mode=0o755)
    with pytest.raises(StoreUnavailable, match="may be entered by others"):
        async with running(tmp_path):
            pass


async def test_a_path_too_long_is_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="longer than the 107 bytes") as long:
        async with running(tmp_path / ("x" * 100)):
            pass
    assert "PELAGOS_HOME" in long.value.advice
    with pytest.raises(InvalidInput, match="container's id"):
        async with running(tmp_path, "../up"):
            pass


async def test_several_containers_and_those_that_died(tmp_path: Path) -> None:
    dead = tmp_path / "control" / "demo" / "dead.sock"
    async with running(tmp_path, "one"):
        left_behind = socket.socket(socket.AF_UNIX)
        left_behind.bind(str(dead))
        left_behind.close()
        async with running(tmp_path, "two") as two:
            assert not dead.exists()
            os.utime(two.path, (3e9, 3e9))
            assert running_containers(tmp_path, "demo") == [("demo", "two"), ("demo", "one")]
            async with connected(tmp_path, "demo") as newest, connected(tmp_path, "demo", "one") as named:
                assert (newest.info.id, named.info.id) == ("two", "one")
            with pytest.raises(NotFound, match="no container 'three'"):
                await connect_control(tmp_path, "demo", "three")
            async with running(tmp_path, "other", "prod"):
                with pytest.raises(Ambiguous, match="demo, prod"):
                    await connect_control(tmp_path)
        with pytest.raises(Conflict, match="'one' of system 'demo' runs already"):
            async with running(tmp_path, "one"):
                pass
        async with connected(tmp_path) as control:
            assert await control.call("service:bell", "ring", "a") == "A"


async def test_a_cancelled_call_is_cancelled_there_and_a_dead_server_fails_what_waits(tmp_path: Path) -> None:
    async with running(tmp_path) as scene:
        control = await connect_control(tmp_path)
        call = asyncio.ensure_future(control.call("service:bell", "wait", timeout=60))
        await scene.bell.began.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await until(lambda: not scene.container.edge.snapshot().calls)
        waiting = asyncio.ensure_future(control.call("service:bell", "wait", timeout=60))
        await until(lambda: scene.container.edge.snapshot().calls)
    with pytest.raises(Unavailable):
        await waiting
    with pytest.raises(Unavailable):
        await control.call("service:bell", "ring", "x")
    await control.close()


async def test_listening_sees_what_is_published_until_it_is_closed(tmp_path: Path) -> None:
    async with running(tmp_path) as scene, connected(tmp_path) as control:
        stream = control.listen("topic:news.#", int)
        first = asyncio.ensure_future(anext(stream))
        await until(lambda: _listened(scene))
        await control.call("service:bell", "tell", 3)
        assert [await first, await anext(stream), await anext(stream)] == [0, 1, 2]
        topics = [q for q in scene.container.snapshot().transport.queues if q.address.startswith("topic:")]
        assert len(topics) == 1
        await stream.aclose()  # type: ignore[attr-defined]
        await until(lambda: not _listened(scene))
        with pytest.raises(InvalidInput, match="not a fan-out or topic"):
            await anext(control.listen("service:bell"))


async def test_a_slow_listener_loses_the_oldest_and_counts_them(tmp_path: Path) -> None:
    async with running(tmp_path) as scene, connected(tmp_path) as control:
        stream = control.listen("topic:news.#", int)
        first = asyncio.ensure_future(anext(stream))
        await until(lambda: _listened(scene))
        await scene.bell.tell(5000)  # in one turn of the loop: nobody can read in between
        seen = [await first]
        while seen[-1] != 4999:
            seen.append(await anext(stream))
        assert len(seen) <= 1024 + 1
        assert control.dropped == 5000 - len(seen)  # type: ignore[attr-defined]
        assert seen == sorted(seen)


async def test_one_way_messages(tmp_path: Path) -> None:
    async with running(tmp_path) as scene, connected(tmp_path) as control:
        await control.send("service:bell", "note", "hello")
        assert await control.call("service:bell", "ring", "x") == "X"
        assert scene.bell.heard == ["hello"]


@pytest.mark.parametrize("address", ["service:nobody", "process:c-1.99"])
async def test_one_way_messages_to_nobody_are_told(tmp_path: Path, address: str) -> None:
    async with running(tmp_path), connected(tmp_path) as control:
        with pytest.raises(Unavailable, match="nobody serves") as told:
            await control.send(address, "note", "hello")
        assert told.value.advice
        await control.send("fanout:nobody", "note", "hello")
        await control.send("topic:nobody.at.all", "note", "hello")
        assert await control.call("service:bell", "ring", "x") == "X"


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        struct.pack(">I", 3) + b"\xc1\xc1\xc1",
        struct.pack(">I", 0xFFFFFFFF),
        wire.encode_frame(wire.Call(1, "service:demo.bell", "ring", b"\xa1x")),  # no greeting before it
        wire.encode_frame(wire.Hello(99)),
        wire.encode_frame(wire.Hello()) + wire.encode_frame(wire.Hello()),
        wire.encode_frame(wire.Hello())
        + 2 * wire.encode_frame(wire.Call(7, "service:demo.bell", "wait", b"\xc0")),  # a number that is taken
    ],
)
async def test_whoever_does_not_keep_to_the_protocol_is_told_and_hung_up_on(tmp_path: Path, garbage: bytes) -> None:
    async with running(tmp_path) as scene, connected(tmp_path) as well_behaved:
        reader, writer = await asyncio.open_unix_connection(str(scene.path))
        writer.write(garbage)
        answer = await reader.read()
        writer.close()
        bodies = wire.FrameReader().feed(answer)
        last = msgspec.msgpack.decode(bodies[-1], type=wire.FromServer)
        assert isinstance(last, wire.Failed) and last.number == 0 and last.error.code == "invalid_input"
        assert await well_behaved.call("service:bell", "ring", "a") == "A"
        assert scene.control.state is State.ACTIVE


async def test_half_a_frame_and_then_nothing_harms_nobody(tmp_path: Path) -> None:
    async with running(tmp_path) as scene, connected(tmp_path) as other:
        _, writer = await asyncio.open_unix_connection(str(scene.path))
        frame = wire.encode_frame(wire.Hello())
        writer.write(frame[: len(frame) // 2])
        await writer.drain()
        assert await other.call("service:bell", "ring", "a") == "A"
        writer.close()
        await writer.wait_closed()
        assert await other.call("service:bell", "ring", "b") == "B"


def test_a_frame_that_comes_byte_by_byte_is_a_frame() -> None:
    data = wire.encode_frame(wire.Hello()) + wire.encode_frame(wire.Cancel(3))
    reader = wire.FrameReader()
    frames = [frame for byte in data for frame in reader.feed(bytes([byte]))]
    decode = msgspec.msgpack.Decoder(wire.FromClient).decode
    assert [decode(frame) for frame in frames] == [wire.Hello(), wire.Cancel(3)]


async def test_a_socket_that_is_not_listened_at_yet_is_not_swept_as_a_dead_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two containers that start in one home: the one looks who lives while the other is between bind and listen."""
    listen = socket.socket.listen
    swept: list[Path] = []

    def late(self: socket.socket, backlog: int) -> None:
        live_sockets(tmp_path, "s")
        swept.extend((tmp_path / "control" / "s").iterdir())
        listen(self, backlog)

    monkeypatch.setattr(socket.socket, "listen", late)
    path = socket_path(tmp_path, "s", "k2")
    with bind_control(path) as bound:
        assert len(swept) == 1
        assert answers(path)
        assert stat.S_IMODE(path.lstat().st_mode) == 0o600
        assert list(path.parent.iterdir()) == [path]
        with pytest.raises(Conflict, match="runs already"):
            bind_control(path)
        assert bound.fileno() >= 0
