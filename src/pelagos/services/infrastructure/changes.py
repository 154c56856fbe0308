"""What a maintainer has decided and not written yet: one transaction's worth, fenced by the lease's epoch."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import Connection

from pelagos.model.scope import Fence, Scope
from pelagos.services.infrastructure import records
from pelagos.services.infrastructure.records import InstanceRow, NodeRow
from pelagos.store.events import append_many, event_row
from pelagos.store.leases import check_fence
from pelagos.store.port import Store

__all__ = ["Changes"]


class Changes:
    """Collects rows and events; :meth:`flush` writes them all or none."""

    def __init__(self, infrastructure_id: str) -> None:
        self.infrastructure_id = infrastructure_id
        self._new: dict[str, InstanceRow] = {}
        self._instances: dict[str, InstanceRow] = {}
        self._nodes: dict[str, NodeRow] = {}
        self._events: list[dict[str, Any]] = []
        self._runs: dict[str, dict[str, Any]] = {}
        self._infrastructure: dict[str, Any] = {}

    def new(self, row: InstanceRow) -> None:
        self._new[row.id] = row

    def instance(self, row: InstanceRow) -> None:
        if row.id not in self._new:
            self._instances[row.id] = row

    def node(self, record: NodeRow) -> None:
        self._nodes[record.name] = record

    def nodes(self, rows: list[NodeRow]) -> None:
        for row in rows:
            self._nodes[row.name] = row

    def run(self, run_id: str, **values: Any) -> None:
        self._runs.setdefault(run_id, {}).update(values)

    def infrastructure(self, **values: Any) -> None:
        self._infrastructure.update(values)

    def event(
        self,
        scope: Scope,
        kind: str,
        *,
        at: float,
        row: InstanceRow | None = None,
        run_id: str | None = None,
        data: dict[str, Any] | None = None,
    ) -> None:
        self._events.append(
            event_row(
                scope,
                kind,
                at=at,
                infrastructure_id=self.infrastructure_id,
                node=row.node if row else None,
                instance_id=row.id if row else None,
                server_id=row.server_id if row else None,
                run_id=run_id,
                data=msgspec.to_builtins(data) if data else None,
            )
        )

    def __bool__(self) -> bool:
        return bool(self._new or self._instances or self._nodes or self._events or self._runs or self._infrastructure)

    async def flush(self, store: Store, fence: Fence, scope: Scope) -> None:
        """Write and forget. Raises LeaseLost if the epoch is not the lease's any more: then nothing was written."""
        if not self:
            return
        new, changed = list(self._new.values()), list(self._instances.values())
        nodes, events = list(self._nodes.values()), self._events
        runs, infrastructure = self._runs, self._infrastructure

        def write(connection: Connection) -> None:
            check_fence(connection, fence)
            records.upsert_nodes(connection, self.infrastructure_id, nodes)
            records.insert_instances(connection, self.infrastructure_id, scope, new)
            records.update_instances(connection, changed)
            for run_id, values in runs.items():
                records.update_run(connection, run_id, **dict(values))
            if infrastructure:
                records.update_infrastructure(connection, self.infrastructure_id, **dict(infrastructure))
            append_many(connection, events)

        await store.run(write)
        self._new, self._instances, self._nodes = {}, {}, {}
        self._events, self._runs, self._infrastructure = [], {}, {}
