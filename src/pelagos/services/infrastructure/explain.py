"""Why is it not ready? The chain of what waits for what, down to the last answer of a cloud and the next try.

All of it is read from the store, so it tells the same story in a command of its own, while another process works.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec
from sqlalchemy import Connection, select

from pelagos.model.errors import ErrorPayload, NotFound
from pelagos.model.scope import Scope
from pelagos.model.states import (
    InfrastructureState,
    InstanceState,
    OperationState,
    PartState,
    RunState,
    ServerState,
)
from pelagos.operations import KINDS, Effect, PartRecord, parts_of_servers
from pelagos.services.infrastructure import queries, records
from pelagos.services.infrastructure.desiring import lacking as lacking_reason
from pelagos.services.infrastructure.healing import Treatment, treat
from pelagos.services.infrastructure.records import InfrastructureRow, InstanceRow, NodeRow, RunRow
from pelagos.services.infrastructure.unserved import KnownAccount, unserved_accounts, why_unserved
from pelagos.services.infrastructure.values import CompiledNode
from pelagos.services.infrastructure.views import observed_instance, shown_state
from pelagos.store import store_now
from pelagos.store.leases import LeaseRow, read_lease
from pelagos.store.schema import operations
from pelagos.wire.infrastructures import ExplainStep, ExplainView
from pelagos.wire.times import rfc3339

__all__ = ["explain"]

_NEVER = 1e12
"""Operations that no clock takes up have a time far beyond this one."""

_error = msgspec.msgpack.Decoder(ErrorPayload)


class _Work(msgspec.Struct, frozen=True):
    """The operation on a server that matters now."""

    kind: str
    step: int
    state: OperationState
    attempts: int
    next_at: float
    error: ErrorPayload | None
    part: str = ""
    """The part of the server that it is at, as people read it: ``volume 'boot-volume', 1 of 3``."""

    @property
    def verb(self) -> str:
        return KINDS[self.kind].steps[self.step].verb

    @property
    def awaits(self) -> bool:
        """Its call was accepted, and its cloud carries it out: ``next_at`` is when that is given up, not a try."""
        return KINDS[self.kind].steps[self.step].effect is Effect.AWAITS

    def next_try(self, now: float) -> float | None:
        """When it is tried or looked for again, if that is planned."""
        planned = self.state in (OperationState.PENDING, OperationState.UNCERTAIN) or self.error is not None
        return self.next_at if planned and not self.awaits and now < self.next_at < _NEVER else None


class _Facts:
    """Everything the explanation is made of, read in bulk."""

    def __init__(
        self,
        connection: Connection,
        row: InfrastructureRow,
        is_dead: Callable[[LeaseRow], bool] | None,
        known: KnownAccount | None,
    ) -> None:
        self.row = row
        self.nodes = {node.name: node for node in row.compiled.nodes}
        self.records = records.node_rows(connection, row.id)
        self.by_node: dict[str, list[InstanceRow]] = {name: [] for name in self.nodes}
        for instance in records.living_instances(connection, row.id):
            self.by_node.setdefault(instance.node, []).append(instance)
        self.servers, self.observed_at = queries.server_states(connection, row.id)
        self.runs = records.open_runs(connection, row.id)
        self.work = _work(connection, row.id)
        lease = read_lease(connection, f"infrastructure:{row.id}")
        self.now = store_now(connection)
        held = lease is not None and lease.holder and lease.expires_at > self.now
        self.holder = lease if lease is not None and held and not (is_dead is not None and is_dead(lease)) else None
        self.going = self._going()
        accounts = (instance.account for instances in self.by_node.values() for instance in instances)
        self.unserved = unserved_accounts(connection, accounts, known)

    def _going(self) -> str:
        """Why nothing is created now; empty if something may be."""
        at_work = [run for run in self.runs if run.started_at and not run.state.final]
        if any(run.state is RunState.ROLLING_BACK for run in at_work):
            return "what a run made is rolled back"
        down = any(run.kind == "down" and not run.cancel_requested for run in at_work)
        return "is being taken down" if down or self.row.state is InfrastructureState.DESTROYING else ""

    def record(self, node: CompiledNode) -> NodeRow:
        return self.records.get(node.name) or NodeRow(name=node.name, target=node.min)

    def target(self, node: CompiledNode) -> int:
        return 0 if node.retired else self.record(node).target

    def ready(self, node: CompiledNode) -> int:
        return sum(1 for i in self.by_node[node.name] if self.state_of(i)[0] is InstanceState.READY)

    def satisfied(self, node: CompiledNode) -> bool:
        return self.ready(node) >= self.target(node)

    def state_of(self, instance: InstanceRow) -> tuple[InstanceState, str]:
        return shown_state(instance.state, instance.reason, self.servers.get(instance.server_id))


def _work(connection: Connection, infrastructure_id: str) -> dict[str, _Work]:
    table = operations
    rows = connection.execute(
        select(
            table.c.target_id,
            table.c.kind,
            table.c.step,
            table.c.state,
            table.c.attempts,
            table.c.next_at,
            table.c.error_blob,
        )
        .where(table.c.infrastructure_id == infrastructure_id, table.c.state != OperationState.SUCCEEDED.value)
        .order_by(table.c.created_at)
    ).all()
    assembling = sorted({row.target_id for row in rows if KINDS[row.kind].steps[row.step].part})
    parts = parts_of_servers(connection, assembling)
    return {
        row.target_id: _Work(
            row.kind,
            row.step,
            OperationState(row.state),
            row.attempts,
            row.next_at,
            _error.decode(row.error_blob) if row.error_blob else None,
            _part_at(parts.get(row.target_id, ()), KINDS[row.kind].steps[row.step].verb),
        )
        for row in rows
    }


_AT_TURN = {
    "part": (PartState.PLANNED,),
    "ready": (PartState.BUILD,),
    "unpart": (PartState.DELETING, PartState.READY, PartState.BUILD),
    "unparted": (PartState.DELETING,),
}


def _part_at(parts: Sequence[PartRecord], verb: str) -> str:
    """The part that a step is about: the first to be made, the last to be deleted."""
    turn = [(i, p) for i, p in enumerate(parts, 1) if p.state in _AT_TURN.get(verb, ())]
    if not turn:
        return ""
    number, part = turn[0] if verb in ("part", "ready") else turn[-1]
    return f"{part.kind.value} {part.key!r}, {number} of {len(parts)}"


def explain(
    connection: Connection,
    scope: Scope,
    reference: str,
    node: str | None = None,
    *,
    is_dead: Callable[[LeaseRow], bool] | None = None,
    known: KnownAccount | None = None,
) -> ExplainView:
    """``reference``: a name or an id; ``node``: only that node's chain. ``is_dead`` says whether a lease's holder
    certainly lives no more; without it, whoever has not let go is taken to live until the lease ends. ``known`` says
    which cloud accounts the pool has; without it, all are taken to be there.

    Raises NotFound, Ambiguous."""
    facts = _Facts(connection, queries.infrastructure(connection, scope, reference), is_dead, known)
    if node is not None and node not in facts.nodes:
        raise NotFound(
            f"infrastructure {facts.row.name!r} has no node {node!r}",
            advice=f"Its nodes are: {', '.join(facts.nodes)}.",
        )
    steps = [*_who_works(facts), *_clouds_gone(facts, node)]
    seen: set[str] = set()
    for compiled in facts.nodes.values():
        if node is None and (facts.satisfied(compiled) and not _moving(facts, compiled)):
            continue
        if node is None or node == compiled.name:
            steps += _node(facts, compiled, 0, seen)
    return ExplainView(
        name=facts.row.name,
        id=facts.row.id,
        state=facts.row.state,
        summary=_summary(facts),
        steps=tuple(steps),
    )


def _moving(facts: _Facts, node: CompiledNode) -> bool:
    return any(_worth_telling(facts, instance) for instance in facts.by_node[node.name])


def _worth_telling(facts: _Facts, instance: InstanceRow) -> bool:
    return bool(instance.outdated) or facts.state_of(instance)[0] is not InstanceState.READY


def _summary(facts: _Facts) -> str:
    row = facts.row
    lacking = [node.name for node in facts.nodes.values() if not facts.satisfied(node)]
    if row.state is InfrastructureState.READY and not lacking:
        if facts.unserved:
            return f"ready when last seen; the pool has no cloud {', '.join(sorted(facts.unserved))} now"
        return "ready: every node has as many ready instances as wanted"
    parts = [f"{row.state.value}: {row.reason}" if row.reason else row.state.value]
    if row.state is InfrastructureState.SUSPENDED and row.reason:
        parts = [row.reason]  # it says whether it is suspended or detached
    if facts.going:
        parts += [facts.going] if row.state is not InfrastructureState.DESTROYING else []
    elif lacking and row.state is not InfrastructureState.FAILED and row.reason != lacking_reason(lacking):
        shown = ", ".join(lacking[:8]) + (", …" if len(lacking) > 8 else "")
        parts.append(f"{len(lacking)} of {len(facts.nodes)} nodes lack ready instances: {shown}")
    if facts.holder is None and (facts.runs or lacking) and row.state is not InfrastructureState.READY:
        parts.append(f"nobody works on it now: `pelagos maintain {row.name} --once`, or `pelagos serve`")
    return "; ".join(parts)


def _who_works(facts: _Facts) -> Iterator[ExplainStep]:
    if facts.holder is not None:
        lease = facts.holder
        yield ExplainStep(
            depth=0,
            subject="maintainer",
            state="at work",
            why=f"{lease.purpose or 'a process'}, pid {lease.pid} on {lease.host}",
        )
    for run in facts.runs:
        yield ExplainStep(depth=0, subject=f"run {run.kind}", state=run.state.value, why=_run_why(facts, run))


def _clouds_gone(facts: _Facts, node: str | None) -> Iterator[ExplainStep]:
    """The clouds that instances are on and the pool has no more. Told also while all is ready: it is as it was last
    seen, and nobody looks."""
    for account in sorted(facts.unserved):
        there = [
            instance
            for name, instances in facts.by_node.items()
            for instance in instances
            if instance.account == account and node in (None, name)
        ]
        if there:
            told = f"{len(there)} instances" if len(there) > 1 else "an instance"
            yield ExplainStep(
                depth=0,
                subject=f"cloud {account}",
                state="removed",
                why=f"{why_unserved(account)}; {told} there: nobody looks at their state, it is the last that was seen",
            )


def _run_why(facts: _Facts, run: RunRow) -> str:
    if run.cancel_requested:
        return "asked to stop"
    if facts.holder is None:
        return "interrupted: the process that worked on it has ended" if run.started_at else "nobody has taken it up"
    return "" if run.started_at else "waits for the run before it"


def _node(facts: _Facts, node: CompiledNode, depth: int, seen: set[str]) -> Iterator[ExplainStep]:
    if node.name in seen:
        yield ExplainStep(depth=depth, subject=f"node {node.name}", state="see above")
        return
    seen.add(node.name)
    record, target, ready = facts.record(node), facts.target(node), facts.ready(node)
    waits_for = [facts.nodes[name] for name in node.depends_on if name in facts.nodes]
    unmet = [other for other in waits_for if not facts.satisfied(other)] if not facts.going else []
    here = facts.by_node[node.name]
    lacking = target - sum(1 for i in here if facts.state_of(i)[0] is not InstanceState.DESTROYING)
    why, next_try = "", None
    if node.retired:
        why = "no longer described"
    elif record.broken and not facts.satisfied(node) and not facts.going:
        why = f"its breaker is open, nothing of it is healed: {queries.breaker_reason(record)}"
        why += f"; `pelagos heal {facts.row.name} {node.name}` closes it"
    elif facts.going and not facts.satisfied(node):
        why = facts.going
    elif lacking > 0 and facts.row.state is InfrastructureState.FAILED and not facts.runs:
        why = "nothing more is tried by itself: the last run failed"
    elif lacking > 0 and unmet:
        why = f"waits for {', '.join(other.name for other in unmet)}"
    elif lacking > 0 and record.retry_at is not None and record.retry_at > facts.now:
        why, next_try = f"backs off after {_count(record.failures)}", rfc3339(record.retry_at)
    elif lacking > 0:
        why = f"{lacking} more to be created"
    yield ExplainStep(
        depth=depth,
        subject=f"node {node.name}",
        state=f"{ready} of {target} ready",
        why=why,
        last_answer=_said(record.error) if record.error is not None else "",
        next_try=next_try,
    )
    for refused in record.error.details.get("refused", ()) if record.error is not None else ():
        yield ExplainStep(
            depth=depth + 1,
            subject=f"cloud {refused.get('cloud', '')}",
            state="refused",
            last_answer=str(refused.get("message", "")),
        )
    for instance in here:
        if _worth_telling(facts, instance):
            yield _instance(facts, instance, depth + 1)
    for other in unmet:
        yield from _node(facts, other, depth + 1, seen)


def _instance(facts: _Facts, instance: InstanceRow, depth: int) -> ExplainStep:
    state, reason = facts.state_of(instance)
    work = facts.work.get(instance.server_id)
    server = facts.servers.get(instance.server_id)
    why, last_answer, next_try = reason, "", None
    if instance.account in facts.unserved:
        why = why_unserved(instance.account)
    if work is not None and work.error is not None:
        last_answer = _said(work.error)
    kept = _kept(facts, instance)
    if kept:
        why = f"{why}; {kept}" if why else kept
    elif work is not None and not work.state.final:
        planned = work.next_try(facts.now)
        waits = planned is None or instance.account in facts.unserved
        next_try = None if waits or planned is None else rfc3339(planned)
        told = work.error is not None and state is InstanceState.PENDING and why.endswith(work.error.message)
        why = _doing(work, instance.account) if told or not why else why  # the last answer says the rest
    elif state in (InstanceState.PENDING, InstanceState.TEMP_FAILED) and server is ServerState.ACTIVE:
        why = "its server runs; its health check has not succeeded yet"
        last_answer = reason or last_answer
    elif server is None:
        why = why or "its server has not been asked for yet"
    elif not why and (state is not InstanceState.READY or not instance.outdated):
        why = f"its server is {server.value}"
    if instance.outdated:
        unlike = f"not as described: {instance.outdated}"
        why = f"{why}; {unlike}" if why else unlike
    return ExplainStep(
        depth=depth,
        subject=f"instance {instance.node}/{instance.id[:8]}",
        state=state.value,
        why=why,
        last_answer=last_answer,
        next_try=next_try,
    )


def _kept(facts: _Facts, instance: InstanceRow) -> str:
    """Why an instance that is not well stays as it is; empty if it does not."""
    node = facts.nodes.get(instance.node)
    if node is None or facts.going:
        return ""
    observed = observed_instance(instance, facts.servers.get(instance.server_id))
    remedy = treat(observed, node.policy.heal, broken=facts.record(node).broken)
    return remedy.why if remedy.treatment is Treatment.STUCK else ""


def _count(failures: int) -> str:
    return f"{failures} failures in a row" if failures > 1 else "a failure"


_PART_WORDS = {
    "part": "makes its",
    "ready": "waits for its",
    "unpart": "deletes its",
    "unparted": "waits until the cloud has deleted its",
}


def _doing(work: _Work, account: str) -> str:
    if work.part:
        return f"{work.kind} on {account} {_PART_WORDS[work.verb]} {work.part}"
    if work.awaits:
        return f"{work.kind} on {account} was accepted, its cloud carries it out"
    return f"{work.kind} on {account} is {work.state.value}, attempt {work.attempts}"


def _said(error: ErrorPayload) -> str:
    return f"{error.message} ({error.advice})" if error.advice else error.message
