"""A client without a server behind it, and a way to run a command against it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from pelagos.cli.invocation import Invocation
from pelagos.cli.main import main
from pelagos.cli.session import Session
from pelagos.clients import Client
from pelagos.model.diagnostics import Diagnostic
from pelagos.model.errors import NotFound, PelagosError
from pelagos.model.states import InfrastructureState, InstanceState, RunState
from pelagos.model.world import SystemWorld
from pelagos.wire.clouds import CloudCheck, CloudView, PoolChangeView
from pelagos.wire.doctor import DoctorView, HealthView
from pelagos.wire.drift import DriftFinding, DriftRequest, DriftView, OrphanList, OrphanServer, SilentCloud
from pelagos.wire.infrastructures import (
    DefinitionsRequest,
    DefinitionView,
    EventView,
    ExplainView,
    GraphRequest,
    GraphView,
    InfrastructureSummary,
    InstanceStatus,
    LogView,
    NodeStatus,
    PlanAction,
    PlanRequest,
    PlanView,
    Protected,
    ProtectRequest,
    RunRequest,
    RunView,
    ScalingStatus,
    ServerView,
    StatusView,
)
from pelagos.wire.pages import DefinitionList

NOW = 1_700_000_000.0
CREATED = "2023-11-14T22:11:20.000Z"
"""Two minutes before NOW."""
SHOP = "5d0c2f3e-0000-4000-8000-000000000001"
WEB_1 = "aaaaaaaa-0000-4000-8000-000000000001"
WEB_2 = "bbbbbbbb-0000-4000-8000-000000000002"
STORE_1 = "cccccccc-0000-4000-8000-000000000003"


class FixedWorld(SystemWorld):
    """Ids that count, a wall clock that stands still, an environment of its own."""

    def __init__(self, environ: dict[str, str] | None = None) -> None:
        super().__init__(environ=environ or {})
        self._ids = 0

    def now(self) -> float:
        return NOW

    def new_id(self) -> str:
        self._ids += 1
        return f"id-{self._ids}"


def instance(state: InstanceState = InstanceState.READY, **changes: Any) -> InstanceStatus:
    values: dict[str, Any] = {
        "state": state,
        "address": "127.83.0.2",
        "cloud": "local",
        "server_id": "server-1",
        "created_at": CREATED,
        "reason": "",
    }
    return InstanceStatus(**{**values, **changes})


def shop(
    state: InfrastructureState = InfrastructureState.READY, nodes: dict[str, dict[str, InstanceStatus]] | None = None
) -> StatusView:
    nodes = {"store": {STORE_1: instance()}, "web": {WEB_1: instance(), WEB_2: instance()}} if nodes is None else nodes
    return StatusView(
        name="shop",
        id=SHOP,
        state=state,
        observed_at="2023-11-14T22:13:20.000Z",
        nodes={
            name: NodeStatus(
                scaling=ScalingStatus(min=1, max=4, target=max(1, len(instances)), actual=len(instances)),
                instances=instances,
            )
            for name, instances in nodes.items()
        },
    )


def plan_view(*actions: PlanAction, **changes: Any) -> PlanView:
    values: dict[str, Any] = {
        "name": "shop",
        "id": None,
        "state": None,
        "actions": actions,
        "critical_path": ("store", "web"),
        "estimated_seconds": 12.4,
    }
    return PlanView(**{**values, **changes})


BUILD_PLAN = plan_view(
    PlanAction(action="create", node="store", count=1), PlanAction(action="create", node="web", count=2)
)
KEEP_PLAN = plan_view(
    PlanAction(action="keep", node="store", count=1),
    PlanAction(action="keep", node="web", count=2),
    id=SHOP,
    state=InfrastructureState.READY,
    critical_path=(),
)
DESTROY_PLAN = plan_view(
    PlanAction(action="destroy", node="web", count=1, instances=(WEB_2,), reason="no longer described"),
    PlanAction(action="keep", node="web", count=1),
    id=SHOP,
    state=InfrastructureState.READY,
)
DOWN_PLAN = plan_view(
    PlanAction(action="destroy", node="web", count=2, instances=(WEB_1, WEB_2)),
    PlanAction(action="destroy", node="store", count=1, instances=(STORE_1,)),
    id=SHOP,
    state=InfrastructureState.READY,
)


def drift_view(*findings: DriftFinding, silent: tuple[SilentCloud, ...] = (), ignored: int = 0) -> DriftView:
    return DriftView(at=CREATED, compared=3, findings=findings, ignored=ignored, silent=silent)


def run_view(state: RunState = RunState.PENDING, **changes: Any) -> RunView:
    values: dict[str, Any] = {
        "id": "run-1",
        "infrastructure_id": SHOP,
        "infrastructure": "shop",
        "kind": "up",
        "state": state,
        "keep": False,
        "cancel_requested": False,
        "error": None,
        "created_at": CREATED,
        "started_at": None,
        "finished_at": None,
        "position": 10,
    }
    return RunView(**{**values, **changes})


def event(position: int, kind: str, node: str | None = None, of: str | None = None, **data: Any) -> EventView:
    return EventView(
        position=position,
        at=CREATED,
        kind=kind,
        infrastructure_id=SHOP,
        node=node,
        instance_id=of,
        run_id="run-1",
        data=data,
    )


BUILD_EVENTS = (
    event(11, "run.started"),
    event(12, "node.waiting", "web", on=["store"]),
    event(13, "instance.building", "store", STORE_1),
    event(14, "instance.ready", "store", STORE_1, address="127.83.0.1", seconds=2.5, urls=["http://127.83.0.1:7000/"]),
    event(15, "instance.building", "web", WEB_1),
    event(16, "instance.building", "web", WEB_2),
    event(17, "instance.ready", "web", WEB_1, address="127.83.0.2", seconds=3.0, urls=["http://127.83.0.2:8080/"]),
    event(18, "instance.ready", "web", WEB_2, address="127.83.0.3", seconds=3.0, urls=["http://127.83.0.3:8080/"]),
    event(19, "run.succeeded"),
)


@dataclass
class FakeServer:
    """What the fake client answers; tests set it. An error is raised in place of an answer."""

    plan: PlanView | PelagosError = BUILD_PLAN
    status: StatusView | PelagosError = field(default_factory=shop)
    later: list[StatusView | PelagosError] = field(default_factory=list)
    """Statuses after the first one read."""
    run: RunView = field(default_factory=run_view)
    final: RunView = field(default_factory=lambda: run_view(RunState.SUCCEEDED))
    run_events: Iterable[EventView | PelagosError | signal.Signals | asyncio.Event] = BUILD_EVENTS
    """A signal among them is sent to this very process, and waited for until the run is cancelled; what follows an
    asyncio event happens when that is set."""
    after_cancel: tuple[EventView, ...] = ()
    history: tuple[EventView, ...] = BUILD_EVENTS
    known: tuple[InfrastructureSummary, ...] = ()
    tombstones: tuple[InfrastructureSummary, ...] = ()
    explained: ExplainView | None = None
    graph: GraphView = field(default_factory=lambda: GraphView(name="shop", id=SHOP, nodes=()))
    consoles: tuple[LogView, ...] = ()
    definitions: tuple[DefinitionView, ...] = ()
    warnings: tuple[Diagnostic, ...] = ()
    """Of an import."""
    facts: DoctorView | None = None
    passes: list[tuple[EventView | PelagosError | signal.Signals, ...]] = field(default_factory=list)
    """What each run in turn follows, where there are several."""
    finals: list[RunView] = field(default_factory=list)
    endless: bool = False
    """Whether following the events of an infrastructure brings a newer one again and again."""
    planned: list[PlanRequest] = field(default_factory=list)
    started: list[RunRequest] = field(default_factory=list)
    known_runs: tuple[RunView, ...] = ()
    cancelled: list[tuple[str, bool]] = field(default_factory=list)
    imported: list[DefinitionsRequest] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    maintained: list[tuple[str, bool]] = field(default_factory=list)
    suspended: list[tuple[str, str]] = field(default_factory=list)
    resumed: list[str] = field(default_factory=list)
    detached: bool = False
    """Whether what is resumed was detached before."""
    protected: list[tuple[str, ProtectRequest]] = field(default_factory=list)
    drifted: list[DriftRequest] = field(default_factory=list)
    drift: DriftView | PelagosError = field(default_factory=lambda: drift_view())
    orphans: OrphanList | PelagosError = field(default_factory=lambda: OrphanList(items=(), silent=()))
    removed: list[OrphanServer] = field(default_factory=list)
    statuses_read: int = 0
    servers: tuple[ServerView, ...] = ()
    clouds: tuple[CloudView, ...] = ()
    checks: tuple[CloudCheck, ...] = ()
    offers: dict[str, tuple[Any, ...] | PelagosError] = field(default_factory=dict)
    """``images``, ``flavors``, ``servers`` of a cloud."""
    pool_change: PoolChangeView | PelagosError = field(default_factory=PoolChangeView)
    clouds_hang: bool = False
    """Whether they are asked in vain."""
    asked_of_clouds: list[tuple[Any, ...]] = field(default_factory=list)


class FakeClient:
    def __init__(self, server: FakeServer) -> None:
        self._server = server
        self.infrastructures = FakeInfrastructures(server)
        self.runs = FakeRuns(server)
        self.definitions = FakeDefinitions(server)
        self.clouds = FakeClouds(server)
        self.servers = FakeServers(server)
        self.orphans = FakeOrphans(server)

    async def plan(self, request: PlanRequest) -> PlanView:
        self._server.planned.append(request)
        return _answer(self._server.plan)

    async def graph(self, request: GraphRequest) -> GraphView:
        return GraphView(name="described", id=None, nodes=self._server.graph.nodes)

    async def events(
        self, infrastructure: str | None = None, *, after: int = 0, follow: bool = False
    ) -> AsyncIterator[EventView]:
        for one in self._server.history:
            if one.position > after:
                yield one
        while follow and self._server.endless:
            await asyncio.sleep(0.01)
            after += 1
            yield event(after, "infrastructure.state", state="degraded")

    async def health(self) -> HealthView:
        return HealthView(status="ok", version="0", mode="embedded", pid=1, position=10)

    async def doctor(self) -> DoctorView:
        assert self._server.facts is not None
        return self._server.facts


class FakeInfrastructures:
    def __init__(self, server: FakeServer) -> None:
        self._server = server

    async def list(self, name: str | None = None, *, deleted: bool = False) -> tuple[InfrastructureSummary, ...]:
        return self._server.known + (self._server.tombstones if deleted else ())

    async def status(self, ref: str, *, live: bool = False) -> StatusView:
        self._server.statuses_read += 1
        if self._server.statuses_read > 1 and self._server.later:
            return _answer(self._server.later.pop(0))
        return _answer(self._server.status)

    async def explain(self, ref: str, node: str | None = None) -> ExplainView:
        if self._server.explained is None:
            raise NotFound(f"there is no infrastructure {ref!r}")
        return self._server.explained

    async def graph(self, ref: str) -> GraphView:
        if ref not in ("shop", SHOP):
            raise NotFound(f"there is no infrastructure {ref!r}")
        return self._server.graph

    async def logs(self, ref: str, node: str | None = None) -> tuple[LogView, ...]:
        return self._server.consoles

    async def runs(self, ref: str) -> tuple[RunView, ...]:
        return self._server.known_runs

    async def attach(self, ref: str) -> InfrastructureSummary:
        self._server.maintained.append((ref, True))
        return summary(maintained=True)

    async def detach(self, ref: str) -> InfrastructureSummary:
        self._server.maintained.append((ref, False))
        return summary(maintained=False)

    async def resume(self, ref: str) -> InfrastructureSummary:
        self._server.resumed.append(ref)
        return summary(maintained=not self._server.detached)

    async def suspend(self, ref: str, reason: str = "") -> InfrastructureSummary:
        self._server.suspended.append((ref, reason))
        return summary(maintained=False)

    async def protect(self, ref: str, request: ProtectRequest) -> Protected:
        self._server.protected.append((ref, request))
        return Protected(
            infrastructure_id=SHOP,
            infrastructure="shop",
            node=request.node,
            protected=request.protected,
            instances=(WEB_1, WEB_2),
            changed=(WEB_1,),
        )

    async def drift(self, request: DriftRequest) -> DriftView:
        self._server.drifted.append(request)
        return _answer(self._server.drift)


class FakeOrphans:
    """Those that are deleted are gone at the next look."""

    def __init__(self, server: FakeServer) -> None:
        self._server = server

    async def list(self, cloud: str = "") -> OrphanList:
        found: OrphanList = _answer(self._server.orphans)
        gone = {one.provider_id for one in self._server.removed}
        return OrphanList(items=tuple(o for o in found.items if o.provider_id not in gone), silent=found.silent)

    async def delete(self, servers: Sequence[OrphanServer]) -> None:
        self._server.removed += servers


class FakeRuns:
    def __init__(self, server: FakeServer) -> None:
        self._server = server
        self._cancelled = asyncio.Event()

    async def start(self, request: RunRequest) -> RunView:
        self._server.started.append(request)
        return self._server.run

    async def get(self, id: str) -> RunView:
        return self._server.finals.pop(0) if self._server.finals else self._server.final

    async def cancel(self, id: str, *, keep: bool = False) -> RunView:
        self._server.cancelled.append((id, keep))
        self._cancelled.set()
        return self._server.run

    async def follow(self, id: str, *, after: int = 0) -> AsyncIterator[EventView]:
        for one in self._server.passes.pop(0) if self._server.passes else self._server.run_events:
            if isinstance(one, PelagosError):
                raise one
            if isinstance(one, asyncio.Event):
                await one.wait()
                continue
            if isinstance(one, signal.Signals):
                os.kill(os.getpid(), one)
                await self._cancelled.wait()
            elif one.position > after:
                yield one
        if self._cancelled.is_set():
            for one in self._server.after_cancel:
                yield one


class FakeServers:
    def __init__(self, server: FakeServer) -> None:
        self._server = server

    async def list(self) -> tuple[ServerView, ...]:
        return self._server.servers


class FakeDefinitions:
    def __init__(self, server: FakeServer) -> None:
        self._server = server

    async def list(self) -> tuple[DefinitionView, ...]:
        return self._server.definitions

    async def import_(self, request: DefinitionsRequest) -> DefinitionList:
        self._server.imported.append(request)
        return DefinitionList(self._server.definitions, self._server.warnings)

    async def delete(self, type: str) -> None:
        self._server.deleted.append(type)


class FakeClouds:
    def __init__(self, server: FakeServer) -> None:
        self._server = server

    async def list(self) -> tuple[CloudView, ...]:
        return self._server.clouds

    async def get(self, cloud: str) -> CloudView:
        for view in self._server.clouds:
            if view.name == cloud:
                return view
        raise NotFound(f"the pool has no account {cloud!r}")

    async def check(self, cloud: str = "") -> tuple[CloudCheck, ...]:
        self._server.asked_of_clouds.append(("check", cloud))
        if self._server.clouds_hang:
            await asyncio.Event().wait()
        return self._server.checks

    async def images(self, cloud: str) -> tuple[Any, ...]:
        return _answer(self._server.offers.get("images", ()))

    async def flavors(self, cloud: str) -> tuple[Any, ...]:
        return _answer(self._server.offers.get("flavors", ()))

    async def servers(self, cloud: str, *, all: bool = False) -> tuple[Any, ...]:
        self._server.asked_of_clouds.append(("servers", cloud, all))
        return _answer(self._server.offers.get("servers", ()))

    async def reload(self, cloud: str = "") -> PoolChangeView:
        self._server.asked_of_clouds.append(("reload", cloud))
        return _answer(self._server.pool_change)


def _answer(value: Any) -> Any:
    if isinstance(value, PelagosError):
        raise value
    return value


def summary(name: str = "shop", **changes: Any) -> InfrastructureSummary:
    values: dict[str, Any] = {
        "id": SHOP,
        "name": name,
        "state": InfrastructureState.READY,
        "reason": "",
        "nodes": 2,
        "target": 3,
        "ready": 3,
        "maintained": True,
        "created_at": CREATED,
        "updated_at": CREATED,
    }
    return InfrastructureSummary(**{**values, **changes})


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.out)


class Terminal:
    """Runs commands. ``answer`` is what the person at the terminal types; None: nobody is there."""

    def __init__(self, server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
        self.server = server
        self.answer: str | None = None
        self.questions: list[str] = []
        self.embedded = True
        self.home: Path | None = Path("/nonexistent/home")
        self.environ: dict[str, str] = {}
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Result:
        @asynccontextmanager
        async def opener(invocation: Invocation) -> AsyncIterator[Session]:
            yield Session(cast(Client, FakeClient(self.server)), embedded=self.embedded, home=self.home)

        async def answer(question: str) -> str | None:
            self.questions.append(question)
            return self.answer

        typed: Callable[[str], Awaitable[str | None]] = answer
        code = main(list(arguments), Invocation(opener=opener, world=FixedWorld(self.environ), answer=typed))
        captured = self._capsys.readouterr()
        return Result(code, captured.out, captured.err)
