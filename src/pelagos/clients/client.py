"""The client: connects to a server by address, or to an application in this process."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import httpx2

from pelagos.clients.connection import Connection
from pelagos.clients.resources import (
    Clouds,
    Definitions,
    Infrastructures,
    Orphans,
    Runs,
    Servers,
    check_reference,
    events,
)
from pelagos.model.errors import InvalidInput
from pelagos.model.world import SystemWorld, World
from pelagos.wire.doctor import DoctorView, HealthView
from pelagos.wire.infrastructures import EventView, GraphRequest, GraphView, PlanRequest, PlanView

__all__ = ["Client", "connect"]


class Client:
    """All services of one server. Use as an async context manager; everything below raises errors of the family."""

    def __init__(self, connection: Connection, world: World) -> None:
        self._connection = connection
        self.infrastructures = Infrastructures(connection)
        self.runs = Runs(connection, world)
        self.definitions = Definitions(connection)
        self.servers = Servers(connection)
        self.clouds = Clouds(connection)
        self.orphans = Orphans(connection)

    async def __aenter__(self) -> Self:
        await self._connection.http.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self._connection.http.__aexit__(exc_type, exc_value, traceback)

    async def plan(self, request: PlanRequest) -> PlanView:
        """What a run would change; nothing is changed."""
        if request.infrastructure or not (request.sources or request.entries):
            check_reference(request.infrastructure)
        return await self._connection.request("POST", "/plan", PlanView, body=request, repeatable=True)

    async def graph(self, request: GraphRequest) -> GraphView:
        """Who depends on whom in a description that need not be built."""
        return await self._connection.request("POST", "/graph", GraphView, body=request, repeatable=True)

    async def events(
        self, infrastructure: str | None = None, *, after: int = 0, follow: bool = False
    ) -> AsyncGenerator[EventView, None]:
        """Events of the project, or of one infrastructure, after a position; with ``follow`` without end."""
        found = events(self._connection, infrastructure, after=after, follow_on=follow)
        async with aclosing(found) as stream:
            async for event in stream:
                yield event

    async def health(self) -> HealthView:
        return await self._connection.get("/health", HealthView)

    async def doctor(self) -> DoctorView:
        return await self._connection.get("/doctor", DoctorView)

    def snapshot(self) -> dict[str, Any]:
        """Where it is connected, and how often it tried again."""
        return self._connection.snapshot()


def connect(
    target: str | httpx2.AsyncBaseTransport,
    token: str | None = None,
    *,
    timeout: float = 60.0,
    patience: float = 15.0,
    world: World | None = None,
) -> Client:
    """A client of the server at ``http://host:port``, ``https://…``, ``unix:///path``, or behind a transport.

    ``timeout`` is for one answer, ``patience`` for all tries of a request that may be repeated, both in seconds.
    Nothing is connected before the first request. Raises InvalidInput for an address that is none."""
    world = world or SystemWorld()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    base_url, transport = _target(target)
    http = httpx2.AsyncClient(
        transport=transport, base_url=base_url, headers=headers, trust_env=False, follow_redirects=False
    )
    return Client(Connection(http, timeout=timeout, patience=patience, world=world), world)


def _target(target: str | httpx2.AsyncBaseTransport) -> tuple[str, httpx2.AsyncBaseTransport]:
    if not isinstance(target, str):
        return "http://pelagos", target
    limits = httpx2.Limits(max_connections=64, max_keepalive_connections=8)
    parts = urlsplit(target)
    match parts.scheme:
        case "unix" if parts.path and not parts.netloc:
            # No certificates are needed there, and loading them is a good part of a command's start-up time.
            return "http://pelagos", httpx2.AsyncHTTPTransport(uds=unquote(parts.path), verify=False, limits=limits)
        case "http" if parts.hostname:
            return target, httpx2.AsyncHTTPTransport(verify=False, limits=limits)
        case "https" if parts.hostname:
            return target, httpx2.AsyncHTTPTransport(limits=limits)
        case _:
            raise InvalidInput(
                f"{target!r} is not the address of a server",
                advice="Use http://host:port, https://host:port or unix:///path/of/the/socket.",
            )
