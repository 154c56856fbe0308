"""What would change: a pure function from the desired and the observed to a plan.

The plan is for people and for the question "is anything to do"; it never decides the order of work, which the
maintainer finds as it goes (each node starts as soon as its own dependees are ready). Both use the same rules for what
an instance's state means (:func:`~pelagos.services.infrastructure.observed.verdict`) and for what is made anew
(:func:`~pelagos.services.infrastructure.outlook.look_ahead`), so that the plan cannot promise what the maintainer does
not do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from pelagos.model.states import InfrastructureState
from pelagos.services.infrastructure.graph import critical_path
from pelagos.services.infrastructure.observed import ObservedInstance, Verdict, choose_surplus, verdict
from pelagos.services.infrastructure.outlook import Mark, Outlook
from pelagos.services.infrastructure.values import CompiledInfrastructure, CompiledNode
from pelagos.wire.infrastructures import DescriptionChange, PlanAction, PlanView

__all__ = ["make_plan"]

_NOT_SAID = Outlook()


def make_plan(
    *,
    name: str,
    infrastructure_id: str | None,
    state: InfrastructureState | None,
    desired: CompiledInfrastructure,
    targets: Mapping[str, int],
    observed: Sequence[ObservedInstance],
    previous: CompiledInfrastructure | None = None,
    outlook: Outlook = _NOT_SAID,
    seconds: Mapping[str, float] | None = None,
    sequential: bool = False,
) -> PlanView:
    """The plan that brings ``observed`` to ``targets`` instances of each node of ``desired``.

    ``previous``: what it was described as until now, so that a change which moves no instance is a change too.
    ``outlook``: what becomes of instances that are not as described.
    ``seconds``: node -> learned time from request to ready; None when nothing was learned yet."""
    by_node: dict[str, list[ObservedInstance]] = {}
    for instance in observed:
        by_node.setdefault(instance.node, []).append(instance)
    actions: list[PlanAction] = []
    rounds: dict[str, int] = {}
    creating: dict[str, int] = {}
    before = {node.name: node for node in previous.nodes if not node.retired} if previous is not None else {}
    moved = {new: old for old, new in desired.moved.items() if old in before}
    for node in desired.nodes:
        if node.retired:
            continue
        found = _Node(node, by_node.pop(node.name, ()), targets.get(node.name, node.min), outlook)
        actions += found.actions()
        if found.made:
            creating[node.name] = found.made
            rounds[node.name] = found.rounds
        was = before.get(moved.get(node.name, node.name))
        changes = _in_place(was, previous, node, desired, found.forced) if was is not None and previous else ()
        if changes and (found.stay or not found.made):
            actions.append(
                PlanAction(
                    action="update", node=node.name, count=found.stay, reason=_said(changes, was, node), changes=changes
                )
            )
        elif found.stay:
            actions.append(PlanAction(action="keep", node=node.name, count=found.stay))
    for node_name, instances in by_node.items():
        gone = tuple(i.id for i in instances if verdict(i.state, i.server)[0] is not Verdict.LEAVING)
        if gone:
            actions.append(
                PlanAction(
                    action="destroy", node=node_name, count=len(gone), instances=gone, reason="no longer described"
                )
            )
    depends_on = {node.name: node.depends_on for node in desired.nodes if not node.retired}
    known = seconds or {}
    times = {name: known.get(name, 0.0) * rounds[name] for name in creating}
    total, path = critical_path(depends_on, times if seconds else {name: float(rounds[name]) for name in creating})
    if sequential:
        total = sum(known.get(name, 0.0) * count for name, count in creating.items())
    return PlanView(
        name=name,
        id=infrastructure_id,
        state=state,
        actions=tuple(actions),
        critical_path=tuple(node for node in path if node in creating),
        estimated_seconds=round(total, 1) if seconds is not None else None,
    )


class _Node:
    """What becomes of one node's instances."""

    def __init__(
        self, node: CompiledNode, instances: Iterable[ObservedInstance], target: int, outlook: Outlook
    ) -> None:  # fmt: skip
        self._node = node
        self._target = target
        self._broken: list[tuple[str, str]] = []
        kept: list[ObservedInstance] = []
        for instance in instances:
            what, why = verdict(instance.state, instance.server)
            if what is Verdict.KEEP:
                kept.append(instance)
            elif what is Verdict.REPLACE:
                self._broken.append((instance.id, why))
        self._missing = max(0, target - len(kept))
        self._surplus = choose_surplus(kept, max(0, len(kept) - target), outlook.replace)
        surplus = set(self._surplus)
        left = [instance.id for instance in kept if instance.id not in surplus]
        self._anew = [(i, outlook.replace[i]) for i in left if i in outlook.replace]
        self._drifted = [(i, outlook.drifted[i]) for i in left if i in outlook.drifted]
        self.stay = len(left) - len(self._anew) - len(self._drifted)
        """Instances that stay and are as described."""
        self.made = self._missing + len(self._anew)
        """Instances that are made."""

    @property
    def rounds(self) -> int:
        """How many times one after the other instances of it are made."""
        policy = self._node.policy
        batch = max(1, policy.surge, policy.max_unavailable)
        return max(1 if self._missing else 0, math.ceil(len(self._anew) / batch))

    @property
    def forced(self) -> set[str]:
        """Keys that are told of already."""
        return {change.path for _, mark in (*self._anew, *self._drifted) for change in mark.changes}

    def actions(self) -> list[PlanAction]:
        name, actions = self._node.name, []
        for index, (instance_id, why) in enumerate(self._broken):
            action: Literal["replace", "destroy"] = "replace" if index < self._missing else "destroy"
            actions.append(PlanAction(action=action, node=name, count=1, instances=(instance_id,), reason=why))
        if self._missing > len(self._broken):
            actions.append(PlanAction(action="create", node=name, count=self._missing - len(self._broken)))
        if self._surplus:
            actions.append(
                PlanAction(
                    action="destroy",
                    node=name,
                    count=len(self._surplus),
                    instances=tuple(self._surplus),
                    reason=f"target is {self._target}",
                )
            )
        actions += [_action("replace", name, ids, mark) for ids, mark in _alike(self._anew)]
        actions += [
            _action("keep", name, ids, msgspec.structs.replace(mark, reason=f"{mark.reason}; {mark.kept}"))
            for ids, mark in _alike(self._drifted)
        ]
        return actions


def _action(action: Literal["replace", "keep"], node: str, ids: tuple[str, ...], mark: Mark) -> PlanAction:
    return PlanAction(
        action=action, node=node, count=len(ids), instances=ids, reason=mark.reason, changes=mark.changes
    )  # fmt: skip


def _alike(marked: Sequence[tuple[str, Mark]]) -> list[tuple[tuple[str, ...], Mark]]:
    """Instances together for which the same is said."""
    groups: list[tuple[list[str], Mark]] = []
    for instance_id, mark in marked:
        group = next((ids for ids, known in groups if known == mark), None)
        if group is None:
            groups.append(([instance_id], mark))
        else:
            group.append(instance_id)
    return [(tuple(ids), mark) for ids, mark in groups]


# -- what changes in place ---------------------------------------------------------------------------------------------


def _in_place(
    old: CompiledNode,
    previous: CompiledInfrastructure,
    new: CompiledNode,
    desired: CompiledInfrastructure,
    forced: set[str],
) -> tuple[DescriptionChange, ...]:
    """The keys of a node that change without an instance being made anew."""
    if old.fingerprint == new.fingerprint and old.name == new.name and _rules(old, previous) == _rules(new, desired):
        return ()
    from pelagos.services.infrastructure.comparing import differences

    found = differences(_shown(old, previous), _shown(new, desired))
    changes = tuple(change for change in found if change.path not in forced)
    if not changes and not forced and old.fingerprint != new.fingerprint:
        # Something that no instance there is was made from: another implementation's keys.
        return (DescriptionChange(change="changed", path="definition"),)
    return changes


def _rules(node: CompiledNode, of: CompiledInfrastructure) -> tuple[object, ...]:
    """What of a node is not in its fingerprint, less where it stands in its file."""
    choices = of.definitions.get(node.defined_by, ())
    checks = tuple(choices[index].health_check for index in node.implementations if index < len(choices))
    return node.min, node.max, node.depends_on, node.mappings, node.policy, checks


def _shown(node: CompiledNode, of: CompiledInfrastructure) -> dict[str, Any]:
    """The node's keys as people know them."""
    choices = of.definitions.get(node.defined_by, ())
    chosen = [choices[index] for index in node.implementations if index < len(choices)]
    return {
        "name": node.name,
        "type": node.type,
        "scaling": {"min": node.min, "max": node.max},
        "filter": node.filter,
        "variables": node.variables,
        "dependencies": dict.fromkeys(node.depends_on, True),
        "mappings": {f"{m.dependee}.{m.source} -> {m.target}": m.synch for m in node.mappings},
        "policy": msgspec.to_builtins(node.policy),
        "implementations": [f"{item.resource_type} {item.account_label}".rstrip() for item in chosen],
        "health_check": msgspec.to_builtins(chosen[0].health_check) if chosen else {},
    }


def _said(changes: Sequence[DescriptionChange], old: CompiledNode | None, new: CompiledNode) -> str:
    if old is not None and old.name != new.name:
        return f"was {old.name}; its instances stay"
    if [change.path for change in changes] == ["definition"]:
        return "only later instances are made otherwise"
    return "no instance has to be made anew for it"
