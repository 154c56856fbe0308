"""The runs of one infrastructure, one after the other: begun, followed, rolled back, ended.

A run is somebody's request, followed to its end; the desired state it brings is written when it begins, with what it
replaces, so that a run that fails or is cancelled can go back. ``kill -9`` rolls nothing back: the row stays open, and
whoever maintains next either carries it on (nothing newer waits) or ends it as interrupted (something does).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from pelagos.model.errors import ErrorPayload, Retry
from pelagos.model.states import InfrastructureState, InstanceState, RunState
from pelagos.services.infrastructure import records, revisions
from pelagos.services.infrastructure.records import NodeRow, RunRow
from pelagos.services.infrastructure.values import CompiledInfrastructure, Desired

if TYPE_CHECKING:
    from pelagos.services.infrastructure.maintainer import Maintainer

__all__ = ["Running", "lacking", "scaled_target", "with_retired"]


def with_retired(new: CompiledInfrastructure, old: CompiledInfrastructure, alive: set[str]) -> CompiledInfrastructure:
    """``new`` with the nodes of ``old`` that it no longer describes but of which instances live, as retired ones."""
    described = {node.name for node in new.nodes}
    retired = tuple(
        msgspec.structs.replace(node, retired=True, min=0, max=0, implementations=(), mappings=())
        for node in old.nodes
        if node.name not in described and node.name in alive
    )
    return msgspec.structs.replace(new, nodes=new.nodes + retired) if retired else new


def scaled_target(text: str, current: int) -> int:
    """``3``, ``+1`` or ``-1`` applied to the current target. Raises ValueError for anything else."""
    value = int(text)
    return current + value if text.strip()[:1] in "+-" else value


def lacking(nodes: list[str]) -> str:
    """Why an infrastructure is degraded."""
    shown = ", ".join(nodes[:5]) + (", …" if len(nodes) > 5 else "")
    return f"not as many ready instances as wanted: {shown}"


class Running:
    """See the module's text."""

    def __init__(self, maintainer: Maintainer) -> None:
        self._maintainer = maintainer
        self.current: RunRow | None = None
        self.hinted = True
        """Runs changed in the store: look."""
        self.verdict: tuple[InfrastructureState, str] | None = None
        """The state the last run left the infrastructure in, until the step that notes it."""
        self._fatal: ErrorPayload | None = None

    def budget(self) -> int | None:
        """How many more instances the run may create now; None: any number."""
        run = self.current
        if run is None:
            return None
        growing = self._maintainer.reality.growing
        if run.parameters.strategy == "sequential":
            return max(0, 1 - growing)
        limit = run.parameters.max_parallel
        return max(0, limit - growing) if limit > 0 else None

    def give_up(self, error: ErrorPayload) -> None:
        """A building run cannot succeed; the first reason counts."""
        run = self.current
        if run is not None and run.kind in ("up", "scale") and self._fatal is None:
            self._fatal = error

    def commit(self) -> None:
        """The run begins to remove what was there before, since all that it made is in place. From here on there is no
        way back that does not lose something: cancelled or failed, it ends and leaves what is."""
        run = self.current
        if run is not None and run.kind in ("up", "scale") and not run.parameters.committed:
            parameters = msgspec.structs.replace(run.parameters, committed=True, previous=None)
            self.current = msgspec.structs.replace(run, parameters=parameters)
            self._maintainer.changes.run(run.id, parameters=parameters)

    async def look(self) -> None:
        """Take in what changed of the runs in the store; begin the next one if none is at work."""
        if not self.hinted:
            return
        self.hinted = False
        maintainer = self._maintainer
        rows = await maintainer.store.read(lambda connection: records.open_runs(connection, maintainer.id))
        waiting = [row for row in rows if row.state is RunState.PENDING]
        if self.current is not None:
            self._take_in(rows, waiting)
            return
        interrupted = [row for row in rows if row.state is not RunState.PENDING]
        # What was to be taken back is taken back before anything newer begins, or it would be part of what that finds.
        undone = [row for row in interrupted if row.state is RunState.ROLLING_BACK or row.cancel_requested]
        candidates = undone or ([] if waiting else interrupted)
        carried_on = candidates[-1] if candidates else None
        for row in interrupted:
            if row is not carried_on:
                self._end(row, RunState.FAILED, _interrupted(row))
        if carried_on is not None:
            await self._carry_on(carried_on)
            return
        down = next((row for row in waiting if row.kind == "down" and not row.cancel_requested), None)
        for row in waiting:
            if down is not None and row is not down:
                self._end(row, RunState.CANCELLED, _overtaken())
            elif row.cancel_requested:
                self._end(row, RunState.CANCELLED, None)
                if row.parameters.creates_infrastructure:
                    self._drop_infrastructure()
                    return  # whether anything is left to begin is seen when that is written
            else:
                await self._begin(row)
                return

    def _take_in(self, rows: list[RunRow], waiting: list[RunRow]) -> None:
        current = self.current
        assert current is not None
        stored = next((row for row in rows if row.id == current.id), None)
        if stored is not None:
            self.current = current = msgspec.structs.replace(
                current, cancel_requested=stored.cancel_requested, keep=stored.keep
            )
        if current.kind != "down" and any(row.kind == "down" and not row.cancel_requested for row in waiting):
            # What it made is taken down anyway.
            self.current = msgspec.structs.replace(current, cancel_requested=True, keep=True)

    async def _carry_on(self, row: RunRow) -> None:
        self.current = row
        self._maintainer.reality.mark_all()
        if row.kind == "maintain":
            await self._look_around()

    async def _begin(self, run: RunRow) -> None:
        """Write what the run wants as the desired state, then see what there is."""
        maintainer = self._maintainer
        now = maintainer.world.now()
        row = maintainer.row
        parameters = run.parameters
        old_targets = {name: node.record.target for name, node in maintainer.reality.nodes.items()}
        revision = await maintainer.store.read(partial(revisions.wanted, scope=row.scope, infrastructure_id=row.id))
        previous = Desired(compiled=row.compiled, revision=revision, targets=old_targets)
        if parameters.maintained is not None and parameters.maintained != row.maintained:
            maintainer.note_row(maintained=parameters.maintained)
        if run.kind == "up" and parameters.desired is not None:
            self._want(parameters.desired.compiled, old_targets)
            what = f"rollback to version {parameters.rollback}" if parameters.rollback else "up"
            maintainer.changes.want(run.scope, parameters.desired, f"{what}, run {run.id}", now)
        elif run.kind == "scale":
            self._scale(parameters.scale, old_targets)
        if not parameters.creates_infrastructure and run.kind in ("up", "scale"):
            parameters = msgspec.structs.replace(parameters, previous=previous)
        self._fatal = None
        maintainer.candidates.refusals.clear()
        self.current = msgspec.structs.replace(run, state=RunState.RUNNING, started_at=now, parameters=parameters)
        maintainer.changes.run(run.id, state=RunState.RUNNING, started_at=now, parameters=parameters)
        maintainer.event("run.started", run_kind=run.kind)
        self._remove(parameters.remove)
        await self._flush_and_load()
        if run.kind != "down":
            await self._look_around()
        if run.kind == "up":
            self._tell_waiting()

    def _tell_waiting(self) -> None:
        """Which nodes cannot begin yet, and what they wait for."""
        maintainer = self._maintainer
        now = maintainer.world.now()
        for node in maintainer.reality.nodes.values():
            if node.unmet and not node.satisfied and self.current is not None:
                maintainer.changes.event(
                    maintainer.row.scope,
                    "node.waiting",
                    at=now,
                    node=node.name,
                    run_id=self.current.id,
                    data={"on": [other.name for other in node.dependees if not other.satisfied]},
                )

    async def _flush_and_load(self) -> None:
        maintainer = self._maintainer
        await maintainer.changes.flush(maintainer.store, maintainer.fence, maintainer.row.scope)
        await maintainer.load()

    async def _look_around(self) -> None:
        """What do the clouds say now? A maintenance run also probes everything once."""
        maintainer = self._maintainer
        assert self.current is not None
        maintainer.health.unchecked.clear()
        await maintainer.refresh(max_age=0.0)
        if self.current.kind == "maintain":
            maintainer.health.probe_all(maintainer.world.now())

    def _want(self, new: CompiledInfrastructure, targets: dict[str, int]) -> None:
        """A new description: targets stay as they are within the new limits; a new node starts at its minimum."""
        maintainer = self._maintainer
        alive = {name for name, node in maintainer.reality.nodes.items() if node.instances}
        compiled = with_retired(new, maintainer.row.compiled, alive)
        known = maintainer.reality.nodes
        rows: list[NodeRow] = []
        for node in new.nodes:
            old = known.get(node.name)
            target = min(max(targets.get(node.name, node.min), node.min), node.max)
            changed = old is None or old.compiled.fingerprint != node.fingerprint
            rows.append(
                NodeRow(
                    name=node.name,
                    target=target,
                    implementation=None if changed or old is None else old.record.implementation,
                )
            )
        described = {node.name for node in new.nodes}
        rows += [NodeRow(name=name, target=0) for name in targets if name not in described]
        maintainer.changes.nodes(rows)
        maintainer.note_row(compiled=compiled, generation=maintainer.row.generation + 1)

    def _scale(self, scale: dict[str, str], targets: dict[str, int]) -> None:
        for name, text in scale.items():
            node = self._maintainer.reality.nodes.get(name)
            if node is None:
                continue  # a newer description, begun before this run, no longer has it
            target = scaled_target(text, targets[name])
            node.record.target = min(max(target, node.compiled.min), node.compiled.max)
            node.record.failures, node.record.retry_at = 0, None
            self._maintainer.changes.node(node.record)

    def _remove(self, instance_ids: tuple[str, ...]) -> None:
        """These instances go, and their nodes' targets sink: both in the transaction that begins the run."""
        maintainer = self._maintainer
        for instance_id in instance_ids:
            instance = maintainer.reality.instances.get(instance_id)
            if instance is None or instance.leaving:
                continue
            self.commit()
            node = maintainer.reality.nodes[instance.row.node]
            node.record.target = max(node.record.target - 1, node.compiled.min)
            maintainer.changes.node(node.record)
            maintainer.set_state(instance, InstanceState.DESTROYING, "removed on request")
            maintainer.event("instance.destroying", instance.row, reason="removed on request")

    # -- following ---------------------------------------------------------------------------------------------------

    def see_to(self, now: float) -> None:
        """After the decisions of a step: is the run at an end, or to be rolled back?"""
        run = self.current
        if run is None:
            return
        if run.state is RunState.ROLLING_BACK:
            self._see_to_rollback(run)
        elif run.cancel_requested:
            self._cancel(run, now)
        elif self._fatal is not None:
            self._failed(run, self._fatal)
        elif run.kind == "down":
            self._see_to_down(run, now)
        elif run.kind == "maintain":
            self._see_to_maintenance(run, now)
        elif self._maintainer.reality.converged():
            self._end(run, RunState.SUCCEEDED, None)
        else:
            self._see_to_refusals(run, now)

    def _cancel(self, run: RunRow, now: float) -> None:
        if run.kind != "down" and not run.keep and not run.parameters.committed:
            self._roll_back(run)
        elif not (self.holds and self._leaving(now)):  # what is being destroyed already is waited for
            self._end(run, RunState.CANCELLED, None)
            if run.kind == "down":
                self.verdict = (InfrastructureState.DEGRADED, "its destruction was cancelled")

    def _failed(self, run: RunRow, error: ErrorPayload) -> None:
        if run.keep or run.parameters.committed:
            self._end(run, RunState.FAILED, error)
            self._left_failed(error)
        else:
            self._roll_back(msgspec.structs.replace(run, error=error))

    def _roll_back(self, run: RunRow) -> None:
        maintainer = self._maintainer
        if run.kind == "maintain":
            # What it has healed took the place of what was there; to destroy it would do harm. What is half-made goes.
            for instance in maintainer.reality.instances.values():
                if instance.ready and instance.row.run_id == run.id:
                    instance.row.run_id = None
                    maintainer.changes.instance(instance.row)
        self.current = msgspec.structs.replace(run, state=RunState.ROLLING_BACK)
        maintainer.changes.run(run.id, state=RunState.ROLLING_BACK, error=run.error)
        maintainer.event("run.rolling_back", error=run.error)
        maintainer.reality.mark_all()

    def _see_to_rollback(self, run: RunRow) -> None:
        maintainer = self._maintainer
        if not maintainer.reality.cleared(run.id):
            return
        previous = run.parameters.previous
        before: tuple[InfrastructureState, str] | None = None
        if previous is not None:
            alive = {name for name, node in maintainer.reality.nodes.items() if node.instances}
            described = {node.name for node in previous.compiled.nodes}
            compiled = with_retired(previous.compiled, maintainer.row.compiled, alive - described)
            maintainer.note_row(compiled=compiled)
            how = "failed" if run.error is not None else "was cancelled"
            maintainer.changes.want(
                run.scope, previous, f"as it was before run {run.id}, which {how}", maintainer.world.now()
            )
            maintainer.changes.nodes(self._records_before(previous))
            maintainer.reload = True
            before = self._state_after(previous, run.error)
        if run.error is None:
            self._end(run, RunState.CANCELLED, None)
            if run.parameters.creates_infrastructure:
                self._drop_infrastructure()
            self.verdict = before
            return
        self._end(run, RunState.FAILED, run.error)
        self.verdict = before
        if before is None:
            self._left_failed(run.error)

    def _state_after(self, previous: Desired, error: ErrorPayload | None) -> tuple[InfrastructureState, str]:
        """Of an infrastructure that is again what it was; the memory of it is still the newer description's."""
        nodes = self._maintainer.reality.nodes
        ready = {name: node.ready for name, node in nodes.items()}
        missing = [name for name, target in previous.targets.items() if ready.get(name, 0) < target]
        if missing and not self._maintainer.reality.instances:
            reason = error.message if error is not None else "it was never built: the last run was cancelled"
            return InfrastructureState.FAILED, reason
        return (InfrastructureState.DEGRADED, lacking(missing)) if missing else (InfrastructureState.READY, "")

    def _records_before(self, previous: Desired) -> list[NodeRow]:
        """The nodes' records as the run found them; what it learned of an unchanged node's implementations is kept."""
        nodes = self._maintainer.reality.nodes
        rows: list[NodeRow] = []
        for described in previous.compiled.nodes:
            if described.name not in previous.targets:
                continue
            now = nodes.get(described.name)
            same = now is not None and now.compiled.fingerprint == described.fingerprint
            rows.append(
                NodeRow(
                    name=described.name,
                    target=previous.targets[described.name],
                    implementation=now.record.implementation if same and now is not None else None,
                )
            )
        known = {row.name for row in rows}
        return rows + [NodeRow(name=name, target=0) for name in nodes if name not in known]

    def _left_failed(self, error: ErrorPayload) -> None:
        reality = self._maintainer.reality
        state = InfrastructureState.DEGRADED if reality.instances else InfrastructureState.FAILED
        self.verdict = (state, error.message)

    def _see_to_down(self, run: RunRow, now: float) -> None:
        maintainer = self._maintainer
        if maintainer.reality.cleared(None):
            self._end(run, RunState.SUCCEEDED, None)
            self._drop_infrastructure()
        else:
            self._see_to_refusals(run, now)

    def _see_to_refusals(self, run: RunRow, now: float) -> None:
        """All that is left to wait for is what a cloud refuses to delete: end the run, and list it."""
        maintainer = self._maintainer
        if not maintainer.reality.leaving or (run.kind != "down" and maintainer.reality.unsatisfied):
            return
        waited_for = [instance for instance in maintainer.reality.instances.values() if instance.leaving]
        patience = maintainer.settings.refusal_patience
        if any(i.refused_at is None or now - i.refused_at < patience for i in waited_for):
            return
        remaining = [
            {"instance": i.row.id, "node": i.row.node, "cloud": i.row.account, "reason": i.delete_error}
            for i in waited_for
        ]
        names = ", ".join(f"{i.row.node}/{i.row.id[:8]} on {i.row.account} ({i.delete_error})" for i in waited_for)
        error = ErrorPayload(
            code="conflict",
            message=f"the cloud does not delete: {names}",
            advice="They stay on record and their deletion is tried again; see to the cloud, then run it once more.",
            retry=Retry.TRANSIENT,
            status=409,
            details={"remaining": remaining},
        )
        self._end(run, RunState.FAILED, error)
        if run.kind == "down":
            self.verdict = (InfrastructureState.DESTROYING, error.message)

    def _see_to_maintenance(self, run: RunRow, now: float) -> None:
        """One pass is over when each instance was looked at and nothing moves that could settle by itself."""
        if not self._maintainer.health.unchecked and not self.settling(now):
            self._end(run, RunState.SUCCEEDED, None)

    @property
    def holds(self) -> bool:
        """The run is asked to stop and cannot be taken back: nothing more is begun."""
        run = self.current
        return run is not None and run.cancel_requested and (run.kind == "down" or run.parameters.committed)

    def _leaving(self, now: float) -> bool:
        """Whether something is being destroyed that its cloud does not refuse to destroy."""
        reality = self._maintainer.reality
        patience = self._maintainer.settings.refusal_patience
        leaving = [i for i in reality.instances.values() if i.leaving] if reality.leaving else []
        return any(i.refused_at is None or now - i.refused_at < patience for i in leaving)

    def settling(self, now: float) -> bool:
        """Whether something is on its way that will be decided soon: a creation, a deletion, a back-off's end."""
        maintainer = self._maintainer
        reality = maintainer.reality
        if reality.growing or reality.dirty:
            return True
        retry = reality.next_retry(now)
        if retry is not None and retry - now <= maintainer.settings.retry_patience:
            return True
        return self._leaving(now)

    def next_look(self, now: float) -> float | None:
        """When a run that waits for a refusing cloud is to be looked at without a hint."""
        if self.current is None or not self._maintainer.reality.leaving:
            return None
        patience = self._maintainer.settings.refusal_patience
        times = [
            i.refused_at + patience
            for i in self._maintainer.reality.instances.values()
            if i.refused_at is not None and i.leaving
        ]
        return max([min(times), now + 0.05]) if times else None

    # -- ending ------------------------------------------------------------------------------------------------------

    def _drop_infrastructure(self) -> None:
        self._maintainer.changes.drop(self._maintainer.world.now())

    def _end(self, run: RunRow, state: RunState, error: ErrorPayload | None) -> None:
        maintainer = self._maintainer
        now = maintainer.world.now()
        maintainer.changes.run(run.id, state=state, finished_at=now, error=error)
        data: dict[str, Any] = {"run_kind": run.kind}
        if error is not None:
            data["error"] = error
        maintainer.changes.event(maintainer.row.scope, f"run.{state.value}", at=now, run_id=run.id, data=data)
        if self.current is not None and self.current.id == run.id:
            self.current = None
            self._fatal = None
            self.verdict = None
            maintainer.health.unchecked.clear()
            maintainer.reality.mark_all()
        self.hinted = True


def _overtaken() -> ErrorPayload:
    return ErrorPayload(
        code="cancelled", message="the infrastructure is taken down; this run had not begun", status=409
    )


def _interrupted(run: RunRow) -> ErrorPayload:
    return ErrorPayload(
        code="cancelled",
        message=f"the run was interrupted: its process ended, and a newer run took over ({run.kind})",
        status=409,
    )
