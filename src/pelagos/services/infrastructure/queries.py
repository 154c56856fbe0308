"""What the edge may read: functions on a connection, in the caller's scope. Things of other projects are not found."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, bindparam, func, select

from pelagos.model.errors import Ambiguous, NotFound
from pelagos.model.scope import Scope
from pelagos.model.states import InfrastructureState, InstanceState, ServerState
from pelagos.services.infrastructure import records, revisions
from pelagos.services.infrastructure.records import InfrastructureRow, NodeRow
from pelagos.services.infrastructure.unserved import KnownAccount, unserved_accounts, why_unserved
from pelagos.services.infrastructure.views import instance_status, revision_view, run_view
from pelagos.store import events as store_events
from pelagos.store.schema import infrastructure_nodes, infrastructures, instances, node_definitions, servers
from pelagos.wire.infrastructures import (
    DefinitionView,
    DiffView,
    EventView,
    ExplainView,
    GraphView,
    InfrastructureSummary,
    NodeStatus,
    RevisionFiles,
    RevisionView,
    RunView,
    ScalingStatus,
    StatusView,
)
from pelagos.wire.times import rfc3339

__all__ = [
    "breaker_reason",
    "definitions",
    "diff",
    "events",
    "explain",
    "graph",
    "history",
    "infrastructure",
    "last_position",
    "learned_seconds",
    "list_infrastructures",
    "missing_instances",
    "resolve",
    "revision",
    "run",
    "runs",
    "server_states",
    "status",
]

_NAME = select(infrastructures.c.name).where(infrastructures.c.id == bindparam("b_id"))


def resolve(connection: Connection, scope: Scope, name_or_id: str) -> str:
    """The id of the infrastructure that ``name_or_id``, a name or an id, means.

    Raises NotFound (with names like it), Ambiguous with the ids in ``details["ids"]``."""
    table = infrastructures
    mine = (table.c.project_id == scope.project_id) & table.c.deleted_at.is_(None)
    found = connection.execute(select(table.c.id).where(mine, table.c.id == name_or_id)).scalar()
    if found is not None:
        return str(found)
    ids = [str(i) for i in connection.execute(select(table.c.id).where(mine, table.c.name == name_or_id)).scalars()]
    if len(ids) == 1:
        return ids[0]
    if ids:
        raise Ambiguous(f"{len(ids)} infrastructures are named {name_or_id!r}: {', '.join(ids)}", details={"ids": ids})
    names = [str(name) for name in connection.execute(select(table.c.name).where(mine)).scalars()]
    close = difflib.get_close_matches(name_or_id, names, n=3)
    raise NotFound(
        f"there is no infrastructure {name_or_id!r}",
        advice=f"Did you mean {' or '.join(close)}?" if close else "`pelagos list` shows those there are.",
        details={"close": close},
    )


def infrastructure(connection: Connection, scope: Scope, name_or_id: str) -> InfrastructureRow:
    """The whole row. Raises as :func:`resolve`."""
    row = records.load_infrastructure(connection, resolve(connection, scope, name_or_id))
    assert row is not None
    return row


def list_infrastructures(
    connection: Connection, scope: Scope, *, name: str | None = None, deleted: bool = False
) -> list[InfrastructureSummary]:
    """All infrastructures of the project, by name; ``deleted`` adds the tombstones. Three selects for any number."""
    table = infrastructures
    query = select(
        table.c.id,
        table.c.name,
        table.c.state,
        table.c.reason,
        table.c.maintained,
        table.c.created_at,
        table.c.updated_at,
    ).where(table.c.project_id == scope.project_id)
    if not deleted:
        query = query.where(table.c.deleted_at.is_(None))
    if name is not None:
        query = query.where(table.c.name == name)
    rows = connection.execute(query.order_by(table.c.name, table.c.created_at)).all()
    ids = [row.id for row in rows]
    nodes = _counts(connection, ids)
    ready = _ready(connection, ids)
    return [
        InfrastructureSummary(
            id=row.id,
            name=row.name,
            state=InfrastructureState(row.state),
            reason=row.reason,
            nodes=nodes.get(row.id, (0, 0))[0],
            target=nodes.get(row.id, (0, 0))[1],
            ready=ready.get(row.id, 0),
            maintained=bool(row.maintained),
            created_at=rfc3339(row.created_at),
            updated_at=rfc3339(row.updated_at),
        )
        for row in rows
    ]


def _counts(connection: Connection, ids: Sequence[str]) -> dict[str, tuple[int, int]]:
    table = infrastructure_nodes
    query = (
        select(table.c.infrastructure_id, func.count(), func.coalesce(func.sum(table.c.target), 0))
        .where(table.c.infrastructure_id.in_(ids), table.c.target > 0)
        .group_by(table.c.infrastructure_id)
    )
    return {row[0]: (int(row[1]), int(row[2])) for row in connection.execute(query)}


def _ready(connection: Connection, ids: Sequence[str]) -> dict[str, int]:
    query = (
        select(instances.c.infrastructure_id, func.count())
        .where(
            instances.c.infrastructure_id.in_(ids),
            instances.c.deleted_at.is_(None),
            instances.c.state == InstanceState.READY.value,
        )
        .group_by(instances.c.infrastructure_id)
    )
    return {row[0]: int(row[1]) for row in connection.execute(query)}


def server_states(connection: Connection, infrastructure_id: str) -> tuple[dict[str, ServerState], float | None]:
    """Server id -> its state, for the living instances; and when their clouds last said anything."""
    rows = _servers_of(connection, infrastructure_id)
    observed = [row[3] for row in rows if row[3] is not None]
    return {row[0]: ServerState(row[1]) for row in rows}, max(observed, default=None)


def _servers_of(connection: Connection, infrastructure_id: str) -> Sequence[Row[Any, Any, Any, Any]]:
    """(id, state, the cloud's own id, when the cloud last said anything) of the living instances' servers."""
    living = select(instances.c.server_id).where(
        instances.c.infrastructure_id == infrastructure_id, instances.c.deleted_at.is_(None)
    )
    columns = (servers.c.id, servers.c.state, servers.c.provider_id, servers.c.observed_at)
    return connection.execute(select(*columns).where(servers.c.id.in_(living))).all()


def missing_instances(connection: Connection, row: InfrastructureRow) -> list[str]:
    """The nodes of an infrastructure that have fewer ready instances than wanted, as the store knows them."""
    targets = {name: node.target for name, node in records.node_rows(connection, row.id).items()}
    states, _ = server_states(connection, row.id)
    ready: dict[str, int] = {}
    for instance in records.living_instances(connection, row.id):
        shown = instance_status(instance, states.get(instance.server_id))
        ready[instance.node] = ready.get(instance.node, 0) + (shown.state is InstanceState.READY)
    return [
        node.name
        for node in row.compiled.nodes
        if not node.retired and ready.get(node.name, 0) < targets.get(node.name, node.min)
    ]


def status(connection: Connection, scope: Scope, name_or_id: str, *, known: KnownAccount | None = None) -> StatusView:
    """The contract for scripts. ``known`` says which cloud accounts the pool has; without it, all are taken to be
    there. Raises as :func:`resolve`."""
    row = infrastructure(connection, scope, name_or_id)
    kept = records.node_rows(connection, row.id)
    targets = {name: node.target for name, node in kept.items()}
    living = records.living_instances(connection, row.id)
    known_servers = {one[0]: one for one in _servers_of(connection, row.id)}
    observed_at = max((one[3] for one in known_servers.values() if one[3] is not None), default=None)
    nodes: dict[str, NodeStatus] = {}
    by_node: dict[str, dict[str, Any]] = {}
    unserved = unserved_accounts(connection, (instance.account for instance in living), known)
    for instance in living:
        server = known_servers.get(instance.server_id)
        if server is None:
            view = instance_status(instance, None)
        else:
            view = instance_status(instance, ServerState(server[1]), provider_id=server[2] or "")
        if instance.account in unserved:
            view = msgspec.structs.replace(view, reason=why_unserved(instance.account))
        by_node.setdefault(instance.node, {})[instance.id] = view
    degraded = False
    for node in row.compiled.nodes:
        shown = by_node.pop(node.name, {})
        actual = sum(1 for instance in shown.values() if instance.state is not InstanceState.DESTROYING)
        target = 0 if node.retired else targets.get(node.name, node.min)
        if node.retired and not shown:
            continue
        ready = sum(1 for instance in shown.values() if instance.state is InstanceState.READY)
        degraded = degraded or ready < target
        nodes[node.name] = NodeStatus(
            scaling=ScalingStatus(min=node.min, max=node.max, target=target, actual=actual),
            instances=shown,
            breaker=breaker_reason(kept.get(node.name)),
        )
    for name, shown in by_node.items():
        nodes[name] = NodeStatus(scaling=ScalingStatus(min=0, max=0, target=0, actual=len(shown)), instances=shown)
    state = row.state
    if state is InfrastructureState.READY and degraded:
        state = InfrastructureState.DEGRADED
    return StatusView(
        name=row.name,
        id=row.id,
        state=state,
        observed_at=rfc3339(observed_at if observed_at is not None else row.updated_at),
        nodes=nodes,
        reason=row.reason if state is InfrastructureState.SUSPENDED else "",
    )


def graph(connection: Connection, scope: Scope, name_or_id: str) -> GraphView:
    """Who depends on whom, and how many are ready. Raises as :func:`resolve`."""
    from pelagos.services.infrastructure.drawing import graph_of

    row = infrastructure(connection, scope, name_or_id)
    return graph_of(row.compiled, status(connection, scope, row.id))


def breaker_reason(record: NodeRow | None) -> str:
    """Why a node's breaker is open; empty: it is closed."""
    if record is None or record.healing is None or record.healing.open_since is None:
        return ""
    healing = record.healing
    return f"{len(healing.times)} failures, the last: {healing.reason}"


def explain(connection: Connection, scope: Scope, name_or_id: str, node: str | None = None) -> ExplainView:
    """Why it is not ready. Raises as :func:`resolve`, and NotFound for a node."""
    from pelagos.services.infrastructure.explain import explain as explain_

    return explain_(connection, scope, name_or_id, node)


def run(connection: Connection, scope: Scope, run_id: str) -> RunView:
    """One run. Raises NotFound."""
    row = records.run_head(connection, run_id)
    if row is None or row.scope.project_id != scope.project_id:
        raise NotFound(f"there is no run {run_id!r}")
    return run_view(row, _name(connection, row.infrastructure_id))


def runs(connection: Connection, scope: Scope, name_or_id: str) -> list[RunView]:
    """The runs of an infrastructure, newest first. Raises as :func:`resolve`."""
    infrastructure_id = resolve(connection, scope, name_or_id)
    name = _name(connection, infrastructure_id)
    return [run_view(row, name) for row in records.run_heads(connection, infrastructure_id)]


def _name(connection: Connection, infrastructure_id: str) -> str:
    return str(connection.execute(_NAME, {"b_id": infrastructure_id}).scalar())


def last_position(connection: Connection) -> int:
    return store_events.last_position(connection)


def events(
    connection: Connection,
    scope: Scope,
    *,
    after: int = 0,
    limit: int = 1000,
    infrastructure: str | None = None,
    run: str | None = None,
) -> list[EventView]:
    """Events of the project after a position, oldest first. ``infrastructure`` is an id; ``run`` keeps a run's own."""
    found = store_events.read_events(
        connection,
        after=after,
        limit=limit,
        project_id=scope.project_id,
        infrastructure_id=infrastructure,
        run_id=run,
    )
    return [
        EventView(
            position=event.position,
            at=rfc3339(event.at),
            kind=event.kind,
            project_id=event.project_id,
            user_id=event.user_id,
            infrastructure_id=event.infrastructure_id,
            node=event.node,
            instance_id=event.instance_id,
            server_id=event.server_id,
            operation_id=event.operation_id,
            run_id=event.run_id,
            data=event.data,
        )
        for event in found
    ]


def definitions(connection: Connection, scope: Scope) -> list[DefinitionView]:
    """The node definitions stored in the project."""
    from pelagos.services.infrastructure.importing import definition_views

    rows = connection.execute(
        select(node_definitions)
        .where(node_definitions.c.project_id == scope.project_id)
        .order_by(node_definitions.c.type)
    ).all()
    return definition_views(connection, rows)


def history(connection: Connection, scope: Scope, name_or_id: str, *, limit: int = 1000) -> list[RevisionView]:
    """The versions of its description, newest first. Raises as :func:`resolve`."""
    infrastructure_id = resolve(connection, scope, name_or_id)
    return [revision_view(info) for info in revisions.revisions(connection, scope, infrastructure_id, limit)]


def revision(connection: Connection, scope: Scope, name_or_id: str, revision: str) -> RevisionFiles:
    """One version's texts, without secrets. Raises as :func:`resolve`, and NotFound, Ambiguous, InvalidInput for the
    revision."""
    from pelagos.services.infrastructure.comparing import shown_files

    infrastructure_id = resolve(connection, scope, name_or_id)
    info, bundle = revisions.read_revision(connection, scope, infrastructure_id, revision)
    return RevisionFiles(
        revision=revision_view(info),
        entries=bundle.entries,
        files=shown_files(bundle.sources),
        definitions={type_: shown_files(found.sources) for type_, found in bundle.definitions.items()},
    )


def diff(connection: Connection, scope: Scope, name_or_id: str, old: str, new: str) -> DiffView:
    """From one version to another. Raises as :func:`revision`."""
    from pelagos.services.infrastructure.comparing import changes_between, file_diffs

    infrastructure_id = resolve(connection, scope, name_or_id)
    first, before = revisions.read_revision(connection, scope, infrastructure_id, old)
    second, after = revisions.read_revision(connection, scope, infrastructure_id, new)
    return DiffView(
        old=revision_view(first),
        new=revision_view(second),
        changes=changes_between(before, after),
        files=file_diffs(before, after),
    )


def learned_seconds(connection: Connection, scope: Scope, fingerprints: Mapping[str, str]) -> dict[str, float] | None:
    """Node -> mean time from request to ready of instances made from the same definition, else of all the project's.

    ``fingerprints``: node -> its fingerprint. None if nothing was ever built in the project."""
    mine = (instances.c.project_id == scope.project_id) & instances.c.ready_at.is_not(None)
    mean = func.avg(instances.c.ready_at - instances.c.created_at)
    overall = connection.execute(select(mean).where(mine)).scalar()
    if overall is None:
        return None
    known = {
        row[0]: float(row[1])
        for row in connection.execute(
            select(instances.c.fingerprint, mean).where(mine).group_by(instances.c.fingerprint)
        )
    }
    return {name: known.get(fingerprint, float(overall)) for name, fingerprint in fingerprints.items()}
