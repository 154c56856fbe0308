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
from collections.abc import Generator, Iterable, Iterator
from typing import assert_never

import msgspec

from pelagos.model.states import InstanceState, ServerState
from pelagos.services.infrastructure.healing import PAUSES, Treatment, treat
from pelagos.services.infrastructure.plan import ObservedInstance, choose_surplus
from pelagos.services.infrastructure.policies import ScaleDown
from pelagos.services.infrastructure.records import InstanceRow, NodeRow
from pelagos.services.infrastructure.values import CompiledInfrastructure, CompiledNode, Implementation
from pelagos.services.infrastructure.views import observed_instance

__all__ = ["Create", "Decision", "Destroy", "Instance", "Mode", "Node", "Reality", "Restart"]


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


class Create(msgspec.Struct, frozen=True):
    node: str
    count: int


class Destroy(msgspec.Struct, frozen=True):
    """``surplus``: nothing is wrong with it; it is only no longer wanted."""

    instance_id: str
    reason: str
    surplus: bool = False


class Restart(msgspec.Struct, frozen=True):
    """``verb``: ``start`` a stopped server, or ``reboot`` one that runs."""

    instance_id: str
    verb: str
    reason: str


Decision = Create | Destroy | Restart


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
        return observed_instance(self.row, self.server)

    @property
    def kept_by_protection(self) -> bool:
        """It is protected, and there is something to protect."""
        return self.row.protected and self.server is not ServerState.DELETED


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
    def as_many_as_wanted(self) -> bool:
        """As many instances as the target says; protected ones may be more."""
        count = len(self.instances)
        if count <= self.target:
            return count == self.target
        return count == sum(instance.kept_by_protection for instance in self.instances.values())

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
        self._dirty: dict[str, None] = {}
        self._backing_off: dict[str, None] = {}
        """Nodes that a decision has found waiting for their next try; some may wait no more."""
        self._restart_at: dict[str, float] = {}
        """Nodes of which an instance waits for its next restart."""
        self.stuck: dict[str, str] = {}
        """Instances that are not well and stay so -> why, as the last decision about their nodes found."""
        self.pauses = PAUSES
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
        return self.compiled.definitions[node.compiled.type][index]

    def implementation_of(self, instance: Instance) -> Implementation | None:
        """The one an instance was made from; None for a node that is no longer described."""
        node = self.nodes[instance.row.node]
        choices = self.compiled.definitions.get(node.compiled.type, ())
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

    def remove(self, instance: Instance) -> None:
        """It is gone."""
        node = self.nodes[instance.row.node]
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
            self.unsatisfied == 0
            and self.growing == 0
            and self.leaving == 0
            and all(node.as_many_as_wanted for node in self.nodes.values())
        )

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
        dirty, self._dirty = self._dirty, {}
        match mode:
            case Mode.HOLD:
                return []
            case Mode.BUILD:
                return list(self._build(dirty, now, budget, choice))
            case Mode.DOWN:
                return list(self._clear(dirty, None))
            case Mode.ROLLBACK:
                return list(self._clear(dirty, run_id))

    def _build(
        self, dirty: dict[str, None], now: float, budget: int | None, choice: ScaleDown | None
    ) -> Iterator[Decision]:
        for name in dirty:
            node = self.nodes[name]
            if node.compiled.retired:
                yield from self._retire(node)
                continue
            kept = yield from self._heal(node, now)
            missing = node.target - len(kept)
            if missing > 0 and node.record.broken:
                continue
            if missing > 0 and self._waits(node, now):
                self._backing_off[name] = None
                continue
            if missing < 0:
                # What is too many goes only when all else is in place, so that a change that fails has cost nothing.
                if self.unsatisfied == 0:
                    by = choice or node.compiled.policy.scale_down
                    for instance_id in choose_surplus([i.observed() for i in kept], -missing, by):
                        yield Destroy(instance_id, f"target is {node.target}", surplus=True)
            elif missing > 0 and node.unmet == 0:
                count = missing if budget is None else min(missing, budget)
                if count < missing:
                    self.mark(name)
                if count > 0:
                    if budget is not None:
                        budget -= count
                    yield Create(name, count)

    def _heal(self, node: Node, now: float) -> Generator[Decision, None, list[Instance]]:
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
                    yield Destroy(instance.row.id, remedy.why)
                    continue
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

    @staticmethod
    def _waits(node: Node, now: float) -> bool:
        return node.record.retry_at is not None and node.record.retry_at > now

    def _retire(self, node: Node) -> Iterator[Decision]:
        if self.unsatisfied == 0 and not any(dependent.instances for dependent in node.dependents):
            for instance in node.instances.values():
                if not instance.leaving and not instance.kept_by_protection:
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


def _growing(state: InstanceState) -> bool:
    return state in (InstanceState.PENDING, InstanceState.UNCERTAIN)
