"""Whether an infrastructure is kept alive: attach and detach, suspend and resume.

Detached, the daemon leaves it alone and commands may change it; suspended, nobody may. A suspension remembers in its
reason whether what it stops was detached, so that its end brings back what was before.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from pelagos.model.errors import Conflict
from pelagos.model.scope import Scope
from pelagos.model.states import InfrastructureState
from pelagos.services.infrastructure import queries, records
from pelagos.services.infrastructure.accepting import DETACHED, is_detached, is_suspended, suspension
from pelagos.services.infrastructure.desiring import lacking
from pelagos.services.infrastructure.messages import SetMaintained
from pelagos.services.infrastructure.records import InfrastructureRow
from pelagos.store import events
from pelagos.wire.infrastructures import InfrastructureSummary

__all__ = ["set_maintained"]

_KEPT = (InfrastructureState.FAILED, InfrastructureState.DESTROYING)


def set_maintained(
    connection: Connection, *, scope: Scope, request: SetMaintained, now: float
) -> InfrastructureSummary:
    """Carry it out. Raises NotFound, Ambiguous; Conflict for a suspension while a run is at work, and if a strict
    request would change nothing."""
    infrastructure_id = queries.resolve(connection, scope, request.infrastructure)
    row = records.load_infrastructure(connection, infrastructure_id)
    assert row is not None
    if request.strict and row.maintained == request.maintained:
        so = "attached already" if request.maintained else "not attached"
        raise Conflict(f"infrastructure {row.name!r} is {so}", advice="There is nothing to do.")
    if not request.resume or is_suspended(row.state, row.reason):
        values = _changed(connection, row, request)
        records.update_infrastructure(connection, infrastructure_id, **values, updated_at=now)
        events.append(
            connection,
            scope,
            "infrastructure.maintained",
            at=now,
            infrastructure_id=infrastructure_id,
            data={"maintained": values["maintained"]},
        )
    found = queries.list_infrastructures(connection, scope, name=row.name)
    return next(view for view in found if view.id == infrastructure_id)


def _changed(connection: Connection, row: InfrastructureRow, request: SetMaintained) -> dict[str, Any]:
    """What becomes of the row."""
    suspended = is_suspended(row.state, row.reason)
    at_work = records.open_runs(connection, row.id)
    if request.suspend:
        if at_work:
            raise Conflict(
                f"a run of {row.name!r} is at work ({at_work[0].kind})",
                advice="Wait for its end, or cancel it, and suspend it then.",
            )
        reason = suspension(request.reason, detached=is_detached(row))
        return {"maintained": False, "state": InfrastructureState.SUSPENDED.value, "reason": reason}
    maintained = not is_detached(row) if request.resume else request.maintained
    values: dict[str, Any] = {"maintained": maintained}
    if at_work:
        return values
    if maintained and row.state is InfrastructureState.SUSPENDED:
        missing = queries.missing_instances(connection, row)
        state = InfrastructureState.DEGRADED if missing else InfrastructureState.READY
        values.update(state=state.value, reason=lacking(missing) if missing else "")
    elif not maintained and suspended and not request.resume:
        said = row.reason.partition(": ")[2]
        values.update(reason=suspension(said, detached=True))
    elif not maintained and row.state not in _KEPT:
        values.update(state=InfrastructureState.SUSPENDED.value, reason=DETACHED)
    return values
