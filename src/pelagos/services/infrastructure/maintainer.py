"""The maintainer of one infrastructure: it holds the lease, remembers, decides, and carries decisions out.

One loop, level-triggered: wait for a hint or a timer; take in what changed (servers by their events' ids, health
verdicts, runs); decide about what that touched (:mod:`reality`); write all of it in one transaction fenced by the
lease's epoch; only then command compute. A crash between the write and the command leaves an instance whose server was
never asked for: the next maintainer finds it and sends the same request again, whose id makes it the same server.

The naive way, one task an instance that creates, waits and checks, is easy to read and cannot be resumed: where it
stood is lost with the process. Here nothing is in flight but health probes, which are only looks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec
import structlog
from sqlalchemy import Connection

from pelagos.clouds.accounts import AccountIdentity
from pelagos.model.errors import ErrorPayload, PelagosError, Retry
from pelagos.model.scope import Fence
from pelagos.model.states import InfrastructureState, InstanceState, RunState, ServerState
from pelagos.model.world import World
from pelagos.services.compute.facts import server_facts_of
from pelagos.services.compute.messages import RefreshAccounts, Refreshed
from pelagos.services.infrastructure import records
from pelagos.services.infrastructure.candidates import Candidates, Prices, no_prices
from pelagos.services.infrastructure.changes import Changes, ProtectedMeanwhile
from pelagos.services.infrastructure.commanding import Commanding, Compute
from pelagos.services.infrastructure.creating import Creating
from pelagos.services.infrastructure.decisions import Create, Decision, Destroy, Mode, Restart, Update
from pelagos.services.infrastructure.desiring import lacking, not_as_described
from pelagos.services.infrastructure.healing import Pauses
from pelagos.services.infrastructure.health import Execute, Prober
from pelagos.services.infrastructure.learning import Learning
from pelagos.services.infrastructure.mending import Mending
from pelagos.services.infrastructure.metrics import MetricReader
from pelagos.services.infrastructure.nodes import Instance
from pelagos.services.infrastructure.patience import Patience
from pelagos.services.infrastructure.reality import Reality
from pelagos.services.infrastructure.reconfiguring import Reconfiguring
from pelagos.services.infrastructure.records import InfrastructureRow, InstanceRow
from pelagos.services.infrastructure.rendering import Renderer
from pelagos.services.infrastructure.running import Running
from pelagos.services.infrastructure.settings import MaintainerSettings
from pelagos.services.infrastructure.stale import Stale
from pelagos.services.infrastructure.taking_in import TakingIn
from pelagos.services.infrastructure.tracking import Tracking
from pelagos.services.infrastructure.updating import Updating
from pelagos.services.infrastructure.watching import HealthWatch
from pelagos.store.port import Store

__all__ = ["Accounts", "Maintainer"]

_log = structlog.get_logger("pelagos.infrastructure")


class Accounts(Protocol):
    """What the maintainer asks of the pool."""

    def for_resource(
        self, type: str, label: str | None = None, /, *, endpoint: str = "", section: Mapping[str, Any] | None = None
    ) -> str: ...
    def account(self, name: str, /) -> object: ...
    def identity(self, name: str, /) -> AccountIdentity: ...


class Maintainer:
    """See the module's text. ``resident``: goes on maintaining when no run is open; otherwise :meth:`work` returns."""

    def __init__(
        self,
        infrastructure_id: str,
        *,
        store: Store,
        world: World,
        compute: Compute,
        accounts: Accounts,
        prober: Prober,
        metrics: MetricReader,
        renderer: Renderer,
        settings: MaintainerSettings,
        resident: bool,
        prices: Prices = no_prices,
        execute: Execute | None = None,
    ) -> None:
        self.id = infrastructure_id
        self.store = store
        self.world = world
        self.settings = settings
        self.resident = resident
        self.changes = Changes(infrastructure_id)
        self.running = Running(self)
        self.reconfiguring = Reconfiguring(self)
        self.stale = Stale(self)
        self.taking_in = TakingIn(self)
        self.creating = Creating(self)
        self.commanding = Commanding(self, compute)
        self.mending = Mending(self)
        self.updating = Updating(self)
        self.renderer = renderer
        self.learning = Learning(self, execute)
        self.accounts = accounts
        self.candidates = Candidates(self, accounts, prices)
        self.patience = Patience(self)
        self._wake = asyncio.Event()
        self._stop = False
        self._fence = Fence(lease="", epoch=0)
        self._row: InfrastructureRow | None = None
        self._reality: Reality | None = None
        self.health = HealthWatch(self, prober, self._wake.set)
        self.tracking = Tracking(self, metrics, self._wake.set)
        self.reload = False
        """What is remembered no longer fits what the step in progress writes."""
        self._next_pass = 0.0
        self.doubt: float | None = None
        """When it will be known whether a server is gone that its cloud did not list; None if none is in doubt."""

    # -- from outside ----------------------------------------------------------------------------------------------

    def hint(self, *, server_ids: Iterable[str] = (), runs: bool = False) -> None:
        """Something of this infrastructure changed in the store."""
        self.taking_in.hint(server_ids)
        if runs:
            self.running.hinted = True
        self._wake.set()

    def row_changed(self) -> None:
        """The infrastructure's row was changed by another hand (attach, detach): read it again."""
        self.reload = True
        self._wake.set()

    def stop(self) -> None:
        """End :meth:`work` soon, rolling nothing back."""
        self._stop = True
        self._wake.set()

    def snapshot(self) -> dict[str, Any]:
        """For people, tests and metrics."""
        reality = self._reality
        return {
            "infrastructure": self.id,
            "mode": self.mode.value if self._row else "loading",
            "run": self.running.current.id if self.running.current else None,
            "instances": len(reality.instances) if reality else 0,
            "unsatisfied": reality.unsatisfied if reality else 0,
            "growing": reality.growing if reality else 0,
            "leaving": reality.leaving if reality else 0,
            "anew": len(reality.marked) if reality else 0,
            "in_place": len(reality.updates) if reality else 0,
            "probes": self.health.probing.snapshot(),
            "metrics": self.tracking.snapshot(),
        }

    # -- the loop --------------------------------------------------------------------------------------------------

    async def work(self, fence: Fence) -> None:
        """Maintain under this lease until there is nothing to do, or :meth:`stop`. Raises LeaseLost."""
        self._fence = fence
        try:
            async with asyncio.TaskGroup() as group:
                try:
                    await self.load()
                    while not self._stop:
                        self._wake.clear()
                        if not await self._step(group):
                            break
                        await self._sleep()
                finally:
                    self.health.probing.cancel()
                    self.tracking.cancel()
        except* PelagosError as errors:
            # The group has one member that can fail: the loop itself.
            raise errors.exceptions[0] from None

    async def _sleep(self) -> None:
        timeout = self._until_next()
        if timeout is not None and timeout <= 0:
            await asyncio.sleep(0)
            return
        try:
            async with asyncio.timeout(timeout):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def load(self) -> None:
        """Read everything in bulk, as at the beginning."""

        def read(connection: Connection) -> Any:
            return (
                records.load_infrastructure(connection, self.id),
                records.node_rows(connection, self.id),
                records.living_instances(connection, self.id),
                server_facts_of(connection, self.id),
            )

        row, nodes, living, facts = await self.store.read(read)
        self._row = row
        if row is None or row.deleted_at is not None:
            return
        self._reality = Reality(row.compiled, nodes, living)
        self.creating.reset()
        self._reality.pauses = Pauses(self.settings.backoff, self.settings.backoff_max)
        self.candidates.reset()
        self.commanding.reset({fact.id for fact in facts})
        self.updating.reset()
        for fact in facts:
            self.taking_in.take_in(fact)
        self.reconfiguring.restore()
        self.stale.reset()

    @property
    def reality(self) -> Reality:
        assert self._reality is not None
        return self._reality

    @property
    def row(self) -> InfrastructureRow:
        assert self._row is not None
        return self._row

    @property
    def fence(self) -> Fence:
        return self._fence

    @property
    def mode(self) -> Mode:
        run = self.running.current
        if run is not None:
            if run.state is RunState.ROLLING_BACK:
                return Mode.BUILD if run.parameters.going_back else Mode.ROLLBACK
            if self.running.holds:
                return Mode.HOLD
            return Mode.DOWN if run.kind == "down" else Mode.BUILD
        over = (InfrastructureState.FAILED, InfrastructureState.DESTROYING)
        healable = self.row.maintained and self.row.state not in over
        return Mode.BUILD if self.resident and healable else Mode.HOLD

    async def _step(self, group: asyncio.TaskGroup) -> bool:
        """One turn of the loop. False: nothing is left to do here."""
        if self._row is None or self._row.deleted_at is not None:
            return False
        if self.reload:
            self.reload = False
            await self.load()
        try:
            await self.running.look()
        except ProtectedMeanwhile:
            await self._start_over()
            return True
        await self.taking_in.look()
        self.health.take_in()
        self.tracking.take_in()
        now = self.world.now()
        await self.patience.look(now)
        if self.running.current is None and self.mode is Mode.BUILD and now >= self._next_pass:
            await self._pass(now)
        elif self.running.doubts(now) and now >= (self.doubt or 0.0):
            await self.refresh(max_age=0.0)
        self.reality.end_back_offs(now)
        await self.candidates.prepare()
        run = self.running.current
        decisions = self.reality.decide(
            self.mode,
            now=now,
            budget=self.running.budget(),
            run_id=run.id if run else None,
            choice=run.parameters.choice if run else None,
        )
        self._carry_out(decisions, now)
        self.stale.look()
        self.running.see_to(now)
        if run is not None and self.running.current is None:
            self.stale.look(after_run=True)
        if not self.changes.dropping:
            self._note_state(now)
        try:
            if await self.changes.flush(self.store, self._fence, self.row.scope):
                return False
        except ProtectedMeanwhile:
            await self._start_over()
            return True
        if self.reload:
            self.reload = False
            await self.load()
        await self.commanding.send(now)
        self.health.launch(group, now)
        self.tracking.launch(group, now)
        return self.resident or self.running.current is not None or self.running.hinted

    async def _start_over(self) -> None:
        """What was decided could not be written: forget it, and look at the store again."""
        self.changes = Changes(self.id)
        self.running = Running(self)
        await self.load()

    def _until_next(self) -> float | None:
        """Seconds until something is to be done without a hint; None: only a hint can bring anything."""
        looked = self.health.probing.pending or self.tracking.pending
        if self.running.hinted or looked or self.changes or self.reload:
            return 0.0
        if self.reality.dirty and self.running.budget() != 0:
            return 0.0
        now = self.world.now()
        times = [
            self.health.probing.next_due(),
            self.tracking.next_due(),
            self.commanding.resend_at,
            self.running.next_look(now),
            self.doubt if self.running.doubts(now) else None,
        ]
        if self.mode is Mode.BUILD:
            times += [self.reality.next_retry(now), self.patience.next_look]
            if self.running.current is None:
                times.append(self._next_pass)
        known = [at for at in times if at is not None]
        return max(0.0, min(known) - now) if known else None

    async def _pass(self, now: float) -> None:
        """A maintained infrastructure's look at everything: what the clouds say, who was to be probed."""
        self._next_pass = now + self.settings.interval
        await self.refresh()
        for instance in self.reality.instances.values():
            if instance.leaving and instance.delete_final:
                instance.delete_final = False
                instance.delete_round = int(now)
                self.commanding.delete(instance)
        self.health.probe_all(now)

    async def refresh(self, max_age: float | None = None) -> Refreshed | None:
        """Have the accounts in use listed, and take in what changed. What cannot be listed keeps its last state."""
        self.doubt = None
        accounts = sorted({i.row.account for i in self.reality.instances.values()})
        if not accounts:
            return None
        age = self.settings.interval / 2 if max_age is None else max_age
        try:
            answer = await self.commanding.compute.refresh(RefreshAccounts(accounts=tuple(accounts), max_age=age))
        except PelagosError as error:
            _log.warning("accounts not listed", infrastructure=self.id, error=str(error))
            return None
        self.mending.listed(answer.errors, self.world.now())
        ours = {id_ for id_, instance in self.reality.by_server.items() if not instance.leaving}
        self.doubt = min((at for id_, at in answer.doubts.items() if id_ in ours), default=None)
        for fact in await self.store.read(lambda connection: server_facts_of(connection, self.id)):
            instance = self.reality.by_server.get(fact.id)
            if instance is not None and (
                fact.state is not instance.server
                or (fact.addresses, fact.private_addresses) != (instance.address_list, instance.private_list)
                or instance.leaving
            ):
                self.taking_in.take_in(fact)
        return answer

    # -- changes of an instance ------------------------------------------------------------------------------------

    def set_state(self, instance: Instance, state: InstanceState, reason: str) -> None:
        """Change an instance's state in memory, and note it for the next transaction."""
        row, now = instance.row, self.world.now()
        if row.state is InstanceState.READY and now - row.updated_at >= self.settings.stable:
            row.restarts = 0
        self.reality.set_state(instance, state)
        if state is InstanceState.DESTROYING:
            self.stale.changed(row.node)
        row.reason = reason
        row.updated_at = now
        self.changes.instance(instance.row)

    def event(self, kind: str, row: InstanceRow | None = None, **data: Any) -> None:
        """Note an event for the next transaction."""
        run = self.running.current
        self.changes.event(
            self.row.scope, kind, at=self.world.now(), row=row, run_id=run.id if run else None, data=data
        )

    def ready(self, instance: Instance) -> None:
        """It is healthy, or has nothing that could be probed."""
        row = instance.row
        now = self.world.now()
        first = row.ready_at is None
        row.ready_at = row.ready_at or now
        row.failing_since, row.check_failures, row.restarting_since = None, 0, None
        self.set_state(instance, InstanceState.READY, "")
        self.stale.ready(row.node)
        node = self.reality.nodes[row.node]
        record = node.record
        if first and node.compiled.policy.protect and not node.compiled.retired:
            self.protect(instance)
        if record.retry_at is not None and not node.compiled.retired:
            self.candidates.retried(node)
        if record.error is not None or record.retry_at is not None:
            record.retry_at, record.error = None, None
            self.changes.node(record)
        data: dict[str, Any] = {"address": row.address, "urls": self._urls(instance)}
        if first:
            data["seconds"] = round(now - row.created_at, 3)
        self.event("instance.ready", row, **data)

    def protect(self, instance: Instance) -> None:
        """Its node's policy says that nobody destroys it."""
        if not instance.row.protected:
            instance.row.protected = True
            self.changes.protect(instance.row.id)
            self.event("instance.protected", instance.row, protected=True, by="policy")

    def _urls(self, instance: Instance) -> list[str]:
        implementation = self.reality.implementation_of(instance)
        if implementation is None or not implementation.health_check.urls:
            return []
        return list(self.health.check_of(instance).urls)

    def fail(
        self,
        instance: Instance,
        reason: str,
        error: ErrorPayload | None,
        *,
        hopeless: bool = False,
        made: bool = True,
        memory: float | None = None,
        pause: float = 0.0,
    ) -> None:
        """An instance is to be replaced. ``error``: why it could not be created, if that is it; then the node falls
        back to another implementation, and where all are refused, or it is ``hopeless``, a building run gives up.
        ``made``: its cloud has made something of it; what was refused is told apart for those who count.
        ``memory``: how long its implementation is passed over, if not as the settings say; ``pause``: the least
        seconds until the next try where there is no other."""
        row = instance.row
        if row.adoption is not None and row.ready_at is None and error is not None:
            self.running.not_adopted(instance, error)
            return
        node = self.reality.nodes[row.node]
        record = node.record
        now = self.world.now()
        payload = error or ErrorPayload(code="instance_failed", message=reason, retry=Retry.TRANSIENT)
        if row.ready_at is not None and now - row.ready_at >= self.settings.stable:
            record.failures = 0
        if self.mending.failed(instance, reason):
            record.failures += 1
        row.restarting_since = None
        elsewhere = False
        if error is not None:
            elsewhere, payload = self.candidates.refuse(node, row.implementation, error, memory)
        record.error = payload
        self.changes.node(record)
        self.set_state(instance, InstanceState.FAILED, reason)
        told = {} if made else {"made": False}
        self.event("instance.failed", row, reason=reason, error=error or payload, **told)
        self.health.forget(row.id)
        if elsewhere:
            record.retry_at = None
            return
        delay = min(self.settings.backoff * 2 ** max(0, record.failures - 1), self.settings.backoff_max)
        delay = max(delay, pause)
        replace_at_once = row.ready_at is not None and record.failures <= 1
        record.retry_at = None if replace_at_once else now + delay
        if error is not None:
            self.candidates.exhausted(node, record.retry_at or now)
        if error is not None or hopeless or record.failures >= self.settings.attempts:
            self.running.give_up(node, payload)

    def gone(self, instance: Instance) -> None:
        """Its server does not exist any more: the instance becomes a tombstone."""
        row = instance.row
        row.deleted_at = row.updated_at = self.world.now()
        self.changes.instance(row)
        self.event("instance.destroyed", row)
        self.health.forget(row.id)
        self.reality.remove(instance)

    # -- carrying out ----------------------------------------------------------------------------------------------

    def _carry_out(self, decisions: Sequence[Decision], now: float) -> None:
        for decision in decisions:
            match decision:
                case Create(node=name, count=count):
                    self.creating.create(self.reality.nodes[name], count, now)
                case Destroy(instance_id=instance_id, reason=reason, surplus=surplus):
                    if surplus:
                        self.running.commit()
                    self._destroy(self.reality.instances[instance_id], reason)
                case Restart():
                    self.mending.restart(decision)
                case Update(instance_id=instance_id):
                    self.updating.begin(instance_id)

    def _destroy(self, instance: Instance, reason: str) -> None:
        self.set_state(instance, InstanceState.DESTROYING, reason)
        self.event("instance.destroying", instance.row, reason=reason)
        self.health.forget(instance.row.id)
        if instance.server is ServerState.DELETED or not self.commanding.delete(instance):
            self.gone(instance)

    # -- the infrastructure's own state ------------------------------------------------------------------------------

    def note_row(self, **values: Any) -> None:
        """Change columns of the infrastructure's row."""
        self._row = msgspec.structs.replace(self.row, **values)
        self.changes.infrastructure(
            **{key: value.value if isinstance(value, InfrastructureState) else value for key, value in values.items()}
        )

    def _note_state(self, now: float) -> None:
        state, reason = self._state()
        self.running.verdict = None
        if (state, reason) != (self.row.state, self.row.reason):
            self.note_row(state=state, reason=reason, updated_at=now)
            self.event("infrastructure.state", state=state, reason=reason)

    def _state(self) -> tuple[InfrastructureState, str]:
        before, run = self.row.state, self.running.current
        if run is not None and run.kind == "down":
            return InfrastructureState.DESTROYING, ""
        if run is not None and run.kind in ("up", "scale", "adopt"):
            first = run.parameters.creates_infrastructure or before is InfrastructureState.BUILDING
            return (InfrastructureState.BUILDING if first else InfrastructureState.CHANGING), ""
        if self.running.verdict is not None:
            return self.running.verdict
        if run is None and before in (InfrastructureState.FAILED, InfrastructureState.DESTROYING):
            return before, self.row.reason
        if run is None and not self.row.maintained and before is InfrastructureState.SUSPENDED:
            return before, self.row.reason
        if self.reality.unsatisfied == 0:
            unlike = self.reality.unlike()
            return (
                (InfrastructureState.DEGRADED, not_as_described(unlike)) if unlike else (InfrastructureState.READY, "")
            )
        missing = [node.name for node in self.reality.nodes.values() if not node.satisfied]
        return InfrastructureState.DEGRADED, lacking(missing)
