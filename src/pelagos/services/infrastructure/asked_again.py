"""Questions asked again: which of the things that an instance was told of others are no longer so. Pure.

Plans ask of what will be there (:mod:`~pelagos.services.infrastructure.outlook`), a maintainer of what is there
(:mod:`~pelagos.services.infrastructure.stale`); since both ask here, a maintainer marks nothing that the next plan
would leave alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from pelagos.services.infrastructure.asking import ATTRIBUTE, Asked, InstanceInfo, NodeFunctions, Unresolvable
from pelagos.services.infrastructure.attributes import BUILT_IN, MISSING, built_in, constant
from pelagos.services.infrastructure.healing import treat
from pelagos.services.infrastructure.names import hostname_of
from pelagos.services.infrastructure.observed import ObservedInstance, Verdict, verdict
from pelagos.services.infrastructure.values import CompiledNode, Implementation
from pelagos.wire.infrastructures import DescriptionChange

__all__ = ["UNKNOWN", "AskedAgain", "info_of", "infos_of", "stays", "to_come"]

UNKNOWN = "(known when it is there)"


class AskedAgain:
    """``infos``: node -> its instances by number, which may change between two questions. ``nodes``: those that are
    described."""

    def __init__(
        self,
        infos: Mapping[str, Sequence[InstanceInfo]],
        nodes: Mapping[str, CompiledNode],
        definitions: Mapping[str, Sequence[Implementation]],
        infrastructure_id: str,
    ) -> None:
        self._infos = infos
        self._nodes = nodes
        self._definitions = definitions
        self._functions = NodeFunctions(infos, infrastructure_id)

    def others(self, asked: Iterable[Asked]) -> tuple[DescriptionChange, ...]:
        """The answers that are others now. What cannot be answered is not among them: nothing better could be told."""
        changes: list[DescriptionChange] = []
        for question in asked:
            try:
                answer = self._answer(question)
            except Unresolvable:
                continue
            then, now = msgspec.to_builtins(question.answer), msgspec.to_builtins(answer)
            if then != now and (question.function == ATTRIBUTE or _another(then, now)):
                shown = UNKNOWN if UNKNOWN in str(answer) else answer
                path = str(question)
                changes.append(DescriptionChange(change="changed", path=path, old=question.answer, new=shown))
        return tuple(changes)

    def _answer(self, question: Asked) -> Any:
        """What it would be told now. Raises Unresolvable."""
        if question.function != ATTRIBUTE:
            return self._functions.answer(question.function, question.node)
        found = self._infos.get(question.node)
        if not found:
            raise Unresolvable(f"the node {question.node!r} has no instance")
        if question.instance:
            return question.answer if any(i.node_id == question.instance for i in found) else UNKNOWN
        if question.name in BUILT_IN:
            return built_in(found[0])[question.name]
        return self._constant(question)

    def _constant(self, question: Asked) -> Any:
        """An attribute that its node's definition tells; as it was, if any of its implementations says so."""
        node = self._nodes.get(question.node)
        if node is None or not node.implementations:
            raise Unresolvable(f"there is no node {question.node!r}")
        choices = self._definitions[node.defined_by]
        values = [constant(question.name, node.name, choices[index]) for index in node.implementations]
        if question.answer in values:
            return question.answer
        return next((value for value in values if value is not MISSING), UNKNOWN)


def stays(instance: ObservedInstance, node: CompiledNode | None) -> bool:
    """It is there, well or not, until the description says otherwise; ``node`` is None if it is described no more.
    A change closes breakers, so none counts."""
    if node is None:
        return verdict(instance.state, instance.server)[0] is Verdict.KEEP
    return treat(instance, node.policy.heal).treatment.counts


def infos_of(instances: Iterable[ObservedInstance], node: CompiledNode | None) -> list[InstanceInfo]:
    """A node's instances in the order in which they are told of."""
    return [info_of(one, node) for one in sorted(instances, key=lambda instance: (instance.ordinal, instance.id))]


def info_of(instance: ObservedInstance, node: CompiledNode | None) -> InstanceInfo:
    """An instance as it is told of."""
    data: dict[str, Any] = {}
    if node is not None:
        data = {"name": node.name, "hostname": hostname_of(node, instance.ordinal), "cloud": instance.account}
    return InstanceInfo(
        node_id=instance.id,
        addresses=instance.addresses,
        private_addresses=instance.private_addresses,
        data=data,
    )


def to_come(node: CompiledNode, ordinal: int) -> InstanceInfo:
    """An instance that is still to be made."""
    address = (UNKNOWN,)
    return InstanceInfo(
        node_id=UNKNOWN,
        addresses=address,
        private_addresses=address,
        data={"name": node.name, "hostname": hostname_of(node, ordinal), "cloud": UNKNOWN},
    )


def _another(then: Any, now: Any) -> bool:
    """Whether an answer is another one. A node that merely has more instances, or fewer, is the same: scaling makes
    nobody else anew."""
    if isinstance(then, list) and isinstance(now, list):
        old, new = {str(item) for item in then}, {str(item) for item in now}
        return not (old <= new or old >= new)
    return bool(then != now)
