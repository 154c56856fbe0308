"""What a maintainer has decided and not written yet: one transaction's worth, fenced by the lease's epoch.

Dropping the infrastructure is decided in that transaction, since a run may be accepted until then: an ``up`` that
waits keeps it, and becomes the one that makes it; other runs that wait have nothing left to do, and end with it.
"""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import Connection

from pelagos.model.errors import ErrorPayload
from pelagos.model.failpoints import Step, through
from pelagos.model.scope import Fence, Scope
from pelagos.model.states import InstanceState, RunState
from pelagos.services.infrastructure import records, revisions
from pelagos.services.infrastructure.made_from import Source
from pelagos.services.infrastructure.records import InstanceRow, NodeRow, RunRow
from pelagos.services.infrastructure.values import Desired
from pelagos.store.events import append_many, event_row
from pelagos.store.leases import check_fence
from pelagos.store.port import Store

__all__ = ["Changes", "ProtectedMeanwhile"]


class ProtectedMeanwhile(Exception):
    """Instances that were to be destroyed were protected since the maintainer read them: nothing was written."""


class Changes:
    """Collects rows and events; :meth:`flush` writes them all or none."""

    def __init__(self, infrastructure_id: str) -> None:
        self.infrastructure_id = infrastructure_id
        self._new: dict[str, InstanceRow] = {}
        self._instances: dict[str, InstanceRow] = {}
        self._nodes: dict[str, NodeRow] = {}
        self._sources: dict[str, Source] = {}
        self._events: list[dict[str, Any]] = []
        self._runs: dict[str, dict[str, Any]] = {}
        self._infrastructure: dict[str, Any] = {}
        self._wanted: list[tuple[Scope, Desired, str, float]] = []
        self._drop_at: float | None = None
        self._protected: set[str] = set()

    def new(self, row: InstanceRow) -> None:
        self._new[row.id] = row

    def source(self, digest: str, source: Source) -> None:
        """What instances of that digest are made from."""
        self._sources[digest] = source

    def instance(self, row: InstanceRow) -> None:
        if row.id not in self._new:
            self._instances[row.id] = row

    def node(self, record: NodeRow) -> None:
        self._nodes[record.name] = record

    def nodes(self, rows: list[NodeRow]) -> None:
        for row in rows:
            self._nodes[row.name] = row

    def protect(self, instance_id: str) -> None:
        """Nobody destroys it from now on, until that is lifted."""
        self._protected.add(instance_id)

    def run(self, run_id: str, **values: Any) -> None:
        self._runs.setdefault(run_id, {}).update(values)

    def infrastructure(self, **values: Any) -> None:
        self._infrastructure.update(values)

    def want(self, scope: Scope, desired: Desired, message: str, at: float) -> None:
        """A new revision: what is wanted from now on, on whose behalf and why."""
        self._wanted.append((scope, desired, message, at))

    def drop(self, at: float) -> None:
        """The infrastructure is gone, unless an ``up`` waits that wants it."""
        self._drop_at = at

    @property
    def dropping(self) -> bool:
        return self._drop_at is not None

    def event(
        self,
        scope: Scope,
        kind: str,
        *,
        at: float,
        row: InstanceRow | None = None,
        node: str | None = None,
        run_id: str | None = None,
        data: dict[str, Any] | None = None,
    ) -> None:
        self._events.append(
            event_row(
                scope,
                kind,
                at=at,
                infrastructure_id=self.infrastructure_id,
                node=row.node if row else node,
                instance_id=row.id if row else None,
                server_id=row.server_id if row else None,
                run_id=run_id,
                data=msgspec.to_builtins(data) if data else None,
            )
        )

    def __bool__(self) -> bool:
        written = self._new or self._instances or self._nodes or self._events or self._runs or self._infrastructure
        return bool(written or self._wanted or self._sources or self._protected) or self._drop_at is not None

    async def flush(self, store: Store, fence: Fence, scope: Scope) -> bool:
        """Write and forget; true if the infrastructure is dropped by that.

        Raises LeaseLost if the epoch is not the lease's any more, ProtectedMeanwhile: then nothing was written."""
        if not self:
            return False
        new, changed = list(self._new.values()), list(self._instances.values())
        nodes, events = list(self._nodes.values()), self._events
        runs, infrastructure, drop_at = self._runs, self._infrastructure, self._drop_at
        wanted, sources, protected = self._wanted, self._sources, self._protected
        leaving = [row.id for row in changed if row.state is InstanceState.DESTROYING and row.deleted_at is None]

        def write(connection: Connection) -> bool:
            check_fence(connection, fence)
            records.upsert_nodes(connection, self.infrastructure_id, nodes)
            records.insert_sources(connection, self.infrastructure_id, sources)
            records.insert_instances(connection, self.infrastructure_id, scope, new)
            records.update_instances(connection, changed)
            if protected:
                records.protect_instances(connection, protected, True)
            # After the update, whose locks make whoever protects them now wait: then he finds them leaving.
            if leaving and (kept := records.protected_instances(connection, leaving)):
                raise ProtectedMeanwhile(*kept)
            for run_id, values in runs.items():
                records.update_run(connection, run_id, **dict(values))
            if infrastructure:
                records.update_infrastructure(connection, self.infrastructure_id, **dict(infrastructure))
            for by, desired, message, at in wanted:
                _revise(connection, self.infrastructure_id, by, desired, message, at)
            append_many(connection, events)
            return drop_at is not None and _drop(connection, self.infrastructure_id, scope, drop_at)

        dropped = await through(Step.CHANGES, store.run(write))
        self._new, self._instances, self._nodes, self._sources = {}, {}, {}, {}
        self._events, self._runs, self._infrastructure, self._wanted = [], {}, {}, []
        self._protected = set()
        self._drop_at = None
        return dropped


def _revise(
    connection: Connection, infrastructure_id: str, scope: Scope, desired: Desired, message: str, at: float
) -> None:
    if desired.bundle is not None:
        name = desired.compiled.name
        revisions.want(connection, scope, infrastructure_id, name, desired.bundle, message=message, at=at)
    elif desired.revision:
        revisions.revert_to(connection, scope, infrastructure_id, desired.revision, message=message, at=at)


def _drop(connection: Connection, infrastructure_id: str, scope: Scope, at: float) -> bool:
    """Make the infrastructure a tombstone and end its open runs; false if an ``up`` waits, whose it is now."""
    waiting = records.open_runs(connection, infrastructure_id)
    heir = next((run for run in waiting if run.kind == "up" and not run.cancel_requested), None)
    if heir is not None:
        parameters = msgspec.structs.replace(heir.parameters, creates_infrastructure=True)
        records.update_run(connection, heir.id, parameters=parameters)
        return False
    records.update_infrastructure(connection, infrastructure_id, deleted_at=at)
    told = [event_row(scope, "infrastructure.destroyed", at=at, infrastructure_id=infrastructure_id)]
    for run in waiting:
        state, error = _end_of(run)
        records.update_run(connection, run.id, state=state, finished_at=at, error=error)
        data: dict[str, Any] = {"run_kind": run.kind}
        if error is not None:
            data["error"] = msgspec.to_builtins(error)
        told.append(
            event_row(
                run.scope, f"run.{state.value}", at=at, infrastructure_id=infrastructure_id, run_id=run.id, data=data
            )
        )
    append_many(connection, told)
    return True


def _end_of(run: RunRow) -> tuple[RunState, ErrorPayload | None]:
    """How a run ends whose infrastructure is gone."""
    if run.kind == "down":
        return RunState.SUCCEEDED, None
    if run.cancel_requested:
        return RunState.CANCELLED, None
    gone = ErrorPayload(
        code="gone",
        message="the infrastructure was taken down before this run began",
        advice="`pelagos up` builds it again.",
        status=410,
    )
    return RunState.FAILED, gone
