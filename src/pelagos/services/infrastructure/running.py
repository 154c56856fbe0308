"""The runs of one infrastructure, one after the other: begun (:mod:`beginning`), followed, taken back
(:mod:`taking_back`), ended.

A run is somebody's request, followed to its end; the desired state it brings is written when it begins, with what it
replaces, so that a run that fails or is cancelled can go back. ``kill -9`` rolls nothing back: the row stays open, and
whoever maintains next either carries it on (nothing newer waits) or ends it as interrupted (something does).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from pelagos.model.errors import ErrorPayload, Retry
from pelagos.model.states import InfrastructureState, InstanceState, RunState, ServerState
from pelagos.services.infrastructure import records
from pelagos.services.infrastructure.beginning import Beginning
from pelagos.services.infrastructure.nodes import Instance
from pelagos.services.infrastructure.plan_diff import stale_plan
from pelagos.services.infrastructure.reconfiguring import superseded_by
from pelagos.services.infrastructure.records import RunRow
from pelagos.services.infrastructure.taking_back import TakingBack

if TYPE_CHECKING:
    from pelagos.services.infrastructure.maintainer import Maintainer
    from pelagos.services.infrastructure.nodes import Node

__all__ = ["Running"]


class Running:
    """See the module's text."""

    def __init__(self, maintainer: Maintainer) -> None:
        self._maintainer = maintainer
        self._beginning = Beginning(self, maintainer)
        self._taking_back = TakingBack(self, maintainer)
        self.current: RunRow | None = None
        self.hinted = True
        """Runs changed in the store: look."""
        self.verdict: tuple[InfrastructureState, str] | None = None
        """The state the last run left the infrastructure in, until the step that notes it."""
        self.fatal: ErrorPayload | None = None
        self.fatal_policy = "rollback"
        """Of the node because of which the run fails."""
        self._asked_at: float | None = None
        """When it was seen that the run is to stop."""

    @property
    def restored(self) -> bool:
        """The present run was rolled back, and is at its end but for a look at who is as described."""
        return self.current is not None and self._taking_back.restored(self.current)

    def budget(self) -> int | None:
        """How many more instances the run may create now; None: any number."""
        run = self.current
        if run is None:
            return None
        growing = self._maintainer.reality.growing + self._maintainer.reality.changing
        if run.parameters.strategy == "sequential":
            return max(0, 1 - growing)
        limit = run.parameters.max_parallel
        return max(0, limit - growing) if limit > 0 else None

    def give_up(self, node: Node, error: ErrorPayload) -> None:
        """A building run cannot succeed because of this node; the first reason counts."""
        run = self.current
        if run is not None and run.kind in ("up", "scale") and self.fatal is None:
            self.fatal = msgspec.structs.replace(error, message=f"node {node.name!r}: {error.message}")
            self.fatal_policy = node.compiled.policy.on_failure

    def commit(self) -> None:
        """The run begins to remove what was there before, since what takes its place is there, or may be missing. From
        here on nothing is taken back by removing what the run made: cancelled, it ends and leaves what is; failed, it
        goes back by making anew what was there before, if that is what is to be done."""
        run = self.current
        if run is not None and run.kind in ("up", "scale") and not run.parameters.committed:
            parameters = msgspec.structs.replace(run.parameters, committed=True)
            self.current = msgspec.structs.replace(run, parameters=parameters)
            self._maintainer.changes.run(run.id, parameters=parameters)

    async def look(self) -> None:
        """Take in what changed of the runs in the store; begin the next one if none is at work."""
        if self.hinted:
            await self._look_at_runs()
        await self._maintainer.reconfiguring.look()

    async def _look_at_runs(self) -> None:
        self.hinted = False
        maintainer = self._maintainer
        rows = await maintainer.store.read(lambda connection: records.open_runs(connection, maintainer.id))
        waiting = [row for row in rows if row.state is RunState.PENDING]
        if self.current is not None:
            newer = self._take_in(rows, waiting)
            if newer is not None:
                await self._beginning.begin(newer)
            return
        interrupted = [row for row in rows if row.state is not RunState.PENDING]
        # What was to be taken back is taken back before anything newer begins, or it would be part of what that finds.
        undone = [row for row in interrupted if row.state is RunState.ROLLING_BACK or row.cancel_requested]
        candidates = undone or ([] if waiting else interrupted)
        carried_on = candidates[-1] if candidates else None
        for row in interrupted:
            if row is not carried_on:
                self.end(row, RunState.FAILED, _interrupted(row))
        if carried_on is not None:
            await self._carry_on(carried_on)
            return
        down = next((row for row in waiting if row.kind == "down" and not row.cancel_requested), None)
        for row in waiting:
            if down is not None and row is not down:
                self.end(row, RunState.CANCELLED, _overtaken())
            elif row.cancel_requested:
                self.end(row, RunState.CANCELLED, None)
                if row.parameters.creates_infrastructure:
                    self.drop_infrastructure()
                    return  # whether anything is left to begin is seen when that is written
            else:
                await self._beginning.begin(row)
                return

    def _take_in(self, rows: list[RunRow], waiting: list[RunRow]) -> RunRow | None:
        """What was asked of the current run; the run that takes its place now, if one does."""
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
            return None
        newer = next((row for row in waiting if row.kind == "up" and not row.cancel_requested), None)
        if newer is None or current.state is not RunState.RUNNING or current.cancel_requested or self.fatal:
            return None
        return self._superseded(current, newer) if self._differs(current, newer) else None

    @staticmethod
    def _differs(current: RunRow, newer: RunRow) -> bool:
        """Whether the newer change wants something else than the current run is about."""
        if current.kind not in ("up", "scale"):
            return False
        wanted, other = current.parameters.desired, newer.parameters.desired
        if wanted is None or other is None or newer.parameters.exact is not None:
            return wanted is None
        p, q = current.parameters, newer.parameters
        same = (p.only, p.without, p.wanted_anew) == (q.only, q.without, q.wanted_anew)
        return not same or wanted.compiled != other.compiled

    def _superseded(self, current: RunRow, newer: RunRow) -> RunRow:
        """The newer run takes over what the current one has made and what it would have gone back to."""
        maintainer = self._maintainer
        old = current.parameters
        parameters = msgspec.structs.replace(
            newer.parameters,
            previous=old.previous,
            creates_infrastructure=newer.parameters.creates_infrastructure or old.creates_infrastructure,
            committed=old.committed,
            moved=old.moved,
            inherited=True,
        )
        for instance in maintainer.reality.instances.values():
            if instance.row.run_id == current.id:
                instance.row.run_id = newer.id
                maintainer.changes.instance(instance.row)
        maintainer.changes.run(newer.id, parameters=parameters)
        self.end(current, RunState.SUPERSEDED, superseded_by(newer))
        return msgspec.structs.replace(newer, parameters=parameters)

    async def _carry_on(self, row: RunRow) -> None:
        self.current = row
        self._maintainer.reconfiguring.restore()
        if row.kind != "down":
            await self.look_around()  # what befell servers while nobody looked would be waited for in vain

    async def look_around(self) -> None:
        """What do the clouds say now? A maintenance run also probes everything once, others what is ill: it would be
        waited for in vain if nobody probed it."""
        maintainer = self._maintainer
        assert self.current is not None
        maintainer.health.unchecked.clear()
        await maintainer.refresh(max_age=0.0)
        maintainer.health.probe_all(maintainer.world.now(), ill=self.current.kind != "maintain")

    def rename(self, moved: dict[str, str]) -> None:
        """The nodes' instances are the same under their new names; all is read anew after that."""
        maintainer = self._maintainer
        for old, new in moved.items():
            node = maintainer.reality.nodes.get(old)
            for instance in node.instances.values() if node is not None else ():
                instance.row.node = new
                maintainer.changes.instance(instance.row)

    def tell_moved(self, moved: dict[str, str]) -> None:
        for old, new in moved.items():
            self._maintainer.event("node.moved", was=old, name=new)

    # -- following ---------------------------------------------------------------------------------------------------

    def see_to(self, now: float) -> None:
        """After the decisions of a step: is the run at an end, or to be rolled back?"""
        run = self.current
        if run is None:
            return
        if run.state is RunState.ROLLING_BACK:
            self._taking_back.see_to(run, now)
        elif run.cancel_requested:
            self._cancel(run, now)
        elif self.fatal is not None:
            self._taking_back.failed(run, self.fatal)
        elif run.kind == "down":
            self._see_to_down(run, now)
        elif self.doubts(now):
            return
        elif run.kind == "maintain":
            self._see_to_maintenance(run, now)
        elif self._maintainer.reality.done(run.id):
            self.end(run, RunState.SUCCEEDED, None)
        elif (found := self._maintainer.reality.outside(run.id)) is not None:
            row = found.instance.row
            self.fatal = stale_plan([f"{row.node}/{row.id[:8]} {found.what}, while it was carried out"], begun=True)
            self.fatal_policy = self._maintainer.reality.nodes[row.node].compiled.policy.on_failure
            self._taking_back.failed(run, self.fatal)
        elif self.stuck(now):
            self._end_stuck(run)
        else:
            self.see_to_refusals(run, now)

    def _cancel(self, run: RunRow, now: float) -> None:
        if run.kind != "down" and not run.keep and not run.parameters.committed:
            self._taking_back.roll_back(run)
        elif run.kind == "adopt" and self._adopting(run):
            return  # its outcome is waited for, whoever asks
        elif not (self.holds and self._leaving(now)) or self._waited_enough(now):
            # What is being destroyed already is waited for, for a while: it goes on without the run, too.
            self.end(run, RunState.CANCELLED, None)
            if run.kind == "down":
                self.verdict = (InfrastructureState.DEGRADED, "its destruction was cancelled")

    def not_adopted(self, instance: Instance, error: ErrorPayload) -> None:
        """Its server could not be adopted: it is no instance, and the node's number is as it was."""
        maintainer = self._maintainer
        row, run = instance.row, self.current
        node = maintainer.reality.nodes[row.node]
        adopt = run.parameters.adopt if run is not None else None
        ours = adopt is not None and adopt.instance_id == row.id
        if adopt is None or not ours or adopt.grows:
            node.record.target = max(node.record.target - 1, node.compiled.min)
            maintainer.changes.node(node.record)
        maintainer.set_state(instance, InstanceState.FAILED, error.message)
        maintainer.event("instance.failed", row, reason=error.message, error=error)
        maintainer.gone(instance)
        maintainer.reality.recount()
        if run is not None and ours:
            self.end(run, RunState.FAILED, error)

    def _adopting(self, run: RunRow) -> bool:
        adopt = run.parameters.adopt
        instance = None if adopt is None else self._maintainer.reality.instances.get(adopt.instance_id)
        return instance is not None and instance.server in (None, ServerState.BUILD)

    def _see_to_down(self, run: RunRow, now: float) -> None:
        maintainer = self._maintainer
        if maintainer.reality.cleared(None):
            kept = maintainer.reality.kept(None)
            if kept:
                self._end_kept(run, kept)
                return
            self.end(run, RunState.SUCCEEDED, None)
            self.drop_infrastructure()
        else:
            self.see_to_refusals(run, now)

    def _end_kept(self, run: RunRow, kept: dict[str, str]) -> None:
        """All is gone but what is protected and what that needs: the run ends, says so, and how that is lifted."""
        maintainer = self._maintainer
        instances = maintainer.reality.instances
        remaining = [
            {"instance": key, "node": instances[key].row.node, "cloud": instances[key].row.account, "reason": why}
            for key, why in kept.items()
        ]
        nodes = dict.fromkeys(instances[key].row.node for key, why in kept.items() if instances[key].row.protected)
        lifting = ", ".join(f"`pelagos protect {maintainer.row.name} {node} off`" for node in list(nodes)[:3])
        error = ErrorPayload(
            code="conflict",
            message=f"not taken down: {self.listed(kept)}",
            advice=f"{lifting} lifts the protection; then take it down again.",
            retry=Retry.NEVER,
            status=409,
            details={"remaining": remaining},
        )
        self.end(run, RunState.FAILED, error)
        self.verdict = (InfrastructureState.DESTROYING, error.message)

    def listed(self, kept: dict[str, str]) -> str:
        """These instances (id -> why), for people."""
        instances = self._maintainer.reality.instances
        told = [f"{instances[key].row.node}/{key[:8]} ({why})" for key, why in kept.items()]
        return ", ".join(told[:5]) + (", …" if len(told) > 5 else "")

    def stuck(self, now: float) -> bool:
        """All that the run waits for is instances that are not well and stay so."""
        reality = self._maintainer.reality
        return bool(
            reality.stuck
            and not reality.growing
            and not reality.leaving
            and not reality.dirty
            and reality.next_retry(now) is None
            and not self._maintainer.commanding.waiting
        )

    def _end_stuck(self, run: RunRow) -> None:
        """It ends without success, and takes nothing back: what it made is in place."""
        maintainer = self._maintainer
        stuck = maintainer.reality.stuck
        error = ErrorPayload(
            code="conflict",
            message=f"not healed: {self.listed(stuck)}",
            advice=f"Mend them by hand, or change what keeps them: see `pelagos explain {maintainer.row.name}`.",
            retry=Retry.NEVER,
            status=409,
        )
        self.end(run, RunState.FAILED, error)
        self._taking_back.left_failed(error)

    def see_to_refusals(self, run: RunRow, now: float) -> None:
        """All that is left to wait for is what a cloud refuses to delete: end the run, and list it."""
        maintainer = self._maintainer
        if not maintainer.reality.leaving or (run.kind != "down" and maintainer.reality.unsatisfied):
            return
        waited_for = [instance for instance in maintainer.reality.instances.values() if instance.leaving]
        for account in dict.fromkeys(i.row.account for i in waited_for if i.refused_at is None):
            # What is journaled waits until the account is back; whoever asked for it need not.
            if (gone := maintainer.candidates.missing(account)) is not None:
                for instance in waited_for:
                    if instance.row.account == account and instance.refused_at is None:
                        maintainer.taking_in.refused(instance, gone)
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
        self.end(run, RunState.FAILED, error)
        if run.kind == "down":
            self.verdict = (InfrastructureState.DESTROYING, error.message)

    def _see_to_maintenance(self, run: RunRow, now: float) -> None:
        """One pass is over when each instance was looked at and nothing moves that could settle by itself."""
        if not self._maintainer.health.unchecked and not self.settling(now):
            self.end(run, RunState.SUCCEEDED, None)

    def doubts(self, now: float) -> bool:
        """Whether the run waits to learn if a server is gone that its cloud did not list: soon that will be known."""
        run, known_at = self.current, self._maintainer.doubt
        if run is None or run.kind == "down" or run.state is not RunState.RUNNING or known_at is None:
            return False
        return known_at - now <= self._maintainer.settings.retry_patience

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

    def _waited_enough(self, now: float) -> bool:
        """Since the run was asked to stop."""
        if self._asked_at is None:
            self._asked_at = now
        return now - self._asked_at >= self._maintainer.settings.leave_patience

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
        if self._asked_at is not None:
            times.append(self._asked_at + self._maintainer.settings.leave_patience)
        return max([min(times), now + 0.05]) if times else None

    # -- ending ------------------------------------------------------------------------------------------------------

    def drop_infrastructure(self) -> None:
        """Nothing of it is left: its record becomes a tombstone."""
        self._maintainer.changes.drop(self._maintainer.world.now())

    def end(self, run: RunRow, state: RunState, error: ErrorPayload | None) -> None:
        """The run is over, and what it has not made anew stays."""
        maintainer = self._maintainer
        now = maintainer.world.now()
        maintainer.changes.run(run.id, state=state, finished_at=now, error=error)
        data: dict[str, Any] = {"run_kind": run.kind}
        if error is not None:
            data["error"] = error
        maintainer.changes.event(maintainer.row.scope, f"run.{state.value}", at=now, run_id=run.id, data=data)
        if self.current is not None and self.current.id == run.id:
            self.current = None
            self._asked_at = None
            self.fatal = None
            self.verdict = None
            maintainer.health.unchecked.clear()
            maintainer.reality.make_anew(maintainer.stale.renewals(), None)
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
