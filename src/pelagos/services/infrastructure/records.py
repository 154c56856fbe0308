"""Rows of infrastructures, nodes, instances and runs: reads in bulk, writes by executemany, all on a connection.

Statements that the maintainer repeats are built once here; a pass over ten thousand instances is three selects.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, LargeBinary, bindparam, insert, select, text, update

from pelagos.model.diagnostics import Diagnostic
from pelagos.model.errors import ErrorPayload
from pelagos.model.scope import Scope
from pelagos.model.states import InfrastructureState, InstanceState, RunState
from pelagos.services.infrastructure.asking import Asked
from pelagos.services.infrastructure.values import (
    AdoptedServer,
    AutoscalingRecord,
    CompiledInfrastructure,
    HealingRecord,
    RunParameters,
)
from pelagos.store.schema import infrastructure_nodes, infrastructures, instance_sources, instances, runs

__all__ = [
    "InfrastructureRow",
    "InstanceRow",
    "NodeRow",
    "RunHead",
    "RunRow",
    "decode",
    "encode",
    "insert_instances",
    "insert_sources",
    "living_instances",
    "load_infrastructure",
    "node_rows",
    "open_runs",
    "protect_instances",
    "protected_instances",
    "run_head",
    "run_heads",
    "sources_of",
    "update_infrastructure",
    "update_instances",
    "update_run",
    "upsert_nodes",
]

encode = msgspec.msgpack.encode
decode = msgspec.msgpack.decode


class InfrastructureRow(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    scope: Scope
    name: str
    state: InfrastructureState
    reason: str
    generation: int
    maintained: bool
    compiled: CompiledInfrastructure
    created_at: float
    updated_at: float
    deleted_at: float | None


class NodeRow(msgspec.Struct, kw_only=True):
    name: str
    target: int
    implementation: int | None = None
    failures: int = 0
    retry_at: float | None = None
    error: ErrorPayload | None = None
    healing: HealingRecord | None = None
    autoscaling: AutoscalingRecord | None = None

    @property
    def broken(self) -> bool:
        """Its breaker is open."""
        return self.healing is not None and self.healing.open_since is not None

    def start_anew(self) -> None:
        """Forget failures: no back-off, a closed breaker."""
        self.failures, self.retry_at, self.healing = 0, None, None


class InstanceRow(msgspec.Struct, kw_only=True):
    """Mutable: the maintainer's memory of an instance. What changed is written back by :func:`update_instances`."""

    id: str
    node: str
    ordinal: int
    state: InstanceState
    reason: str = ""
    server_id: str
    account: str
    address: str = ""
    implementation: int = 0
    fingerprint: str = ""
    run_id: str | None = None
    created_at: float
    updated_at: float
    ready_at: float | None = None
    failing_since: float | None = None
    check_failures: int = 0
    deleted_at: float | None = None
    source: str = ""
    """Digest of what it was made from; empty: not known."""
    inputs: bytes = b""
    """What it was told of other nodes, encoded: see :attr:`asked`."""
    outdated: str = ""
    """In what it is not as described; empty: it is, as far as is known."""
    protected: bool = False
    """Nobody destroys it. Written by :func:`protect_instances` alone, since not only a maintainer may."""
    restarts: int = 0
    restarting_since: float | None = None
    adoption: AdoptedServer | None = None

    @property
    def asked(self) -> tuple[Asked, ...]:
        """What its templates asked of other nodes, with the answers."""
        return decode(self.inputs, type=tuple[Asked, ...]) if self.inputs else ()


class RunHead(msgspec.Struct, frozen=True, kw_only=True):
    """What is told of a run. Its parameters hold whole descriptions, and who follows a run looks at each commit."""

    id: str
    infrastructure_id: str
    scope: Scope
    kind: str
    state: RunState
    cancel_requested: bool
    keep: bool
    error: ErrorPayload | None
    warnings: tuple[Diagnostic, ...] = ()
    position: int
    """Events of the run have higher positions."""
    created_at: float
    started_at: float | None
    finished_at: float | None


class RunRow(RunHead, frozen=True, kw_only=True):
    """A run with its parameters, for whoever works on it."""

    parameters: RunParameters


_INSTANCE_COLUMNS = (
    instances.c.id,
    instances.c.node,
    instances.c.ordinal,
    instances.c.state,
    instances.c.reason,
    instances.c.server_id,
    instances.c.account,
    instances.c.address,
    instances.c.implementation,
    instances.c.fingerprint,
    instances.c.run_id,
    instances.c.created_at,
    instances.c.updated_at,
    instances.c.ready_at,
    instances.c.failing_since,
    instances.c.check_failures,
    instances.c.deleted_at,
    instances.c.source,
    instances.c.inputs_blob,
    instances.c.outdated,
    instances.c.protected,
    instances.c.restarts,
    instances.c.restarting_since,
    instances.c.adoption_blob,
)
_LIVING = select(*_INSTANCE_COLUMNS).where(
    instances.c.infrastructure_id == bindparam("infrastructure"), instances.c.deleted_at.is_(None)
)
_MUTABLE = (
    "node",
    "state",
    "reason",
    "address",
    "implementation",
    "fingerprint",
    "run_id",
    "updated_at",
    "ready_at",
    "failing_since",
    "check_failures",
    "deleted_at",
    "source",
    "inputs_blob",
    "outdated",
    "restarts",
    "restarting_since",
)
_UPDATE_INSTANCE = (
    update(instances)
    .where(instances.c.id == bindparam("instance"))
    .values({name: bindparam(f"new_{name}") for name in _MUTABLE})
)
_INSERT_INSTANCE = insert(instances)
_NODE_KEY = ("infrastructure_id", "name")
_NODE_BLOBS = ("error_blob", "healing_blob", "autoscaling_blob")
_NODE_VALUES = ("target", "implementation", "failures", "retry_at", *_NODE_BLOBS)
# Written out, since SQLAlchemy has this statement once a dialect; both understand this one.
_UPSERT_NODE = text(
    f"INSERT INTO infrastructure_nodes ({', '.join((*_NODE_KEY, *_NODE_VALUES))}) "  # noqa: S608 - names of columns
    f"VALUES ({', '.join(f':{name}' for name in (*_NODE_KEY, *_NODE_VALUES))}) "
    f"ON CONFLICT ({', '.join(_NODE_KEY)}) "
    f"DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in _NODE_VALUES)}"
).bindparams(*(bindparam(name, type_=LargeBinary) for name in _NODE_BLOBS))
_INSERT_SOURCE = text(
    "INSERT INTO instance_sources (infrastructure_id, digest, source_blob) "
    "VALUES (:infrastructure_id, :digest, :source_blob) ON CONFLICT DO NOTHING"
).bindparams(bindparam("source_blob", type_=LargeBinary))
_CHUNK = 500
_STATES = {state.value: state for state in InstanceState}


def living_instances(connection: Connection, infrastructure_id: str) -> list[InstanceRow]:
    """All instances that are not gone, oldest first."""
    rows = connection.execute(_LIVING, {"infrastructure": infrastructure_id}).all()
    result = [
        InstanceRow(
            id=row[0],
            node=row[1],
            ordinal=row[2],
            state=_STATES[row[3]],
            reason=row[4],
            server_id=row[5] or "",
            account=row[6],
            address=row[7],
            implementation=row[8],
            fingerprint=row[9],
            run_id=row[10],
            created_at=row[11],
            updated_at=row[12],
            ready_at=row[13],
            failing_since=row[14],
            check_failures=row[15],
            deleted_at=row[16],
            source=row[17] or "",
            inputs=row[18] or b"",
            outdated=row[19] or "",
            protected=bool(row[20]),
            restarts=row[21],
            restarting_since=row[22],
            adoption=decode(row[23], type=AdoptedServer) if row[23] else None,
        )
        for row in rows
    ]
    result.sort(key=lambda row: (row.created_at, row.node, row.ordinal))
    return result


def insert_instances(connection: Connection, infrastructure_id: str, scope: Scope, rows: Sequence[InstanceRow]) -> None:
    if rows:
        owner = {
            "infrastructure_id": infrastructure_id,
            "project_id": scope.project_id,
            "user_id": scope.user_id,
        }
        connection.execute(
            _INSERT_INSTANCE,
            [{**owner, **_columns(row)} for row in rows],
        )


def _columns(row: InstanceRow) -> dict[str, Any]:
    values = msgspec.structs.asdict(row)
    inputs, adoption = values.pop("inputs"), values.pop("adoption")
    return {
        **values,
        "state": row.state.value,
        "source": row.source or None,
        "outdated": row.outdated or None,
        "inputs_blob": inputs or None,
        "adoption_blob": encode(adoption) if adoption is not None else None,
    }


def insert_sources(connection: Connection, infrastructure_id: str, sources: Mapping[str, Any]) -> None:
    """Keep what instances are made from, by digest; what is known already stays."""
    if sources:
        connection.execute(
            _INSERT_SOURCE,
            [
                {"infrastructure_id": infrastructure_id, "digest": digest, "source_blob": encode(source)}
                for digest, source in sources.items()
            ],
        )


def sources_of(connection: Connection, infrastructure_id: str, digests: Iterable[str]) -> dict[str, Any]:
    """Digest -> what instances of it were made from, for those that are known."""
    table = instance_sources
    found: dict[str, Any] = {}
    wanted = sorted(set(digests) - {""})
    for start in range(0, len(wanted), _CHUNK):
        query = select(table.c.digest, table.c.source_blob).where(
            table.c.infrastructure_id == infrastructure_id, table.c.digest.in_(wanted[start : start + _CHUNK])
        )
        found.update({row.digest: decode(row.source_blob) for row in connection.execute(query)})
    return found


def protect_instances(connection: Connection, ids: Iterable[str], protected: bool) -> list[str]:
    """Protect instances, or lift that; those of them that were changed. One that is being destroyed stays as it is."""
    changed = connection.execute(
        update(instances)
        .where(
            instances.c.id.in_(sorted(ids)),
            instances.c.deleted_at.is_(None),
            instances.c.state != InstanceState.DESTROYING.value,
            instances.c.protected.is_not(protected),
        )
        .values(protected=protected)
        .returning(instances.c.id)
    )
    return [row[0] for row in changed]


def protected_instances(connection: Connection, ids: Iterable[str]) -> list[str]:
    """Which of these are protected."""
    query = select(instances.c.id).where(instances.c.id.in_(sorted(ids)), instances.c.protected)
    return [row[0] for row in connection.execute(query)]


def update_instances(connection: Connection, rows: Iterable[InstanceRow]) -> None:
    values = [
        {
            "instance": row.id,
            "new_node": row.node,
            "new_implementation": row.implementation,
            "new_fingerprint": row.fingerprint,
            "new_source": row.source or None,
            "new_inputs_blob": row.inputs or None,
            "new_outdated": row.outdated or None,
            "new_state": row.state.value,
            "new_reason": row.reason,
            "new_address": row.address,
            "new_run_id": row.run_id,
            "new_updated_at": row.updated_at,
            "new_ready_at": row.ready_at,
            "new_failing_since": row.failing_since,
            "new_check_failures": row.check_failures,
            "new_deleted_at": row.deleted_at,
            "new_restarts": row.restarts,
            "new_restarting_since": row.restarting_since,
        }
        for row in rows
    ]
    if values:
        connection.execute(_UPDATE_INSTANCE, values)


def load_infrastructure(connection: Connection, infrastructure_id: str) -> InfrastructureRow | None:
    row = connection.execute(select(infrastructures).where(infrastructures.c.id == infrastructure_id)).one_or_none()
    if row is None:
        return None
    return InfrastructureRow(
        id=row.id,
        scope=Scope(project_id=row.project_id, user_id=row.user_id),
        name=row.name,
        state=InfrastructureState(row.state),
        reason=row.reason,
        generation=row.generation,
        maintained=bool(row.maintained),
        compiled=decode(row.compiled_blob, type=CompiledInfrastructure),
        created_at=row.created_at,
        updated_at=row.updated_at,
        deleted_at=row.deleted_at,
    )


def update_infrastructure(connection: Connection, infrastructure_id: str, **values: Any) -> None:
    """``values`` are columns; ``compiled`` is encoded here."""
    if "compiled" in values:
        values["compiled_blob"] = encode(values.pop("compiled"))
    connection.execute(update(infrastructures).where(infrastructures.c.id == infrastructure_id).values(**values))


def node_rows(connection: Connection, infrastructure_id: str) -> dict[str, NodeRow]:
    table = infrastructure_nodes
    rows = connection.execute(select(table).where(table.c.infrastructure_id == infrastructure_id)).all()
    return {
        row.name: NodeRow(
            name=row.name,
            target=row.target,
            implementation=row.implementation,
            failures=row.failures,
            retry_at=row.retry_at,
            error=decode(row.error_blob, type=ErrorPayload) if row.error_blob else None,
            healing=decode(row.healing_blob, type=HealingRecord) if row.healing_blob else None,
            autoscaling=decode(row.autoscaling_blob, type=AutoscalingRecord) if row.autoscaling_blob else None,
        )
        for row in rows
    }


def upsert_nodes(connection: Connection, infrastructure_id: str, rows: Sequence[NodeRow]) -> None:
    """Update the rows that exist, insert the others."""
    if rows:
        connection.execute(
            _UPSERT_NODE,
            [
                {
                    "infrastructure_id": infrastructure_id,
                    "name": row.name,
                    "target": row.target,
                    "implementation": row.implementation,
                    "failures": row.failures,
                    "retry_at": row.retry_at,
                    "error_blob": encode(row.error) if row.error is not None else None,
                    "healing_blob": encode(row.healing) if row.healing is not None else None,
                    "autoscaling_blob": encode(row.autoscaling) if row.autoscaling is not None else None,
                }
                for row in rows
            ],
        )


_HEAD_COLUMNS = tuple(column for column in runs.c if column.name != "parameters_blob")
_HEAD = select(*_HEAD_COLUMNS).where(runs.c.id == bindparam("run"))
_HEADS = select(*_HEAD_COLUMNS).where(runs.c.infrastructure_id == bindparam("infrastructure"))


def _head(row: Any) -> dict[str, Any]:
    return {
        "id": row.id,
        "infrastructure_id": row.infrastructure_id,
        "scope": Scope(project_id=row.project_id, user_id=row.user_id),
        "kind": row.kind,
        "state": RunState(row.state),
        "cancel_requested": bool(row.cancel_requested),
        "keep": bool(row.keep),
        "error": decode(row.error_blob, type=ErrorPayload) if row.error_blob else None,
        "warnings": decode(row.warnings_blob, type=tuple[Diagnostic, ...]) if row.warnings_blob else (),
        "position": row.position,
        "created_at": row.created_at,
        "started_at": row.started_at,
        "finished_at": row.finished_at,
    }


def _run(row: Any) -> RunRow:
    return RunRow(**_head(row), parameters=decode(row.parameters_blob, type=RunParameters))


def run_head(connection: Connection, run_id: str) -> RunHead | None:
    row = connection.execute(_HEAD, {"run": run_id}).one_or_none()
    return None if row is None else RunHead(**_head(row))


def run_heads(connection: Connection, infrastructure_id: str) -> list[RunHead]:
    """All runs of an infrastructure, newest first."""
    query = _HEADS.order_by(runs.c.created_at.desc(), runs.c.id)
    return [RunHead(**_head(row)) for row in connection.execute(query, {"infrastructure": infrastructure_id})]


def open_runs(connection: Connection, infrastructure_id: str | None = None) -> list[RunRow]:
    """Runs that have not ended, oldest first."""
    query = select(runs).where(runs.c.finished_at.is_(None)).order_by(runs.c.created_at, runs.c.id)
    if infrastructure_id is not None:
        query = query.where(runs.c.infrastructure_id == infrastructure_id)
    return [_run(row) for row in connection.execute(query)]


def update_run(connection: Connection, run_id: str, **values: Any) -> None:
    """``values`` are columns; ``parameters`` and ``error`` are encoded here."""
    if "parameters" in values:
        values["parameters_blob"] = encode(values.pop("parameters"))
    if "error" in values:
        error = values.pop("error")
        values["error_blob"] = encode(error) if error is not None else None
    if "state" in values:
        values["state"] = RunState(values["state"]).value
    connection.execute(update(runs).where(runs.c.id == run_id).values(**values))
