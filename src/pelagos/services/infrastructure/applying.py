"""Whether a saved plan still fits what there is, asked in the transaction that accepts its run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Connection

from pelagos.model.errors import from_payload
from pelagos.model.scope import Scope
from pelagos.services.infrastructure import records
from pelagos.services.infrastructure.accepting import owner_of_name
from pelagos.services.infrastructure.in_place import Keys
from pelagos.services.infrastructure.plan_diff import plans_differ
from pelagos.services.infrastructure.planning import plan_of
from pelagos.services.infrastructure.reconfiguring import stale_plan
from pelagos.store import events
from pelagos.wire.infrastructures import PlanRequest, SavedPlan

if TYPE_CHECKING:
    from pelagos.services.infrastructure.description import CompileResult

__all__ = ["check_fits", "check_names"]

_LOOKED_AT = 1000
_TOLD = ("run.started", "run.succeeded", "run.failed", "run.cancelled", "run.superseded", "instance.failed")


def check_names(connection: Connection, scope: Scope, request: PlanRequest, compiled: CompileResult) -> None:
    """Raises NotFound, Ambiguous and InvalidInput for nodes and instances that are named and not there."""
    plan_of(connection, scope, request, compiled)


def check_fits(
    connection: Connection,
    scope: Scope,
    plan: SavedPlan,
    request: PlanRequest,
    compiled: CompileResult,
    updatable: Keys | None = None,
) -> None:
    """Raises Conflict, with what changed meanwhile, if the plan would be another one now."""
    if plan.infrastructure is None:
        there = owner_of_name(connection, scope, plan.name)
        if there is not None:
            raise from_payload(stale_plan([f"an infrastructure {plan.name!r} was made since"]))
        return
    row = records.load_infrastructure(connection, plan.infrastructure)
    if row is None or row.deleted_at is not None or row.scope.project_id != scope.project_id:
        raise from_payload(stale_plan([f"the infrastructure {plan.name!r} is gone"]))
    changed: list[str] = []
    if row.generation != plan.generation:
        changed.append(f"another change has begun since ({row.generation - plan.generation} in all)")
    now = plan_of(connection, scope, request, compiled, updatable=updatable)
    differing = plans_differ(plan.actions, now.view.actions)
    if now.targets != plan.targets and not differing:
        differing = [
            f"{name} is scaled to {target} now"
            for name, target in now.targets.items()
            if plan.targets.get(name) != target
        ]
    if changed or differing:
        raise from_payload(stale_plan([*changed, *_meanwhile(connection, plan), *differing]))


def _meanwhile(connection: Connection, plan: SavedPlan) -> list[str]:
    """What has happened to the infrastructure since the plan was made."""
    found = events.read_events(
        connection, after=plan.position, limit=_LOOKED_AT, infrastructure_id=plan.infrastructure, kinds=_TOLD
    )
    told = []
    for event in found:
        subject = f"{event.node}/{event.instance_id[:8]} " if event.node and event.instance_id else ""
        kind = event.data.get("run_kind", "")
        what = f"{kind} {event.kind.removeprefix('run.')}" if event.kind.startswith("run.") else event.kind
        told.append(f"{subject}{what.strip()}" + (f" (by {event.user_id})" if event.user_id else ""))
    return told
