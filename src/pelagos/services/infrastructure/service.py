"""The infrastructure service: takes commands, hosts a maintainer for each infrastructure at work, and wakes them.

Embedded in a command it hosts maintainers only for the runs that were asked for here, and waits for a lease that
somebody else holds. With ``maintain`` (the daemon) it is resident: it also takes what nobody maintains, whoever
accepted it, and leaves alone what somebody does (:mod:`pelagos.services.infrastructure.hosting`, ``standby``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
from sqlalchemy import Connection, update

from pelagos.clouds.pool import Pool
from pelagos.clouds.values import CloudServer
from pelagos.model.errors import (
    InvalidInput,
    NotFound,
    PelagosError,
    from_payload,
)
from pelagos.model.failpoints import Step, through
from pelagos.model.scope import Scope
from pelagos.process import Context, ServiceProcess, current_context, operation
from pelagos.services.compute.messages import (
    ConsoleRequest,
    RefreshAccounts,
    RemoveOrphans,
)
from pelagos.services.infrastructure import importing, queries, records, revisions
from pelagos.services.infrastructure.accepting import accept_run
from pelagos.services.infrastructure.applying import check_fits, check_names, elsewhere, there_was
from pelagos.services.infrastructure.compiling import Compiler
from pelagos.services.infrastructure.drawing import graph_of
from pelagos.services.infrastructure.drift import find_drift
from pelagos.services.infrastructure.faces import (
    Looks,
    MaintainersCompute,
    StoredRecords,
    Surveys,
    compute_of,
    computes_here,
)
from pelagos.services.infrastructure.health import NetworkProber, Prober
from pelagos.services.infrastructure.hosting import Hosting
from pelagos.services.infrastructure.importing_servers import find_server
from pelagos.services.infrastructure.maintainer import Maintainer
from pelagos.services.infrastructure.maintaining import set_maintained
from pelagos.services.infrastructure.messages import (
    CancelRun,
    CostsRequest,
    DeleteDefinition,
    ImportDefinitions,
    Logs,
    LogsRequest,
    OrphansRequest,
    Protect,
    RefreshLive,
    SetMaintained,
)
from pelagos.services.infrastructure.metrics import MetricReader, NetworkMetrics
from pelagos.services.infrastructure.orphans import list_orphans, orphans_to_remove
from pelagos.services.infrastructure.places import (
    accounts_changed,
    accounts_of,
    nodes_changed,
    prices_changed,
    store_identity,
)
from pelagos.services.infrastructure.plan_diff import stale_plan
from pelagos.services.infrastructure.plan_file import bundle_of, check_plan, digest_of, exact_plan, placed
from pelagos.services.infrastructure.planning import CostBasis, Planned, cost_basis, plan_of, standing_instances
from pelagos.services.infrastructure.prices import Prices
from pelagos.services.infrastructure.protecting import protect
from pelagos.services.infrastructure.rendering import Renderer
from pelagos.services.infrastructure.settings import MaintainerSettings
from pelagos.services.infrastructure.standby import lease_name
from pelagos.services.infrastructure.values import StoredBundle
from pelagos.store import events
from pelagos.store.keeper import LeaseKeeper
from pelagos.store.port import Store
from pelagos.store.schema import runs
from pelagos.wire.drift import DriftRequest, DriftView, OrphanList, OrphanRemoval
from pelagos.wire.infrastructures import (
    DefinitionView,
    GraphRequest,
    GraphView,
    InfrastructureSummary,
    LogView,
    PlanRequest,
    PlanView,
    Protected,
    RunningCosts,
    RunRequest,
    RunView,
    SavedPlan,
)
from pelagos.wire.pages import DefinitionList

if TYPE_CHECKING:
    from pelagos.services.infrastructure.description import CompileResult

__all__ = ["InfrastructureService", "lease_name"]

_log = structlog.get_logger("pelagos.infrastructure")


class InfrastructureService(ServiceProcess):
    """See the module's text. ``run_command`` is what the template function ``cmd`` uses; None: it is switched off."""

    name = "infrastructure"
    version = "1.0"
    depends = ("compute",)

    def __init__(
        self,
        *,
        store: Store,
        keeper: LeaseKeeper,
        pool: Pool,
        settings: MaintainerSettings | None = None,
        maintain: bool = False,
        prober: Prober | None = None,
        metrics: MetricReader | None = None,
        run_command: Callable[[Sequence[str]], str] | None = None,
    ) -> None:
        super().__init__()
        self._store = store
        self._keeper = keeper
        self._pool = pool
        self._settings = settings or MaintainerSettings()
        self._maintain = maintain
        self._renderer = Renderer(pool, run_command)
        self._commands = run_command is not None
        self._prober = prober
        self._network_prober: NetworkProber | None = None
        self._metrics = metrics
        self._network_metrics: NetworkMetrics | None = None
        self._looks = Looks(self)
        self._hosting = Hosting(self, store, keeper, self._maintainer, resident=maintain)

    # -- life cycle ------------------------------------------------------------------------------------------------

    async def on_init(self) -> None:
        opens = partial(computes_here, self)
        self._compiler = Compiler(self._pool, self.world, commands=self._commands, opens=opens)
        self._prices = Prices(self._pool, self.world, self._looks.sizes, self._settings.choose)
        if self._prober is None:
            self._prober = self._network_prober = NetworkProber(
                self.world, self._looks.execute, self._looks.owns_listener
            )
        if self._metrics is None:
            self._metrics = self._network_metrics = NetworkMetrics(self._looks.execute)

    async def on_activate(self) -> None:
        await self._hosting.start()

    async def on_deactivate(self) -> None:
        await self._hosting.stop()

    async def on_terminate(self) -> None:
        if self._network_prober is not None:
            await self._network_prober.close()
        if self._network_metrics is not None:
            await self._network_metrics.close()

    def snapshot_maintainers(self) -> dict[str, Any]:
        """What each maintainer is about."""
        return self._hosting.snapshot()

    # -- commands --------------------------------------------------------------------------------------------------

    @operation
    async def start_run(self, request: RunRequest) -> RunView:
        """Accept a run and see that somebody works on it. Answers before it begins."""
        scope = current_context().scope
        compiled, bundle, number = None, None, 0
        exact, check = None, None
        server = None
        if request.kind == "up":
            if request.plan is not None:
                request = self._of_plan(request, request.plan)
                exact = exact_plan(request.plan) if request.plan is not None else None
            compiled, bundle, number = await self._compile_to_run(scope, request)
            check = await self._check_of(scope, request, compiled)
        elif request.kind == "adopt":
            server = await self._server_to_adopt(request)
        accept = partial(
            accept_run,
            scope=scope,
            request=request,
            compiled=compiled,
            bundle=bundle,
            rollback=number,
            exact=exact,
            check=check,
            server=server,
            new_ids=(self.world.new_id(), self.world.new_id()),
            run_id=self.world.new_id(),
            infrastructure_id=request.id or self.world.new_id(),
            now=self.world.now(),
        )
        run = await through(Step.ACCEPT, self._store.run(accept))
        if not run.state.final:
            self._hosting.accepted(run.infrastructure_id)
        return run

    @operation
    async def cancel_run(self, request: CancelRun) -> RunView:
        """Ask for a run's end. Whoever works on it rolls back or keeps what it made."""
        scope = current_context().scope
        now = self.world.now()

        def cancel(connection: Connection) -> RunView:
            run = queries.run(connection, scope, request.run_id)
            if run.state.final:
                return run
            connection.execute(
                update(runs)
                .where(runs.c.id == request.run_id)
                .values(cancel_requested=True, keep=run.keep or request.keep)
            )
            events.append(
                connection,
                scope,
                "run.cancel_requested",
                at=now,
                infrastructure_id=run.infrastructure_id,
                run_id=run.id,
                data={"keep": run.keep or request.keep},
            )
            return queries.run(connection, scope, request.run_id)

        run = await through(Step.CANCEL, self._store.run(cancel))
        if not run.state.final:
            self._hosting.accepted(run.infrastructure_id)
        return run

    @operation
    async def plan(self, request: PlanRequest) -> PlanView:
        """What would change, after a look at the clouds. Changes nothing."""
        scope = current_context().scope
        if request.save and request.revision:
            raise InvalidInput(
                "the plan of an earlier version cannot be saved: it would hold that version's secrets",
                advice="Use `pelagos rollback`, or save a plan of the description's files.",
            )
        compiled, bundle = None, None
        if request.sources or request.entries or request.revision:
            compiled, bundle, _ = await self._compile(scope, request)
        plan = partial(plan_of, scope=scope, request=request, compiled=compiled, bundle=bundle, now=self.world.now())
        planned = await self._store.read(plan)
        if planned.view.id is not None:
            await self._refresh(scope, planned.view.id)
            accounts = [] if compiled is None else [instance.account for instance in planned.observed]
            updatable = await self._looks.updatable(accounts)
            planned = await self._store.read(partial(plan, updatable=updatable))
        basis = await self._store.read(partial(cost_basis, planned=planned))
        costs = await self._prices.costs(planned, basis)
        view = msgspec.structs.replace(
            planned.view, cost=costs.estimates, unpriced=costs.unpriced, cost_doubts=costs.doubts
        )
        if view.saved is None:
            return view
        nodes = await self._prices.places(planned, basis)
        identify = partial(store_identity, scope=scope, new_id=self.world.new_id(), now=self.world.now())
        store = await self._store.run(identify)
        saved = placed(view.saved, store, nodes, accounts_of(planned, nodes, self._pool))
        return msgspec.structs.replace(view, saved=saved)

    @operation
    async def costs(self, request: CostsRequest) -> RunningCosts:
        """What an infrastructure's servers cost an hour, as far as prices are known. Raises NotFound, Ambiguous."""
        scope = current_context().scope
        standing = await self._store.read(partial(standing_instances, scope=scope, name_or_id=request.infrastructure))
        return await self._prices.running(standing)

    @operation
    async def graph(self, request: GraphRequest) -> GraphView:
        """Who depends on whom in a description. Raises DescriptionError."""
        wanted = PlanRequest(sources=request.sources, entries=request.entries)
        compiled, _, _ = await self._compile(current_context().scope, wanted)
        return graph_of(compiled.compiled)

    @operation
    async def set_maintained(self, request: SetMaintained) -> InfrastructureSummary:
        """attach, detach, suspend and resume. Raises as
        :func:`pelagos.services.infrastructure.maintaining.set_maintained`."""
        scope = current_context().scope
        now = self.world.now()

        view = await self._store.run(partial(set_maintained, scope=scope, request=request, now=now))
        if self._maintain and view.maintained:
            self._hosting.host(view.id)
        return view

    @operation
    async def protect(self, request: Protect) -> Protected:
        """Protect instances, or lift that. Raises as :func:`pelagos.services.infrastructure.protecting.protect`."""
        scope = current_context().scope
        now = self.world.now()
        return await self._store.run(
            partial(protect, scope=scope, reference=request.infrastructure, request=request.request, now=now)
        )

    @operation
    async def import_definitions(self, request: ImportDefinitions) -> DefinitionList:
        """Store node definitions: all of the bundle's, or none if one has a mistake (DescriptionError)."""
        scope = current_context().scope
        found = await self._compiler.definitions(request.sources, request.entries, request.map_clouds)
        store = partial(
            importing.store_definitions,
            scope=scope,
            definitions=found.definitions,
            sources=dict(request.sources),
            entries=request.entries,
            repository_id=self.world.new_id(),
            now=self.world.now(),
        )

        def write(connection: Connection) -> list[DefinitionView]:
            store(connection)
            return queries.definitions(connection, scope)

        stored = await self._store.run(write)
        return DefinitionList(tuple(view for view in stored if view.type in found.definitions), found.warnings)

    @operation
    async def delete_definition(self, request: DeleteDefinition) -> None:
        """Forget a stored node definition. Raises NotFound."""
        scope = current_context().scope
        delete = partial(importing.delete_definition, scope=scope, type_=request.type, now=self.world.now())
        await self._store.run(delete)

    @operation
    async def logs(self, request: LogsRequest) -> Logs:
        """The end of each instance's console output."""
        scope = current_context().scope

        def find(connection: Connection) -> list[records.InstanceRow]:
            infrastructure_id = queries.resolve(connection, scope, request.infrastructure)
            row = records.load_infrastructure(connection, infrastructure_id)
            living = records.living_instances(connection, infrastructure_id)
            if request.node and row is not None and all(node.name != request.node for node in row.compiled.nodes):
                raise NotFound(
                    f"infrastructure {row.name!r} has no node {request.node!r}",
                    advice=f"Its nodes are: {', '.join(node.name for node in row.compiled.nodes)}.",
                )
            return [instance for instance in living if request.node in ("", instance.node)]

        compute = compute_of(self)

        async def read(instance: records.InstanceRow) -> LogView:
            try:
                output = await compute.console(
                    ConsoleRequest(server_id=instance.server_id, max_bytes=request.max_bytes)
                )
            except PelagosError as error:
                return LogView(node=instance.node, instance_id=instance.id, error=error.message)
            return LogView(node=instance.node, instance_id=instance.id, text=output.text)

        found = await self._store.read(find)
        return Logs(items=tuple(await asyncio.gather(*(read(instance) for instance in found))))

    @operation
    async def refresh_live(self, request: RefreshLive) -> None:
        """Have the clouds of an infrastructure asked now. Raises NotFound, and what the clouds' errors are."""
        scope = current_context().scope
        infrastructure_id = await self._store.read(
            lambda connection: queries.resolve(connection, scope, request.infrastructure)
        )
        errors = await self._refresh(scope, infrastructure_id)
        for account, error in errors.items():
            _log.warning("account not listed", account=account, error=error)

    @operation
    async def drift(self, request: DriftRequest) -> DriftView:
        """Where clouds differ from the records. Nothing is written. Raises NotFound, Ambiguous."""
        scope = current_context().scope
        accounts = [account.name for account in self._pool.accounts()]
        return await find_drift(StoredRecords(self._store), Surveys(self), scope, request, accounts, self.world.now())

    @operation
    async def orphans(self, request: OrphansRequest) -> OrphanList:
        """Servers that carry a token which no record knows. Raises NotFound (account)."""
        names = request.clouds or tuple(account.name for account in self._pool.accounts())
        for name in names:
            self._pool.account(name)
        return await list_orphans(StoredRecords(self._store), Surveys(self), names)

    @operation
    async def remove_orphans(self, request: OrphanRemoval) -> None:
        """Have orphans deleted: all, or none if one is none. Answers when that is journaled.

        Raises NotFound (it is no orphan; account), Conflict, CloudError."""
        for one in request.servers:
            self._pool.account(one.cloud)
        ids = [self.world.new_id() for _ in request.servers]
        items = await orphans_to_remove(StoredRecords(self._store), Surveys(self), request.servers, ids)
        if items:
            await compute_of(self, timeout=60.0).remove_orphans(RemoveOrphans(items=items))

    async def _server_to_adopt(self, request: RunRequest) -> CloudServer:
        if request.adopt is None:
            raise InvalidInput("nothing is to be adopted", advice="Name a node, a cloud and a server in `adopt`.")
        self._pool.account(request.adopt.cloud)
        return await find_server(Surveys(self), request.adopt)

    # -- compiling -------------------------------------------------------------------------------------------------

    async def _compile(
        self, scope: Scope, request: RunRequest | PlanRequest
    ) -> tuple[CompileResult, StoredBundle, int]:
        """What the request brings, or the revision it names: compiled, and as texts with all they were made of. The
        number is the revision's, 0 for none."""

        def find(connection: Connection) -> tuple[StoredBundle, int, str]:
            if isinstance(request, RunRequest) and request.plan is not None:
                return bundle_of(request.plan), 0, request.map_clouds
            if request.revision:
                infrastructure_id = queries.resolve(connection, scope, request.infrastructure)
                info, bundle = revisions.read_revision(connection, scope, infrastructure_id, request.revision)
                return bundle, info.generation, request.map_clouds or _stand_in_of(connection, infrastructure_id)
            stored = importing.stored_definitions(connection, scope)
            return StoredBundle(request.entries, dict(request.sources), stored), 0, request.map_clouds

        bundle, number, map_clouds = await self._store.read(find)
        result = await self._compiler.description(bundle.sources, bundle.entries, bundle.definitions, map_clouds)
        used = {type_: bundle.definitions[type_] for type_ in result.used}
        return result, msgspec.structs.replace(bundle, definitions=used), number

    async def _compile_to_run(self, scope: Scope, request: RunRequest) -> tuple[CompileResult, StoredBundle, int]:
        """As :meth:`_compile`. What a saved plan holds was compiled when it was made: if it cannot be now, the plan is
        stale."""
        try:
            return await self._compile(scope, request)
        except PelagosError as error:
            if request.plan is None:
                raise
            told = await self._store.read(partial(elsewhere, scope=scope, plan=request.plan))
            why = [one.summary for one in error.diagnostics] or [error.message]
            raise from_payload(stale_plan([*told, *why])) from error

    @staticmethod
    def _of_plan(request: RunRequest, plan: SavedPlan) -> RunRequest:
        """The request that carries out a saved plan. Raises InvalidInput."""
        check_plan(plan)
        return msgspec.structs.replace(
            request,
            sources=plan.sources,
            entries=plan.entries,
            infrastructure=plan.infrastructure or "",
            revision="",
            strategy=plan.strategy,
            map_clouds=plan.map_clouds,
            only=plan.only,
            without=plan.without,
            replace=plan.replace,
        )

    async def _check_of(
        self, scope: Scope, request: RunRequest, compiled: CompileResult
    ) -> Callable[[Connection], None] | None:  # fmt: skip
        """What has to hold in the transaction that accepts an ``up``: names are those of nodes, a saved plan fits."""
        plan = request.plan
        asked = PlanRequest(
            sources=request.sources,
            entries=request.entries,
            infrastructure=request.infrastructure,
            only=request.only,
            without=request.without,
            replace=request.replace,
        )
        if plan is None:
            if request.new or not (request.only or request.without or request.replace):
                return None
            return partial(check_names, scope=scope, request=asked, compiled=compiled)
        changed: list[str] = []
        if digest_of(compiled.compiled) != plan.digest:
            changed.append("the description is compiled to something else than then: the pool of clouds has changed")
        if plan.infrastructure is not None:
            await self._refresh(scope, plan.infrastructure)
        changed += await self._changed_clouds(scope, plan, asked, compiled)
        living = partial(records.living_instances, infrastructure_id=plan.infrastructure or "")
        updatable = await self._looks.updatable(row.account for row in await self._store.read(living))
        return partial(
            check_fits,
            scope=scope,
            plan=plan,
            request=asked,
            compiled=compiled,
            updatable=updatable,
            changed=tuple(changed),
        )

    async def _changed_clouds(
        self, scope: Scope, plan: SavedPlan, asked: PlanRequest, compiled: CompileResult
    ) -> list[str]:
        """What of the clouds that a saved plan is about is otherwise than it says."""
        told = accounts_changed(plan.accounts, self._pool)

        def look(connection: Connection) -> tuple[Planned, CostBasis] | None:
            if there_was(connection, scope, plan):
                return None
            planned = plan_of(connection, scope, asked, compiled)
            return planned, cost_basis(connection, planned)

        found = await self._store.read(look)
        if found is None:
            return told
        now = await self._prices.places(*found, anew=True)
        return [*told, *nodes_changed(plan.nodes, now), *prices_changed(plan.nodes, now)]

    async def _refresh(self, scope: Scope, infrastructure_id: str) -> dict[str, str]:
        """Account -> error, for those that could not be listed."""
        living = await self._store.read(lambda connection: records.living_instances(connection, infrastructure_id))
        accounts = tuple(sorted({instance.account for instance in living}))
        if not accounts:
            return {}
        compute = compute_of(self, timeout=60.0, context=Context(scope=scope))
        try:
            answer = await compute.refresh(RefreshAccounts(accounts=accounts))
        except PelagosError as error:
            return dict.fromkeys(accounts, error.message)
        return {account: error.message for account, error in answer.errors.items()}

    def _maintainer(self, infrastructure_id: str, context: Context) -> Maintainer:
        assert self._prober is not None and self._metrics is not None
        return Maintainer(
            infrastructure_id,
            store=self._store,
            world=self.world,
            compute=MaintainersCompute(self, context, self._settings.command_patience),
            accounts=self._pool,
            prober=self._prober,
            metrics=self._metrics,
            renderer=self._renderer,
            settings=self._settings,
            resident=self._maintain,
            prices=self._looks.sizes,
            execute=self._looks.execute,
        )


def _stand_in_of(connection: Connection, infrastructure_id: str) -> str:
    """The account that stands in for an infrastructure's clouds now: it does for its earlier versions, too."""
    row = records.load_infrastructure(connection, infrastructure_id)
    known = row.compiled.definitions.values() if row is not None else ()
    return next((item.built_on for implementations in known for item in implementations if item.built_on), "")
