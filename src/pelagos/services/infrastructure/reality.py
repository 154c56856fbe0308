"""The maintainer's memory of one infrastructure, and what to do next about it. No I/O, no clock.

The problem: after each change of one instance, find what may start or must go now, among ten thousand nodes. Asking the
store, or walking the graph, each time would make a build quadratic. The way chosen: the maintainer, who alone writes
these rows (it holds the lease), keeps them in memory with counters (ready instances a node, unmet dependees a node,
nodes not satisfied), marks what a change touches as *dirty*, and decides about dirty nodes only. The rejected way,
levels with barriers, is simpler and makes every branch wait for the slowest of the others.

Memory is never the truth: it is loaded from the store when the lease is taken, and whatever it decides is written
(fenced by the lease's epoch) before anything is done about it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import assert_never

from pelagos.model.states import InstanceState, ServerState
from pelagos.services.infrastructure.decisions import Create, Decision, Destroy, Mode, Restart, Update
from pelagos.services.infrastructure.healing import PAUSES, Treatment, treat
from pelagos.services.infrastructure.nodes import KEPT_SO, Instance, Misfit, Node
from pelagos.services.infrastructure.observed import ObservedInstance, choose_surplus
from pelagos.services.infrastructure.policies import HealPolicy, ScaleDown
from pelagos.services.infrastructure.records import InstanceRow, NodeRow
from pelagos.services.infrastructure.rolling import Bounds, Old, Step, next_step
from pelagos.services.infrastructure.values import CompiledInfrastructure, CompiledNode, Implementation

__all__ = ["Reality"]


class Reality:
    """See the module's text."""

    def __init__(
        self, compiled: CompiledInfrastructure, records: dict[str, NodeRow], rows: Iterable[InstanceRow]
    ) -> None:
        self.compiled = compiled
        self.nodes: dict[str, Node] = {}
        self.instances: dict[str, Instance] = {}
        self.by_server: dict[str, Instance] = {}
        self.unsatisfied = 0
        self.growing = 0
        """Instances being created: pending or uncertain."""
        self.leaving = 0
        self.marked: dict[str, str] = {}
        """Instances that are made anew, and why: what the present run says, and what healing does of itself."""
        self.updates: dict[str, bool] = {}
        """Instances that the present run changes in place -> whether that was asked for."""
        self.bounds: Bounds | None = None
        """What the present run may do, if it carries out a saved plan."""
        self._outdated: dict[str, None] = {}
        """Instances that are not as described."""
        self._dirty: dict[str, None] = {}
        self._backing_off: dict[str, None] = {}
        """Nodes that a decision has found waiting for their next try; some may wait no more."""
        self._restart_at: dict[str, float] = {}
        """Nodes of which an instance waits for its next restart."""
        self.stuck: dict[str, str] = {}
        """Instances that are not well and stay so -> why, as the last decision about their nodes found."""
        self.pauses = PAUSES
        self._choice: ScaleDown | None = None
        """Which go where there are too many, of the present run; None: as each node's policy says."""
        for described in compiled.nodes:
            name = described.name
            self.nodes[name] = Node(described, records.get(name) or NodeRow(name=name, target=described.min))
        for node in list(self.nodes.values()):
            for dependee in node.compiled.depends_on:
                other = self.nodes.get(dependee)
                if other is not None:
                    node.dependees.append(other)
                    other.dependents.append(node)
            for mapping in node.compiled.mappings:
                source = self.nodes.get(mapping.dependee)
                if mapping.synch and source is not None and mapping.source not in source.awaited:
                    source.awaited.append(mapping.source)
        for row in rows:
            if row.node not in self.nodes:
                orphan = CompiledNode(name=row.node, type="", retired=True, min=0, max=0)
                self.nodes[row.node] = Node(orphan, NodeRow(name=row.node, target=0))
            self._add(Instance(row))
        self.recount()

    def recount(self) -> None:
        """Bring every counter and mark up to date; everything is dirty afterwards."""
        self.unsatisfied = 0
        for node in self.nodes.values():
            node.ready = sum(1 for instance in node.instances.values() if instance.ready)
            node.satisfied = node.ready >= node.target
            self.unsatisfied += not node.satisfied
        for node in self.nodes.values():
            node.unmet = sum(1 for dependee in node.dependees if not dependee.satisfied)
        self.growing = sum(1 for i in self.instances.values() if _growing(i.row.state))
        self.leaving = sum(1 for i in self.instances.values() if i.leaving)
        self._dirty = dict.fromkeys(self.nodes)

    def implementation(self, node: Node, index: int) -> Implementation:
        """The implementation of that index in the node's definition."""
        return self.compiled.definitions[node.compiled.defined_by][index]

    def implementation_of(self, instance: Instance) -> Implementation | None:
        """The one an instance was made from; None for a node that is no longer described."""
        node = self.nodes[instance.row.node]
        choices = self.compiled.definitions.get(node.compiled.defined_by, ())
        index = instance.row.implementation
        return choices[index] if index < len(choices) else None

    def mark(self, name: str) -> None:
        """Decide about this node at the next call of :meth:`decide`."""
        self._dirty[name] = None

    def mark_all(self) -> None:
        self._dirty = dict.fromkeys(self.nodes)

    @property
    def dirty(self) -> bool:
        return bool(self._dirty)

    def _add(self, instance: Instance) -> None:
        self.instances[instance.row.id] = instance
        self.by_server[instance.row.server_id] = instance
        if instance.row.outdated:
            self._outdated[instance.row.id] = None
        self.nodes[instance.row.node].instances[instance.row.id] = instance

    def add(self, row: InstanceRow) -> Instance:
        """A new instance (pending)."""
        instance = Instance(row)
        self._add(instance)
        self.growing += _growing(row.state)
        self.leaving += instance.leaving
        return instance

    def set_state(self, instance: Instance, state: InstanceState) -> None:
        """Change an instance's state with all that counts on it."""
        before = instance.row.state
        if before is state:
            return
        instance.row.state = state
        self.growing += _growing(state) - _growing(before)
        self.leaving += (state is InstanceState.DESTROYING) - (before is InstanceState.DESTROYING)
        self.nodes[instance.row.node].ready += (state is InstanceState.READY) - (before is InstanceState.READY)
        self._touch(instance.row.node)
        if state is InstanceState.DESTROYING:
            self._unmark(instance)
        elif self.marked:
            self._tell_neighbours(instance.row.node)  # they may wait for its new instances

    def remove(self, instance: Instance) -> None:
        """It is gone."""
        node = self.nodes[instance.row.node]
        self._unmark(instance)
        self._outdated.pop(instance.row.id, None)
        self.stuck.pop(instance.row.id, None)
        del self.instances[instance.row.id]
        self.by_server.pop(instance.row.server_id, None)
        del node.instances[instance.row.id]
        self.growing -= _growing(instance.row.state)
        self.leaving -= instance.leaving
        node.ready -= instance.ready
        self._touch(node.name)
        for dependee in node.dependees:
            self.mark(dependee.name)

    def make_anew(
        self, marked: Mapping[str, str], bounds: Bounds | None, updates: Mapping[str, bool] | None = None
    ) -> None:
        """These instances, as far as they are there and nobody has protected them, are made anew (id -> why), within
        ``bounds``; and those are changed in place (id -> whether that was asked for)."""
        allowed = None if bounds is None else bounds.updates
        self.updates = {key: asked for key, asked in (updates or {}).items() if allowed is None or key in allowed}
        self.marked = {key: why for key, why in marked.items() if self._may_be_marked(key)}
        self.bounds = bounds
        self.mark_all()

    def _may_be_marked(self, key: str) -> bool:
        instance = self.instances.get(key)
        return instance is not None and not instance.leaving and not instance.kept_by_protection

    @property
    def changing(self) -> int:
        """How many are being changed in place now."""
        return sum(self.updates.values())

    def updated(self, instance: Instance) -> None:
        """It was changed in place, or will not be any more."""
        if self.updates.pop(instance.row.id, None) is not None:
            self.mark(instance.row.node)
            if not self.updates:
                self.mark_all()  # what was kept until all else is in place may go now

    def renew(self, instance: Instance, why: str) -> None:
        """It is made anew, beside what is made anew already; for no reason: not any more."""
        if not why:
            self._let_stay(instance)
        elif self._may_be_marked(instance.row.id):
            self.marked[instance.row.id] = why
            self.mark(instance.row.node)
            self._tell_neighbours(instance.row.node)

    def _unmark(self, instance: Instance) -> None:
        self.updated(instance)
        self._let_stay(instance)

    def _let_stay(self, instance: Instance) -> None:
        if self.marked.pop(instance.row.id, None) is not None:
            self._tell_neighbours(instance.row.node)
            if not self.marked:
                self.mark_all()  # what was kept until all else is in place may go now

    def _tell_neighbours(self, name: str) -> None:
        node = self.nodes[name]
        for other in (*node.dependents, *node.dependees):
            self.mark(other.name)

    def unlike(self) -> list[str]:
        """Nodes with instances that should have been made anew and were not."""
        found = [i for i in self.outdated() if not i.leaving and not i.kept_by_protection]
        return sorted({i.row.node for i in found if not i.row.outdated.endswith(KEPT_SO)})

    def outdated(self) -> list[Instance]:
        """Instances that are not as described."""
        return [self.instances[key] for key in self._outdated]

    def note_outdated(self, instance: Instance, what: str) -> None:
        """In what the instance is not as described; nothing: it is."""
        instance.row.outdated = what
        if what:
            self._outdated[instance.row.id] = None
        else:
            self._outdated.pop(instance.row.id, None)

    def staying(self, node: Node) -> list[Instance]:
        """The node's instances that have an address and are not to go, or all with an address if each is."""
        shown = [i for i in node.instances.values() if i.address_list and not i.leaving]
        excess = len(shown) - node.target
        if excess <= 0 or node.compiled.retired:
            return shown
        gone = set(self._surplus([i.observed() for i in shown], excess, node))
        return [i for i in shown if i.row.id not in gone and i.row.id not in self.marked] or shown

    def awaits(self, instance: Instance) -> bool:
        """What it depends on went since it was decided to make it: until that is healed, if it will be, it could not be
        told of it."""
        node = self.nodes[instance.row.node]
        if node.unmet == 0:
            return False
        lacking = [dependee for dependee in node.dependees if not dependee.satisfied]
        return not any(d.record.broken or any(key in self.stuck for key in d.instances) for d in lacking)

    def set_target(self, name: str, target: int) -> None:
        self.nodes[name].record.target = target
        self._touch(name)

    def _touch(self, name: str) -> None:
        node = self.nodes[name]
        self.mark(name)
        satisfied = node.ready >= node.target
        if satisfied == node.satisfied:
            return
        node.satisfied = satisfied
        self.unsatisfied += -1 if satisfied else 1
        for dependent in node.dependents:
            dependent.unmet += -1 if satisfied else 1
            if dependent.unmet == 0:
                self.mark(dependent.name)
        if self.unsatisfied == 0:
            self.mark_all()  # what was kept until all else is in place may go now

    def converged(self) -> bool:
        """Every node is as it should be, and nothing is on its way in or out."""
        if not self.settled or self.growing or self.leaving:
            return False
        otherwise = [node for node in self.nodes.values() if not node.as_many_as_wanted]
        if not all(node.compiled.retired for node in otherwise):
            return False
        # No longer described, and there all the same: what depends on it is protected.
        kept = self.kept(None) if otherwise else {}
        return all(key in kept for node in otherwise for key in node.instances)

    @property
    def settled(self) -> bool:
        """All that is wanted is in place: what is too many may go."""
        return self.unsatisfied == 0 and not self.marked and not self.updates

    def done(self, run_id: str) -> bool:
        """All that the bounds allow has been done by the run."""
        bounds = self.bounds
        if bounds is None:
            return self.converged()
        if self.marked or self.updates or any(key in self.instances for key in bounds.destroys):
            return False
        mine = [i for i in self.instances.values() if i.row.run_id == run_id]
        made: dict[str, int] = {}
        for instance in mine:
            made[instance.row.node] = made.get(instance.row.node, 0) + instance.ready
        return all(i.ready for i in mine) and all(made.get(n, 0) >= count for n, count in bounds.creates.items())

    def outside(self, run_id: str) -> Misfit | None:
        """An instance that went wrong, or was protected, while a saved plan was carried out, of which the plan says
        otherwise."""
        if self.bounds is None:
            return None
        for instance in self.instances.values():
            if instance.leaving:
                continue
            goes = instance.row.id in self.bounds.destroys
            if goes and instance.kept_by_protection:
                return Misfit(instance, "was protected")
            policy = self.nodes[instance.row.node].compiled.policy.heal
            if not goes and instance.row.run_id != run_id and _is_to_be_replaced(instance, policy):
                return Misfit(instance, f"went wrong: {instance.row.reason}")
        return None

    # -- decisions ---------------------------------------------------------------------------------------------

    def decide(
        self,
        mode: Mode,
        *,
        now: float,
        budget: int | None = None,
        run_id: str | None = None,
        choice: ScaleDown | None = None,
    ) -> list[Decision]:
        """What to do now about the dirty nodes. ``budget``: most instances that may be created (None: any number);
        a node that was held back by it stays dirty. In ROLLBACK only instances that ``run_id`` made are touched.
        ``choice``: which go where there are too many; None: as each node's policy says. Protected instances stay in
        every mode."""
        self._choice = choice
        dirty, self._dirty = self._dirty, {}
        match mode:
            case Mode.HOLD:
                return []
            case Mode.BUILD:
                return list(self._build(dirty, now, budget, run_id))
            case Mode.DOWN:
                return list(self._clear(dirty, None))
            case Mode.ROLLBACK:
                return list(self._clear(dirty, run_id))

    def _build(
        self, dirty: dict[str, None], now: float, budget: int | None, run_id: str | None
    ) -> Iterator[Decision]:  # fmt: skip
        for name in dirty:
            node = self.nodes[name]
            if node.compiled.retired:
                yield from self._retire(node)
                continue
            kept = yield from self._heal(node, now, run_id)
            for instance in self._next_updates(node, kept, budget) if self.updates else ():
                budget = None if budget is None else budget - 1
                yield Update(instance.row.id)
            anew = [i for i in kept if i.row.id in self.marked] if self.marked else []
            missing = node.target - len(kept)
            if (missing > 0 or anew) and node.record.broken:
                continue
            if (missing > 0 or anew) and self._waits(node, now):
                self._backing_off[name] = None
                continue
            if anew:
                step = self._step(node, anew, kept)
                for instance_id in step.destroy:
                    yield Destroy(instance_id, self.marked[instance_id], surplus=True)
                missing = step.create
            elif missing < 0 and self.settled:
                # What is too many goes only when all else is in place, so that a change that fails has cost nothing.
                yield from self._reduce(node, kept, -missing, run_id)
            missing = min(missing, self._may_come(node, run_id, kept, missing))
            if missing > 0 and node.unmet == 0:
                count = missing if budget is None else min(missing, budget)
                if count < missing:
                    self.mark(name)
                if count > 0:
                    if budget is not None:
                        budget -= count
                    yield Create(name, count)

    def _heal(self, node: Node, now: float, run_id: str | None) -> Generator[Decision, None, list[Instance]]:
        """What is done about the node's instances; those that count towards its target."""
        kept: list[Instance] = []
        earliest: float | None = None
        policy = node.compiled.policy.heal
        for instance in node.instances.values():
            self.stuck.pop(instance.row.id, None)
            if instance.row.state is InstanceState.READY and instance.server is ServerState.ACTIVE:
                kept.append(instance)  # as nearly all are
                continue
            remedy = treat(instance.observed(), policy, broken=node.record.broken, pauses=self.pauses)
            match remedy.treatment:
                case Treatment.LEAVING:
                    continue
                case Treatment.REPLACE:
                    if self._may_go(instance, run_id):
                        yield Destroy(instance.row.id, remedy.why)
                    continue
                case Treatment.STUCK | Treatment.RESTART if instance.row.id in self.marked:
                    pass  # it goes in its turn, as it is
                case Treatment.STUCK:
                    self.stuck[instance.row.id] = remedy.why
                case Treatment.RESTART if remedy.not_before > now:
                    earliest = remedy.not_before if earliest is None else min(earliest, remedy.not_before)
                case Treatment.RESTART:
                    yield Restart(instance.row.id, remedy.verb, remedy.why)
                case Treatment.KEPT:
                    pass
                case _:
                    assert_never(remedy.treatment)
            kept.append(instance)
        if earliest is None:
            self._restart_at.pop(node.name, None)
        else:
            self._restart_at[node.name] = earliest
        return kept

    def _surplus(self, instances: list[ObservedInstance], count: int, node: Node) -> list[str]:
        """Which of the node's instances go where there are too many."""
        doomed = self.marked if self.bounds is None else {*self.marked, *self.bounds.destroys}
        return choose_surplus(instances, count, self._choice or node.compiled.policy.scale_down, doomed)

    def _reduce(self, node: Node, kept: list[Instance], excess: int, run_id: str | None) -> Iterator[Decision]:
        """What is too many goes; but one that is ready, while the node needs it, only when one that stays is ready."""
        spare = sum(instance.ready for instance in kept) - node.target
        for instance_id in self._surplus([i.observed() for i in kept], excess, node):
            instance = self.instances[instance_id]
            if not self._may_go(instance, run_id):
                continue
            if instance.ready:
                if spare <= 0:
                    continue
                spare -= 1
            yield Destroy(instance_id, f"target is {node.target}", surplus=True)

    def _step(self, node: Node, anew: list[Instance], kept: list[Instance]) -> Step:
        """The next step of making a node's instances anew; first those of what it depends on are."""
        if node.unmet or any(self._is_old(dependee) for dependee in node.dependees):
            return Step(create=max(0, node.target - len(kept)))
        policy = node.compiled.policy
        fresh = [i for i in kept if i.row.id not in self.marked]
        return next_step(
            target=node.target,
            unavailable=policy.max_unavailable,
            surge=policy.surge,
            old=[Old(i.row.id, i.ready) for i in sorted(anew, key=lambda i: (i.row.ordinal, i.row.id))],
            new=len(fresh),
            new_ready=sum(i.ready for i in fresh),
            leaving=sum(1 for i in node.instances.values() if i.leaving and i.refused_at is None),
            awaited=any(i in self.marked for dependent in node.dependents for i in dependent.instances),
        )

    def _next_updates(self, node: Node, kept: list[Instance], budget: int | None) -> list[Instance]:
        """Which are changed in place now. Their servers go on running; but a change that turns out to be a bad one is
        not to be everywhere at once, so no more are changed together than would be made anew together. As for new
        instances, what the node depends on has to be there, since templates may ask for it."""
        if node.unmet:
            return []
        mine = [i for i in kept if i.row.id in self.updates]
        policy = node.compiled.policy
        free = max(1, policy.max_unavailable, policy.surge) - sum(self.updates[i.row.id] for i in mine)
        up = (ServerState.ACTIVE, ServerState.STOPPED)
        due = [i for i in mine if not self.updates[i.row.id] and i.server in up and i.row.restarting_since is None]
        due = sorted(due, key=lambda i: (i.row.ordinal, i.row.id))[: max(0, free)]
        if budget is not None and len(due) > budget:
            self.mark(node.name)
            due = due[: max(0, budget)]
        return due

    def _is_old(self, node: Node) -> bool:
        """Not all instances that it shall have are there in their new form."""
        if not any(key in self.marked for key in node.instances):
            return False
        return sum(i.ready for key, i in node.instances.items() if key not in self.marked) < node.target

    def _may_go(self, instance: Instance, run_id: str | None) -> bool:
        bounds = self.bounds
        mine = run_id is not None and instance.row.run_id == run_id
        return bounds is None or instance.row.id in bounds.destroys or mine

    def _may_come(self, node: Node, run_id: str | None, kept: list[Instance], wanted: int) -> int:
        if self.bounds is None:
            return wanted
        made = sum(instance.row.run_id == run_id for instance in kept)
        return self.bounds.creates.get(node.name, 0) - made

    @staticmethod
    def _waits(node: Node, now: float) -> bool:
        return node.record.retry_at is not None and node.record.retry_at > now

    def _retire(self, node: Node) -> Iterator[Decision]:
        if self.settled and not any(dependent.instances for dependent in node.dependents):
            for instance in node.instances.values():
                if not instance.leaving and not instance.kept_by_protection and self._may_go(instance, None):
                    yield Destroy(instance.row.id, "no longer described", surplus=True)

    def _clear(self, dirty: dict[str, None], run_id: str | None) -> Iterator[Decision]:
        """Dependents before what they depend on; each node as soon as its last dependent's instance is gone."""
        for name in dirty:
            node = self.nodes[name]
            if any(self._mine(instance, run_id) for d in node.dependents for instance in d.instances.values()):
                continue  # also for ever, where what depends on it is protected
            for instance in node.instances.values():
                if not instance.leaving and self._mine(instance, run_id) and not instance.kept_by_protection:
                    yield Destroy(instance.row.id, "rolled back" if run_id else "taken down")

    @staticmethod
    def _mine(instance: Instance, run_id: str | None) -> bool:
        return run_id is None or instance.row.run_id == run_id

    def cleared(self, run_id: str | None) -> bool:
        """Nothing is left of what :attr:`Mode.DOWN` or :attr:`Mode.ROLLBACK` removes, but what protection keeps."""
        if not any(self._mine(instance, run_id) for instance in self.instances.values()):
            return True
        if self.leaving or not any(instance.kept_by_protection for instance in self.instances.values()):
            return False
        return sum(self._mine(i, run_id) for i in self.instances.values()) == len(self.kept(run_id))

    def kept(self, run_id: str | None) -> dict[str, str]:
        """What neither DOWN nor ROLLBACK removes: instance -> why. Protected ones, and all of the nodes that a node
        with one depends on."""
        kept: dict[str, str] = {}
        held: dict[str, str] = {}
        ahead: list[Node] = []
        for node in self.nodes.values():
            for instance in node.instances.values():
                if instance.kept_by_protection and self._mine(instance, run_id):
                    kept[instance.row.id] = "protected"
                    if node.name not in held:
                        held[node.name] = ""
                        ahead.append(node)
        while ahead:
            node = ahead.pop()
            for dependee in node.dependees:
                for instance in dependee.instances.values():
                    if self._mine(instance, run_id):
                        kept.setdefault(instance.row.id, f"{node.name}, which depends on it, stays")
                if dependee.name not in held:
                    held[dependee.name] = ""
                    ahead.append(dependee)
        return kept

    def next_retry(self, now: float) -> float | None:
        """When the earliest node that waits for a back-off, or for its next restart, may be tried again."""
        times = [
            node.record.retry_at
            for node in map(self.nodes.__getitem__, self._backing_off)
            if node.record.retry_at is not None and node.record.retry_at > now and not node.satisfied
        ]
        return min([*times, *self._restart_at.values()], default=None)

    def end_back_offs(self, now: float) -> None:
        """Nodes whose back-off is over are decided about again."""
        for name in list(self._backing_off):
            record = self.nodes[name].record
            if record.retry_at is None or record.retry_at <= now:
                record.retry_at = None
                del self._backing_off[name]
                self.mark(name)
        for name in [name for name, at in self._restart_at.items() if at <= now]:
            del self._restart_at[name]
            self.mark(name)


def _is_to_be_replaced(instance: Instance, policy: HealPolicy) -> bool:
    if instance.ready and instance.server is ServerState.ACTIVE:
        return False
    return treat(instance.observed(), policy).treatment is Treatment.REPLACE


def _growing(state: InstanceState) -> bool:
    return state in (InstanceState.PENDING, InstanceState.UNCERTAIN)
