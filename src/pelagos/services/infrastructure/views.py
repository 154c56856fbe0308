"""From rows to the wire's Structs."""

from __future__ import annotations

from pelagos.model.states import InstanceState, ServerState
from pelagos.repository import CommitInfo
from pelagos.services.compute.facts import UpdateFacts
from pelagos.services.infrastructure.in_place import as_updated
from pelagos.services.infrastructure.observed import ObservedInstance
from pelagos.services.infrastructure.records import InstanceRow, RunHead
from pelagos.wire.infrastructures import InstanceStatus, RevisionView, RunKind, RunView
from pelagos.wire.times import rfc3339

__all__ = ["instance_status", "observed_instance", "revision_view", "run_view", "shown_state"]

_KINDS: dict[str, RunKind] = {"up": "up", "down": "down", "scale": "scale", "maintain": "maintain", "adopt": "adopt"}


def run_view(row: RunHead, infrastructure: str) -> RunView:
    return RunView(
        id=row.id,
        infrastructure_id=row.infrastructure_id,
        infrastructure=infrastructure,
        kind=_KINDS[row.kind],
        state=row.state,
        keep=row.keep,
        cancel_requested=row.cancel_requested,
        error=row.error,
        created_at=rfc3339(row.created_at),
        started_at=rfc3339(row.started_at) if row.started_at is not None else None,
        finished_at=rfc3339(row.finished_at) if row.finished_at is not None else None,
        position=row.position,
        warnings=row.warnings,
    )


def revision_view(info: CommitInfo) -> RevisionView:
    """A description's history is one line, so a commit's generation is its number."""
    return RevisionView(
        number=info.generation, id=info.digest, at=rfc3339(info.at), user_id=info.user_id, message=info.message
    )


def shown_state(state: InstanceState, reason: str, server: ServerState | None) -> tuple[InstanceState, str]:
    """An instance's state in the light of what its cloud said since its maintainer looked last."""
    if state in (InstanceState.READY, InstanceState.TEMP_FAILED, InstanceState.PENDING):
        match server:
            case ServerState.STOPPED:
                return InstanceState.SHUTDOWN, "its server is stopped"
            case ServerState.DELETED:
                return InstanceState.FAILED, "its server is gone"
            case ServerState.ERROR:
                return InstanceState.FAILED, "its server is in error"
            case _:
                pass
    return state, reason


def observed_instance(
    row: InstanceRow,
    server: ServerState | None,
    addresses: tuple[str, ...] = (),
    private_addresses: tuple[str, ...] = (),
    update: UpdateFacts | None = None,
) -> ObservedInstance:
    """An instance as plans and healing see it. ``update``: the last change in place of its server."""
    source, updating = as_updated(row.source, update)
    return ObservedInstance(
        id=row.id,
        node=row.node,
        state=row.state,
        created_at=row.created_at,
        server=server,
        reason=row.reason,
        since=row.updated_at,
        was_ready=row.ready_at is not None,
        protected=row.protected,
        restarts=row.restarts,
        restarting=row.restarting_since is not None,
        adopted=row.adoption is not None,
        ordinal=row.ordinal,
        account=row.account,
        implementation=row.implementation,
        # Of the whole description that it was made by: after a change in place it says nothing.
        fingerprint=row.fingerprint if source == row.source and not updating else "",
        source=source,
        updating=updating,
        asked=row.asked,
        addresses=addresses,
        private_addresses=private_addresses,
    )


def instance_status(row: InstanceRow, server: ServerState | None, *, provider_id: str = "") -> InstanceStatus:
    """``provider_id``: its server's id in its cloud, empty while that is not known."""
    state, reason = shown_state(row.state, row.reason, server)
    return InstanceStatus(
        state=state,
        address=row.address,
        cloud=row.account,
        server_id=row.server_id or None,
        created_at=rfc3339(row.created_at),
        reason=reason,
        outdated=row.outdated,
        protected=row.protected,
        provider_id=provider_id,
    )
