"""The plan of a request: what the description, a scaling or a destruction would change, as the store sees things."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import Connection

from pelagos.model.scope import Scope
from pelagos.services.infrastructure import queries, records
from pelagos.services.infrastructure.accepting import check_scale, owner_of_name, to_be_removed
from pelagos.services.infrastructure.healing import Treatment, treat
from pelagos.services.infrastructure.plan import Mended, ObservedInstance, make_plan
from pelagos.services.infrastructure.records import InfrastructureRow, NodeRow
from pelagos.services.infrastructure.values import CompiledInfrastructure
from pelagos.services.infrastructure.views import observed_instance
from pelagos.wire.infrastructures import PlanRequest, PlanView

if TYPE_CHECKING:  # the compiler brings parsers that most commands do not need
    from pelagos.services.infrastructure.description import CompileResult

__all__ = ["plan_of"]


def plan_of(connection: Connection, scope: Scope, request: PlanRequest, compiled: CompileResult | None) -> PlanView:
    """Raises NotFound, Ambiguous, InvalidInput as accepting the run would."""
    row = _existing(connection, scope, request, compiled)
    desired = compiled.compiled if compiled is not None else (row.compiled if row else None)
    assert desired is not None
    nodes = records.node_rows(connection, row.id) if row is not None else {}
    targets = {
        node.name: min(max(nodes[node.name].target if node.name in nodes else node.min, node.min), node.max)
        for node in desired.nodes
        if not node.retired
    }
    if row is not None and request.scale:
        targets.update(check_scale(row, nodes, request.scale))
    removed: tuple[str, ...] = ()
    if row is not None and request.remove:
        removed = to_be_removed(connection, row, nodes, request.remove)
    observed: list[ObservedInstance] = []
    if row is not None:
        states, _ = queries.server_states(connection, row.id)
        observed = [
            observed_instance(instance, states.get(instance.server_id))
            for instance in records.living_instances(connection, row.id)
        ]
    if request.down:
        targets = dict.fromkeys(targets, 0)
    for instance in observed:
        if instance.id in removed:
            targets[instance.node] = max(0, targets.get(instance.node, 0) - 1)
    fingerprints = {node.name: node.fingerprint for node in desired.nodes if not node.retired}
    plan = make_plan(
        name=desired.name,
        infrastructure_id=row.id if row is not None else None,
        state=row.state if row is not None else None,
        desired=desired,
        targets=targets,
        observed=observed,
        previous=row.compiled if row is not None else None,
        seconds=queries.learned_seconds(connection, scope, fingerprints),
        sequential=request.strategy == "sequential",
        choice=request.choice,
        removed=removed,
        mended={} if request.down else _mended(desired, nodes, observed),
    )
    warnings = tuple(compiled.warnings) if compiled is not None else ()
    return msgspec.structs.replace(plan, warnings=warnings)


def _mended(
    desired: CompiledInfrastructure, nodes: Mapping[str, NodeRow], observed: Sequence[ObservedInstance]
) -> dict[str, Mended]:
    """Instances that are not well and are not replaced."""
    described = {node.name: node for node in desired.nodes if not node.retired}
    found: dict[str, Mended] = {}
    for instance in observed:
        node = described.get(instance.node)
        if node is None:
            continue
        record = nodes.get(instance.node)
        remedy = treat(instance, node.policy.heal, broken=record is not None and record.broken)
        if remedy.treatment is Treatment.RESTART:
            found[instance.id] = Mended(f"restarted: {remedy.why}", restarts=True)
        elif remedy.treatment is Treatment.STUCK:
            found[instance.id] = Mended(remedy.why)
    return found


def _existing(
    connection: Connection, scope: Scope, request: PlanRequest, compiled: CompileResult | None
) -> InfrastructureRow | None:
    if request.infrastructure or compiled is None:
        return queries.infrastructure(connection, scope, request.infrastructure)
    found = owner_of_name(connection, scope, compiled.compiled.name)
    return records.load_infrastructure(connection, found) if found is not None else None
