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
from pelagos.services.compute import queries as compute_queries
from pelagos.services.infrastructure import InfrastructureService, queries
from pelagos.services.infrastructure.messages import DeleteDefinition
from pelagos.store import HostFacts, Store
from pelagos.wire.doctor import DoctorView
from pelagos.wire.infrastructures import ExplainView, ServerView
from pelagos.wire.times import rfc3339

__all__ = ["compose_edge"]


def compose_edge(
    settings: Settings, *, caller: Process, mode: str, store: Store, pool: Pool, facts: HostFacts | None
) -> Application:
    """The edge of a program. ``caller`` sends its commands; ``facts`` are this host's, who knows which holders of
    leases on it are dead."""
    http = settings.http
    world: World = caller.world
    commands = cast(
        InfrastructureService, _Explained(client(InfrastructureService, caller, timeout=http.command_timeout))
    )

    async def delete_definition(type_: str) -> None:
        await commands.delete_definition(DeleteDefinition(type=type_))

    async def doctor() -> DoctorView:
        return await gather_facts(settings, world=world, mode=mode, store=store, pool=pool)

    return Application(
        Edge(
            store=store,
            world=world,
            commands=commands,
            delete_definition=delete_definition,
            queries=_Queries(facts),
            servers=_Servers(),
            doctor=doctor,
            version=__version__,
            mode=mode,
            limits=Limits(body_bytes=http.body_bytes, command_timeout=http.command_timeout, heartbeat=http.heartbeat),
            closing=asyncio.Event(),
        )
    )


class _Explained:
    """The commands; where nobody serves them, the error says what to start."""

    def __init__(self, commands: InfrastructureService) -> None:
        self._commands = commands

    def __getattr__(self, name: str) -> Any:
        command = getattr(self._commands, name)

        async def call(request: object) -> Any:
            try:
                return await command(request)
            except Unavailable as error:
                if "address" not in error.details:
                    raise
                raise Unavailable(
                    "no container of this system serves infrastructures now; nothing was done",
                    advice="Start one with the app `infrastructure`; `pelagos nodes` shows which containers there are.",
                    details=error.details,
                ) from error

        return call


class _Queries:
    """The infrastructure service's queries, with what this host knows of the processes on it."""

    list_infrastructures = staticmethod(queries.list_infrastructures)
    resolve = staticmethod(queries.resolve)
    status = staticmethod(queries.status)
    graph = staticmethod(queries.graph)
    run = staticmethod(queries.run)
    runs = staticmethod(queries.runs)
    history = staticmethod(queries.history)
    revision = staticmethod(queries.revision)
    diff = staticmethod(queries.diff)
    events = staticmethod(queries.events)
    last_position = staticmethod(queries.last_position)
    definitions = staticmethod(queries.definitions)

    def __init__(self, facts: HostFacts | None) -> None:
        self._is_dead = None if facts is None else facts.is_dead

    def explain(self, connection: Connection, scope: Scope, name_or_id: str, node: str | None = None, /) -> ExplainView:
        from pelagos.services.infrastructure.explain import explain

        return explain(connection, scope, name_or_id, node, is_dead=self._is_dead)


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
