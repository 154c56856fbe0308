"""What the HTTP edge is made of: the services' queries on the store, their commands over the exchange.

Who serves the commands is not asked: the services may run beside the edge, in the same program, or in containers on
other hosts. A command that nobody serves is refused at once with advice; what is read goes on.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from sqlalchemy import Connection

from pelagos import __version__
from pelagos.api import Application, Edge, Limits
from pelagos.clouds import Pool
from pelagos.model.errors import Unavailable
from pelagos.model.scope import Scope
from pelagos.model.world import World
from pelagos.process import Process, client
from pelagos.runtime.doctor import gather_facts
from pelagos.runtime.settings import Settings
from pelagos.services.compute import ComputeService
from pelagos.services.compute import queries as compute_queries
from pelagos.services.infrastructure import InfrastructureService, queries
from pelagos.services.infrastructure.messages import DeleteDefinition
from pelagos.services.notifications import SetRoutes
from pelagos.services.notifications.service import NotificationsService
from pelagos.store import HostFacts, Store
from pelagos.wire.doctor import DoctorView
from pelagos.wire.infrastructures import ExplainView, ServerView, StatusView
from pelagos.wire.times import rfc3339

__all__ = ["compose_edge"]


def compose_edge(
    settings: Settings, *, caller: Process, mode: str, store: Store, pool: Pool, facts: HostFacts | None
) -> Application:
    """The edge of a program. ``caller`` sends its commands; ``facts`` are this host's, who knows which holders of
    leases on it are dead."""
    http = settings.http
    world: World = caller.world
    timeout = http.command_timeout
    commands = cast(
        InfrastructureService,
        _Explained(client(InfrastructureService, caller, timeout=timeout), "infrastructures", "infrastructure"),
    )
    clouds = cast(
        ComputeService, _Explained(client(ComputeService, caller, timeout=timeout), "the clouds of the pool", "compute")
    )

    async def delete_definition(type_: str) -> None:
        await commands.delete_definition(DeleteDefinition(type=type_))

    async def route(infrastructure_id: str, sinks: tuple[str, ...]) -> tuple[str, ...]:
        service = client(NotificationsService, caller, timeout=http.command_timeout)
        try:
            return (await service.route(SetRoutes(infrastructure_id, sinks))).sinks
        except Unavailable as error:
            if "address" not in error.details:
                raise
            raise Unavailable(
                "no container of this system tells sinks now; nothing was changed",
                advice="Start one with the app `notifications`, or the daemon: pelagos serve.",
                details=error.details,
            ) from error

    async def doctor() -> DoctorView:
        return await gather_facts(settings, world=world, mode=mode, store=store, pool=pool)

    return Application(
        Edge(
            store=store,
            world=world,
            commands=commands,
            delete_definition=delete_definition,
            route=route,
            queries=_Queries(facts, pool),
            servers=_Servers(),
            clouds=clouds,
            doctor=doctor,
            version=__version__,
            mode=mode,
            limits=Limits(body_bytes=http.body_bytes, command_timeout=http.command_timeout, heartbeat=http.heartbeat),
            closing=asyncio.Event(),
        )
    )


class _Explained:
    """The commands; where nobody serves them, the error says what to start."""

    def __init__(self, commands: object, what: str, app: str) -> None:
        self._commands = commands
        self._what = what
        self._app = app

    def __getattr__(self, name: str) -> Any:
        command = getattr(self._commands, name)

        async def call(*request: object) -> Any:
            try:
                return await command(*request)
            except Unavailable as error:
                if "address" not in error.details:
                    raise
                raise Unavailable(
                    f"no container of this system serves {self._what} now; nothing was done",
                    advice=f"Start one with the app `{self._app}`; `pelagos nodes` shows which containers there are.",
                    details=error.details,
                ) from error

        return call


class _Queries:
    """The infrastructure service's queries, with what this host knows of the processes on it, and of the pool."""

    list_infrastructures = staticmethod(queries.list_infrastructures)
    resolve = staticmethod(queries.resolve)
    graph = staticmethod(queries.graph)
    run = staticmethod(queries.run)
    runs = staticmethod(queries.runs)
    history = staticmethod(queries.history)
    revision = staticmethod(queries.revision)
    diff = staticmethod(queries.diff)
    events = staticmethod(queries.events)
    last_position = staticmethod(queries.last_position)
    definitions = staticmethod(queries.definitions)

    def __init__(self, facts: HostFacts | None, pool: Pool) -> None:
        self._is_dead = None if facts is None else facts.is_dead
        self._pool = pool

    def status(self, connection: Connection, scope: Scope, name_or_id: str, /) -> StatusView:
        return queries.status(connection, scope, name_or_id, known=self._known)

    def explain(self, connection: Connection, scope: Scope, name_or_id: str, node: str | None = None, /) -> ExplainView:
        from pelagos.services.infrastructure.explain import explain

        return explain(connection, scope, name_or_id, node, is_dead=self._is_dead, known=self._known)

    def _known(self, account: str) -> bool:
        return self._pool.find(account) is not None


class _Servers:
    """The compute service's queries in terms of the wire."""

    def list_servers(self, connection: Connection, scope: Scope, /) -> list[ServerView]:
        return [_server_view(row) for row in compute_queries.list_servers(connection, scope)]

    def get_server(self, connection: Connection, scope: Scope, server_id: str, /) -> ServerView:
        return _server_view(compute_queries.get_server(connection, scope, server_id))


def _server_view(row: compute_queries.ServerRow) -> ServerView:
    return ServerView(
        id=row.id,
        name=row.name,
        cloud=row.account,
        provider_id=row.provider_id,
        state=row.state,
        reason=row.reason,
        addresses=tuple(row.addresses),
        infrastructure_id=row.infrastructure_id,
        instance_id=row.instance_id,
        created_at=rfc3339(row.created_at),
    )
