"""What would change: a pure function from the desired and the observed to a plan.

The plan is for people and for the question "is anything to do"; it never decides the order of work, which the
maintainer finds as it goes (each node starts as soon as its own dependees are ready). Both use the same rules for what
an instance's state means and what is done about it (:func:`~pelagos.services.infrastructure.healing.treat`), for which
go where there are too many (:func:`~pelagos.services.infrastructure.observed.choose_surplus`) and for what is made anew
(:func:`~pelagos.services.infrastructure.outlook.look_ahead`), so that the plan cannot promise what the maintainer does
not do.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import msgspec

from pelagos.model.states import InfrastructureState, ServerState
from pelagos.services.infrastructure.graph import critical_path
from pelagos.services.infrastructure.healing import Treatment, treat
from pelagos.services.infrastructure.observed import ObservedInstance, Verdict, choose_surplus, verdict
from pelagos.services.infrastructure.outlook import Mark, Outlook, Update
from pelagos.services.infrastructure.policies import ScaleDown
from pelagos.services.infrastructure.values import CompiledInfrastructure, CompiledNode
from pelagos.wire.infrastructures import DescriptionChange, PlanAction, PlanView

__all__ = ["make_plan"]

T = TypeVar("T")

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
    choice: ScaleDown | None = None,
    removed: Collection[str] = (),
    broken: Collection[str] = (),
) -> PlanView:
    """The plan that brings ``observed`` to ``targets`` instances of each node of ``desired``.

    ``previous``: what it was described as until now, so that a change which moves no instance is a change too.
    ``outlook``: what becomes of instances that are not as described.
    ``seconds``: node -> learned time from request to ready; None when nothing was learned yet. ``choice``: which go
    where there are too many; None: as each node's policy says. ``removed``: ids of those that go in any case.
    ``broken``: nodes whose breakers are open, and stay so."""
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
        found = _Node(
            node,
            by_node.pop(node.name, ()),
            targets.get(node.name, node.min),
            outlook,
            choice=choice or node.policy.scale_down,
            removed=removed,
            broken=node.name in broken,
        )
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
        living = [i for i in instances if verdict(i.state, i.server)[0] is not Verdict.LEAVING]
        stay = [i.id for i in living if _is_kept(i)]
        gone = tuple(i.id for i in living if not _is_kept(i))
        actions += _protected(node_name, stay)
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
        self,
        node: CompiledNode,
        instances: Iterable[ObservedInstance],
        target: int,
        outlook: Outlook,
        *,
        choice: ScaleDown,
        removed: Collection[str],
        broken: bool,
    ) -> None:
        self._node = node
        self._target = target
        self._gone: list[tuple[str, str]] = []
        kept: list[ObservedInstance] = []
        mended: dict[str, tuple[Literal["update", "keep"], str]] = {}
        for instance in instances:
            remedy = treat(instance, node.policy.heal, broken=broken)
            if remedy.treatment.counts:
                kept.append(instance)
            elif remedy.treatment is Treatment.REPLACE:
                self._gone.append((instance.id, remedy.why))
            if remedy.treatment is Treatment.RESTART:
                mended[instance.id] = ("update", f"restarted: {remedy.why}")
            elif remedy.treatment is Treatment.STUCK:
                mended[instance.id] = ("keep", remedy.why)
        excess = max(0, len(kept) - target)
        going = [instance.id for instance in kept if instance.id in removed][:excess]
        free = [instance for instance in kept if instance.id not in removed]
        self._surplus = [*going, *choose_surplus(free, excess - len(going), choice, outlook.replace)]
        surplus = set(self._surplus)
        left = [instance for instance in kept if instance.id not in surplus]
        # Nothing is made of a node whose breaker is open.
        self._missing = 0 if broken else max(0, target - len(kept))
        self._anew = [(i.id, outlook.replace[i.id]) for i in left if i.id in outlook.replace]
        self._drifted = [(i.id, outlook.drifted[i.id]) for i in left if i.id in outlook.drifted]
        self._updated = [(i.id, outlook.update[i.id]) for i in left if i.id in outlook.update]
        told = {key for key, _ in (*self._anew, *self._updated, *self._drifted)}
        self._mended = [(i.id, *mended[i.id]) for i in left if i.id in mended and i.id not in outlook.replace]
        told.update(key for key, _, _ in self._mended)
        self._protected = [i.id for i in left if _is_kept(i) and i.id not in told] if len(left) > target else []
        told.update(self._protected)
        self.stay = len(left) - len(told)
        """Instances that stay, are well and as described."""
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
        marks = [mark for _, mark in (*self._anew, *self._drifted)] + [update.mark for _, update in self._updated]
        return {change.path for mark in marks for change in mark.changes}

    def actions(self) -> list[PlanAction]:
        name, actions = self._node.name, []
        mended = {key for key, _, _ in self._mended}
        for key, what, why in self._mended:
            mark = next((mark for drifted, mark in self._drifted if drifted == key), None)
            reason, changes = (why, ()) if mark is None else (f"{why}; {_kept(mark)}", mark.changes)
            actions.append(
                PlanAction(action=what, node=name, count=1, instances=(key,), reason=reason, changes=changes)
            )  # fmt: skip
        for index, (instance_id, why) in enumerate(self._gone):
            action: Literal["replace", "destroy"] = "replace" if index < self._missing else "destroy"
            actions.append(PlanAction(action=action, node=name, count=1, instances=(instance_id,), reason=why))
        if self._missing > len(self._gone):
            actions.append(PlanAction(action="create", node=name, count=self._missing - len(self._gone)))
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
        actions += _protected(name, self._protected)
        actions += [_action("replace", name, ids, mark) for ids, mark in _alike(self._anew)]
        actions += [_update(name, ids, update) for ids, update in _alike(self._updated)]
        drifted = [(key, mark) for key, mark in self._drifted if key not in mended]
        actions += [
            _action("keep", name, ids, msgspec.structs.replace(mark, reason=_kept(mark)))
            for ids, mark in _alike(drifted)
        ]
        return actions


def _is_kept(instance: ObservedInstance) -> bool:
    """It is protected, and there is something to protect."""
    return instance.protected and instance.server is not ServerState.DELETED


def _kept(mark: Mark) -> str:
    """Why an instance that is not as described stays so."""
    return f"{mark.reason}; {mark.kept}"


def _protected(node: str, stay: Sequence[str]) -> list[PlanAction]:
    """Instances that stay though there are more than wanted, since nobody destroys them."""
    if not stay:
        return []
    return [PlanAction(action="keep", node=node, count=len(stay), instances=tuple(stay), reason="protected")]


def _action(action: Literal["replace", "keep"], node: str, ids: tuple[str, ...], mark: Mark) -> PlanAction:
    return PlanAction(
        action=action, node=node, count=len(ids), instances=ids, reason=mark.reason, changes=mark.changes
    )  # fmt: skip


def _update(node: str, ids: tuple[str, ...], update: Update) -> PlanAction:
    return PlanAction(
        action="update",
        node=node,
        count=len(ids),
        instances=ids,
        reason=update.mark.reason,
        changes=update.mark.changes,
        keys=update.touched,
    )


def _alike(marked: Sequence[tuple[str, T]]) -> list[tuple[tuple[str, ...], T]]:
    """Instances together for which the same is said."""
    groups: list[tuple[list[str], T]] = []
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
