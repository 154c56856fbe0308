"""A scene for tests of the edge: a real store, and a domain whose answers the test writes.

Events are real rows, read by the real queries. What commands were sent, and in whose context, is kept for the test.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Connection

from pelagos.api import Application, Edge, Limits
from pelagos.model.errors import NotFound
from pelagos.model.scope import DEFAULT_SCOPE, Scope
from pelagos.model.states import InfrastructureState, InstanceState, RunState, ServerState
from pelagos.model.world import SystemWorld
from pelagos.process import Context, current_context
from pelagos.services.compute.messages import CloudRef, CloudServersRequest
from pelagos.services.infrastructure import queries as infrastructure_queries
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
from pelagos.store import append, open_store
from pelagos.store.port import Store
from pelagos.wire.clouds import (
    CloudCheck,
    CloudCheckRequest,
    CloudChecks,
    CloudList,
    CloudServers,
    CloudView,
    FlavorList,
    ImageList,
    ImageView,
    PoolChangeView,
    PoolReload,
)
from pelagos.wire.doctor import DoctorView, Fact
from pelagos.wire.drift import DriftFinding, DriftRequest, DriftView, OrphanList, OrphanRemoval, OrphanView
from pelagos.wire.infrastructures import (
    DefinitionView,
    DiffView,
    EventView,
    ExplainStep,
    ExplainView,
    GraphNode,
    GraphView,
    InfrastructureSummary,
    InstanceStatus,
    LogView,
    NodeStatus,
    PlanAction,
    PlanRequest,
    PlanView,
    Protected,
    RevisionFiles,
    RevisionView,
    RunningCosts,
    RunRequest,
    RunView,
    ScalingStatus,
    ServerView,
    StatusView,
)
from pelagos.wire.pages import DefinitionList

NOW = "2026-01-01T00:00:00.000Z"
INFRA = "11111111-1111-4111-8111-111111111111"
RUN = "22222222-2222-4222-8222-222222222222"
INSTANCE = "33333333-3333-4333-8333-333333333333"
OTHER = Scope(project_id="other", user_id="somebody")
REVISION = RevisionView(number=1, id="ab" * 32, at=NOW, user_id="default", message=f"up, run {RUN}")


def run_view(state: RunState = RunState.RUNNING, **changes: Any) -> RunView:
    view = RunView(
        id=RUN,
        infrastructure_id=INFRA,
        infrastructure="shop",
        kind="up",
        state=state,
        keep=False,
        cancel_requested=False,
        error=None,
        created_at=NOW,
        started_at=None,
        finished_at=None,
        position=0,
    )
    return msgspec.structs.replace(view, **changes)


def summary(maintained: bool = True) -> InfrastructureSummary:
    return InfrastructureSummary(
        id=INFRA,
        name="shop",
        state=InfrastructureState.READY,
        reason="",
        nodes=1,
        target=1,
        ready=1,
        maintained=maintained,
        created_at=NOW,
        updated_at=NOW,
    )


@dataclass
class Domain:
    """One infrastructure ``shop`` of the default project, one run; everything else is not found."""

    sent: list[tuple[Any, Context]] = field(default_factory=list)
    failure: Exception | None = None
    run_state: RunState = RunState.RUNNING
    deleted_types: list[str] = field(default_factory=list)
    routes: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def _command(self, request: Any) -> None:
        self.sent.append((request, current_context()))
        if self.failure is not None:
            raise self.failure

    @staticmethod
    def _known(scope: Scope, reference: str, *names: str) -> None:
        if scope != DEFAULT_SCOPE or reference not in names:
            raise NotFound(f"there is no {reference!r}", advice="Look at the list.")

    async def start_run(self, request: RunRequest, /) -> RunView:
        self._command(request)
        if request.infrastructure:
            self._known(current_context().scope, request.infrastructure, INFRA, "shop")
        return run_view(kind=request.kind)

    async def cancel_run(self, request: CancelRun, /) -> RunView:
        self._command(request)
        self._known(current_context().scope, request.run_id, RUN)
        return run_view(cancel_requested=True, keep=request.keep)

    async def plan(self, request: PlanRequest, /) -> PlanView:
        self._command(request)
        action = PlanAction(action="create", node="web", count=2)
        return PlanView(
            name="shop", id=None, state=None, actions=(action,), critical_path=("web",), estimated_seconds=None
        )

    async def described_graph(self) -> GraphView:
        node = GraphNode(name="web", type="t", clouds=("east",), min=1, max=2, target=1, depends_on=())
        return GraphView(name="shop", id=None, nodes=(node,))

    async def costs(self, request: CostsRequest, /) -> RunningCosts:
        self._command(request)
        self._known(current_context().scope, request.infrastructure, INFRA, "shop")
        nodes: dict[str, dict[str, float | None]] = {"web": {INSTANCE: 0.25, "y": 0.5}, "nodes": {"z": 1.0}}
        return RunningCosts(total=1.75, currency="EUR", nodes=nodes)

    async def set_maintained(self, request: SetMaintained, /) -> InfrastructureSummary:
        self._command(request)
        self._known(current_context().scope, request.infrastructure, INFRA, "shop")
        return summary(request.maintained)

    async def import_definitions(self, request: ImportDefinitions, /) -> DefinitionList:
        self._command(request)
        return DefinitionList(items=(self._definition(),))

    async def logs(self, request: LogsRequest, /) -> Logs:
        self._command(request)
        self._known(current_context().scope, request.infrastructure, INFRA, "shop")
        return Logs((LogView(node="web", instance_id=INSTANCE, text="hello\n"),))

    async def refresh_live(self, request: RefreshLive, /) -> None:
        self._command(request)
        self._known(current_context().scope, request.infrastructure, INFRA, "shop")

    async def protect(self, request: Protect, /) -> Protected:
        self._command(request)
        self._known(current_context().scope, request.infrastructure, INFRA, "shop")
        self._known(current_context().scope, request.request.node, "web")
        return Protected(
            infrastructure_id=INFRA,
            infrastructure="shop",
            node="web",
            protected=request.request.protected,
            instances=(INSTANCE,),
            changed=(INSTANCE,),
        )

    async def drift(self, request: DriftRequest, /) -> DriftView:
        self._command(request)
        if request.infrastructure:
            self._known(current_context().scope, request.infrastructure, INFRA, "shop")
        finding = DriftFinding(kind="vanished", cloud="local", provider_id="x-1", server="x", node="web")
        return DriftView(at=NOW, compared=1, findings=(finding,), ignored=0, silent=())

    async def orphans(self, request: OrphansRequest, /) -> OrphanList:
        self._command(request)
        for cloud in request.clouds:
            self._known(current_context().scope, cloud, "local")
        orphan = OrphanView(
            cloud="local",
            provider_id="x-1",
            name="x",
            state=ServerState.ACTIVE,
            addresses=("127.1.2.3",),
            flavor="",
            created_at=None,
        )
        return OrphanList(items=(orphan,), silent=())

    async def remove_orphans(self, request: OrphanRemoval, /) -> None:
        self._command(request)
        for one in request.servers:
            self._known(current_context().scope, one.provider_id, "x-1")

    def history(self, connection: Any, scope: Scope, name_or_id: str, /, *, limit: int = 1000) -> list[RevisionView]:
        self._known(scope, name_or_id, INFRA, "shop")
        return [REVISION][:limit]

    def revision(self, connection: Any, scope: Scope, name_or_id: str, revision: str, /) -> RevisionFiles:
        self._known(scope, name_or_id, INFRA, "shop")
        self._known(scope, revision, "1", "HEAD")
        return RevisionFiles(revision=REVISION, entries=("infra.yaml",), files={"infra.yaml": "infra_name: shop\n"})

    def diff(self, connection: Any, scope: Scope, name_or_id: str, old: str, new: str, /) -> DiffView:
        self._known(scope, name_or_id, INFRA, "shop")
        for revision in (old, new):
            self._known(scope, revision, "1", "HEAD")
        return DiffView(old=REVISION, new=REVISION, changes=(), files={})

    async def list_clouds(self) -> CloudList:
        self._command(None)
        return CloudList((CloudView(name="east", state="ok"),))

    async def get_cloud(self, request: CloudRef, /) -> CloudView:
        self._command(request)
        self._known(current_context().scope, request.cloud, "east")
        return CloudView(name="east", state="ok")

    async def check_clouds(self, request: CloudCheckRequest, /) -> CloudChecks:
        self._command(request)
        self._known(current_context().scope, request.cloud, "", "east")
        return CloudChecks((CloudCheck(cloud="east", ok=True, seconds=0.1, error=None),))

    async def list_images(self, request: CloudRef, /) -> ImageList:
        self._command(request)
        self._known(current_context().scope, request.cloud, "east")
        return ImageList((ImageView(id="default", name="default", size_bytes=None, created_at=None),))

    async def list_flavors(self, request: CloudRef, /) -> FlavorList:
        self._command(request)
        self._known(current_context().scope, request.cloud, "east")
        return FlavorList(())

    async def list_cloud_servers(self, request: CloudServersRequest, /) -> CloudServers:
        self._command(request)
        self._known(current_context().scope, request.cloud, "east")
        return CloudServers(())

    async def reload_pool(self, request: PoolReload, /) -> PoolChangeView:
        self._command(request)
        self._known(current_context().scope, request.cloud, "", "east")
        return PoolChangeView(kept=("east",))

    async def delete_definition(self, type: str) -> None:
        self._known(current_context().scope, type, "web")
        self.deleted_types.append(type)

    async def route(self, infrastructure_id: str, sinks: tuple[str, ...]) -> tuple[str, ...]:
        if strange := set(sinks) - {"ops"}:
            raise NotFound(f"there is no sink {strange}")
        self.routes[infrastructure_id] = sinks
        return sinks

    @staticmethod
    def _definition() -> DefinitionView:
        return DefinitionView(type="web", file="nodes.yaml", implementations=1, clouds=("local",), updated_at=NOW)

    def list_infrastructures(
        self, connection: Connection, scope: Scope, /, *, name: str | None = None, deleted: bool = False
    ) -> list[InfrastructureSummary]:
        return [summary()] if scope == DEFAULT_SCOPE and name in (None, "shop") else []

    def resolve(self, connection: Connection, scope: Scope, name_or_id: str, /) -> str:
        self._known(scope, name_or_id, INFRA, "shop")
        return INFRA

    def status(self, connection: Connection, scope: Scope, name_or_id: str, /) -> StatusView:
        self._known(scope, name_or_id, INFRA, "shop")
        instance = InstanceStatus(
            state=InstanceState.READY, address="127.1.2.3", cloud="local", server_id=None, created_at=NOW, reason=""
        )
        node = NodeStatus(scaling=ScalingStatus(min=1, max=3, target=1, actual=1), instances={INSTANCE: instance})
        return StatusView(name="shop", id=INFRA, state=InfrastructureState.READY, observed_at=NOW, nodes={"web": node})

    def graph(self, *asked: Any) -> Any:
        """Both of a description, as a command, and of an infrastructure, as a query."""
        if len(asked) == 1:
            self._command(asked[0])
            return self.described_graph()
        _, scope, name_or_id = asked
        self._known(scope, name_or_id, INFRA, "shop")
        node = GraphNode(
            name="web", type="t", clouds=("east",), min=1, max=2, target=2, depends_on=(), ready=2, instances=2
        )
        return GraphView(name="shop", id=INFRA, nodes=(node,))

    def explain(self, connection: Connection, scope: Scope, name_or_id: str, node: str | None = None, /) -> ExplainView:
        self._known(scope, name_or_id, INFRA, "shop")
        if node is not None:
            self._known(scope, node, "web")
        step = ExplainStep(depth=0, subject="node web", state="ready")
        return ExplainView(name="shop", id=INFRA, state=InfrastructureState.READY, summary="all is well", steps=(step,))

    def run(self, connection: Connection, scope: Scope, run_id: str, /) -> RunView:
        self._known(scope, run_id, RUN)
        return run_view(self.run_state)

    def runs(self, connection: Connection, scope: Scope, name_or_id: str, /) -> list[RunView]:
        self._known(scope, name_or_id, INFRA, "shop")
        return [run_view(self.run_state)]

    def events(
        self,
        connection: Connection,
        scope: Scope,
        /,
        *,
        after: int,
        limit: int,
        infrastructure: str | None = None,
    ) -> list[EventView]:
        return infrastructure_queries.events(connection, scope, after=after, limit=limit, infrastructure=infrastructure)

    def last_position(self, connection: Connection, /) -> int:
        return infrastructure_queries.last_position(connection)

    def definitions(self, connection: Connection, scope: Scope, /) -> list[DefinitionView]:
        return [self._definition()] if scope == DEFAULT_SCOPE else []

    def list_servers(self, connection: Connection, scope: Scope, /) -> list[ServerView]:
        return []

    def get_server(self, connection: Connection, scope: Scope, server_id: str, /) -> ServerView:
        raise NotFound(f"there is no server {server_id!r}")


async def doctor() -> DoctorView:
    return DoctorView(version="0", facts=(Fact(name="python", state="ok", fact="3"),))


class Looks:
    """The domain's queries: one of them has the name of a command."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain

    def __getattr__(self, name: str) -> Any:
        return getattr(self._domain, name)

    def graph(self, connection: Connection, scope: Scope, name_or_id: str, /) -> GraphView:
        return self._domain.graph(None, scope, name_or_id)


@dataclass
class Scene:
    """What a test works with."""

    store: Store
    domain: Domain
    edge: Edge
    application: Application

    async def happen(self, *kinds: str, scope: Scope = DEFAULT_SCOPE, run: str | None = RUN) -> list[int]:
        """Write events of the shop; returns their positions."""

        def write(connection: Connection) -> None:
            for n, kind in enumerate(kinds):
                append(connection, scope, kind, at=1.0, infrastructure_id=INFRA, run_id=run, data={"n": n})

        await self.store.run(write)
        return [
            event.position
            for event in await self.store.read(
                lambda connection: infrastructure_queries.events(connection, scope, after=0, limit=1000)
            )
        ][-len(kinds) :]


@asynccontextmanager
async def edge_scene(directory: Path, **limits: Any) -> AsyncIterator[Scene]:
    """The scene, with a store in ``directory``; ``limits`` are those of :class:`pelagos.api.Limits`."""
    world = SystemWorld()
    store = open_store(directory / "pelagos.db", world)
    await store.start()
    domain = Domain()
    edge = Edge(
        store=store,
        world=world,
        commands=domain,
        delete_definition=domain.delete_definition,
        route=domain.route,
        queries=Looks(domain),
        servers=domain,
        clouds=domain,
        doctor=doctor,
        version="0.1.0",
        mode="embedded",
        limits=Limits(**limits),
    )
    try:
        yield Scene(store, domain, edge, Application(edge))
    finally:
        edge.closing.set()
        await store.stop()
        world.close()
