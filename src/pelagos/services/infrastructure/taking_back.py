"""How a run that failed or was cancelled is taken back: at once, by going back, or only so far as it is half-made.

What was made while nothing was removed is taken back by removing it. Once something was removed that was there before,
the former description is wanted again, and what is not like it is made anew, within the bounds of the change itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from pelagos.model.errors import ErrorPayload
from pelagos.model.states import InfrastructureState, RunState
from pelagos.services.infrastructure.desiring import with_retired
from pelagos.services.infrastructure.records import NodeRow, RunRow
from pelagos.services.infrastructure.values import Desired, RunParameters

if TYPE_CHECKING:
    from pelagos.services.infrastructure.maintainer import Maintainer
    from pelagos.services.infrastructure.running import Running

__all__ = ["TakingBack"]


class TakingBack:
    """Of the present run of a maintainer."""

    def __init__(self, running: Running, maintainer: Maintainer) -> None:
        self._running = running
        self._maintainer = maintainer
        self._restored = ""
        """The run whose predecessor's description is wanted again: it ends when all is looked at by that."""

    def see_to(self, run: RunRow, now: float) -> None:
        """After the decisions of a step, of a run that is being taken back."""
        if run.parameters.going_back:
            self._see_to_going_back(run, now)
        else:
            self._see_to_rollback(run)

    def failed(self, run: RunRow, error: ErrorPayload) -> None:
        """The run cannot succeed: end it, or begin to take it back, as the policy says."""
        parameters = run.parameters
        match "keep" if run.keep else parameters.on_failure or self._running.fatal_policy:
            case "stop":
                self._stop_short(run, error)
            case "rollback" if not parameters.committed:
                self.roll_back(msgspec.structs.replace(run, error=error))
            case "rollback" if parameters.previous is not None:
                self._go_back(run, parameters.previous, error)
            case _:
                self._running.end(run, RunState.FAILED, error)
                self.left_failed(error)

    def _stop_short(self, run: RunRow, error: ErrorPayload) -> None:
        """What is half-made goes; what is ready stays, old and new."""
        maintainer = self._maintainer
        for instance in maintainer.reality.instances.values():
            if instance.ready and instance.row.run_id == run.id:
                instance.row.run_id = None
                maintainer.changes.instance(instance.row)
        parameters = msgspec.structs.replace(run.parameters, stopping=True)
        self._take_back(run, parameters, error)
        maintainer.event("run.stopping", error=error)
        maintainer.reconfiguring.restore()

    def _take_back(self, run: RunRow, parameters: RunParameters, error: ErrorPayload) -> None:
        self._running.current = msgspec.structs.replace(
            run, state=RunState.ROLLING_BACK, parameters=parameters, error=error
        )
        self._maintainer.changes.run(run.id, state=RunState.ROLLING_BACK, parameters=parameters, error=error)

    def _go_back(self, run: RunRow, previous: Desired, error: ErrorPayload) -> None:
        """Want again what was there before, and make anew what is not like that."""
        maintainer = self._maintainer
        self._want_again(run, previous, error)
        back = {new: old for old, new in run.parameters.moved.items()}
        parameters = msgspec.structs.replace(run.parameters, going_back=True, anew=None, updates={}, moved=back)
        self._take_back(run, parameters, error)
        maintainer.event("run.rolling_back", error=error)
        self._running.fatal = None

    def _want_again(self, run: RunRow, previous: Desired, error: ErrorPayload | None) -> None:
        """The description, the targets and the names that were before the run; all is read anew after that."""
        maintainer = self._maintainer
        back = {new: old for old, new in run.parameters.moved.items()}
        alive = {back.get(name, name) for name, node in maintainer.reality.nodes.items() if node.instances}
        self._running.rename(back)
        self._running.tell_moved(back)
        described = {node.name for node in previous.compiled.nodes}
        compiled = with_retired(previous.compiled, maintainer.row.compiled, alive - described)
        maintainer.note_row(compiled=compiled)
        how = "failed" if error is not None else "was cancelled"
        why = f"as it was before run {run.id}, which {how}"
        maintainer.changes.want(run.scope, previous, why, maintainer.world.now())
        maintainer.changes.nodes(self._records_before(previous))
        maintainer.candidates.refusals.clear()  # of another description
        maintainer.reload = True

    def _see_to_going_back(self, run: RunRow, now: float) -> None:
        maintainer = self._maintainer
        if maintainer.reconfiguring.undecided or maintainer.reload:
            return
        assert run.error is not None
        fatal = self._running.fatal
        if fatal is not None:
            self._running.end(run, RunState.FAILED, run.error)
            self.left_failed(fatal)
        elif maintainer.reality.converged():
            self._running.end(run, RunState.FAILED, run.error)
        elif self._running.stuck(now):
            self._running.end(run, RunState.FAILED, run.error)
            self.left_failed(run.error)
        else:
            self._running.see_to_refusals(run, now)

    def roll_back(self, run: RunRow) -> None:
        """Begin to remove what the run has made; nothing that was there before was removed."""
        maintainer = self._maintainer
        if run.kind == "maintain":
            # What it has healed took the place of what was there; to destroy it would do harm. What is half-made goes.
            for instance in maintainer.reality.instances.values():
                if instance.ready and instance.row.run_id == run.id:
                    instance.row.run_id = None
                    maintainer.changes.instance(instance.row)
        self._running.current = msgspec.structs.replace(run, state=RunState.ROLLING_BACK)
        maintainer.changes.run(run.id, state=RunState.ROLLING_BACK, error=run.error)
        maintainer.event("run.rolling_back", error=run.error)
        maintainer.reality.mark_all()

    def _see_to_rollback(self, run: RunRow) -> None:
        maintainer = self._maintainer
        if not maintainer.reality.cleared(run.id):
            return
        if run.parameters.stopping and run.error is not None:
            self._running.end(run, RunState.FAILED, run.error)
            self.left_failed(run.error)
            return
        previous = run.parameters.previous
        if previous is not None and self._restored != run.id:
            self._want_again(run, previous, run.error)
            self._restored = run.id
            self._maintainer.reconfiguring.remark = True
            self._running.hinted = True
            return
        if maintainer.reload or maintainer.reconfiguring.undecided:
            return
        kept = maintainer.reality.kept(run.id)
        told = self._running.listed(kept)
        before = self._never_built(run) if previous is not None else None
        if run.error is None:
            self._running.end(run, RunState.CANCELLED, None)
            if run.parameters.creates_infrastructure and not kept:
                self._running.drop_infrastructure()
            self._running.verdict = before
            if previous is None and kept:
                self._running.verdict = (InfrastructureState.FAILED, f"rolled back but for {told}")
            return
        self._running.end(run, RunState.FAILED, run.error)
        self._running.verdict = before
        if previous is None and kept:
            reason = f"{run.error.message}; rolled back but for {told}"
            self._running.verdict = (InfrastructureState.FAILED, reason)
        elif previous is None:
            self.left_failed(run.error)

    def restored(self, run: RunRow) -> bool:
        """What was wanted before the run is wanted again, and nothing that it made is left."""
        return run.state is RunState.ROLLING_BACK and self._restored == run.id

    def _never_built(self, run: RunRow) -> tuple[InfrastructureState, str] | None:
        """The state of an infrastructure that is again what it was, if nothing is there of what is wanted. None: as it
        is found to be."""
        reality = self._maintainer.reality
        if reality.instances or not reality.unsatisfied:
            return None
        why = run.error.message if run.error is not None else "it was never built: the last run was cancelled"
        return InfrastructureState.FAILED, why

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

    def left_failed(self, error: ErrorPayload) -> None:
        """The state of an infrastructure whose change failed and was not taken back."""
        reality = self._maintainer.reality
        state = InfrastructureState.DEGRADED if reality.instances else InfrastructureState.FAILED
        self._running.verdict = (state, error.message)
