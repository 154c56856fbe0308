"""What would change: a pure function from the desired and the observed to a plan.

The plan is for people and for the question "is anything to do"; it never decides the order of work, which the
maintainer finds as it goes (each node starts as soon as its own dependees are ready). Both use the same rule for what
an instance's state means, :func:`verdict`, so that the plan cannot promise what the maintainer does not do.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping, Sequence
from typing import Literal, assert_never

import msgspec

from pelagos.model.states import InfrastructureState, InstanceState, ServerState
from pelagos.services.infrastructure.graph import critical_path
from pelagos.services.infrastructure.policies import ScaleDown
from pelagos.services.infrastructure.values import CompiledInfrastructure, CompiledNode
from pelagos.wire.infrastructures import PlanAction, PlanView

__all__ = ["Mended", "ObservedInstance", "Verdict", "choose_surplus", "make_plan", "verdict"]


class Verdict(enum.Enum):
    """What an instance is to the node's target."""

    KEEP = "keep"
    REPLACE = "replace"
    LEAVING = "leaving"


class ObservedInstance(msgspec.Struct, frozen=True, kw_only=True):
    """An instance as the store knows it. ``server`` is None while no server was asked for."""

    id: str
    node: str
    state: InstanceState
    created_at: float
    server: ServerState | None = None
    reason: str = ""
    since: float = 0.0
    """When its state changed last."""
    was_ready: bool = True
    protected: bool = False
    restarts: int = 0
    restarting: bool = False
    adopted: bool = False


class Mended(msgspec.Struct, frozen=True):
    """What is done about an instance that is not well, other than replacing it."""

    why: str
    restarts: bool = False


def verdict(state: InstanceState, server: ServerState | None) -> tuple[Verdict, str]:
    """Keep, replace (and why), or on its way out already."""
    match state:
        case InstanceState.DESTROYING:
            return Verdict.LEAVING, ""
        case InstanceState.FAILED:
            return Verdict.REPLACE, "it failed"
        case InstanceState.SHUTDOWN:
            return Verdict.REPLACE, "its server is stopped"
        case _:
            pass
    match server:
        case ServerState.DELETED:
            return Verdict.REPLACE, "its server is gone"
        case ServerState.STOPPED:
            return Verdict.REPLACE, "its server is stopped"
        case ServerState.ERROR:
            return Verdict.REPLACE, "its server is in error"
        case ServerState.DELETING:
            return Verdict.REPLACE, "its server is being deleted"
        case _:
            return Verdict.KEEP, ""


_LEAST_READY_FIRST = {
    InstanceState.FAILED: 0,
    InstanceState.SHUTDOWN: 1,
    InstanceState.UNCERTAIN: 2,
    InstanceState.TEMP_FAILED: 3,
    InstanceState.PENDING: 4,
    InstanceState.READY: 5,
}


def choose_surplus(instances: Sequence[ObservedInstance], count: int, choice: ScaleDown = "unhealthy") -> list[str]:
    """Which ``count`` instances go when there are too many: by ``choice`` those not ready first and then the youngest,
    the youngest, or the oldest. Protected ones never; so there may be fewer."""
    free = [instance for instance in instances if not instance.protected]
    match choice:
        case "unhealthy":
            order = sorted(free, key=lambda i: (_LEAST_READY_FIRST.get(i.state, 9), -i.created_at, i.id))
        case "youngest":
            order = sorted(free, key=lambda i: (-i.created_at, i.id))
        case "oldest":
            order = sorted(free, key=lambda i: (i.created_at, i.id))
        case _:
            assert_never(choice)
    return [instance.id for instance in order[:count]]


def _described_anew(previous: CompiledInfrastructure, desired: CompiledInfrastructure) -> dict[str, str]:
    """Nodes that were there and are described differently now -> what that means for their instances."""
    before = {node.name: node for node in previous.nodes if not node.retired}
    changed: dict[str, str] = {}
    for node in desired.nodes:
        old = before.get(node.name)
        if old is None:
            continue
        if old.fingerprint != node.fingerprint:
            changed[node.name] = "described anew; instances stay as they were made, later ones follow it"
        elif _rules(old, previous) != _rules(node, desired):
            changed[node.name] = "limits, dependencies or health check change"
    return changed


def _rules(node: CompiledNode, of: CompiledInfrastructure) -> tuple[object, ...]:
    """What of a node is not in its fingerprint, less where it stands in its file."""
    choices = of.definitions.get(node.type, ())
    checks = tuple(choices[index].health_check for index in node.implementations if index < len(choices))
    return node.min, node.max, node.depends_on, node.mappings, checks


def _kept_beyond(instances: Sequence[ObservedInstance], target: int, gone: Collection[str]) -> list[PlanAction]:
    """Protected instances that stay though there are more than wanted."""
    stay = tuple(i.id for i in instances if i.protected and i.id not in gone)
    if len(instances) - len(gone) <= target or not stay:
        return []
    node = instances[0].node
    return [PlanAction(action="keep", node=node, count=len(stay), instances=stay, reason="protected")]


def make_plan(
    *,
    name: str,
    infrastructure_id: str | None,
    state: InfrastructureState | None,
    desired: CompiledInfrastructure,
    targets: Mapping[str, int],
    observed: Sequence[ObservedInstance],
    previous: CompiledInfrastructure | None = None,
    seconds: Mapping[str, float] | None = None,
    sequential: bool = False,
    choice: ScaleDown | None = None,
    removed: Collection[str] = (),
    mended: Mapping[str, Mended] | None = None,
) -> PlanView:
    """The plan that brings ``observed`` to ``targets`` instances of each node of ``desired``.

    ``previous``: what it was described as until now, so that a change which moves no instance is a change too.
    ``seconds``: node -> learned time from request to ready; None when nothing was learned yet. ``choice``: which go
    where there are too many; None: as each node's policy says. ``removed``: ids of those that go in any
    case. ``mended``: instances that are not well and stay -> what is done about them instead."""
    by_node: dict[str, list[ObservedInstance]] = {}
    for instance in observed:
        by_node.setdefault(instance.node, []).append(instance)
    actions: list[PlanAction] = []
    creating: dict[str, int] = {}
    anew = _described_anew(previous, desired) if previous is not None else {}
    described = {node.name for node in desired.nodes if not node.retired}
    for node in desired.nodes:
        if node.retired:
            continue
        kept: list[ObservedInstance] = []
        broken: list[tuple[str, str]] = []
        for instance in by_node.get(node.name, ()):
            what, why = verdict(instance.state, instance.server)
            if mended and (instead := mended.get(instance.id)) is not None:
                kept.append(instance)
                actions.append(
                    PlanAction(
                        action="update" if instead.restarts else "keep",
                        node=node.name,
                        count=1,
                        instances=(instance.id,),
                        reason=instead.why,
                    )
                )
            elif what is Verdict.KEEP:
                kept.append(instance)
            elif what is Verdict.REPLACE:
                broken.append((instance.id, why))
        target = targets.get(node.name, node.min)
        missing = target - len(kept)
        going = [instance.id for instance in kept if instance.id in removed]
        for index, (instance_id, why) in enumerate(broken):
            action: Literal["replace", "destroy"] = "replace" if index < missing else "destroy"
            actions.append(PlanAction(action=action, node=node.name, count=1, instances=(instance_id,), reason=why))
        if missing > len(broken):
            actions.append(PlanAction(action="create", node=node.name, count=missing - len(broken)))
        if missing > 0:
            creating[node.name] = missing
        elif missing < 0:
            free = [instance for instance in kept if instance.id not in removed]
            by = choice or node.policy.scale_down
            gone = (*going, *choose_surplus(free, -missing - len(going), by))
            if gone:
                actions.append(
                    PlanAction(
                        action="destroy", node=node.name, count=len(gone), instances=gone, reason=f"target is {target}"
                    )
                )
            actions += _kept_beyond(kept, target, gone)
        told = sum(instance.id in mended for instance in kept) if mended else 0
        stay = max(0, min(len(kept), target) - told)
        if node.name in anew:
            actions.append(PlanAction(action="update", node=node.name, count=stay, reason=anew[node.name]))
        elif stay:
            actions.append(PlanAction(action="keep", node=node.name, count=stay))
    for node_name, instances_ in by_node.items():
        if node_name in described:
            continue
        leaving = [i for i in instances_ if verdict(i.state, i.server)[0] is not Verdict.LEAVING]
        gone = tuple(i.id for i in leaving if not i.protected)
        actions += _kept_beyond(leaving, 0, gone)
        if gone:
            actions.append(
                PlanAction(
                    action="destroy", node=node_name, count=len(gone), instances=gone, reason="no longer described"
                )
            )
    depends_on = {node.name: node.depends_on for node in desired.nodes if not node.retired}
    known = seconds or {}
    times = {name: known.get(name, 0.0) for name in creating}
    total, path = critical_path(depends_on, times if seconds else dict.fromkeys(creating, 1.0))
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
