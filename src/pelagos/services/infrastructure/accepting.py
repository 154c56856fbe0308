"""A run is accepted: checked, compiled, written with its infrastructure in one transaction, found again if repeated.

Accepting changes nothing that is running: the desired state is written when the maintainer begins the run, fenced.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import Connection, insert, select

from pelagos.clouds.values import CloudServer
from pelagos.model.errors import Ambiguous, Conflict, InvalidInput, NotFound
from pelagos.model.scope import Scope
from pelagos.model.states import InfrastructureState, RunState
from pelagos.services.infrastructure import queries, records, revisions
from pelagos.services.infrastructure.desiring import scaled_target
from pelagos.services.infrastructure.importing_servers import check_adoption
from pelagos.services.infrastructure.records import InfrastructureRow, NodeRow, RunHead, encode
from pelagos.services.infrastructure.values import (
    CompiledInfrastructure,
    Desired,
    ExactPlan,
    RunParameters,
    StoredBundle,
)
from pelagos.services.infrastructure.views import run_view
from pelagos.store import events
from pelagos.store.schema import infrastructures, runs
from pelagos.wire.infrastructures import RunRequest, RunView

if TYPE_CHECKING:  # the compiler brings parsers that most commands do not need
    from pelagos.services.infrastructure.description import CompileResult

__all__ = [
    "DETACHED",
    "accept_run",
    "check_scale",
    "is_detached",
    "is_suspended",
    "owner_of_name",
    "refuse_below_protected",
    "refuse_while_suspended",
    "suspension",
    "to_be_removed",
]

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,35}")


def owner_of_name(connection: Connection, scope: Scope, name: str) -> str | None:
    """The id of the one infrastructure of that name, None if there is none. Raises Ambiguous."""
    table = infrastructures
    ids = list(
        connection.execute(
            select(table.c.id).where(
                table.c.project_id == scope.project_id, table.c.name == name, table.c.deleted_at.is_(None)
            )
        ).scalars()
    )
    if len(ids) > 1:
        raise Ambiguous(
            f"{len(ids)} infrastructures are named {name!r}: {', '.join(ids)}",
            advice="Take down those you do not need, by their ids.",
            details={"ids": ids},
        )
    return ids[0] if ids else None


def check_scale(row: InfrastructureRow, targets: dict[str, NodeRow], scale: dict[str, str]) -> dict[str, int]:
    """Node -> new target. Raises NotFound for unknown nodes, InvalidInput for no number and targets beyond limits."""
    nodes = {node.name: node for node in row.compiled.nodes if not node.retired}
    result: dict[str, int] = {}
    for name, text in scale.items():
        node = nodes.get(name)
        if node is None:
            raise NotFound(
                f"infrastructure {row.name!r} has no node {name!r}", advice=f"Its nodes are: {', '.join(nodes)}."
            )
        current = targets[name].target if name in targets else node.min
        try:
            target = scaled_target(text, current)
        except ValueError:
            raise InvalidInput(
                f"{text!r} is no number of instances", advice="Give a number such as 3, or a change such as +1 or -1."
            ) from None
        if not node.min <= target <= node.max:
            raise InvalidInput(
                f"node {name!r} may have {node.min} to {node.max} instances, not {target}",
                advice="Change `scaling` in the description to go beyond.",
            )
        result[name] = target
    return result


def refuse_below_protected(connection: Connection, row: InfrastructureRow, wanted: dict[str, int]) -> None:
    """Raises Conflict where a node is to have fewer instances than are protected."""
    for name, target in wanted.items():
        kept = [i for i in records.living_instances(connection, row.id) if i.node == name and i.protected]
        if target < len(kept):
            raise Conflict(
                f"node {name!r} has {len(kept)} protected instances, more than {target}",
                advice=f"`pelagos protect {row.name} {name} off` lifts that.",
            )


def to_be_removed(
    connection: Connection, row: InfrastructureRow, targets: dict[str, NodeRow], wanted: tuple[str, ...]
) -> tuple[str, ...]:
    """The ids of the instances that ``wanted`` names by id or address. Raises NotFound, InvalidInput (limits)."""
    living = records.living_instances(connection, row.id) if wanted else []
    minima = {node.name: node.min for node in row.compiled.nodes}
    left = {name: node.target for name, node in targets.items()}
    found: list[str] = []
    for text in wanted:
        instance = next((i for i in living if text in (i.id, i.address)), None)
        if instance is None:
            raise NotFound(
                f"infrastructure {row.name!r} has no instance {text!r}",
                advice=f"`pelagos status {row.name} -o json` shows ids and addresses.",
            )
        if instance.protected:
            raise Conflict(
                f"{instance.node}/{instance.id[:8]} is protected",
                advice=f"`pelagos protect {row.name} {instance.node}/{instance.id[:8]} off` lifts it.",
            )
        if instance.id in found:
            continue
        found.append(instance.id)
        left[instance.node] = left.get(instance.node, 0) - 1
        if left[instance.node] < minima.get(instance.node, 0):
            raise InvalidInput(
                f"node {instance.node!r} needs at least {minima[instance.node]} instances",
                advice="Change `scaling` in the description to go below.",
            )
    return tuple(found)


def accept_run(
    connection: Connection,
    scope: Scope,
    request: RunRequest,
    compiled: CompileResult | None,
    bundle: StoredBundle | None = None,
    *,
    rollback: int = 0,
    exact: ExactPlan | None = None,
    check: Callable[[Connection], None] | None = None,
    server: CloudServer | None = None,
    new_ids: tuple[str, str] = ("", ""),
    run_id: str,
    infrastructure_id: str,
    now: float,
) -> RunView:
    """``compiled`` of ``bundle`` is what an ``up`` wants; ``rollback`` is the number of the revision it was, 0 for
    none; ``exact`` is the saved plan it carries out. ``check`` raises if a new run cannot be as it is asked for.
    ``server`` is what an ``adopt`` has found, with ``new_ids`` for its instance and its record. ``run_id`` and
    ``infrastructure_id`` are new ids, used if a new run or infrastructure is to be made.

    Raises NotFound, Ambiguous, Conflict, InvalidInput."""
    request_id = request.request_id or run_id
    known = connection.execute(
        select(runs.c.id).where(runs.c.project_id == scope.project_id, runs.c.request_id == request_id)
    ).scalar()
    if known is not None:
        return queries.run(connection, scope, str(known))
    parameters = RunParameters(
        strategy=request.strategy,
        max_parallel=request.max_parallel,
        scale=request.scale,
        rollback=rollback,
        maintained=request.maintained,
        only=request.only,
        without=request.without,
        wanted_anew=request.replace,
        on_failure=request.on_failure,
        exact=exact,
        choice=request.choice if request.kind == "scale" else None,
    )
    if request.kind == "up":
        assert compiled is not None and bundle is not None
        revisions.description_of(compiled.compiled.name, bundle)  # raises for what the maintainer could not store
        if check is not None and exact is not None:
            check(connection)  # a plan of other records is stale, whatever there is here
        target_id = _target_of_up(connection, scope, request, compiled.compiled)
        if check is not None and exact is None:
            check(connection)
        desired = Desired(compiled=compiled.compiled, bundle=bundle, targets={})
        parameters = msgspec.structs.replace(
            parameters,
            desired=desired,
            creates_infrastructure=target_id is None,
        )
        if target_id is None:
            _insert_infrastructure(connection, scope, infrastructure_id, desired, request.maintained, now)
        name = compiled.compiled.name
    else:
        target_id = queries.resolve(connection, scope, request.infrastructure)
        row = records.load_infrastructure(connection, target_id)
        assert row is not None
        name = row.name
        if request.kind == "scale":
            if not request.scale and not request.remove:
                raise InvalidInput("nothing is to be scaled", advice="Name a node and a number.")
            targets = records.node_rows(connection, target_id)
            wanted = check_scale(row, targets, request.scale)
            refuse_below_protected(connection, row, wanted)
            parameters = msgspec.structs.replace(
                parameters, remove=to_be_removed(connection, row, targets, request.remove)
            )
        if request.kind == "maintain" and request.reset:
            parameters = msgspec.structs.replace(parameters, reset=_nodes_named(row, request.reset))
        if request.kind in ("scale", "maintain", "adopt"):
            _refuse_while_going_down(connection, target_id, name)
            refuse_while_suspended(row)
        if request.kind == "maintain":
            _refuse_half_taken_down(row)
        if request.kind == "adopt":
            assert request.adopt is not None and server is not None
            adopt = check_adoption(connection, row, request.adopt, server, instance_id=new_ids[0], server_id=new_ids[1])
            parameters = msgspec.structs.replace(parameters, adopt=adopt)
    warnings = tuple(compiled.warnings) if compiled is not None else ()
    position = events.last_position(connection)
    target = target_id or infrastructure_id
    connection.execute(
        insert(runs).values(
            id=run_id,
            infrastructure_id=target,
            project_id=scope.project_id,
            user_id=scope.user_id,
            kind=request.kind,
            state=RunState.PENDING.value,
            request_id=request_id,
            parameters_blob=encode(parameters),
            warnings_blob=encode(warnings) if warnings else None,
            position=position,
            keep=request.keep,
            cancel_requested=False,
            created_at=now,
        )
    )
    events.append(
        connection,
        scope,
        "run.accepted",
        at=now,
        infrastructure_id=target,
        run_id=run_id,
        data={"run_kind": request.kind, "name": name, "new": target_id is None},
    )
    head = RunHead(
        id=run_id,
        infrastructure_id=target,
        scope=scope,
        kind=request.kind,
        state=RunState.PENDING,
        cancel_requested=False,
        keep=request.keep,
        error=None,
        warnings=warnings,
        position=position,
        created_at=now,
        started_at=None,
        finished_at=None,
    )
    return run_view(head, name)


def _nodes_named(row: InfrastructureRow, names: tuple[str, ...]) -> tuple[str, ...]:
    """These nodes; ``*`` means all. Raises NotFound."""
    known = {node.name: None for node in row.compiled.nodes if not node.retired}
    for name in names:
        if name != "*" and name not in known:
            raise NotFound(
                f"infrastructure {row.name!r} has no node {name!r}", advice=f"Its nodes are: {', '.join(known)}."
            )
    return tuple(known) if "*" in names else names


def _target_of_up(
    connection: Connection, scope: Scope, request: RunRequest, compiled: CompiledInfrastructure
) -> str | None:
    if request.id:
        _check_id(connection, scope, request)
    if request.new:
        return None
    if request.infrastructure:
        row = queries.infrastructure(connection, scope, request.infrastructure)
        if row.name != compiled.name:
            raise Conflict(
                f"the description is of {compiled.name!r}, but {row.id} is named {row.name!r}",
                advice="An infrastructure keeps its name: change `infra_name`, or build it as a new one.",
            )
        target: str | None = row.id
    else:
        target = owner_of_name(connection, scope, compiled.name)
    if target is not None:
        _refuse_while_going_down(connection, target, compiled.name)
        known = records.load_infrastructure(connection, target)
        assert known is not None
        refuse_while_suspended(known)
    return target


DETACHED = "detached: nobody maintains it"
"""The reason of a detached infrastructure's state."""
_SUSPENDED = "suspended"
_SUSPENDED_DETACHED = "suspended and detached"


def suspension(reason: str, *, detached: bool) -> str:
    """The reason of a suspended infrastructure's state, with what somebody said. ``detached``: it stays so when the
    suspension ends."""
    head = _SUSPENDED_DETACHED if detached else _SUSPENDED
    return f"{head}: {reason}" if reason else head


def is_suspended(state: InfrastructureState, reason: str) -> bool:
    """Whether it was suspended, and not only detached."""
    return state is InfrastructureState.SUSPENDED and reason.partition(":")[0] in (_SUSPENDED, _SUSPENDED_DETACHED)


def is_detached(row: InfrastructureRow) -> bool:
    """Whether the daemon leaves it alone, or will when its suspension ends."""
    if is_suspended(row.state, row.reason):
        return row.reason.partition(":")[0] == _SUSPENDED_DETACHED
    return not row.maintained


def refuse_while_suspended(row: InfrastructureRow) -> None:
    """Raises Conflict for one that was suspended."""
    if is_suspended(row.state, row.reason):
        raise Conflict(f"infrastructure {row.name!r} is {row.reason}", advice=f"`pelagos resume {row.name}` ends that.")


def _check_id(connection: Connection, scope: Scope, request: RunRequest) -> None:
    """Raises InvalidInput, or Conflict where something is, or was, called so."""
    if not request.new:
        raise InvalidInput("an id can be chosen for a new infrastructure alone")
    if not _ID.fullmatch(request.id):
        raise InvalidInput(
            f"{request.id!r} cannot be an infrastructure's id",
            advice="Use at most 36 letters, digits, '.', '_' and '-'; the first is a letter or digit.",
        )
    table = infrastructures
    used = connection.execute(select(table.c.deleted_at).where(table.c.id == request.id)).one_or_none()
    if used is not None:
        raise Conflict(
            f"the id {request.id!r} is taken" if used.deleted_at is None else f"the id {request.id!r} was used before",
            advice="Choose another one: an id means one infrastructure for ever.",
        )
    if owner_of_name(connection, scope, request.id) is not None:
        raise Conflict(f"an infrastructure is named {request.id!r}", advice="Choose an id that is nobody's name.")


def _refuse_half_taken_down(row: InfrastructureRow) -> None:
    """Healing what a ``down`` has left would make again what somebody wants gone."""
    if row.state is InfrastructureState.DESTROYING:
        raise Conflict(
            f"infrastructure {row.name!r} is half taken down, and is not kept alive",
            advice=f"`pelagos down {row.name}` goes on with that; `pelagos up` builds it anew.",
        )


def _refuse_while_going_down(connection: Connection, infrastructure_id: str, name: str) -> None:
    if any(run.kind == "down" and not run.cancel_requested for run in records.open_runs(connection, infrastructure_id)):
        raise Conflict(
            f"infrastructure {name!r} is being taken down",
            advice=f"Wait until `pelagos list` no longer shows it; `pelagos down {name}` finishes an interrupted one.",
        )


def _insert_infrastructure(
    connection: Connection, scope: Scope, infrastructure_id: str, desired: Desired, maintained: bool | None, now: float
) -> None:
    connection.execute(
        insert(infrastructures).values(
            id=infrastructure_id,
            project_id=scope.project_id,
            user_id=scope.user_id,
            name=desired.compiled.name,
            state=InfrastructureState.BUILDING.value,
            reason="",
            generation=0,
            maintained=True if maintained is None else maintained,
            compiled_blob=encode(desired.compiled),
            created_at=now,
            updated_at=now,
        )
    )
    revisions.open_history(connection, scope, infrastructure_id, now)
    rows = [NodeRow(name=node.name, target=node.min) for node in desired.compiled.nodes]
    records.upsert_nodes(connection, infrastructure_id, rows)
