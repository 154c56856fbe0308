"""What the maintainer remembers of one instance and of one node; what counts on them is :mod:`reality`'s."""

from __future__ import annotations

from typing import Any, NamedTuple

from pelagos.model.states import InstanceState, ServerState
from pelagos.services.compute.facts import UpdateFacts
from pelagos.services.infrastructure.observed import ObservedInstance
from pelagos.services.infrastructure.records import InstanceRow, NodeRow
from pelagos.services.infrastructure.values import CompiledNode
from pelagos.services.infrastructure.views import observed_instance

__all__ = ["KEPT_SO", "Instance", "Misfit", "Node"]

KEPT_SO = " (kept)"
"""Ends what is said of an instance that is not as described and is to stay so."""


class Instance:
    """A living instance: its row, and what the cloud said of its server last (None: nothing yet)."""

    __slots__ = (
        "address_list",
        "attributes",
        "delayed",
        "delete_error",
        "delete_final",
        "delete_round",
        "private_list",
        "refused_at",
        "row",
        "server",
        "update",
    )

    def __init__(self, row: InstanceRow) -> None:
        self.row = row
        self.server: ServerState | None = None
        self.address_list: tuple[str, ...] = ()
        self.private_list: tuple[str, ...] = ()
        self.attributes: dict[str, Any] = {}
        """What it reported when it was asked last."""
        self.delayed = ""
        """Why its cloud had not made it, as that was told last."""
        self.delete_error = ""
        """What the cloud said last when it was to be deleted."""
        self.refused_at: float | None = None
        self.delete_final = False
        """The cloud refused for good; it is asked once more at the next pass or run."""
        self.delete_round = 0
        """Differs between two such requests."""
        self.update: UpdateFacts | None = None
        """Its last change in place."""

    @property
    def leaving(self) -> bool:
        return self.row.state is InstanceState.DESTROYING

    @property
    def ready(self) -> bool:
        return self.row.state is InstanceState.READY

    def observed(self) -> ObservedInstance:
        return observed_instance(self.row, self.server, self.address_list, self.private_list, self.update)

    @property
    def kept_by_protection(self) -> bool:
        """It is protected, and there is something to protect."""
        return self.row.protected and self.server is not ServerState.DELETED


class Misfit(NamedTuple):
    """An instance that is not as a saved plan that is carried out takes it to be."""

    instance: Instance
    what: str


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
