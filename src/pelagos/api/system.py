"""Endpoints of the installation itself, and of its servers."""

from __future__ import annotations

import os

from pelagos.api.binding import Call, Endpoint
from pelagos.wire.doctor import DoctorView, HealthView
from pelagos.wire.infrastructures import ServerView
from pelagos.wire.pages import ServerList

__all__ = ["ENDPOINTS"]


async def health(call: Call) -> HealthView:
    position = await call.read(call.edge.queries.last_position)
    return HealthView(status="ok", version=call.edge.version, mode=call.edge.mode, pid=os.getpid(), position=position)


async def doctor(call: Call) -> DoctorView:
    return await call.edge.doctor()


async def list_servers(call: Call) -> ServerList:
    found = await call.read(lambda connection: call.edge.servers.list_servers(connection, call.scope))
    return ServerList(items=tuple(found))


async def get_server(call: Call) -> ServerView:
    server = call.path("server")
    return await call.read(lambda connection: call.edge.servers.get_server(connection, call.scope, server))


ENDPOINTS = (
    Endpoint(
        method="GET", path="/health", handler=health, summary="Whether it answers", tag="system", answer=HealthView
    ),
    Endpoint(
        method="GET",
        path="/doctor",
        handler=doctor,
        summary="What this installation can do, and what is missing",
        tag="system",
        answer=DoctorView,
    ),
    Endpoint(
        method="GET", path="/servers", handler=list_servers, summary="All servers", tag="servers", answer=ServerList
    ),
    Endpoint(
        method="GET", path="/servers/{server}", handler=get_server, summary="A server", tag="servers", answer=ServerView
    ),
)
