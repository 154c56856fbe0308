"""What the edge stands on: the store it reads, the commands it sends, the facts it tells.

Reads are functions on a connection and commands go over the exchange (ARCHITECTURE, "How a request flows"); the edge
gets both as ports, so that its tests need no cloud and its handlers cannot reach further.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from sqlalchemy import Connection

from pelagos.model.scope import Scope
from pelagos.model.world import World
from pelagos.services.compute.messages import CloudRef, CloudServersRequest
from pelagos.services.infrastructure.messages import (
    CancelRun,
    CostsRequest,
    ImportDefinitions,
    Logs,
    LogsRequest,
    OrphansRequest,
    Protect,
    RefreshLive,
    SetMaintained,
)
from pelagos.store.port import Store
from pelagos.wire.clouds import (
    CloudCheckRequest,
    CloudChecks,
    CloudList,
    CloudServers,
    CloudView,
    FlavorList,
    ImageList,
    PoolChangeView,
    PoolReload,
)
from pelagos.wire.doctor import DoctorView
from pelagos.wire.drift import DriftRequest, DriftView, OrphanList, OrphanRemoval
from pelagos.wire.infrastructures import (
    DefinitionView,
    DiffView,
    EventView,
    ExplainView,
    GraphRequest,
    GraphView,
    InfrastructureSummary,
    PlanRequest,
    PlanView,
    Protected,
    RevisionFiles,
    RevisionView,
    RunningCosts,
    RunRequest,
    RunView,
    ServerView,
    StatusView,
)
from pelagos.wire.pages import DefinitionList

__all__ = [
    "Clouds",
    "Commands",
    "DeleteDefinitionCommand",
    "Edge",
    "Limits",
    "Queries",
    "RouteCommand",
    "ServerQueries",
]


class Commands(Protocol):
    """The infrastructure service as the edge uses it: the typed client of the service process.

    Each runs in the context (scope, deadline, trace) that is set when it is called."""

    async def start_run(self, request: RunRequest, /) -> RunView: ...
    async def cancel_run(self, request: CancelRun, /) -> RunView: ...
    async def plan(self, request: PlanRequest, /) -> PlanView: ...
    async def costs(self, request: CostsRequest, /) -> RunningCosts: ...
    async def graph(self, request: GraphRequest, /) -> GraphView: ...
    async def set_maintained(self, request: SetMaintained, /) -> InfrastructureSummary: ...
    async def import_definitions(self, request: ImportDefinitions, /) -> DefinitionList: ...
    async def logs(self, request: LogsRequest, /) -> Logs: ...
    async def refresh_live(self, request: RefreshLive, /) -> None: ...
    async def protect(self, request: Protect, /) -> Protected: ...
    async def drift(self, request: DriftRequest, /) -> DriftView: ...
    async def orphans(self, request: OrphansRequest, /) -> OrphanList: ...
    async def remove_orphans(self, request: OrphanRemoval, /) -> None: ...


class Clouds(Protocol):
    """The compute service's operations on the clouds of the pool, each in the context that is set when it is called."""

    async def list_clouds(self) -> CloudList: ...
    async def get_cloud(self, request: CloudRef, /) -> CloudView: ...
    async def check_clouds(self, request: CloudCheckRequest, /) -> CloudChecks: ...
    async def list_images(self, request: CloudRef, /) -> ImageList: ...
    async def list_flavors(self, request: CloudRef, /) -> FlavorList: ...
    async def list_cloud_servers(self, request: CloudServersRequest, /) -> CloudServers: ...
    async def reload_pool(self, request: PoolReload, /) -> PoolChangeView: ...


DeleteDefinitionCommand = Callable[[str], Awaitable[None]]
"""Delete a stored node definition by its type; raises NotFound."""

RouteCommand = Callable[[str, tuple[str, ...]], Awaitable[tuple[str, ...]]]
"""Have sinks told of the infrastructure of that id; answers their names. Raises NotFound for an unknown sink."""


class Queries(Protocol):
    """The infrastructure service's queries. All raise NotFound for what is not in the scope's project."""

    def list_infrastructures(
        self, connection: Connection, scope: Scope, /, *, name: str | None = None, deleted: bool = False
    ) -> list[InfrastructureSummary]: ...
    def resolve(self, connection: Connection, scope: Scope, name_or_id: str, /) -> str: ...
    def status(self, connection: Connection, scope: Scope, name_or_id: str, /) -> StatusView: ...
    def graph(self, connection: Connection, scope: Scope, name_or_id: str, /) -> GraphView: ...
    def explain(
        self, connection: Connection, scope: Scope, name_or_id: str, node: str | None = None, /
    ) -> ExplainView: ...
    def run(self, connection: Connection, scope: Scope, run_id: str, /) -> RunView: ...
    def runs(self, connection: Connection, scope: Scope, name_or_id: str, /) -> list[RunView]: ...
    def history(
        self, connection: Connection, scope: Scope, name_or_id: str, /, *, limit: int = 1000
    ) -> list[RevisionView]: ...
    def revision(self, connection: Connection, scope: Scope, name_or_id: str, revision: str, /) -> RevisionFiles: ...
    def diff(self, connection: Connection, scope: Scope, name_or_id: str, old: str, new: str, /) -> DiffView: ...
    def events(
        self,
        connection: Connection,
        scope: Scope,
        /,
        *,
        after: int,
        limit: int,
        infrastructure: str | None = None,
    ) -> list[EventView]: ...
    def last_position(self, connection: Connection, /) -> int: ...
    def definitions(self, connection: Connection, scope: Scope, /) -> list[DefinitionView]: ...


class ServerQueries(Protocol):
    """The compute service's queries, in terms of the wire."""

    def list_servers(self, connection: Connection, scope: Scope, /) -> list[ServerView]: ...
    def get_server(self, connection: Connection, scope: Scope, server_id: str, /) -> ServerView: ...


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much a request may ask. Times in seconds, sizes in bytes."""

    body_bytes: int = 16 * 1024 * 1024
    command_timeout: float = 60.0
    """Longest that a command may take; a request's deadline header can only shorten it."""
    heartbeat: float = 15.0
    """Pause after which an idle event stream says that it is still there."""
    event_batch: int = 500
    """Most events read at once."""


@dataclass(frozen=True, kw_only=True)
class Edge:
    """See the module's text."""

    store: Store
    world: World
    commands: Commands
    delete_definition: DeleteDefinitionCommand
    route: RouteCommand
    queries: Queries
    servers: ServerQueries
    clouds: Clouds
    doctor: Callable[[], Awaitable[DoctorView]]
    version: str
    mode: str
    limits: Limits = field(default_factory=Limits)
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the server drains: streams end, so that it need not wait for readers."""
    counters: dict[str, int] = field(default_factory=dict)

    def count(self, what: str) -> None:
        self.counters[what] = self.counters.get(what, 0) + 1

    def snapshot(self) -> Mapping[str, int]:
        """Requests by class of status, streams opened and closed."""
        return dict(self.counters)
