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
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from pelagos.model.states import InstanceState, ServerState
from pelagos.services.infrastructure.plan import ObservedInstance, Verdict, choose_surplus, verdict
from pelagos.services.infrastructure.records import InstanceRow, NodeRow
from pelagos.services.infrastructure.values import CompiledInfrastructure, CompiledNode, Implementation

__all__ = ["Create", "Decision", "Destroy", "Instance", "Mode", "Node", "Reality"]


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


Decision = Create | Destroy


class Instance:
    """A living instance: its row, and what the cloud said of its server last (None: nothing yet)."""

    __slots__ = (
        "address_list",
        "attributes",
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
        self.attributes: dict[str, Any] = {}
        """What it reported when it was asked last."""
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
            id=row.id, node=row.node, state=row.state, created_at=row.created_at, server=self.server
        )


class Node:
    """A node and its living instances, oldest first."""

    __slots__ = ("awaited", "compiled", "dependees", "dependents", "instances", "ready", "record", "satisfied", "unmet")

    def __init__(self, compiled: CompiledNode, record: NodeRow) -> None:
        self.compiled = compiled
        self.record = record
        self.instances: dict[str, Instance] = {}
        self.dependees: list[Node] = []
        self.dependents: list[Node] = []
        self.awaited: list[str] = []
        """Attributes that an instance must have before dependents are made (``synch``)."""
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
            and all(len(node.instances) == node.target for node in self.nodes.values())
        )

    # -- decisions ---------------------------------------------------------------------------------------------

    def decide(self, mode: Mode, *, now: float, budget: int | None = None, run_id: str | None = None) -> list[Decision]:
        """What to do now about the dirty nodes. ``budget``: most instances that may be created (None: any number);
        a node that was held back by it stays dirty. In ROLLBACK only instances that ``run_id`` made are touched."""
        dirty, self._dirty = self._dirty, {}
        match mode:
            case Mode.HOLD:
                return []
            case Mode.BUILD:
                return list(self._build(dirty, now, budget))
            case Mode.DOWN:
                return list(self._clear(dirty, None))
            case Mode.ROLLBACK:
                return list(self._clear(dirty, run_id))

    def _build(self, dirty: dict[str, None], now: float, budget: int | None) -> Iterator[Decision]:
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
                elif what is Verdict.REPLACE:
                    yield Destroy(instance.row.id, why)
            missing = node.target - len(kept)
            if missing > 0 and self._waits(node, now):
                self._backing_off[name] = None
                continue
            if missing < 0:
                # What is too many goes only when all else is in place, so that a change that fails has cost nothing.
                if self.unsatisfied == 0:
                    for instance_id in choose_surplus([i.observed() for i in kept], -missing):
                        yield Destroy(instance_id, f"target is {node.target}", surplus=True)
            elif missing > 0 and node.unmet == 0:
                count = missing if budget is None else min(missing, budget)
                if count < missing:
                    self.mark(name)
                if count > 0:
                    if budget is not None:
                        budget -= count
                    yield Create(name, count)

    @staticmethod
    def _waits(node: Node, now: float) -> bool:
        return node.record.retry_at is not None and node.record.retry_at > now

    def _retire(self, node: Node) -> Iterator[Decision]:
        if self.unsatisfied == 0 and not any(dependent.instances for dependent in node.dependents):
            for instance in node.instances.values():
                if not instance.leaving:
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
