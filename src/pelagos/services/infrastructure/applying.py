"""Whether a saved plan still fits what there is, asked in the transaction that accepts its run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from pelagos.model.errors import from_payload
from pelagos.model.scope import Scope
from pelagos.services.infrastructure import records
from pelagos.services.infrastructure.accepting import owner_of_name
from pelagos.services.infrastructure.in_place import Keys
from pelagos.services.infrastructure.places import quota_changed, store_identity
from pelagos.services.infrastructure.plan_diff import plans_differ, stale_plan
from pelagos.services.infrastructure.planning import plan_of
from pelagos.store import events
from pelagos.wire.infrastructures import PlanRequest, SavedPlan

if TYPE_CHECKING:
    from pelagos.services.infrastructure.description import CompileResult

__all__ = ["check_fits", "check_names", "elsewhere", "there_was"]

_LOOKED_AT = 1000
_TOLD = ("run.started", "run.succeeded", "run.failed", "run.cancelled", "run.superseded", "instance.failed")


def check_names(connection: Connection, scope: Scope, request: PlanRequest, compiled: CompileResult) -> None:
    """Raises NotFound, Ambiguous and InvalidInput for nodes and instances that are named and not there."""
    plan_of(connection, scope, request, compiled)


def there_was(connection: Connection, scope: Scope, plan: SavedPlan) -> str:
    """Why the plan cannot be compared with what there is, since it was made of other records; empty if it can.

    A plan that makes a new infrastructure can, wherever there is none of that name."""
    if plan.infrastructure is None:
        there = owner_of_name(connection, scope, plan.name)
        return "" if there is None else f"an infrastructure {plan.name!r} was made since"
    row = records.load_infrastructure(connection, plan.infrastructure)
    gone = row is None or row.deleted_at is not None or row.scope.project_id != scope.project_id
    return f"the infrastructure {plan.name!r} is gone" if gone else ""


def elsewhere(connection: Connection, scope: Scope, plan: SavedPlan) -> list[str]:
    """Whether the plan was made of other records than these, as a sentence."""
    if plan.store == store_identity(connection, scope):
        return []
    return ["it was made with another state directory, database or project"]


def check_fits(
    connection: Connection,
    scope: Scope,
    plan: SavedPlan,
    request: PlanRequest,
    compiled: CompileResult,
    updatable: Keys | None = None,
    changed: Sequence[str] = (),
) -> None:
    """Raises Conflict, with what changed meanwhile, if the plan would be another one now. ``changed`` is what of
    that is known already, of the clouds."""
    told = elsewhere(connection, scope, plan)
    gone = there_was(connection, scope, plan)
    if gone:
        raise from_payload(stale_plan([*told, gone, *changed]))
    if plan.infrastructure is not None:
        row = records.load_infrastructure(connection, plan.infrastructure)
        since = row.generation - plan.generation if row is not None else 0
        if since:
            told.append(f"another change has begun since ({since} in all)")
    now = plan_of(connection, scope, request, compiled, updatable=updatable)
    differing = plans_differ(plan.actions, now.view.actions)
    if now.targets != plan.targets and not differing:
        differing = [
            f"{name} is scaled to {target} now"
            for name, target in now.targets.items()
            if plan.targets.get(name) != target
        ]
    if not differing:
        differing = quota_changed(plan.quota, now.view.quota)
    if told or changed or differing:
        meanwhile = _meanwhile(connection, plan) if plan.infrastructure is not None else []
        raise from_payload(stale_plan([*told, *changed, *meanwhile, *differing]))


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
