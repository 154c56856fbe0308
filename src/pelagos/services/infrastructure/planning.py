"""The plan of a request: what the description, a scaling or a destruction would change, as the store sees things."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import Connection

from pelagos.model.scope import Scope
from pelagos.services.compute.facts import server_facts_of
from pelagos.services.infrastructure import queries, records
from pelagos.services.infrastructure.accepting import check_scale, owner_of_name, to_be_removed
from pelagos.services.infrastructure.observed import ObservedInstance
from pelagos.services.infrastructure.outlook import Outlook
from pelagos.services.infrastructure.plan import make_plan
from pelagos.services.infrastructure.plan_diff import foresee, sources_needed, targets_wanted
from pelagos.services.infrastructure.plan_file import saved_plan
from pelagos.services.infrastructure.records import InfrastructureRow
from pelagos.services.infrastructure.spending import quota_needs
from pelagos.services.infrastructure.targeting import left_out, narrowed
from pelagos.services.infrastructure.values import CompiledInfrastructure, StoredBundle
from pelagos.services.infrastructure.views import observed_instance
from pelagos.store import events
from pelagos.wire.infrastructures import PlanRequest, PlanView

if TYPE_CHECKING:  # the compiler brings parsers that most commands do not need
    from pelagos.services.infrastructure.description import CompileResult

__all__ = ["Planned", "observed_instances", "plan_of"]


class Planned(msgspec.Struct, frozen=True):
    """A plan, and what it was made of: the description to come (narrowed to what may change), the targets, and what
    there is, under its new names."""

    view: PlanView
    desired: CompiledInfrastructure
    targets: dict[str, int]
    observed: list[ObservedInstance]
    previous: CompiledInfrastructure | None


def plan_of(
    connection: Connection,
    scope: Scope,
    request: PlanRequest,
    compiled: CompileResult | None,
    bundle: StoredBundle | None = None,
    *,
    now: float = 0.0,
) -> Planned:
    """``compiled`` of ``bundle``, None for a scaling or a destruction. ``now`` is written into a plan that is saved.

    Raises NotFound, Ambiguous, InvalidInput as accepting the run would."""
    row = _existing(connection, scope, request, compiled)
    wanted = compiled.compiled if compiled is not None else (row.compiled if row else None)
    assert wanted is not None
    previous = row.compiled if row is not None else None
    chosen = narrowed(wanted, previous, request.only, request.without)
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
        )
    else:
        targets = targets_wanted(desired, known, {})
    if row is not None and request.scale:
        targets.update(check_scale(row, nodes, request.scale))
    removed: tuple[str, ...] = ()
    if row is not None and request.remove:
        removed = to_be_removed(connection, row, nodes, request.remove)
    if request.down:
        targets = dict.fromkeys(targets, 0)
    for instance in observed:
        if instance.id in removed:
            targets[instance.node] = max(0, targets.get(instance.node, 0) - 1)
    # A new description closes the breakers, as a new number does of its nodes.
    broken = [name for name, node in nodes.items() if node.broken and compiled is None and name not in request.scale]
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
    return Planned(view, desired, targets, observed, previous)


def observed_instances(connection: Connection, infrastructure_id: str) -> list[ObservedInstance]:
    """The living instances of an infrastructure, oldest first, as the store knows them."""
    facts = {fact.id: fact for fact in server_facts_of(connection, infrastructure_id)}
    found = []
    for row in records.living_instances(connection, infrastructure_id):
        fact = facts.get(row.server_id)
        if fact is None:
            found.append(observed_instance(row, None))
        else:
            found.append(observed_instance(row, fact.state, fact.addresses, fact.private_addresses))
    return found


def _existing(
    connection: Connection, scope: Scope, request: PlanRequest, compiled: CompileResult | None
) -> InfrastructureRow | None:
    if request.infrastructure or compiled is None:
        return queries.infrastructure(connection, scope, request.infrastructure)
    found = owner_of_name(connection, scope, compiled.compiled.name)
    return records.load_infrastructure(connection, found) if found is not None else None
