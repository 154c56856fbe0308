"""Which services there are, and how they are wired: the one place that knows all of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from sqlalchemy import Connection

from pelagos.api import Commands, Queries, ServerQueries
from pelagos.clouds import Pool
from pelagos.container import Container
from pelagos.model.scope import Scope
from pelagos.model.world import World
from pelagos.operations import OperationsEngine
from pelagos.process import client
from pelagos.runtime.host_commands import run_host_command
from pelagos.runtime.settings import Settings
from pelagos.services.compute import ComputeService
from pelagos.services.compute import queries as compute_queries
from pelagos.services.infrastructure import InfrastructureService, MaintainerSettings, queries
from pelagos.services.infrastructure.health import Prober
from pelagos.services.infrastructure.messages import DeleteDefinition
from pelagos.store import HostFacts, LeaseKeeper, Store
from pelagos.wire.infrastructures import ExplainView, ServerView
from pelagos.wire.times import rfc3339

__all__ = ["Assemble", "Foundations", "Services", "assemble_release", "assemble_services"]


@dataclass(frozen=True, kw_only=True)
class Foundations:
    """What services stand on; all of it is started."""

    settings: Settings
    world: World
    mode: Literal["embedded", "serve"]
    store: Store
    keeper: LeaseKeeper
    pool: Pool
    container: Container
    facts: HostFacts | None = None
    """This host's, who knows which holders of leases are dead; None: nobody does."""
    prober: Prober | None = None
    """Who probes instances' health; None: the network is probed."""


@dataclass(frozen=True, kw_only=True)
class Services:
    """What the edge needs of the services."""

    commands: Commands
    delete_definition: Callable[[str], Awaitable[None]]
    queries: Queries
    servers: ServerQueries


Assemble = Callable[[Foundations], Awaitable[Services]]
"""Starts the services in the container, which stops them."""


async def assemble_services(foundations: Foundations) -> Services:
    """The services of this version: compute on the operations engine, infrastructure on compute."""
    f = foundations
    engine_of = partial(OperationsEngine, f.store, f.pool, f.keeper, f.world)
    settings = MaintainerSettings(interval=f.settings.maintain_interval, health_interval=f.settings.health_interval)

    # Factories: a supervisor that restarts a service wants a new one, and an engine runs once.
    def compute() -> ComputeService:
        return ComputeService(f.store, engine_of())

    def infrastructure() -> InfrastructureService:
        return InfrastructureService(
            store=f.store,
            keeper=f.keeper,
            pool=f.pool,
            settings=settings,
            maintain=f.mode == "serve",
            prober=f.prober,
            run_command=run_host_command if f.settings.commands == "allowed" else None,
        )

    await f.container.spawn(compute, name="compute")
    await f.container.spawn(infrastructure, name="infrastructure")
    return _services(f)


async def assemble_release(foundations: Foundations) -> Services:
    """The services of the release that the settings name: what the daemon runs. Raises what starting it raises."""
    from pelagos.container.apps import AppManager, find_apps, resolve
    from pelagos.runtime.resources import HostResources

    f = foundations
    resources = HostResources(f.container, f.settings)
    resources.provide(Store, f.store)
    resources.provide(LeaseKeeper, f.keeper)
    resources.provide(Pool, f.pool)
    search = f.settings.app_directories
    plan = resolve(await f.world.run_blocking(find_apps, [f.settings.release], search, here=False))
    await AppManager(f.container, resources, search=search).start(plan)
    return _services(f)


def _services(f: Foundations) -> Services:
    """What the edge asks, whoever serves it."""
    commands = client(InfrastructureService, f.container.edge, timeout=f.settings.http.command_timeout)

    async def delete_definition(type_: str) -> None:
        await commands.delete_definition(DeleteDefinition(type=type_))

    return Services(
        commands=commands, delete_definition=delete_definition, queries=_Queries(f.facts), servers=_Servers()
    )


class _Queries:
    """The infrastructure service's queries, with what this host knows of the processes on it."""

    list_infrastructures = staticmethod(queries.list_infrastructures)
    resolve = staticmethod(queries.resolve)
    status = staticmethod(queries.status)
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
