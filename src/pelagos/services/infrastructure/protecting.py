"""Protection by command: written at once, whoever maintains and whatever run is at work.

It cannot wait for a run of its own, since what it is to prevent may be the run before it. So it is one transaction
beside the maintainer's; who of the two comes first is decided by the rows' locks: a maintainer that would destroy what
was protected meanwhile writes nothing (:mod:`changes`), and what is being destroyed cannot be protected any more.
"""

from __future__ import annotations

from sqlalchemy import Connection

from pelagos.model.errors import Ambiguous, Conflict, NotFound
from pelagos.model.scope import Scope
from pelagos.model.states import InstanceState
from pelagos.services.infrastructure import queries, records
from pelagos.services.infrastructure.records import InfrastructureRow, InstanceRow
from pelagos.store.events import append_many, event_row
from pelagos.wire.infrastructures import Protected, ProtectRequest

__all__ = ["protect"]


def protect(connection: Connection, scope: Scope, reference: str, request: ProtectRequest, *, now: float) -> Protected:
    """Protect what the request means, or lift that, with an event an instance. Repeatable.

    Raises NotFound (infrastructure, node, instance), Ambiguous, Conflict (it is being destroyed)."""
    row = queries.infrastructure(connection, scope, reference)
    living = [i for i in records.living_instances(connection, row.id) if i.node == request.node]
    if not living and all(node.name != request.node for node in row.compiled.nodes):
        names = ", ".join(node.name for node in row.compiled.nodes)
        raise NotFound(f"infrastructure {row.name!r} has no node {request.node!r}", advice=f"Its nodes are: {names}.")
    meant = [_one(row, living, request)] if request.instance else _all(row, living, request)
    ids = tuple(instance.id for instance in meant)
    changed = set(records.protect_instances(connection, ids, request.protected))
    append_many(
        connection,
        [
            event_row(
                scope,
                "instance.protected",
                at=now,
                infrastructure_id=row.id,
                node=instance.node,
                instance_id=instance.id,
                server_id=instance.server_id,
                data={"protected": request.protected, "by": "command"},
            )
            for instance in meant
            if instance.id in changed
        ],
    )
    return Protected(
        infrastructure_id=row.id,
        infrastructure=row.name,
        node=request.node,
        protected=request.protected,
        instances=ids,
        changed=tuple(sorted(changed)),
    )


def _all(row: InfrastructureRow, living: list[InstanceRow], request: ProtectRequest) -> list[InstanceRow]:
    staying = [instance for instance in living if instance.state is not InstanceState.DESTROYING]
    if not staying:
        raise NotFound(
            f"node {request.node!r} of {row.name!r} has no instance",
            advice="Instances that are to come are protected by `policy: {protect: true}` in the description.",
        )
    return staying


def _one(row: InfrastructureRow, living: list[InstanceRow], request: ProtectRequest) -> InstanceRow:
    text = request.instance
    found = [i for i in living if text in (i.id, i.address)] or [i for i in living if i.id.startswith(text)]
    if not found:
        raise NotFound(
            f"node {request.node!r} of {row.name!r} has no instance {text!r}",
            advice=f"`pelagos status {row.name} -o json` shows ids and addresses.",
        )
    if len(found) > 1:
        ids = [instance.id for instance in found]
        raise Ambiguous(f"{len(ids)} instances of {request.node!r} begin with {text!r}", details={"ids": ids})
    if found[0].state is InstanceState.DESTROYING and request.protected:
        raise Conflict(f"{request.node}/{found[0].id[:8]} is being destroyed already")
    return found[0]
