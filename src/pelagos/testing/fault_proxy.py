"""The fault proxy: an HTTP proxy on loopback between a driver and its provider, which does what networks do.

A driver is pointed at :attr:`FaultProxy.url` in place of its provider's endpoint. All passes unchanged until a fault is
scripted for requests that match::

    async with fault_proxy("http://127.0.0.1:5000") as proxy:
        driver = await plugin.open(context_with(endpoint=proxy.url))
        proxy.fail(ProxyFault.REPLY_LOST, request_where(action="RunInstances"))
        with pytest.raises(CloudUncertain):
            await driver.create_server(...)
        assert proxy.seen(action="RunInstances")[0].form["ClientToken"] == token

Provider and proxy may each be on TCP (``http://host:port``) or on a Unix socket (``unix:///path``). The proxy speaks
plain HTTP; each request goes over a connection of its own, whose reply is passed on as it comes (so also followed
logs), and upgraded connections are passed both ways. It lives in the loop of the test: a driver that blocks needs its
threads.

The way not chosen, a fake of the library inside the driver's process, never shows what the library does when a reply is
cut in the middle. And a proxy of bytes alone cannot tell a listing from a create.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import socket
import struct
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, assert_never
from urllib.parse import urlsplit

import msgspec

from pelagos.testing.http_requests import Head, Match, ProxiedRequest, read_head, read_request, request_where

__all__ = ["FaultProxy", "ProxyFault", "Scripted", "fault_proxy"]

_PIECE = 65_536
_HEAD_LIMIT = 1 << 20
_RESET = (socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class ProxyFault(enum.StrEnum):
    """What can happen to a request. The names are those of the simulated cloud's faults where they mean the same."""

    UNAVAILABLE = "unavailable"
    """503, no effect."""
    RATE_LIMITED = "rate_limited"
    """429 with ``Retry-After``, no effect."""
    AUTH_FAILED = "auth_failed"
    """401, no effect."""
    ERROR_BEFORE = "error_before"
    """500 without an effect."""
    ERROR_AFTER = "error_after"
    """500 after the effect."""
    RESET_BEFORE = "reset_before"
    """The connection is reset when the request has been read; no effect."""
    REQUEST_LOST = "request_lost"
    """No effect, and silence until the client gives up."""
    REPLY_LOST = "reply_lost"
    """The effect, and silence until the client gives up."""
    CONNECTION_CLOSED = "connection_closed"
    """The effect, and a reset in place of the reply."""
    HALF_CLOSED = "half_closed"
    """The effect, and an orderly end of the stream in place of the reply."""
    TRUNCATED = "truncated"
    """The effect, and half of the reply's body before the end of the stream."""
    LATE = "late"
    """Silence; the effect comes after ``delay``, whether or not the client still waits, and its reply then."""
    SLOW = "slow"
    """Half of ``delay`` before the effect and half of it after; the reply is whole."""


class Scripted(msgspec.Struct):
    """A fault that has requests left."""

    fault: ProxyFault
    when: Match
    times: int
    delay: float
    retry_after: float
    status: int | None
    body: bytes
    headers: Mapping[str, str]
    until: asyncio.Event | None


class FaultProxy:
    """See the module. Made by :func:`fault_proxy`; all its methods belong to the loop that runs it."""

    def __init__(self, upstream: str, *, listen: str | Path = "http://127.0.0.1:0") -> None:
        self.requests: list[ProxiedRequest] = []
        """All that arrived, in that order."""
        self._upstream = _address(upstream)
        self._listen = _address(f"unix://{listen}" if isinstance(listen, Path) else listen)
        self._scripted: list[Scripted] = []
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._waiting: list[asyncio.Event] = []

    @property
    def url(self) -> str:
        """``http://127.0.0.1:port``, or ``unix:///path``; the same for the whole life of the proxy."""
        match self._listen:
            case Path() as path:
                return f"unix://{path}"
            case host, port:
                return f"http://{host}:{port}"

    # -- faults ------------------------------------------------------------------------------------------------------

    def fail(
        self,
        fault: ProxyFault | str,
        when: Match | None = None,
        times: int = 1,
        *,
        delay: float = 1.0,
        retry_after: float = 1.0,
        status: int | None = None,
        body: str | bytes = b"",
        headers: Mapping[str, str] | None = None,
        until: asyncio.Event | None = None,
    ) -> None:
        """The next ``times`` requests that match ``when`` (default: all) get ``fault``; the oldest that fits wins.

        ``delay`` is in seconds, for LATE and SLOW; ``until``, if given, takes its place and the request waits for that
        event. ``status``, ``body`` and ``headers`` replace those of an answer that the proxy makes itself (UNAVAILABLE,
        RATE_LIMITED, AUTH_FAILED, ERROR_BEFORE, ERROR_AFTER): so also a provider's own error document."""
        self._scripted.append(
            Scripted(
                fault=ProxyFault(fault),
                when=when or request_where(),
                times=times,
                delay=delay,
                retry_after=retry_after,
                status=status,
                body=body.encode() if isinstance(body, str) else body,
                headers=headers or {},
                until=until,
            )
        )

    def calm(self) -> None:
        """No scripted fault is left."""
        self._scripted.clear()

    @property
    def scripted(self) -> tuple[Scripted, ...]:
        """Faults that have not happened yet."""
        return tuple(self._scripted)

    @contextlib.asynccontextmanager
    async def refusing(self) -> AsyncIterator[None]:
        """As long as it lasts nobody listens at :attr:`url`: connections are refused, those that are open are reset."""
        await self._stop()
        try:
            yield
        finally:
            await self._start()

    # -- what was seen -----------------------------------------------------------------------------------------------

    def seen(self, when: Match | None = None, **conditions: Any) -> list[ProxiedRequest]:
        """The requests so far that match; ``conditions`` are those of :func:`request_where`."""
        fits = when or request_where(**conditions)
        return [request for request in self.requests if fits(request)]

    async def arrival(self, when: Match | None = None, *, many: int = 1, **conditions: Any) -> ProxiedRequest:
        """Wait until ``many`` requests that match have arrived since the beginning; the last of these."""
        fits = when or request_where(**conditions)
        event = asyncio.Event()
        self._waiting.append(event)
        try:
            while len(found := self.seen(fits)) < many:
                event.clear()
                await event.wait()
        finally:
            self._waiting.remove(event)
        return found[many - 1]

    def snapshot(self) -> dict[str, Any]:
        """Plain facts for debugging."""
        return {
            "url": self.url,
            "requests": [str(request) for request in self.requests],
            "scripted": [f"{one.fault} x {one.times}" for one in self._scripted],
            "connections": len(self._connections),
        }

    # -- life --------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> FaultProxy:
        await self._start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    async def _start(self) -> None:
        match self._listen:
            case Path() as path:
                self._server = await asyncio.start_unix_server(self._serve, path, limit=_HEAD_LIMIT)
            case host, port:
                self._server = await asyncio.start_server(self._serve, host, port, limit=_HEAD_LIMIT)
                self._listen = host, int(self._server.sockets[0].getsockname()[1])

    async def _stop(self) -> None:
        if self._server is None:
            return
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None
        if isinstance(self._listen, Path):
            self._listen.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            with contextlib.suppress(OSError, ValueError, asyncio.IncompleteReadError):
                await self._one_request(reader, writer)
        except asyncio.CancelledError:
            return  # by _stop, which waits for it; the stream server would report it as an error
        finally:
            writer.transport.abort()
            self._connections.discard(task)

    # -- one request -------------------------------------------------------------------------------------------------

    async def _one_request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        read = await read_request(reader, writer, len(self.requests) + 1)
        if read is None:
            return
        head, request = read
        request.number = len(self.requests) + 1
        self.requests.append(request)
        scripted = self._choose(request)
        for event in self._waiting:
            event.set()
        client = _Client(reader, writer)
        if scripted is None:
            await self._forward(head, request, client)
        else:
            await self._mistreat(scripted, head, request, client)

    def _choose(self, request: ProxiedRequest) -> Scripted | None:
        for one in self._scripted:
            if one.when(request):
                one.times -= 1
                if one.times <= 0:
                    self._scripted.remove(one)
                request.fault = one.fault.value
                return one
        return None

    async def _mistreat(self, script: Scripted, head: Head, request: ProxiedRequest, client: _Client) -> None:
        match script.fault:
            case ProxyFault.UNAVAILABLE:
                await client.answer(script, 503)
            case ProxyFault.RATE_LIMITED:
                await client.answer(script, 429, {"Retry-After": f"{script.retry_after:g}"})
            case ProxyFault.AUTH_FAILED:
                await client.answer(script, 401)
            case ProxyFault.ERROR_BEFORE:
                await client.answer(script, 500)
            case ProxyFault.ERROR_AFTER:
                await self._ask(head, request)
                await client.answer(script, 500)
            case ProxyFault.RESET_BEFORE:
                client.reset()
            case ProxyFault.REQUEST_LOST:
                await client.gone()
            case ProxyFault.REPLY_LOST:
                await self._ask(head, request)
                await client.gone()
            case ProxyFault.CONNECTION_CLOSED:
                await self._ask(head, request)
                client.reset()
            case ProxyFault.HALF_CLOSED:
                await self._ask(head, request)
                await client.finish()
            case ProxyFault.TRUNCATED:
                reply, body = await self._ask(head, request)
                if not reply.get("content-length"):
                    reply.put("Content-Length", str(len(body)))
                    reply.put("Transfer-Encoding", None)
                start = reply.encode()
                client.writer.write(start + body[: len(body) // 2] if body else start[: len(start) // 2])
                await client.finish()
            case ProxyFault.LATE:
                await _pause(script, script.delay)
                reply, body = await self._ask(head, request)
                client.writer.write(reply.encode() + body)
                await client.finish()
            case ProxyFault.SLOW:
                await _pause(script, script.delay / 2)
                reply, body = await self._ask(head, request)
                await asyncio.sleep(script.delay / 2)
                client.writer.write(reply.encode() + body)
                await client.finish()
            case _:
                assert_never(script.fault)

    async def _ask(self, head: Head, request: ProxiedRequest) -> tuple[Head, bytes]:
        """The provider's whole reply: its head and the raw body. Raises ConnectionError if there is none."""
        async with self._provider(head, request) as (reader, _):
            reply = await self._reply(reader, request)
            return reply, await reader.read()

    async def _forward(self, head: Head, request: ProxiedRequest, client: _Client) -> None:
        """Pass the request on, and its reply as it comes; both ways where the connection changes its protocol."""
        try:
            async with self._provider(head, request) as (reader, writer):
                reply = await self._reply(reader, request)
                client.writer.write(reply.encode())
                both_ways = reply.status == 101 or bool(head.get("upgrade"))
                async with asyncio.TaskGroup() as group:
                    there = group.create_task(_pump(client.reader, writer, closes=not both_ways))
                    await _pump(reader, client.writer)
                    there.cancel()
        except (OSError, ValueError):
            client.reset()
            return
        await client.finish()

    @contextlib.asynccontextmanager
    async def _provider(
        self, head: Head, request: ProxiedRequest
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A connection to the provider that the request was sent over."""
        match self._upstream:
            case Path() as path:
                reader, writer = await asyncio.open_unix_connection(path, limit=_HEAD_LIMIT)
            case host, port:
                reader, writer = await asyncio.open_connection(host, port, limit=_HEAD_LIMIT)
        try:
            if not head.get("upgrade"):
                head.put("Connection", "close")
            writer.write(head.encode() + request.body)
            await writer.drain()
            yield reader, writer
        finally:
            writer.transport.abort()

    async def _reply(self, reader: asyncio.StreamReader, request: ProxiedRequest) -> Head:
        reply = await read_head(reader)
        while reply is not None and 100 <= reply.status < 200 and reply.status != 101:
            reply = await read_head(reader)
        if reply is None:
            raise ConnectionError("the provider closed the connection without a reply")
        request.status = reply.status
        if reply.status != 101:
            reply.put("Connection", "close")
            reply.put("Keep-Alive", None)
        return reply


class _Client:
    """The driver's side of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def answer(self, script: Scripted, status: int, headers: Mapping[str, str] | None = None) -> None:
        """An answer of the proxy's own."""
        lines = {
            "Content-Type": "text/plain",
            **(headers or {}),
            **script.headers,
            "Content-Length": str(len(script.body)),
            "Connection": "close",
        }
        head = Head(f"HTTP/1.1 {script.status or status} Fault", list(lines.items()))
        self.writer.write(head.encode() + script.body)
        await self.finish()

    async def gone(self) -> None:
        """Say nothing until the client hangs up."""
        while await self.reader.read(_PIECE):
            continue

    async def finish(self) -> None:
        """Say that nothing more comes, and let the client hang up."""
        await self.writer.drain()
        if self.writer.can_write_eof():
            self.writer.write_eof()
        with contextlib.suppress(OSError):
            await self.gone()

    def reset(self) -> None:
        """Hang up with a reset where the transport has such a thing."""
        sock = self.writer.get_extra_info("socket")
        with contextlib.suppress(OSError):
            sock.setsockopt(*_RESET)
        self.writer.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, closes: bool = False) -> None:
    """Pass on all that comes, and then its end; ``closes``: the end takes the whole connection with it.

    A side that breaks ends the other."""
    try:
        while piece := await reader.read(_PIECE):
            writer.write(piece)
            await writer.drain()
        if closes:
            writer.transport.abort()
        elif writer.can_write_eof():
            writer.write_eof()
    except OSError:
        writer.transport.abort()


async def _pause(script: Scripted, seconds: float) -> None:
    if script.until is not None:
        await script.until.wait()
    else:
        await asyncio.sleep(seconds)


def _address(url: str) -> Path | tuple[str, int]:
    """Where that is. Raises ValueError for what is neither ``http://host:port`` nor ``unix:///path``."""
    parts = urlsplit(url)
    if parts.scheme == "unix" and parts.path and not parts.netloc:
        return Path(parts.path)
    if parts.scheme in ("http", "tcp") and parts.hostname:
        return parts.hostname, 80 if parts.port is None else parts.port
    raise ValueError(f"neither http://host:port nor unix:///path: {url!r}")


@contextlib.asynccontextmanager
async def fault_proxy(upstream: str, *, listen: str | Path = "http://127.0.0.1:0") -> AsyncIterator[FaultProxy]:
    """A proxy before ``upstream``, listening at ``listen`` (a path: a Unix socket) until the block ends.

    What is held back then is dropped, also effects that were to come late. Raises ValueError for other addresses."""
    async with FaultProxy(upstream, listen=listen) as proxy:
        yield proxy
