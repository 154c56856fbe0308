"""How a run begins: what it wants becomes the desired state, in one transaction with what it would go back to.

A run that cannot be done as things are by now ends at once, and wants nothing. Only when all is written are the clouds
asked what there is: whoever maintains next, were this process to end here, finds a run that is at work.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgspec

from pelagos.model.errors import Conflict, ErrorPayload, PelagosError
from pelagos.model.states import InstanceState, RunState
from pelagos.services.infrastructure import revisions
from pelagos.services.infrastructure.desiring import scaled_target, with_retired
from pelagos.services.infrastructure.plan_diff import kept_to, newly_protected, targets_wanted
from pelagos.services.infrastructure.reconfiguring import composed
from pelagos.services.infrastructure.records import InstanceRow, NodeRow, RunRow
from pelagos.services.infrastructure.targeting import Narrowed, moves_made, narrowed
from pelagos.services.infrastructure.values import Adopt, CompiledInfrastructure, Desired

if TYPE_CHECKING:
    from pelagos.services.infrastructure.maintainer import Maintainer
    from pelagos.services.infrastructure.running import Running

__all__ = ["Beginning"]


class Beginning:
    """Of the next run of a maintainer."""

    def __init__(self, running: Running, maintainer: Maintainer) -> None:
        self._running = running
        self._maintainer = maintainer

    async def begin(self, run: RunRow) -> None:
        """Write what the run wants as the desired state, then see what there is."""
        maintainer = self._maintainer
        now = maintainer.world.now()
        row = maintainer.row
        parameters = run.parameters
        old_targets = {name: node.record.target for name, node in maintainer.reality.nodes.items()}
        revision = await maintainer.store.read(partial(revisions.wanted, scope=row.scope, infrastructure_id=row.id))
        previous = Desired(compiled=row.compiled, revision=revision, targets=old_targets)
        desired = parameters.desired
        protecting: set[str] = set()
        moved: dict[str, str] = {}
        adopted: InstanceRow | None = None
        broken = [name for name, node in maintainer.reality.nodes.items() if node.record.broken]
        closed: list[str] = []
        self._running.fatal = None
        if run.kind == "up" and desired is not None:
            wanted = await self._wanted(run, desired.compiled)
            if wanted is None:
                return
            moved = moves_made(wanted.compiled, row.compiled)
            self._want(wanted.compiled, old_targets, moved)
            protecting = newly_protected(wanted.compiled, row.compiled, moved)
            closed = [moved.get(name, name) for name in broken]
            parameters = msgspec.structs.replace(
                parameters, moved=composed(parameters.moved, moved), held=tuple(sorted(wanted.held))
            )
            what = f"rollback to version {parameters.rollback}" if parameters.rollback else "up"
            maintainer.changes.want(run.scope, desired, f"{what}, run {run.id}", now)
        elif run.kind == "scale":
            self._scale(parameters.scale, old_targets)
            closed = [name for name in broken if name in parameters.scale]
        elif parameters.adopt is not None:
            adopted = self._adopt(run, parameters.adopt)
            # What is adopted cannot be taken back: to destroy it would do harm.
            parameters = msgspec.structs.replace(parameters, committed=True)
        if parameters.maintained is not None and parameters.maintained != row.maintained:
            maintainer.note_row(maintained=parameters.maintained)
        if not (parameters.creates_infrastructure or parameters.inherited) and run.kind in ("up", "scale"):
            parameters = msgspec.structs.replace(parameters, previous=previous)
        maintainer.candidates.refusals.clear()
        if parameters.exact is not None:
            maintainer.candidates.forget_prices()
        self._running.current = msgspec.structs.replace(
            run, state=RunState.RUNNING, started_at=now, parameters=parameters
        )
        maintainer.changes.run(run.id, state=RunState.RUNNING, started_at=now, parameters=parameters)
        maintainer.event("run.started", run_kind=run.kind)
        self._running.tell_moved(moved)
        if adopted is not None and adopted.adoption is not None:
            told = {"server": adopted.adoption.name, "protected": adopted.protected}
            maintainer.event("instance.adopting", adopted, cloud=adopted.account, **told)
        for name in closed:
            maintainer.mending.tell_closed(name)
        maintainer.mending.start_anew(parameters.reset)
        self._protect(protecting)
        self._remove(parameters.remove)
        await self._flush_and_load()
        if run.kind != "down":
            await self._running.look_around()
        if run.kind == "up":
            self._tell_waiting()

    async def _wanted(self, run: RunRow, described: CompiledInfrastructure) -> Narrowed | None:
        """What the run wants of the description; None if it cannot be done as things are now."""
        maintainer, parameters = self._maintainer, run.parameters
        first = parameters.creates_infrastructure and not parameters.inherited
        there = None if first else maintainer.row.compiled
        try:
            wanted = narrowed(described, there, parameters.only, parameters.without, parameters.wanted_anew)
        except PelagosError as error:
            misfit: ErrorPayload | None = error.payload()
        else:
            misfit = await maintainer.reconfiguring.misfit(run, wanted)
        if misfit is None:
            return wanted
        self._not_begun(run, misfit)
        return None

    def _not_begun(self, run: RunRow, error: ErrorPayload) -> None:
        """It cannot be done as things are now; nothing is changed."""
        maintainer = self._maintainer
        maintainer.changes.run(run.id, state=RunState.RUNNING, started_at=maintainer.world.now())
        self._running.end(run, RunState.FAILED, error)
        if run.parameters.creates_infrastructure and not maintainer.reality.instances:
            self._running.drop_infrastructure()

    def _protect(self, nodes: set[str]) -> None:
        """Instances that are ready already come under a policy that is new."""
        for instance in self._maintainer.reality.instances.values():
            if instance.row.node in nodes and instance.row.ready_at is not None and not instance.leaving:
                self._maintainer.protect(instance)

    def _tell_waiting(self) -> None:
        """Which nodes cannot begin yet, and what they wait for."""
        maintainer = self._maintainer
        now = maintainer.world.now()
        for node in maintainer.reality.nodes.values():
            if node.unmet and not node.satisfied and self._running.current is not None:
                maintainer.changes.event(
                    maintainer.row.scope,
                    "node.waiting",
                    at=now,
                    node=node.name,
                    run_id=self._running.current.id,
                    data={"on": [other.name for other in node.dependees if not other.satisfied]},
                )

    async def _flush_and_load(self) -> None:
        maintainer = self._maintainer
        await maintainer.changes.flush(maintainer.store, maintainer.fence, maintainer.row.scope)
        await maintainer.load()

    def _want(self, new: CompiledInfrastructure, targets: dict[str, int], moved: dict[str, str]) -> None:
        """A new description: targets stay as they are within the new limits; a new node starts at its minimum."""
        maintainer = self._maintainer
        self._running.rename(moved)
        former = {name: old for old, name in moved.items()}
        alive = {name for name, node in maintainer.reality.nodes.items() if node.instances and name not in moved}
        compiled = with_retired(new, maintainer.row.compiled, alive)
        known = maintainer.reality.nodes
        rows: list[NodeRow] = []
        wanted = targets_wanted(new, targets, moved)
        for node in new.nodes:
            old = known.get(former.get(node.name, node.name))
            kept = kept_to(node, old.compiled, old.record.implementation) if old is not None else None
            rows.append(NodeRow(name=node.name, target=wanted[node.name], implementation=kept))
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
            node.record.start_anew()
            self._maintainer.changes.node(node.record)

    def _adopt(self, run: RunRow, adopt: Adopt) -> InstanceRow | None:
        """The instance of a server that is there already; it is asked for when this is written."""
        maintainer = self._maintainer
        node = maintainer.reality.nodes.get(adopt.node)
        if node is None or node.compiled.retired:
            return None  # a newer description, begun before this run, no longer has it
        now = maintainer.world.now()
        if adopt.grows:
            node.record.target = min(node.record.target + 1, node.compiled.max)
            maintainer.changes.node(node.record)
        row = InstanceRow(
            id=adopt.instance_id,
            node=adopt.node,
            ordinal=node.free_ordinals(1)[0],
            state=InstanceState.PENDING,
            server_id=adopt.server_id,
            account=adopt.account,
            implementation=maintainer.creating.implementation_on(node, adopt.account),
            fingerprint=node.compiled.fingerprint,
            run_id=run.id,
            created_at=now,
            updated_at=now,
            protected=adopt.protected,
            adoption=adopt.server,
        )
        maintainer.changes.new(row)
        return row

    def _remove(self, instance_ids: tuple[str, ...]) -> None:
        """These instances go, and their nodes' targets sink: both in the transaction that begins the run."""
        maintainer = self._maintainer
        instances = maintainer.reality.instances
        wanted = [i for key in instance_ids if (i := instances.get(key)) is not None and not i.leaving]
        kept = {instance.row.id: "protected" for instance in wanted if instance.kept_by_protection}
        if kept:  # since the run was accepted
            advice = f"`pelagos protect {maintainer.row.name} NODE off` lifts that."
            self._running.fatal = Conflict(f"not removed: {self._running.listed(kept)}", advice=advice).payload()
            self._running.fatal_policy = "rollback"
            return
        for instance in wanted:
            self._running.commit()
            node = maintainer.reality.nodes[instance.row.node]
            node.record.target = max(node.record.target - 1, node.compiled.min)
            maintainer.changes.node(node.record)
            maintainer.set_state(instance, InstanceState.DESTROYING, "removed on request")
            maintainer.event("instance.destroying", instance.row, reason="removed on request")
