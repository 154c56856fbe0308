"""One call to an engine: what leaves when, and what a call is whose time is over. The engine is a few lines of ours."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from pelagos.clouds import CloudAuthFailed, CloudRejected, CloudUncertain, CloudUnreachable
from pelagos.clouds.docker import DockerAccount, DockerTls
from pelagos.clouds.docker.engine import Call, Client, Engine
from pelagos.clouds.docker.errors import NotSent
from pelagos.model.world import SystemWorld
from support.certificates import self_signed
from support.tiny_engine import TinyEngine

pytestmark = pytest.mark.anyio


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_nothing_leaves_after_the_deadline_or_when_nobody_waits() -> None:
    clock = Clock()
    late, given_up, sent = Call(clock, 10.0), Call(clock, 10.0), Call(clock, 10.0)
    assert given_up.give_up(), "nothing had been sent"
    with pytest.raises(NotSent):
        given_up.sending()
    sent.sending()
    assert not sent.give_up()
    clock.now = 9.7
    assert late.left() <= 0, "its own answer is there before the deadline"
    with pytest.raises(NotSent):
        late.sending()
    assert late.give_up()


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "engine.sock"


@pytest.fixture
async def tiny(socket: Path) -> AsyncIterator[TinyEngine]:
    tiny = TinyEngine()
    server = await asyncio.start_unix_server(tiny.serve, socket)
    try:
        yield tiny
    finally:
        tiny.go.set()
        server.close()
        await asyncio.gather(*tiny.serving)


@contextlib.asynccontextmanager
async def opened(endpoint: str, **options: Any) -> AsyncIterator[Engine]:
    world = SystemWorld()
    engine = Engine(DockerAccount(endpoint=endpoint, **options), world)
    try:
        yield engine
    finally:
        engine.close()
        world.close()


def stop(client: Client) -> None:
    client.stop("one", timeout=0)


def listing(client: Client) -> object:
    return client.containers()


async def test_without_a_reply_a_write_is_uncertain_and_a_read_unreachable(tiny: TinyEngine, socket: Path) -> None:
    async with opened(f"unix://{socket}") as engine:
        with pytest.raises(CloudUncertain):
            await engine.write("stop", stop, 0.5)
        with pytest.raises(CloudUnreachable):
            await engine.read("list", listing, 0.5)
    assert tiny.requests[0] == "GET /_ping"
    assert tiny.requests[1].startswith("POST /v1.44/containers/one/stop")


async def test_a_write_that_only_read_so_far_did_nothing(tiny: TinyEngine, socket: Path) -> None:
    def look_and_stop(client: Client) -> None:
        listing(client)
        stop(client)

    async with opened(f"unix://{socket}") as engine:
        with pytest.raises(CloudUnreachable):
            await engine.write("stop", look_and_stop, 0.5)
    assert [request.partition(" ")[0] for request in tiny.requests] == ["GET", "GET"]


async def test_what_was_cancelled_goes_on_and_sends_nothing_after_its_deadline(tiny: TinyEngine, socket: Path) -> None:
    begun, go, ended = threading.Event(), threading.Event(), threading.Event()

    def slow(client: Client) -> None:
        begun.set()
        try:
            go.wait(30)
            stop(client)
        finally:
            ended.set()

    async with opened(f"unix://{socket}") as engine:
        with pytest.raises(CloudUnreachable, match="could not be sent"):
            await engine.write("stop", slow, 0.3)
        assert begun.is_set()
        go.set()
        await asyncio.get_running_loop().run_in_executor(None, ended.wait, 30)
    assert not any("stop" in request for request in tiny.requests)


async def test_no_more_calls_at_once_than_there_are_threads(tiny: TinyEngine, socket: Path) -> None:
    tiny.go.set()
    lock, full = threading.Lock(), threading.Event()
    inside = most = 0

    def count(client: Client) -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
            if inside == Engine.THREADS:
                full.set()
        full.wait(30)
        with lock:
            inside -= 1

    async with opened(f"unix://{socket}") as engine, asyncio.TaskGroup() as group:
        for _ in range(3 * Engine.THREADS):
            group.create_task(engine.read("list", count, 30.0))
    assert most == Engine.THREADS


@pytest.mark.parametrize(
    ("ping", "error"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", CloudUnreachable),
        (b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n", CloudAuthFailed),
        (b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", CloudUnreachable),
        (b"HTTP/1.1 405 No\r\nApi-Version: 1.44\r\nContent-Length: 0\r\n\r\n", CloudUnreachable),
        (b"HTTP/1.1 418 No\r\nContent-Length: 0\r\n\r\n", CloudRejected),
        (b"what is this\r\n\r\n", CloudUnreachable),
    ],
)
@pytest.mark.parametrize("function", [stop, listing])
async def test_whoever_answers_must_be_an_engine(
    tiny: TinyEngine, socket: Path, ping: bytes, error: type[Exception], function: Callable[[Client], object]
) -> None:
    tiny.ping = ping
    async with opened(f"unix://{socket}") as engine:
        with pytest.raises(error):
            await engine.write("stop", function, 5.0)
        assert engine.version == ""


async def test_an_engine_that_comes_later_is_found(socket: Path) -> None:
    async with opened(f"unix://{socket}") as engine:
        with pytest.raises(CloudUnreachable):
            await engine.write("stop", stop, 5.0)
        tiny = TinyEngine()
        tiny.go.set()
        async with await asyncio.start_unix_server(tiny.serve, socket):
            await engine.write("stop", stop, 30.0)
            assert engine.version == "1.44" and not engine.podman
            engine.close()
            await asyncio.gather(*tiny.serving)


async def test_certificates_are_checked_at_both_ends(tmp_path: Path) -> None:
    engines, ours, others = (self_signed(tmp_path, name) for name in ("engine", "ours", "others"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*engines)
    context.load_verify_locations(ours[0])
    context.verify_mode = ssl.CERT_REQUIRED
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # a refused certificate is told in the handshake
    tiny = TinyEngine()
    tiny.go.set()
    async with await asyncio.start_server(tiny.serve, "127.0.0.1", 0, ssl=context) as server:
        endpoint = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        trusted = {"ca": engines[0], "cert": ours[0], "key": ours[1]}
        for wrong in (
            DockerTls(**{**trusted, "ca": others[0]}),
            DockerTls(**{**trusted, "cert": others[0], "key": others[1]}),
            DockerTls(**{**trusted, "ca": str(tmp_path / "none.pem")}),
        ):
            async with opened(endpoint, tls=wrong) as engine:
                with pytest.raises(CloudAuthFailed, match="TLS"):
                    await engine.write("stop", stop, 10.0)
        assert tiny.requests == []
        async with opened(endpoint, tls=DockerTls(**trusted)) as engine:
            await engine.write("stop", stop, 10.0)
        assert tiny.requests[-1].startswith("POST /v1.44/containers/one/stop")
        await asyncio.gather(*tiny.serving)


async def test_plain_tcp(tiny: TinyEngine) -> None:
    tiny.go.set()
    async with await asyncio.start_server(tiny.serve, "127.0.0.1", 0) as server:
        async with opened(f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}") as engine:
            await engine.write("stop", stop, 10.0)
        await asyncio.gather(*tiny.serving)
