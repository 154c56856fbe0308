"""The plan of a request: what the description, a scaling or a destruction would change, as the store sees things."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import Connection

from pelagos.model.scope import Scope
from pelagos.model.states import ServerState
from pelagos.services.compute.facts import server_facts_of, servers_by_account
from pelagos.services.infrastructure import queries, records
from pelagos.services.infrastructure.accepting import (
    check_scale,
    owner_of_name,
    refuse_below_protected,
    refuse_while_suspended,
    to_be_removed,
)
from pelagos.services.infrastructure.choosing import size_in, size_of
from pelagos.services.infrastructure.costing import Standing
from pelagos.services.infrastructure.in_place import Keys
from pelagos.services.infrastructure.made_from import Source
from pelagos.services.infrastructure.observed import ObservedInstance, Verdict, verdict
from pelagos.services.infrastructure.outlook import Outlook
from pelagos.services.infrastructure.plan import make_plan
from pelagos.services.infrastructure.plan_diff import foresee, kept_to, sources_needed, targets_wanted
from pelagos.services.infrastructure.plan_file import saved_plan
from pelagos.services.infrastructure.records import InfrastructureRow, InstanceRow
from pelagos.services.infrastructure.spending import quota_needs
from pelagos.services.infrastructure.targeting import left_out, moves_made, narrowed
from pelagos.services.infrastructure.values import CompiledInfrastructure, StoredBundle
from pelagos.services.infrastructure.views import observed_instance
from pelagos.store import events
from pelagos.wire.infrastructures import PlanRequest, PlanView

if TYPE_CHECKING:  # the compiler brings parsers that most commands do not need
    from pelagos.services.infrastructure.description import CompileResult

__all__ = ["CostBasis", "Planned", "cost_basis", "observed_instances", "plan_of", "standing_instances"]


class Planned(msgspec.Struct, frozen=True):
    """A plan, and what it was made of: the description to come (narrowed to what may change), the targets, and what
    there is, under its new names."""

    view: PlanView
    desired: CompiledInfrastructure
    targets: dict[str, int]
    observed: list[ObservedInstance]
    previous: CompiledInfrastructure | None
    held: frozenset[str] = frozenset()
    """Nodes that are left as they are."""
    in_place: dict[str, int] = {}
    """Instances that are changed in place -> the implementation that they are then made from."""


def plan_of(
    connection: Connection,
    scope: Scope,
    request: PlanRequest,
    compiled: CompileResult | None,
    bundle: StoredBundle | None = None,
    *,
    now: float = 0.0,
    updatable: Keys | None = None,
) -> Planned:
    """``compiled`` of ``bundle``, None for a scaling or a destruction. ``now`` is written into a plan that is saved.
    ``updatable``: which resource keys the clouds change in place.

    Raises NotFound, Ambiguous, InvalidInput as accepting the run would; Conflict for a scaling while suspended."""
    row = _existing(connection, scope, request, compiled)
    wanted = compiled.compiled if compiled is not None else (row.compiled if row else None)
    assert wanted is not None
    previous = row.compiled if row is not None else None
    chosen = narrowed(wanted, previous, request.only, request.without, request.replace)
    desired, held = chosen
    nodes = records.node_rows(connection, row.id) if row is not None else {}
    known = {name: node.target for name, node in nodes.items()}
    observed = observed_instances(connection, row.id) if row is not None else []
    outlook = Outlook()
    if compiled is not None and row is not None:
        sources = records.sources_of(connection, row.id, sources_needed(desired, observed))
        targets, observed, outlook = foresee(
            desired,
            previous,
            known,
            observed,
            made_from=sources,
            wanted=request.replace,
            held=held,
            infrastructure_id=row.id,
            updatable=updatable,
        )
    else:
        targets = targets_wanted(desired, known, {})
    if row is not None and (request.scale or request.remove):
        refuse_while_suspended(row)
    if row is not None and request.scale:
        wanted_targets = check_scale(row, nodes, request.scale)
        refuse_below_protected(connection, row, wanted_targets)
        targets.update(wanted_targets)
    removed: tuple[str, ...] = ()
    if row is not None and request.remove:
        removed = to_be_removed(connection, row, nodes, request.remove)
    if request.down:
        targets = dict.fromkeys(targets, 0)
    for instance in observed:
        if instance.id in removed:
            targets[instance.node] = max(0, targets.get(instance.node, 0) - 1)
    # A new description closes the breakers, as a new number does of its nodes.
    open_ones = [name for name, node in nodes.items() if node.broken]
    broken = [name for name in open_ones if compiled is None and name not in request.scale]
    moved = moves_made(desired, previous) if compiled is not None else {}
    described = {node.name for node in desired.nodes if not node.retired}
    closes = tuple(new for name in open_ones if name not in broken and (new := moved.get(name, name)) in described)
    fingerprints = {node.name: node.fingerprint for node in desired.nodes if not node.retired}
    view = make_plan(
        name=desired.name,
        infrastructure_id=row.id if row is not None else None,
        state=row.state if row is not None else None,
        desired=desired,
        targets=targets,
        observed=observed,
        previous=previous,
        outlook=outlook,
        seconds=queries.learned_seconds(connection, scope, fingerprints),
        sequential=request.strategy == "sequential",
        choice=request.choice if compiled is None else None,
        removed=removed,
        broken=broken,
    )
    view = msgspec.structs.replace(
        view,
        warnings=tuple(compiled.warnings) if compiled is not None else (),
        closes=closes,
        quota=quota_needs(connection, scope, desired, view.actions),
        left_out=left_out(wanted, previous, chosen) if request.only or request.without else (),
    )
    if request.save and compiled is not None and bundle is not None:
        saved = saved_plan(
            view,
            compiled=wanted,
            bundle=bundle,
            request=request,
            targets=targets,
            generation=row.generation if row is not None else 0,
            position=events.last_position(connection),
            now=now,
        )
        view = msgspec.structs.replace(view, saved=saved)
    in_place = {key: update.implementation for key, update in outlook.update.items()}
    return Planned(view, desired, targets, observed, previous, held, in_place)


class CostBasis(msgspec.Struct, frozen=True):
    """What the store knows of a plan's cost: servers that exist, as they were made; node -> the implementation that it
    keeps to; account -> servers on it, of everybody."""

    standing: tuple[Standing, ...]
    kept: dict[str, int | None]
    used: dict[str, int]


def cost_basis(connection: Connection, planned: Planned) -> CostBasis:
    """Of a plan that was just made."""
    view, desired, previous = planned.view, planned.desired, planned.previous
    if view.id is None:
        return CostBasis((), {}, servers_by_account(connection, without=""))
    there = [i for i in planned.observed if verdict(i.state, i.server)[0] is not Verdict.LEAVING]
    there = [instance for instance in there if instance.server is not ServerState.DELETED]
    going = {key for action in view.actions if action.action in ("destroy", "replace") for key in action.instances}
    rows = {row.id: row for row in records.living_instances(connection, view.id)}
    sources = records.sources_of(connection, view.id, {instance.source for instance in there})
    standing = tuple(
        Standing(
            node=instance.node,
            account=instance.account,
            size=_size_of(instance, rows.get(instance.id), sources, desired, previous),
            stays=instance.id not in going,
            becomes=_size_to_be(instance, planned),
        )
        for instance in there
    )
    nodes = records.node_rows(connection, view.id)
    before = {node.name: node for node in previous.nodes} if previous is not None else {}
    former = {new: old for old, new in moves_made(desired, previous).items()}
    kept: dict[str, int | None] = {}
    for node in desired.nodes:
        record = nodes.get(former.get(node.name, node.name))
        if record is not None:
            kept[node.name] = kept_to(node, before.get(record.name), record.implementation)
    return CostBasis(standing, kept, servers_by_account(connection, without=""))


def standing_instances(connection: Connection, scope: Scope, name_or_id: str) -> dict[str, Standing]:
    """Instance -> what there is of it, of an infrastructure as it is now. Raises NotFound, Ambiguous."""
    row = queries.infrastructure(connection, scope, name_or_id)
    observed = observed_instances(connection, row.id)
    rows = {one.id: one for one in records.living_instances(connection, row.id)}
    sources = records.sources_of(connection, row.id, {instance.source for instance in observed})
    return {
        instance.id: Standing(
            node=instance.node,
            account=instance.account,
            size=_size_of(instance, rows.get(instance.id), sources, row.compiled, row.compiled),
            stays=instance.server is not ServerState.DELETED,
        )
        for instance in observed
    }


def _size_of(
    instance: ObservedInstance,
    row: InstanceRow | None,
    sources: dict[str, Source],
    desired: CompiledInfrastructure,
    previous: CompiledInfrastructure | None,
) -> str:
    """What it was made with; as it was found, if it was adopted; as it is described, if nothing else is known."""
    if row is not None and row.adoption is not None:
        return row.adoption.flavor
    source = sources.get(instance.source)
    if source is not None:
        return size_in(source.get("resource", {}))
    names = {instance.node, *(old for old, new in desired.moved.items() if new == instance.node)}
    nodes = previous.nodes if previous is not None else ()
    node = next((node for node in nodes if node.name in names), None)
    choices = previous.definitions.get(node.defined_by, ()) if previous is not None and node is not None else ()
    return size_of(choices[instance.implementation]) if instance.implementation < len(choices) else ""


def _size_to_be(instance: ObservedInstance, planned: Planned) -> str | None:
    """What it has when it has been changed in place; None if it is not."""
    index, node = planned.in_place.get(instance.id), planned.desired.node(instance.node)
    return None if index is None or node is None else size_of(planned.desired.definitions[node.defined_by][index])


def observed_instances(connection: Connection, infrastructure_id: str) -> list[ObservedInstance]:
    """The living instances of an infrastructure, oldest first, as the store knows them."""
    facts = {fact.id: fact for fact in server_facts_of(connection, infrastructure_id)}
    found = []
    for row in records.living_instances(connection, infrastructure_id):
        fact = facts.get(row.server_id)
        if fact is None:
            found.append(observed_instance(row, None))
        else:
            found.append(observed_instance(row, fact.state, fact.addresses, fact.private_addresses, fact.update))
    return found


def _existing(
    connection: Connection, scope: Scope, request: PlanRequest, compiled: CompileResult | None
) -> InfrastructureRow | None:
    if request.infrastructure or compiled is None:
        return queries.infrastructure(connection, scope, request.infrastructure)
    found = owner_of_name(connection, scope, compiled.compiled.name)
    return records.load_infrastructure(connection, found) if found is not None else None
