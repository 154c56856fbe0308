"""Health probes with real sockets on this machine's loopback."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pelagos.clouds.values import CommandResult
from pelagos.model import SystemWorld
from pelagos.model.errors import Unsupported
from pelagos.services.infrastructure import health
from pelagos.services.infrastructure.health import NetworkProber, ProbeTarget, describe
from pelagos.services.infrastructure.values import HealthCheck, MysqlCheck

pytestmark = pytest.mark.anyio
HERE = ProbeTarget(server_id="s", address="127.0.0.1")
# TEST-NET-3 (RFC 5737): nobody is there; what is sent is dropped, or refused by a router.
NOWHERE = ProbeTarget(server_id="s", address="203.0.113.9")


class Cloud:
    """What the compute service would say."""

    def __init__(self) -> None:
        self.result = CommandResult(0, "")
        self.owned: bool | None = None
        self.asked: list[Any] = []
        self.takes = 0.0

    async def execute(self, server_id: str, argv: tuple[str, ...], timeout: float) -> CommandResult:
        self.asked.append((server_id, argv, timeout))
        await asyncio.sleep(self.takes)
        return self.result

    async def owns_listener(self, server_id: str, address: str, port: int) -> bool | None:
        self.asked.append((server_id, address, port))
        return self.owned


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


@pytest.fixture
async def prober(cloud: Cloud) -> AsyncIterator[NetworkProber]:
    world = SystemWorld(threads=2)
    made = NetworkProber(world, cloud.execute, cloud.owns_listener)
    yield made
    await made.close()
    world.close()


@asynccontextmanager
async def web(*answers: str, silent: bool = False) -> AsyncIterator[tuple[int, list[str]]]:
    """A server that gives these answers, one a request, the last for ever; and the requests it had."""
    seen: list[str] = []
    hanging = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                while (await reader.readline()).strip():
                    pass
                seen.append(line.decode().strip())
                if silent:
                    await hanging.wait()
                    return
                answer = answers[min(len(seen), len(answers)) - 1]
                writer.write(f"HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n".encode())
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], seen
    finally:
        hanging.set()
        server.close()
        await server.wait_closed()


def only(**fields: Any) -> HealthCheck:
    return HealthCheck(ping=False, **{"probe_timeout": 2.0, **fields})


async def test_nothing_to_probe_is_healthy(prober: NetworkProber) -> None:
    assert (await prober.check(only(), NOWHERE)).healthy


async def test_a_port_that_listens(prober: NetworkProber) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert (await prober.check(only(ports=(port,)), HERE)).healthy
    verdict = await prober.check(only(ports=(port,)), HERE)
    assert not verdict.healthy and verdict.reason.startswith(f"port {port}: ") and "refused" in verdict.reason.lower()


@pytest.mark.parametrize(("owned", "healthy"), [(True, True), (None, True), (False, False)])
async def test_on_a_shared_address_the_listener_must_be_the_instances(
    prober: NetworkProber, cloud: Cloud, owned: bool | None, healthy: bool
) -> None:
    cloud.owned = owned
    async with web("200 OK") as (port, _):
        for check in (only(ports=(port,)), only(urls=(f"http://127.0.0.1:{port}/",))):
            verdict = await prober.check(check, HERE)
            assert verdict.healthy is healthy
            assert cloud.asked.pop() == ("s", "127.0.0.1", port)
            assert healthy or "something else" in verdict.reason


async def test_urls(prober: NetworkProber) -> None:
    for answers, healthy, requests in (
        (["200 OK"], True, ["HEAD / HTTP/1.1"]),
        (["204 No Content"], True, ["HEAD / HTTP/1.1"]),
        (["405 Method Not Allowed", "200 OK"], True, ["HEAD / HTTP/1.1", "GET / HTTP/1.1"]),
        (["501 Not Implemented", "500 Oh"], False, ["HEAD / HTTP/1.1", "GET / HTTP/1.1"]),
        (["302 Found\r\nLocation: /there", "200 OK"], True, ["HEAD / HTTP/1.1", "HEAD /there HTTP/1.1"]),
        (["404 Not Found"], False, ["HEAD / HTTP/1.1"]),
        (["503 Busy"], False, ["HEAD / HTTP/1.1"]),
    ):
        async with web(*answers) as (port, seen):
            verdict = await prober.check(only(urls=(f"http://127.0.0.1:{port}/",)), HERE)
        assert (verdict.healthy, seen) == (healthy, requests), answers
        assert healthy or "HTTP " in verdict.reason


async def test_a_redirect_that_goes_round_and_a_url_that_is_none(prober: NetworkProber) -> None:
    async with web("302 Found\r\nLocation: /") as (port, _):
        verdict = await prober.check(only(urls=(f"http://127.0.0.1:{port}/",)), HERE)
    assert not verdict.healthy and "redirect" in verdict.reason.lower()
    for url in ("http://127.0.0.1:99999/", "ftp://x/", "no url"):
        verdict = await prober.check(only(urls=(url,)), HERE)
        assert not verdict.healthy and verdict.reason.startswith(f"url {url}: ")


async def test_each_probe_has_its_time_out_and_all_run_at_once(prober: NetworkProber, cloud: Cloud) -> None:
    cloud.takes = 30.0
    loop = asyncio.get_running_loop()
    async with web(silent=True) as (one, _), web(silent=True) as (two, _):
        began = loop.time()
        verdict = await prober.check(
            only(
                urls=(f"http://127.0.0.1:{one}/", f"http://127.0.0.1:{two}/"),
                command=("check",),
                probe_timeout=0.2,
            ),
            HERE,
        )
        took = loop.time() - began
    assert not verdict.healthy and verdict.reason.count("no answer in 0.2 s") == 3
    assert 0.2 <= took < 0.2 * 3 + 0.3


async def test_all_probes_must_succeed_and_each_failure_is_told(prober: NetworkProber, cloud: Cloud) -> None:
    cloud.result = CommandResult(7, "first\nlast words\n")
    async with web("200 OK") as (port, _):
        check = only(ports=(port,), urls=(f"http://127.0.0.1:{port}/",), command=("check", "it"))
        verdict = await prober.check(check, HERE)
    assert not verdict.healthy and verdict.reason == "command: exit code 7: last words"
    cloud.result = CommandResult(0, "fine")
    assert (await prober.check(only(command=("check",)), HERE)).healthy
    assert cloud.asked[-1] == ("s", ("check",), 2.0)


async def test_a_command_that_the_cloud_cannot_run_is_not_healthy(cloud: Cloud) -> None:
    async def refuse(server_id: str, argv: tuple[str, ...], timeout: float) -> CommandResult:
        raise Unsupported("this cloud runs no commands")

    world = SystemWorld(threads=1)
    verdict = await NetworkProber(world, refuse, cloud.owns_listener).check(only(command=("x",)), HERE)
    world.close()
    assert not verdict.healthy and verdict.reason == "command: this cloud runs no commands"


def _may_ping() -> bool:
    try:
        health._icmp_socket("127.0.0.1").close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not _may_ping(), reason="this user is allowed no ICMP socket")
@pytest.mark.parametrize("address", ["127.0.0.1", "127.3.2.1"])
async def test_ping_by_socket(prober: NetworkProber, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    check = HealthCheck(ping=True, probe_timeout=2.0)
    verdict = await prober.check(check, ProbeTarget(server_id="s", address=address))
    assert verdict.healthy and verdict.unavailable == ()
    verdict = await prober.check(HealthCheck(ping=True, probe_timeout=0.2), NOWHERE)
    assert not verdict.healthy and verdict.reason.startswith("ping: ")


async def test_ping_that_cannot_be_made_here_is_unavailable_and_no_failure(
    prober: NetworkProber, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(address: str) -> socket.socket:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(health, "_icmp_socket", refused)
    monkeypatch.setenv("PATH", "")
    verdict = await prober.check(HealthCheck(ping=True), NOWHERE)
    assert verdict.healthy and len(verdict.unavailable) == 1 and verdict.unavailable[0].startswith("ping: no ICMP")


@pytest.mark.parametrize(
    ("script", "healthy", "unavailable"),
    [("exit 0", True, False), ("exit 1", False, False), ("echo may not >&2; exit 2", True, True)],
)
async def test_ping_by_program(
    prober: NetworkProber,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Any,
    script: str,
    healthy: bool,
    unavailable: bool,
) -> None:
    def refused(address: str) -> socket.socket:
        raise PermissionError(1, "Operation not permitted")

    program = tmp_path / "ping"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(health, "_icmp_socket", refused)
    monkeypatch.setenv("PATH", str(tmp_path))
    verdict = await prober.check(HealthCheck(ping=True, probe_timeout=5.0), HERE)
    assert verdict.healthy is healthy and bool(verdict.unavailable) is unavailable
    if unavailable:
        assert "may not" in verdict.unavailable[0]


async def test_a_data_base_without_its_library_is_not_taken_for_healthy(
    prober: NetworkProber, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pymysql", None)
    database = MysqlCheck(name="entries", user="u", password="secret")
    verdict = await prober.check(only(mysqldbs=(database,)), HERE)
    assert not verdict.healthy and "PyMySQL is not installed" in verdict.reason and "secret" not in verdict.reason


async def test_cancelling_a_check_leaves_nothing_running(prober: NetworkProber) -> None:
    before = asyncio.all_tasks()
    async with web(silent=True) as (port, _):
        for pause in (0.0, 0.05):
            task = asyncio.create_task(prober.check(only(urls=(f"http://127.0.0.1:{port}/",), ports=(port,)), HERE))
            await asyncio.sleep(pause)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.sleep(0.01)
        left = {t for t in asyncio.all_tasks() - before if "serve" not in repr(t.get_coro())}
        assert left == set()


def test_what_is_probed_in_words() -> None:
    check = HealthCheck(ports=(80,), urls=("http://x/",), mysqldbs=(MysqlCheck("db", "u", "p"),), command=("x",))
    assert describe(check) == "ping, port 80, http://x/, mysql db, command"
    assert describe(HealthCheck(ping=False)) == ""
