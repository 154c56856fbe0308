"""What a wanted description means for what there is, and how two plans of it differ. Pure.

Planning (from the store) and the maintainer (from its memory) put together the same values here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import msgspec

from pelagos.model.errors import Conflict, ErrorPayload
from pelagos.services.infrastructure.in_place import Keys
from pelagos.services.infrastructure.made_from import Source
from pelagos.services.infrastructure.observed import ObservedInstance
from pelagos.services.infrastructure.outlook import Outlook, look_ahead
from pelagos.services.infrastructure.targeting import instances_meant, moves_made
from pelagos.services.infrastructure.values import CompiledInfrastructure, CompiledNode
from pelagos.wire.infrastructures import PlanAction

__all__ = [
    "Foreseen",
    "foresee",
    "kept_to",
    "newly_protected",
    "plans_differ",
    "sources_needed",
    "stale_plan",
    "targets_wanted",
]

_SHOWN = 5


class Foreseen(NamedTuple):
    """``observed`` have their nodes' new names."""

    targets: dict[str, int]
    observed: list[ObservedInstance]
    outlook: Outlook


def targets_wanted(
    desired: CompiledInfrastructure, known: Mapping[str, int], moved: Mapping[str, str]
) -> dict[str, int]:  # fmt: skip
    """Node -> its target: what it is, within the new limits; a new node's minimum."""
    former = {new: old for old, new in moved.items()}
    return {
        node.name: min(max(known.get(former.get(node.name, node.name), node.min), node.min), node.max)
        for node in desired.nodes
        if not node.retired
    }


def kept_to(node: CompiledNode, was: CompiledNode | None, kept: int | None) -> int | None:
    """The implementation that a node keeps to under its new description, which kept to ``kept`` as it ``was``."""
    return kept if was is not None and was.fingerprint == node.fingerprint else None


def sources_needed(desired: CompiledInfrastructure, observed: Sequence[ObservedInstance]) -> set[str]:
    """Digests of the sources that :func:`foresee` compares."""
    fingerprints = {node.name: node.fingerprint for node in desired.nodes}
    others = {instance.updating for instance in observed}
    if desired.moved:
        return {instance.source for instance in observed} | others
    return {i.source for i in observed if fingerprints.get(i.node, i.fingerprint) != i.fingerprint} | others


def foresee(
    desired: CompiledInfrastructure,
    previous: CompiledInfrastructure | None,
    targets: Mapping[str, int],
    observed: Sequence[ObservedInstance],
    *,
    made_from: Mapping[str, Source],
    wanted: Sequence[str] = (),
    held: Collection[str] = (),
    infrastructure_id: str = "",
    updatable: Keys | None = None,
) -> Foreseen:
    """What becomes of ``observed`` when ``desired`` takes the place of ``previous``.

    ``targets``: as they are now; ``wanted``: ``NODE`` or ``NODE/INSTANCE`` to be made anew; ``held``: nodes that are
    left as they are; ``updatable``: as of :func:`look_ahead`. Raises NotFound, Ambiguous for what is wanted and not
    there, Conflict for what is protected."""
    moved = moves_made(desired, previous)
    renamed = [msgspec.structs.replace(i, node=moved[i.node]) if i.node in moved else i for i in observed]
    protecting = newly_protected(desired, previous, moved)
    if protecting:
        renamed = [
            msgspec.structs.replace(i, protected=True) if i.node in protecting and i.was_ready else i for i in renamed
        ]
    meant = instances_meant(wanted, renamed, desired.name)
    _refuse_protected(renamed, meant, desired.name)
    wanted_targets = targets_wanted(desired, targets, moved)
    outlook = look_ahead(
        desired,
        wanted_targets,
        renamed,
        made_from=made_from,
        wanted=meant,
        moved=moved,
        held=held,
        infrastructure_id=infrastructure_id,
        updatable=updatable,
    )
    return Foreseen(wanted_targets, renamed, outlook)


def newly_protected(
    desired: CompiledInfrastructure, previous: CompiledInfrastructure | None, moved: Mapping[str, str]
) -> set[str]:
    """Nodes whose policy protects instances now and did not before: those that are ready come under it at once. Where
    it did before, whoever has lifted it of an instance has meant that."""
    if previous is None:
        return set()
    before = {moved.get(node.name, node.name): node.policy.protect for node in previous.nodes if not node.retired}
    return {
        node.name
        for node in desired.nodes
        if node.policy.protect and not node.retired and before.get(node.name) is False
    }


def _refuse_protected(observed: Sequence[ObservedInstance], wanted: Collection[str], name: str) -> None:
    """Raises Conflict for instances that are to be made anew by name, and are protected."""
    kept = [instance for instance in observed if instance.id in wanted and instance.protected]
    if kept:
        told = ", ".join(f"{instance.node}/{instance.id[:8]}" for instance in kept[:5])
        lifting = ", ".join(f"`pelagos protect {name} {node} off`" for node in dict.fromkeys(i.node for i in kept))
        raise Conflict(f"not made anew, since protected: {told}", advice=f"{lifting} lifts that.")


def plans_differ(saved: Sequence[PlanAction], now: Sequence[PlanAction]) -> list[str]:
    """What is said by one and not by the other, as sentences; empty if both do the same."""
    then, there = _effects(saved), _effects(now)
    told: list[str] = []
    for (node, instance), what in then.items():
        other = there.get((node, instance))
        if other != what:
            subject = f"{node}/{instance[:8]}" if instance else node
            told.append(f"{subject}: the plan says {_said(what)}, now it would be {_said(other)}")
    for (node, instance), what in there.items():
        if (node, instance) not in then:
            subject = f"{node}/{instance[:8]}" if instance else node
            told.append(f"{subject}: the plan says nothing, now it would be {_said(what)}")
    return told


def stale_plan(changed: list[str], *, begun: bool = False) -> ErrorPayload:
    """A saved plan no longer fits what there is; ``begun``: as was found while it was carried out."""
    shown = "; ".join(changed[:_SHOWN]) + (f"; and {len(changed) - 5} more" if len(changed) > _SHOWN else "")
    error = Conflict(
        f"the plan is stale: {shown}",
        advice=f"{'' if begun else 'Nothing was changed. '}Make a new plan: `pelagos plan FILE... --out PLAN`.",
        details={"stale": True, "changed": changed[:100]},
    )
    return error.payload()


def _effects(actions: Sequence[PlanAction]) -> dict[tuple[str, str], tuple[str, int]]:
    """(node, instance or nothing) -> what is done with it, and to how many."""
    effects: dict[tuple[str, str], tuple[str, int]] = {}
    for action in actions:
        match action.action:
            case "destroy" | "replace":
                for instance in action.instances:
                    effects[action.node, instance] = (action.action, 1)
            case "create":
                effects[action.node, ""] = ("create", action.count)
            case "update" if action.keys:
                for instance in action.instances:
                    effects[action.node, instance] = ("update", 1)
            case _:
                pass
    return effects


def _said(what: tuple[str, int] | None) -> str:
    if what is None:
        return "left as it is"
    return f"{what[0]} {what[1]}" if what[0] == "create" else what[0]
