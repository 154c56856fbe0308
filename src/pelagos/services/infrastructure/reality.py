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

import enum
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from pelagos.model.states import InstanceState, ServerState
from pelagos.services.infrastructure.observed import ObservedInstance, Verdict, choose_surplus, verdict
from pelagos.services.infrastructure.records import InstanceRow, NodeRow
from pelagos.services.infrastructure.rolling import Bounds, Old, Step, next_step
from pelagos.services.infrastructure.values import CompiledInfrastructure, CompiledNode, Implementation

__all__ = ["KEPT_SO", "Create", "Decision", "Destroy", "Instance", "Mode", "Node", "Reality"]


class Mode(enum.Enum):
    """What the maintainer is about."""

    BUILD = "build"
    """Towards the targets: create, replace, remove what is too many."""
    ROLLBACK = "rollback"
    """Remove what one run made."""
    DOWN = "down"
    """Remove everything."""
    HOLD = "hold"
    """Only look."""


KEPT_SO = " (kept)"
"""Ends what is said of an instance that is not as described and is to stay so."""


class Create(msgspec.Struct, frozen=True):
    node: str
    count: int


class Destroy(msgspec.Struct, frozen=True):
    """``surplus``: nothing is wrong with it; it is only no longer wanted."""

    instance_id: str
    reason: str
    surplus: bool = False


Decision = Create | Destroy


class Instance:
    """A living instance: its row, and what the cloud said of its server last (None: nothing yet)."""

    __slots__ = (
        "address_list",
        "delete_error",
        "delete_final",
        "delete_round",
        "private_list",
        "refused_at",
        "row",
        "server",
    )

    def __init__(self, row: InstanceRow) -> None:
        self.row = row
        self.server: ServerState | None = None
        self.address_list: tuple[str, ...] = ()
        self.private_list: tuple[str, ...] = ()
        self.delete_error = ""
        """What the cloud said last when it was to be deleted."""
        self.refused_at: float | None = None
        self.delete_final = False
        """The cloud refused for good; it is asked once more at the next pass or run."""
        self.delete_round = 0
        """Differs between two such requests."""

    @property
    def leaving(self) -> bool:
        return self.row.state is InstanceState.DESTROYING

    @property
    def ready(self) -> bool:
        return self.row.state is InstanceState.READY

    def observed(self) -> ObservedInstance:
        row = self.row
        return ObservedInstance(
            id=row.id,
            node=row.node,
            state=row.state,
            created_at=row.created_at,
            server=self.server,
            reason=row.reason,
            ordinal=row.ordinal,
            account=row.account,
            implementation=row.implementation,
            fingerprint=row.fingerprint,
            source=row.source,
            asked=row.asked,
            addresses=self.address_list,
            private_addresses=self.private_list,
        )


class Node:
    """A node and its living instances, oldest first."""

    __slots__ = ("compiled", "dependees", "dependents", "instances", "ready", "record", "satisfied", "unmet")

    def __init__(self, compiled: CompiledNode, record: NodeRow) -> None:
        self.compiled = compiled
        self.record = record
        self.instances: dict[str, Instance] = {}
        self.dependees: list[Node] = []
        self.dependents: list[Node] = []
        self.ready = 0
        """Ready instances."""
        self.satisfied = False
        """As many ready instances as the target says, or more."""
        self.unmet = 0
        """Dependees that are not satisfied."""

    @property
    def name(self) -> str:
        return self.compiled.name

    @property
    def target(self) -> int:
        return 0 if self.compiled.retired else self.record.target

    def free_ordinals(self, count: int) -> list[int]:
        """The ``count`` smallest numbers that no living instance has."""
        used = {instance.row.ordinal for instance in self.instances.values()}
        found: list[int] = []
        ordinal = 0
        while len(found) < count:
            ordinal += 1
            if ordinal not in used:
                found.append(ordinal)
        return found


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
        """Instances that the present run makes anew, and why. Without a run nothing is."""
        self.bounds: Bounds | None = None
        """What the present run may do, if it carries out a saved plan."""
        self._outdated: dict[str, None] = {}
        """Instances that are not as described."""
        self._dirty: dict[str, None] = {}
        self._backing_off: dict[str, None] = {}
        """Nodes that a decision has found waiting for their next try; some may wait no more."""
        for described in compiled.nodes:
            name = described.name
            self.nodes[name] = Node(described, records.get(name) or NodeRow(name=name, target=described.min))
        for node in list(self.nodes.values()):
            for dependee in node.compiled.depends_on:
                other = self.nodes.get(dependee)
                if other is not None:
                    node.dependees.append(other)
                    other.dependents.append(node)
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
        del self.instances[instance.row.id]
        self.by_server.pop(instance.row.server_id, None)
        del node.instances[instance.row.id]
        self.growing -= _growing(instance.row.state)
        self.leaving -= instance.leaving
        node.ready -= instance.ready
        self._touch(node.name)
        for dependee in node.dependees:
            self.mark(dependee.name)

    def make_anew(self, marked: Mapping[str, str], bounds: Bounds | None) -> None:
        """These instances, as far as they are there, are made anew (id -> why), within ``bounds``."""
        self.marked = {
            key: why for key, why in marked.items() if key in self.instances and not self.instances[key].leaving
        }
        self.bounds = bounds
        self.mark_all()

    def _unmark(self, instance: Instance) -> None:
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
        found = [self.instances[key] for key in self._outdated if not self.instances[key].leaving]
        return sorted({i.row.node for i in found if not i.row.outdated.endswith(KEPT_SO)})

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
        gone = set(choose_surplus([i.observed() for i in shown], excess, self.marked))
        return [i for i in shown if i.row.id not in gone and i.row.id not in self.marked] or shown

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
        return (
            self.settled
            and self.growing == 0
            and self.leaving == 0
            and all(len(node.instances) == node.target for node in self.nodes.values())
        )

    @property
    def settled(self) -> bool:
        """All that is wanted is in place: what is too many may go."""
        return self.unsatisfied == 0 and not self.marked

    def done(self, run_id: str) -> bool:
        """All that the bounds allow has been done by the run."""
        bounds = self.bounds
        if bounds is None:
            return self.converged()
        if self.marked or any(key in self.instances for key in bounds.destroys):
            return False
        mine = [i for i in self.instances.values() if i.row.run_id == run_id]
        made: dict[str, int] = {}
        for instance in mine:
            made[instance.row.node] = made.get(instance.row.node, 0) + instance.ready
        return all(i.ready for i in mine) and all(made.get(n, 0) >= count for n, count in bounds.creates.items())

    def outside(self, run_id: str) -> Instance | None:
        """An instance that went wrong while a saved plan was carried out, of which the plan says nothing."""
        if self.bounds is None:
            return None
        for instance in self.instances.values():
            foreign = instance.row.run_id != run_id and instance.row.id not in self.bounds.destroys
            if foreign and verdict(instance.row.state, instance.server)[0] is Verdict.REPLACE:
                return instance
        return None

    # -- decisions ---------------------------------------------------------------------------------------------

    def decide(self, mode: Mode, *, now: float, budget: int | None = None, run_id: str | None = None) -> list[Decision]:
        """What to do now about the dirty nodes. ``budget``: most instances that may be created (None: any number);
        a node that was held back by it stays dirty. In ROLLBACK only instances that ``run_id`` made are touched."""
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
            kept: list[Instance] = []
            for instance in node.instances.values():
                what, why = verdict(instance.row.state, instance.server)
                if what is Verdict.KEEP:
                    kept.append(instance)
                elif what is Verdict.REPLACE and self._may_go(instance, run_id):
                    yield Destroy(instance.row.id, why)
            anew = [i for i in kept if i.row.id in self.marked] if self.marked else []
            missing = node.target - len(kept)
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
                for instance_id in choose_surplus([i.observed() for i in kept], -missing):
                    if self._may_go(self.instances[instance_id], run_id):
                        yield Destroy(instance_id, f"target is {node.target}", surplus=True)
            missing = min(missing, self._may_come(node, run_id, missing))
            if missing > 0 and node.unmet == 0:
                count = missing if budget is None else min(missing, budget)
                if count < missing:
                    self.mark(name)
                if count > 0:
                    if budget is not None:
                        budget -= count
                    yield Create(name, count)

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

    def _is_old(self, node: Node) -> bool:
        """Not all instances that it shall have are there in their new form."""
        if not any(key in self.marked for key in node.instances):
            return False
        return sum(i.ready for key, i in node.instances.items() if key not in self.marked) < node.target

    def _may_go(self, instance: Instance, run_id: str | None) -> bool:
        bounds = self.bounds
        return bounds is None or instance.row.id in bounds.destroys or instance.row.run_id == run_id

    def _may_come(self, node: Node, run_id: str | None, wanted: int) -> int:
        if self.bounds is None:
            return wanted
        made = sum(
            1
            for i in node.instances.values()
            if i.row.run_id == run_id and verdict(i.row.state, i.server)[0] is Verdict.KEEP
        )
        return self.bounds.creates.get(node.name, 0) - made

    @staticmethod
    def _waits(node: Node, now: float) -> bool:
        return node.record.retry_at is not None and node.record.retry_at > now

    def _retire(self, node: Node) -> Iterator[Decision]:
        if self.settled and not any(dependent.instances for dependent in node.dependents):
            for instance in node.instances.values():
                if not instance.leaving and self._may_go(instance, None):
                    yield Destroy(instance.row.id, "no longer described", surplus=True)

    def _clear(self, dirty: dict[str, None], run_id: str | None) -> Iterator[Decision]:
        """Dependents before what they depend on; each node as soon as its last dependent's instance is gone."""
        for name in dirty:
            node = self.nodes[name]
            if any(self._mine(instance, run_id) for d in node.dependents for instance in d.instances.values()):
                continue
            for instance in node.instances.values():
                if not instance.leaving and self._mine(instance, run_id):
                    yield Destroy(instance.row.id, "rolled back" if run_id else "taken down")

    @staticmethod
    def _mine(instance: Instance, run_id: str | None) -> bool:
        return run_id is None or instance.row.run_id == run_id

    def cleared(self, run_id: str | None) -> bool:
        """Nothing is left of what :attr:`Mode.DOWN` or :attr:`Mode.ROLLBACK` removes."""
        return not any(self._mine(instance, run_id) for instance in self.instances.values())

    def next_retry(self, now: float) -> float | None:
        """When the earliest node that waits for a back-off may be tried again."""
        times = [
            node.record.retry_at
            for node in map(self.nodes.__getitem__, self._backing_off)
            if node.record.retry_at is not None and node.record.retry_at > now and not node.satisfied
        ]
        return min(times, default=None)

    def end_back_offs(self, now: float) -> None:
        """Nodes whose back-off is over are decided about again."""
        for name in list(self._backing_off):
            record = self.nodes[name].record
            if record.retry_at is None or record.retry_at <= now:
                record.retry_at = None
                del self._backing_off[name]
                self.mark(name)


def _growing(state: InstanceState) -> bool:
    return state in (InstanceState.PENDING, InstanceState.UNCERTAIN)
