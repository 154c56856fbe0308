"""The infrastructure service: takes commands, hosts a maintainer for each infrastructure at work, and wakes them.

Embedded in a command it hosts maintainers only for the runs that were asked for here, and waits for a lease that
somebody else holds. With ``maintain`` (the daemon) it is resident: it also takes what nobody maintains, whoever
accepted it, and leaves alone what somebody does (:mod:`pelagos.services.infrastructure.standby`). One follower reads
the events of all of them by position and hints the maintainers; a hint that is lost costs time, never truth.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
from sqlalchemy import Connection, select, update

from pelagos.clouds.pool import Pool
from pelagos.clouds.values import CloudServer, CommandResult
from pelagos.model.errors import (
    Conflict,
    InvalidInput,
    LeaseHeld,
    LeaseLost,
    NotFound,
    PelagosError,
    Retry,
    from_payload,
)
from pelagos.model.failpoints import Step, through
from pelagos.model.scope import Scope
from pelagos.model.states import InfrastructureState
from pelagos.process import Context, ServiceProcess, client, current_context, operation, use_context
from pelagos.services.compute import ComputeService
from pelagos.services.compute.messages import (
    CloudRef,
    ConsoleRequest,
    ExecuteRequest,
    ListenerCheck,
    RefreshAccounts,
    RemoveOrphans,
)
from pelagos.services.infrastructure import importing, queries, records, revisions
from pelagos.services.infrastructure.accepting import accept_run, is_suspended, suspension
from pelagos.services.infrastructure.applying import check_fits, check_names
from pelagos.services.infrastructure.choosing import Price
from pelagos.services.infrastructure.compiling import Compiler
from pelagos.services.infrastructure.desiring import lacking
from pelagos.services.infrastructure.drawing import graph_of
from pelagos.services.infrastructure.drift import find_drift
from pelagos.services.infrastructure.health import NetworkProber, Prober
from pelagos.services.infrastructure.importing_servers import find_server
from pelagos.services.infrastructure.maintainer import Maintainer
from pelagos.services.infrastructure.messages import (
    CancelRun,
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
from pelagos.services.infrastructure.plan_file import bundle_of, check_plan, digest_of, exact_plan
from pelagos.services.infrastructure.planning import cost_basis, plan_of
from pelagos.services.infrastructure.prices import Prices
from pelagos.services.infrastructure.protecting import protect
from pelagos.services.infrastructure.reconfiguring import stale_plan
from pelagos.services.infrastructure.rendering import Renderer
from pelagos.services.infrastructure.settings import MaintainerSettings
from pelagos.services.infrastructure.standby import RESIDENT, Standby, lease_name
from pelagos.services.infrastructure.values import StoredBundle
from pelagos.store import events
from pelagos.store.keeper import HeldLease, LeaseKeeper
from pelagos.store.port import Store
from pelagos.store.schema import infrastructures, runs
from pelagos.wire.clouds import FlavorView
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
    RunRequest,
    RunView,
    SavedPlan,
)

if TYPE_CHECKING:
    from pelagos.services.infrastructure.description import CompileResult

__all__ = ["InfrastructureService", "lease_name"]

_log = structlog.get_logger("pelagos.infrastructure")
_FOLLOWED = (
    "server.active",
    "server.building",
    "server.stopped",
    "server.error",
    "server.deleted",
    "server.vanished",
    "operation.failed",
    "operation.uncertain",
    "operation.retrying",
    "run.accepted",
    "run.cancel_requested",
    "infrastructure.maintained",
    "instance.protected",
)
_PAGE = 1000
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 15.0
_PATIENCE = 5.0
"""Seconds that a command waits for a lease before it looks whether there is work left."""
_CATALOGUE_PATIENCE = 10.0
"""Seconds that a plan waits for a cloud's prices."""
_NET = 5.0
"""Seconds after which events are looked for without a bell."""


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
        self._prober = prober
        self._network_prober: NetworkProber | None = None
        self._metrics = metrics
        self._network_metrics: NetworkMetrics | None = None
        self._at_work: dict[str, asyncio.Event] = {}
        self._asked: set[str] = set()
        """Infrastructures to be looked at (again) by whoever hosts them."""
        self._accepted: set[str] = set()
        """Infrastructures for which something was asked of this very process, and nobody was told of a wait."""
        self._maintainers: dict[str, Maintainer] = {}
        self._ending = False
        self._standby: Standby | None = None

    # -- life cycle ------------------------------------------------------------------------------------------------

    async def on_init(self) -> None:
        self._compiler = Compiler(self._pool, self.world)
        self._prices = Prices(self._pool, self.world, self._sizes, self._settings.choose)
        if self._prober is None:
            self._prober = self._network_prober = NetworkProber(self.world, self._execute, self._owns_listener)
        if self._metrics is None:
            self._metrics = self._network_metrics = NetworkMetrics(self._execute)

    async def on_activate(self) -> None:
        position = await self._store.read(events.last_position)
        self.start_task(self._follow(position), name="follow events")
        if self._maintain:
            self._standby = Standby(self._store, self._keeper, self.world, self._host)
            self.start_task(self._stand_by(self._standby), name="stand by")

    async def on_deactivate(self) -> None:
        """Maintainers stop between two steps; nothing is rolled back, and their leases are given back."""
        self._ending = True
        for maintainer in self._maintainers.values():
            maintainer.stop()
        ended = [event.wait() for event in self._at_work.values()]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5.0):
                await asyncio.gather(*ended)

    async def on_terminate(self) -> None:
        if self._network_prober is not None:
            await self._network_prober.close()
        if self._network_metrics is not None:
            await self._network_metrics.close()

    def snapshot_maintainers(self) -> dict[str, Any]:
        """What each maintainer is about."""
        return {key: maintainer.snapshot() for key, maintainer in self._maintainers.items()}

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
            compiled, bundle, number = await self._compile(scope, request)
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
            self._accepted.add(run.infrastructure_id)
            self._host(run.infrastructure_id)
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
            self._accepted.add(run.infrastructure_id)
            self._host(run.infrastructure_id)
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
            planned = await self._store.read(plan)
        basis = await self._store.read(partial(cost_basis, planned=planned))
        costs = await self._prices.costs(planned, basis)
        return msgspec.structs.replace(
            planned.view, cost=costs.estimates, unpriced=costs.unpriced, cost_doubts=costs.doubts
        )

    @operation
    async def graph(self, request: GraphRequest) -> GraphView:
        """Who depends on whom in a description. Raises DescriptionError."""
        wanted = PlanRequest(sources=request.sources, entries=request.entries)
        compiled, _, _ = await self._compile(current_context().scope, wanted)
        return graph_of(compiled.compiled)

    @operation
    async def set_maintained(self, request: SetMaintained) -> InfrastructureSummary:
        """attach, detach, suspend and resume. Raises Conflict for a suspension while a run is at work."""
        scope = current_context().scope
        now = self.world.now()

        def change(connection: Connection) -> InfrastructureSummary:
            infrastructure_id = queries.resolve(connection, scope, request.infrastructure)
            row = records.load_infrastructure(connection, infrastructure_id)
            assert row is not None
            values: dict[str, Any] = {"maintained": request.maintained, "updated_at": now}
            at_work = records.open_runs(connection, infrastructure_id)
            if request.suspend:
                if at_work:
                    raise Conflict(
                        f"a run of {row.name!r} is at work ({at_work[0].kind})",
                        advice="Wait for its end, or cancel it, and suspend it then.",
                    )
                values.update(state=InfrastructureState.SUSPENDED.value, reason=suspension(request.reason))
            elif not at_work:
                kept = (InfrastructureState.FAILED, InfrastructureState.DESTROYING)
                if not request.maintained and row.state not in kept and not is_suspended(row.state, row.reason):
                    values.update(state=InfrastructureState.SUSPENDED.value, reason="detached: nobody maintains it")
                elif request.maintained and row.state is InfrastructureState.SUSPENDED:
                    missing = queries.missing_instances(connection, row)
                    state = InfrastructureState.DEGRADED if missing else InfrastructureState.READY
                    values.update(state=state.value, reason=lacking(missing) if missing else "")
            records.update_infrastructure(connection, infrastructure_id, **values)
            events.append(
                connection,
                scope,
                "infrastructure.maintained",
                at=now,
                infrastructure_id=infrastructure_id,
                data={"maintained": request.maintained},
            )
            return next(
                view
                for view in queries.list_infrastructures(connection, scope, name=row.name)
                if view.id == infrastructure_id
            )

        view = await self._store.run(change)
        if self._maintain and request.maintained:
            self._host(view.id)
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
    async def import_definitions(self, request: ImportDefinitions) -> tuple[DefinitionView, ...]:
        """Store node definitions: all of the bundle's, or none if one has a mistake (DescriptionError)."""
        scope = current_context().scope
        found = await self._compiler.definitions(request.sources, request.entries, request.map_clouds)
        store = partial(
            importing.store_definitions,
            scope=scope,
            definitions=found,
            sources=dict(request.sources),
            entries=request.entries,
            repository_id=self.world.new_id(),
            now=self.world.now(),
        )

        def write(connection: Connection) -> list[DefinitionView]:
            store(connection)
            return queries.definitions(connection, scope)

        return tuple(view for view in await self._store.run(write) if view.type in found)

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

        compute = client(ComputeService, self)

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
        return await find_drift(_Records(self._store), _Clouds(self), scope, request, accounts, self.world.now())

    @operation
    async def orphans(self, request: OrphansRequest) -> OrphanList:
        """Servers that carry a token which no record knows. Raises NotFound (account)."""
        names = request.clouds or tuple(account.name for account in self._pool.accounts())
        for name in names:
            self._pool.account(name)
        return await list_orphans(_Records(self._store), _Clouds(self), names)

    @operation
    async def remove_orphans(self, request: OrphanRemoval) -> None:
        """Have orphans deleted: all, or none if one is none. Answers when that is journaled.

        Raises NotFound (it is no orphan; account), Conflict, CloudError."""
        for one in request.servers:
            self._pool.account(one.cloud)
        ids = [self.world.new_id() for _ in request.servers]
        items = await orphans_to_remove(_Records(self._store), _Clouds(self), request.servers, ids)
        if items:
            await client(ComputeService, self, timeout=60.0).remove_orphans(RemoveOrphans(items=items))

    async def _server_to_adopt(self, request: RunRequest) -> CloudServer:
        if request.adopt is None:
            raise InvalidInput("nothing is to be adopted", advice="Name a node, a cloud and a server in `adopt`.")
        self._pool.account(request.adopt.cloud)
        return await find_server(_Clouds(self), request.adopt)

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
        if digest_of(compiled.compiled) != plan.digest:
            raise from_payload(
                stale_plan(["the description is compiled to something else than then: the pool of clouds has changed"])
            )
        if plan.infrastructure is not None:
            await self._refresh(scope, plan.infrastructure)
        return partial(check_fits, scope=scope, plan=plan, request=asked, compiled=compiled)

    async def _refresh(self, scope: Scope, infrastructure_id: str) -> dict[str, str]:
        """Account -> error, for those that could not be listed."""
        living = await self._store.read(lambda connection: records.living_instances(connection, infrastructure_id))
        accounts = tuple(sorted({instance.account for instance in living}))
        if not accounts:
            return {}
        compute = client(ComputeService, self, timeout=60.0, context=Context(scope=scope))
        try:
            answer = await compute.refresh(RefreshAccounts(accounts=accounts))
        except PelagosError as error:
            return dict.fromkeys(accounts, error.message)
        return {account: error.message for account, error in answer.errors.items()}

    async def _flavors(self, account: str) -> tuple[FlavorView, ...]:
        compute = client(ComputeService, self, timeout=_CATALOGUE_PATIENCE)
        return (await compute.list_flavors(CloudRef(cloud=account))).items

    async def _sizes(self, account: str) -> dict[str, Price]:
        """Size -> its price on an account, by id and by name."""
        return {
            name: Price(one.price_per_hour, one.currency)
            for one in await self._flavors(account)
            if one.price_per_hour is not None
            for name in (one.name, one.id)
        }

    async def _execute(self, server_id: str, argv: tuple[str, ...], timeout: float) -> CommandResult:
        compute = client(ComputeService, self, timeout=timeout + 1.0)
        return (await compute.execute(ExecuteRequest(server_id=server_id, argv=argv, timeout=timeout))).result

    async def _owns_listener(self, server_id: str, address: str, port: int) -> bool | None:
        compute = client(ComputeService, self)
        return (await compute.check_listener(ListenerCheck(server_id=server_id, address=address, port=port))).owned

    # -- following and hosting -------------------------------------------------------------------------------------

    async def _follow(self, position: int) -> None:
        watch = self._store.watch()
        pauses = _Pauses()
        try:
            while True:
                read = partial(events.read_events, after=position, limit=_PAGE, kinds=_FOLLOWED)
                try:
                    found = await self._store.read(read)
                except PelagosError as error:
                    await pauses.after(error, "events not read")
                    continue
                pauses.over()
                for event in found:
                    position = event.position
                    self._notice(event)
                if len(found) < _PAGE:
                    await watch.changed(timeout=_NET)
        finally:
            watch.close()

    def _notice(self, event: events.Event) -> None:
        infrastructure_id = event.infrastructure_id
        if infrastructure_id is None:
            return
        maintainer = self._maintainers.get(infrastructure_id)
        if event.kind.startswith("run."):
            if maintainer is not None:
                maintainer.hint(runs=True)
            elif self._standby is not None:
                self._standby.look()
        elif event.kind == "instance.protected":
            if maintainer is not None and event.data.get("by") != "policy":
                maintainer.row_changed()
        elif event.kind == "infrastructure.maintained":
            if maintainer is not None:
                maintainer.row_changed()
            elif self._standby is not None:
                self._standby.look()
        elif maintainer is not None and event.server_id is not None:
            maintainer.hint(server_ids=(event.server_id,))

    async def _stand_by(self, standby: Standby) -> None:
        pauses = _Pauses()
        while not self._ending:
            try:
                await standby.run()
            except PelagosError as error:
                await pauses.after(error, "nothing is taken over")

    def _host(self, infrastructure_id: str) -> None:
        """See that it is maintained: here, if its lease is free or comes free for a command's run."""
        if self._ending:
            return
        maintainer = self._maintainers.get(infrastructure_id)
        if maintainer is not None:
            maintainer.hint(runs=True)
        self._asked.add(infrastructure_id)
        if infrastructure_id not in self._at_work:
            self._at_work[infrastructure_id] = asyncio.Event()
            self.start_task(self._maintain_one(infrastructure_id), name=f"maintain {infrastructure_id}")

    async def _maintain_one(self, infrastructure_id: str) -> None:
        ended = self._at_work[infrastructure_id]
        pauses = _Pauses()
        try:
            while not self._ending:
                self._asked.discard(infrastructure_id)
                try:
                    if not await self._has_work(infrastructure_id):
                        if infrastructure_id in self._asked:
                            continue  # a run was accepted after that look at the store
                        break
                    worked = await self._work_by_lease(infrastructure_id)
                    pauses.over()
                    if self._maintain and not worked:
                        break  # somebody else maintains it; should that end, the standby sees it
                except LeaseLost:
                    _log.warning("lease lost; somebody else maintains it now", infrastructure=infrastructure_id)
                except PelagosError as error:
                    # A resident has others to keep alive: one that cannot be maintained must not end them all.
                    await pauses.after(error, f"maintaining {infrastructure_id} pauses", always=self._maintain)
        finally:
            del self._at_work[infrastructure_id]
            self._asked.discard(infrastructure_id)
            self._accepted.discard(infrastructure_id)
            ended.set()

    async def _work_by_lease(self, infrastructure_id: str) -> bool:
        """Whether the lease was ours."""
        lease = await self._acquire(infrastructure_id)
        if lease is None:
            return False
        try:
            await self._work(infrastructure_id, lease)
        finally:
            await self._keeper.release(lease)
        return True

    async def _work(self, infrastructure_id: str, lease: HeldLease) -> None:
        row = await self._store.read(partial(records.load_infrastructure, infrastructure_id=infrastructure_id))
        if row is None:
            return
        assert self._prober is not None and self._metrics is not None
        scope = Context(scope=row.scope)
        maintainer = Maintainer(
            infrastructure_id,
            store=self._store,
            world=self.world,
            compute=_Compute(self, scope, self._settings.command_patience),
            accounts=self._pool,
            prober=self._prober,
            metrics=self._metrics,
            renderer=self._renderer,
            settings=self._settings,
            resident=self._maintain,
            prices=self._sizes,
            execute=self._execute,
        )
        self._maintainers[infrastructure_id] = maintainer
        lease.on_lost(maintainer.stop)
        if self._ending:
            maintainer.stop()
        try:
            with use_context(scope):
                await maintainer.work(lease.fence)
        finally:
            del self._maintainers[infrastructure_id]

    async def _has_work(self, infrastructure_id: str) -> bool:
        def look(connection: Connection) -> bool:
            row = connection.execute(
                select(infrastructures.c.maintained, infrastructures.c.deleted_at).where(
                    infrastructures.c.id == infrastructure_id
                )
            ).one_or_none()
            if row is None or row.deleted_at is not None:
                return False
            open_runs = connection.execute(
                select(runs.c.id).where(runs.c.infrastructure_id == infrastructure_id, runs.c.finished_at.is_(None))
            ).first()
            return open_runs is not None or (self._maintain and bool(row.maintained))

        return await self._store.read(look)

    async def _acquire(self, infrastructure_id: str) -> HeldLease | None:
        """The lease, or None: look again. A command waits for it; a resident does not, since a resident that holds it
        does the runs that come meanwhile, and of what comes free the standby knows. A run that was accepted here is
        told whom it waits for, once; that is no resident, unless a command found it holding the lease and doing
        nothing."""
        name = lease_name(infrastructure_id)
        purpose = RESIDENT if self._maintain else "a command"
        for wait in (None, _PATIENCE):
            try:
                return await self._keeper.acquire(name, purpose, wait=wait)
            except LeaseHeld as error:
                resident = error.details.get("purpose") == RESIDENT
                if infrastructure_id in self._accepted and resident is (wait is not None):
                    self._accepted.discard(infrastructure_id)
                    await self._tell_waiting(infrastructure_id, error)
                if self._maintain:
                    break
        return None

    async def _tell_waiting(self, infrastructure_id: str, held: LeaseHeld) -> None:
        now = self.world.now()

        def tell(connection: Connection) -> None:
            for run in records.open_runs(connection, infrastructure_id):
                if run.started_at is None:
                    events.append(
                        connection,
                        run.scope,
                        "run.waiting",
                        at=now,
                        infrastructure_id=infrastructure_id,
                        run_id=run.id,
                        data={"message": held.message, **held.details},
                    )

        await self._store.run(tell)


def _stand_in_of(connection: Connection, infrastructure_id: str) -> str:
    """The account that stands in for an infrastructure's clouds now: it does for its earlier versions, too."""
    row = records.load_infrastructure(connection, infrastructure_id)
    known = row.compiled.definitions.values() if row is not None else ()
    return next((item.built_on for implementations in known for item in implementations if item.built_on), "")


class _Compute:
    """Compute for a maintainer. Commands are journaled and answered at once: what is not, died with who had it, and is
    sent again as the same request. A listing takes what its cloud takes."""

    def __init__(self, service: InfrastructureService, context: Context, patience: float) -> None:
        quick = client(ComputeService, service, timeout=patience, context=context)
        self.create_servers = quick.create_servers
        self.delete_servers = quick.delete_servers
        self.adopt_servers = quick.adopt_servers
        self.power_servers = quick.power_servers
        self.refresh = client(ComputeService, service, timeout=60.0, context=context).refresh


class _Records:
    """The store, for reading alone."""

    __slots__ = ("read",)

    def __init__(self, store: Store) -> None:
        self.read = store.read


class _Clouds:
    """The clouds, for looking alone."""

    __slots__ = ("survey",)

    def __init__(self, service: InfrastructureService) -> None:
        self.survey = client(ComputeService, service, timeout=60.0).survey


class _Pauses:
    """A store that is full or away for a while is waited for, at growing pauses; it must not end the service."""

    def __init__(self) -> None:
        self._next = _FIRST_PAUSE

    async def after(self, error: PelagosError, what: str, *, always: bool = False) -> None:
        """Raises the error if waiting cannot help; with ``always`` it is an error in the log instead."""
        hopeless = error.retry is Retry.NEVER
        if hopeless and not always:
            raise error
        (_log.error if hopeless else _log.warning)(what, error=str(error), again_in=self._next)
        pause, self._next = self._next, min(self._next * 2, _LONGEST_PAUSE)
        await asyncio.sleep(pause)

    def over(self) -> None:
        self._next = _FIRST_PAUSE
