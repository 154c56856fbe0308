"""The fault proxy between an HTTP client and a provider of a few lines, which counts its effects."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from pelagos.testing import FaultProxy, ProxyFault, fault_proxy, request_where
from pelagos.testing.http_requests import read_request

pytestmark = pytest.mark.anyio

PATIENCE = 20.0
WITHOUT_EFFECT = (ProxyFault.RESET_BEFORE, ProxyFault.REQUEST_LOST, ProxyFault.ERROR_BEFORE, ProxyFault.UNAVAILABLE)
SILENT = (ProxyFault.REQUEST_LOST, ProxyFault.REPLY_LOST)
BODY = b"<answer>done</answer>"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Provider:
    """Answers every request by the same document, each over one connection, and notes what was asked."""

    def __init__(self) -> None:
        self.effects: list[str] = []
        self.asked = asyncio.Event()
        self.url = ""

    @asynccontextmanager
    async def running(self, path: Path | None = None) -> AsyncIterator[Provider]:
        if path is not None:
            server: asyncio.Server = await asyncio.start_unix_server(self._serve, path)
            self.url = f"unix://{path}"
        else:
            server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
            self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server:
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        read = await read_request(reader, writer, 0)
        if read is not None:
            head, request = read
            self.effects.append(f"{request.method} {request.path} {request.action}".strip())
            self.asked.set()
            if head.get("upgrade"):
                writer.write(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\n\r\n")
                while line := await reader.readline():
                    writer.write(line.upper())
            elif request.path == "/chunks":
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
            else:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY)
            await writer.drain()
        writer.close()


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with Provider().running() as running:
        yield running


@pytest.fixture
async def proxy(provider: Provider) -> AsyncIterator[FaultProxy]:
    async with fault_proxy(provider.url) as running:
        yield running


@pytest.fixture
async def client(proxy: FaultProxy) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=proxy.url, timeout=PATIENCE, trust_env=False) as running:
        yield running


async def test_what_is_not_scripted_passes_unchanged(
    proxy: FaultProxy, provider: Provider, client: httpx2.AsyncClient
) -> None:
    reply = await client.post("/a%20b?x=1", data={"Action": "RunInstances", "ClientToken": "t"})
    assert (reply.status_code, reply.content) == (200, BODY)
    assert (await client.get("/chunks")).text == "abcde"
    assert provider.effects == ["POST /a b RunInstances", "GET /chunks"]
    first, second = proxy.requests
    assert (first.number, first.method, first.path, first.status, first.fault) == (1, "POST", "/a b", 200, "")
    assert first.form == {"x": "1", "Action": "RunInstances", "ClientToken": "t"}
    assert (second.number, second.form, second.body, second.json) == (2, {}, b"", None)


async def test_bodies_in_chunks_and_json(proxy: FaultProxy, client: httpx2.AsyncClient) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b'{"name": '
        yield b'"one"}'

    assert (await client.post("/servers", content=pieces())).status_code == 200
    assert proxy.requests[0].json == {"name": "one"}


@pytest.mark.parametrize("fault", list(ProxyFault))
async def test_effects_and_replies(
    proxy: FaultProxy, provider: Provider, client: httpx2.AsyncClient, fault: ProxyFault
) -> None:
    """Each fault has its effect or has none, and its client hears what it should."""
    proxy.fail(fault, delay=0.01, retry_after=7)
    heard: httpx2.Response | None = None
    try:
        heard = await client.get("/", timeout=0.5 if fault in SILENT else PATIENCE)
    except httpx2.TimeoutException:
        assert fault in SILENT
    except httpx2.TransportError:
        assert fault in (
            ProxyFault.RESET_BEFORE,
            ProxyFault.CONNECTION_CLOSED,
            ProxyFault.HALF_CLOSED,
            ProxyFault.TRUNCATED,
        )
    without = (*WITHOUT_EFFECT, ProxyFault.RATE_LIMITED, ProxyFault.AUTH_FAILED)
    assert provider.effects == ([] if fault in without else ["GET /"])
    expected = {
        ProxyFault.UNAVAILABLE: 503,
        ProxyFault.RATE_LIMITED: 429,
        ProxyFault.AUTH_FAILED: 401,
        ProxyFault.ERROR_BEFORE: 500,
        ProxyFault.ERROR_AFTER: 500,
        ProxyFault.LATE: 200,
        ProxyFault.SLOW: 200,
    }.get(fault)
    assert (None if heard is None else heard.status_code) == expected
    if fault is ProxyFault.RATE_LIMITED:
        assert heard is not None and heard.headers["retry-after"] == "7"
    assert proxy.requests[0].fault == fault
    assert (await client.get("/")).content == BODY


async def test_a_truncated_reply_says_its_whole_length(proxy: FaultProxy, client: httpx2.AsyncClient) -> None:
    for path in ("/", "/chunks"):
        proxy.fail("truncated")
        with pytest.raises(httpx2.RemoteProtocolError):
            await client.get(path)


async def test_a_fault_meets_the_requests_that_match_and_as_often_as_it_was_told(
    proxy: FaultProxy, provider: Provider, client: httpx2.AsyncClient
) -> None:
    proxy.fail("unavailable", request_where(action="RunInstances", form={"Name": "one"}), times=2, status=418)
    proxy.fail("rate_limited", request_where(method="delete", path="^/servers/", body="force"), body="slow down")
    statuses = [
        (await client.post("/", data={"Action": "DescribeInstances", "Name": "one"})).status_code,
        (await client.post("/", data={"Action": "RunInstances", "Name": "two"})).status_code,
        (await client.post("/", data={"Action": "RunInstances", "Name": "one"})).status_code,
        (await client.get("/", params={"Action": "RunInstances", "Name": "one"})).status_code,
        (await client.post("/", data={"Action": "RunInstances", "Name": "one"})).status_code,
        (await client.request("DELETE", "/servers/1", content=b"")).status_code,
    ]
    assert statuses == [200, 200, 418, 418, 200, 200]
    refused = await client.request("DELETE", "/servers/1", content=b"force")
    assert (refused.status_code, refused.text) == (429, "slow down")
    assert proxy.scripted == ()
    assert len(provider.effects) == 4
    assert [request.number for request in proxy.seen(action="RunInstances")] == [2, 3, 4, 5]


async def test_a_late_effect_comes_although_its_client_gave_up(
    proxy: FaultProxy, provider: Provider, client: httpx2.AsyncClient
) -> None:
    release = asyncio.Event()
    proxy.fail("late", until=release)
    with pytest.raises(httpx2.TimeoutException):
        await client.get("/", timeout=0.1)
    assert provider.effects == []
    release.set()
    async with asyncio.timeout(PATIENCE):
        await provider.asked.wait()
    assert provider.effects == ["GET /"]


async def test_arrivals_can_be_waited_for(proxy: FaultProxy, client: httpx2.AsyncClient) -> None:
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        second = group.create_task(proxy.arrival(path="^/wanted", many=2))
        for path in ("/wanted/1", "/other", "/wanted/2"):
            await client.get(path)
    assert second.result().path == "/wanted/2"


async def test_nobody_listens_while_it_refuses(
    proxy: FaultProxy, provider: Provider, client: httpx2.AsyncClient
) -> None:
    before = proxy.url
    async with proxy.refusing():
        with pytest.raises(httpx2.ConnectError):
            await client.get("/")
    assert proxy.url == before
    assert (await client.get("/")).status_code == 200
    assert provider.effects == ["GET /"]


async def test_a_provider_that_is_away_resets_the_connection() -> None:
    async with Provider().running() as provider:
        url = provider.url
    async with fault_proxy(url) as proxy, httpx2.AsyncClient(base_url=proxy.url, trust_env=False) as client:
        with pytest.raises(httpx2.TransportError):
            await client.get("/")
        assert proxy.requests[0].status == 0


async def test_unix_sockets_on_both_sides(tmp_path: Path) -> None:
    async with (
        Provider().running(tmp_path / "provider.sock") as provider,
        fault_proxy(provider.url, listen=tmp_path / "proxy.sock") as proxy,
        httpx2.AsyncClient(
            transport=httpx2.AsyncHTTPTransport(uds=str(tmp_path / "proxy.sock")), base_url="http://docker"
        ) as client,
    ):
        assert proxy.url == f"unix://{tmp_path}/proxy.sock"
        assert (await client.get("/info")).content == BODY
        proxy.fail("error_after")
        assert (await client.get("/info")).status_code == 500
        assert provider.effects == ["GET /info"] * 2
    assert not (tmp_path / "proxy.sock").exists()


async def test_upgraded_connections_pass_both_ways(proxy: FaultProxy) -> None:
    host, _, port = proxy.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /exec HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
    async with asyncio.timeout(PATIENCE):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        for word in (b"one\n", b"two\n"):
            writer.write(word)
            assert await reader.readline() == word.upper()
        writer.write_eof()
        assert await reader.read() == b""
    writer.close()


async def test_what_is_no_http_is_cut_off(proxy: FaultProxy, provider: Provider) -> None:
    host, _, port = proxy.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"hello\r\n\r\n")
    async with asyncio.timeout(PATIENCE):
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
    writer.close()
    assert (proxy.requests, provider.effects) == ([], [])


async def test_leaving_drops_what_is_held_back(provider: Provider) -> None:
    async with fault_proxy(provider.url) as proxy, httpx2.AsyncClient(base_url=proxy.url, trust_env=False) as client:
        proxy.fail("request_lost")
        with pytest.raises(httpx2.TimeoutException):
            await client.get("/", timeout=0.1)
        proxy.fail("late", delay=PATIENCE * 10)
        with pytest.raises(httpx2.TimeoutException):
            await client.get("/", timeout=0.1)
    assert provider.effects == []
    assert proxy.snapshot()["connections"] == 0


def test_addresses_that_are_none() -> None:
    for url in ("https://somewhere", "unix:", "somewhere:80"):
        with pytest.raises(ValueError, match="neither"):
            FaultProxy(url)
