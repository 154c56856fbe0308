"""What templates ask of other nodes: addresses, ids and attributes, answered and written down.

What an instance was told of others is part of what it was made from, but no part of its description: it changes when
they do. So every question of a rendering is kept with its answer (:class:`Asked`), and whether an instance is still
told the truth is found by asking again, without rendering anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec

from pelagos.services.infrastructure.source.problems import listing

__all__ = ["ATTRIBUTE", "FIND", "TOLD", "Asked", "InstanceInfo", "Instances", "NodeFunctions", "Unresolvable"]


ATTRIBUTE = "attribute"
"""The function of a question for a mapped attribute, whether a template or a configuration manager is told it."""
FIND = "node.find"
"""The function of a question for all instances of a node, which has no name of its own in templates."""
TOLD = "(as that instance told it)"
"""In place of an attribute that an instance reported or rendered: it may be a secret, and is never another one of the
same instance."""


class Unresolvable(Exception):
    """A question cannot be answered; the text says why."""


class Asked(msgspec.Struct, frozen=True, array_like=True):
    """``function`` (``getip``, ...) was called with the name of ``node``; or its attribute ``name`` was told."""

    function: str
    node: str
    answer: Any
    name: str = ""
    instance: str = ""
    """The instance that alone could tell it; empty for what is known of any that takes its place."""

    def __str__(self) -> str:
        return f"attribute {self.node}.{self.name}" if self.function == ATTRIBUTE else f"{self.function}({self.node!r})"


@dataclass(frozen=True, kw_only=True, slots=True)
class InstanceInfo:
    """An instance as templates see it. ``data`` is what ``find_node_id`` shows besides ids and addresses."""

    node_id: str
    addresses: Sequence[str] = ()
    private_addresses: Sequence[str] = ()
    data: Mapping[str, Any] = field(default_factory=dict)


Instances = Mapping[str, Sequence[InstanceInfo]]
"""Node -> its instances in a stable order."""


class NodeFunctions:
    """The functions of reference 4.9 whose argument is a node's name. ``asked`` grows with each answer."""

    def __init__(self, instances: Instances, infra_id: str) -> None:
        self._instances = instances
        self._infra_id = infra_id
        self._asked: dict[tuple[str, str], Any] = {}

    @property
    def asked(self) -> tuple[Asked, ...]:
        """Each question once, in order, with its last answer."""
        return tuple(Asked(function, node, answer) for (function, node), answer in self._asked.items())

    def names(self) -> dict[str, Callable[[str], Any]]:
        """By the names that templates have for them."""

        return {name: partial(self.ask, name) for name in self._functions() if name != FIND}

    def ask(self, function: str, node: str) -> Any:
        """One answer, written down. Raises Unresolvable."""
        answer = self._asked[function, node] = self.answer(function, node)
        return answer

    def answer(self, function: str, node: str) -> Any:
        """One answer, not written down. Raises Unresolvable."""
        found = self._functions().get(function)
        if found is None:
            raise Unresolvable(f"there is no function {function}()")
        return found(node)

    def _functions(self) -> dict[str, Callable[[str], Any]]:
        return {
            "getip": self._getip,
            "getprivip": self._getprivip,
            "getipall": self._getipall,
            "find_node_id": self._find_node_id,
            FIND: self._find,
        }

    def _of(self, node: Any) -> Sequence[InstanceInfo]:
        if not isinstance(node, str):
            raise Unresolvable(f"a node is asked for by name, not by {node!r}")
        if node not in self._instances:
            known = listing(sorted(self._instances)) or "none"
            raise Unresolvable(f"there is no node {node!r}; nodes with instances are: {known}")
        found = self._instances[node]
        if not found:
            raise Unresolvable(f"the node {node!r} has no instance yet; add a dependency on it")
        return found

    def _getip(self, node: str) -> str:
        first = self._of(node)[0]
        return _address(node, first, first.addresses)

    def _getprivip(self, node: str) -> str:
        first = self._of(node)[0]
        return _address(node, first, first.private_addresses or first.addresses)

    def _getipall(self, node: str) -> list[str]:
        return [_address(node, instance, instance.addresses) for instance in self._of(node)]

    def _find_node_id(self, node: str) -> dict[str, Any]:
        return self._shown(self._of(node)[0])

    def _find(self, node: str) -> list[dict[str, Any]]:
        """All of them; none is no error, as it was none there."""
        known = isinstance(node, str) and node in self._instances
        return [self._shown(instance) for instance in (self._instances[node] if known else self._of(node))]

    def _shown(self, instance: InstanceInfo) -> dict[str, Any]:
        return {
            **instance.data,
            "node_id": instance.node_id,
            "infra_id": self._infra_id,
            "resource_address": list(instance.addresses),
            "private_address": list(instance.private_addresses),
        }


def _address(node: str, instance: InstanceInfo, addresses: Sequence[str]) -> str:
    if not addresses:
        raise Unresolvable(f"the instance {instance.node_id} of node {node!r} has no such address")
    return addresses[0]
