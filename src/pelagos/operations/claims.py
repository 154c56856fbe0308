"""Claims: transaction A. What is due is read, decided and marked as sent, in one transaction, before any call goes out.

``decide`` is the pure heart: from an operation's row, its server's and its open attempt's, and the time, it says what
to do. The table is the queue: a claim reads the first rows by the index (account, finished_at, next_at) and nothing
else, so ten thousand operations cost ten thousand rows however many claims they take.

What is claimed gets ``next_at`` = WAITING: the worker has it in hand until it settles it. A worker that dies leaves it
so, and :func:`take_over`, the first transaction under a new epoch, makes all such rows due again: those whose call may
have gone out as UNCERTAIN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, and_, bindparam, func, insert, select, update

from pelagos.clouds.errors import CloudBusy
from pelagos.clouds.values import Capabilities, PartSpec, ServerSpec, TokenLookup
from pelagos.model.errors import Cancelled, DeadlineExceeded, ErrorPayload, QuotaExceeded
from pelagos.model.errors import Retry as RetryClass
from pelagos.model.scope import Fence, Scope
from pelagos.model.states import OperationState, PartState
from pelagos.operations.assembling import made_parts
from pelagos.operations.kinds import ASSEMBLY, CREATE_WITH_PARTS, KINDS, Effect, Step
from pelagos.operations.parts import parts_of_servers, plan_parts
from pelagos.operations.records import (
    WAITING,
    AdoptParameters,
    Again,
    Call,
    Done,
    Failed,
    Outcome,
    PartRecord,
    PartSweepParameters,
    Result,
    SweepParameters,
    Uncertain,
    UpdateParameters,
)
from pelagos.operations.settling import settle
from pelagos.store import check_fence
from pelagos.store.schema import attempts, operations, servers

__all__ = [
    "Claim",
    "Due",
    "Rules",
    "claim",
    "count_due",
    "decide",
    "due_operations",
    "outcome_of",
    "part_at_turn",
    "peek",
    "take_over",
]

_decode_error = msgspec.msgpack.Decoder(ErrorPayload).decode
_decode_sweep = msgspec.msgpack.Decoder(SweepParameters).decode
_decode_part_sweep = msgspec.msgpack.Decoder(PartSweepParameters).decode
_decode_update = msgspec.msgpack.Decoder(UpdateParameters).decode
_encode = msgspec.msgpack.Encoder().encode
_decode_spec = msgspec.msgpack.Decoder(ServerSpec).decode
_decode_adoption = msgspec.msgpack.Decoder(AdoptParameters).decode


class Rules(msgspec.Struct, frozen=True):
    """What a claim must know of the account."""

    capabilities: Capabilities
    give_up_after: float
    """Seconds after which an operation without ``expires_at`` of its own makes no new attempt."""
    mark_slack: float = 5.0
    """Seconds that marking and starting a call may take: they count into its deadline."""
    parts: Callable[[ServerSpec], Sequence[PartSpec]] | None = None
    """What a server needs beforehand; None: none of this account's does."""


class Due(msgspec.Struct, frozen=True):
    """An operation that is due, with its server (None: it has no row) and its open attempt (token None: none)."""

    id: str
    project_id: str
    user_id: str
    kind: str
    state: str
    step: int
    attempts: int
    expires_at: float | None
    cancel_requested: bool
    created_at: float
    updated_at: float
    target_id: str
    infrastructure_id: str | None
    parameters_blob: bytes
    error_blob: bytes | None
    provider_id: str | None
    server_state: str | None
    spec_blob: bytes | None
    instance_id: str | None
    server_deleted_at: float | None
    token: str | None
    sent_at: float | None
    not_after: float | None
    parts: tuple[PartRecord, ...] = ()
    """The server's living ones, where the step is one of a server with parts."""

    @property
    def scope(self) -> Scope:
        return Scope(self.project_id, self.user_id)


class Claim(msgspec.Struct, frozen=True):
    """What a claim brought: calls to make, and when to look again (None: nothing is timed)."""

    calls: tuple[Call, ...] = ()
    settled: int = 0
    next_at: float | None = None


_due_columns = (
    operations.c.id,
    operations.c.project_id,
    operations.c.user_id,
    operations.c.kind,
    operations.c.state,
    operations.c.step,
    operations.c.attempts,
    operations.c.expires_at,
    operations.c.cancel_requested,
    operations.c.created_at,
    operations.c.updated_at,
    operations.c.target_id,
    operations.c.infrastructure_id,
    operations.c.parameters_blob,
    operations.c.error_blob,
    servers.c.provider_id,
    servers.c.state,
    servers.c.spec_blob,
    servers.c.instance_id,
    servers.c.deleted_at,
    attempts.c.token,
    attempts.c.sent_at,
    attempts.c.not_after,
)
_joined = operations.outerjoin(servers, servers.c.id == operations.c.target_id).outerjoin(
    attempts,
    and_(
        attempts.c.operation_id == operations.c.id,
        attempts.c.step == operations.c.step,
        attempts.c.state == "open",
    ),
)
_unfinished = (operations.c.account == bindparam("b_account"), operations.c.finished_at.is_(None))
_queue_order = (operations.c.account, operations.c.finished_at, operations.c.next_at)
_due = (
    select(*_due_columns)
    .select_from(_joined)
    .where(*_unfinished, operations.c.next_at <= bindparam("b_now"))
    .order_by(*_queue_order)
    .limit(bindparam("b_limit"))
    .with_for_update(of=operations)
)
_awaiting = (
    select(*_due_columns)
    .select_from(_joined)
    .where(*_unfinished, operations.c.state == OperationState.RUNNING.value, operations.c.step > 0)
)
_next = select(operations.c.next_at).where(*_unfinished).order_by(*_queue_order).limit(1)
_some_due = (
    select(operations.c.next_at)
    .where(*_unfinished, operations.c.next_at <= bindparam("b_now"))
    .limit(bindparam("b_limit"))
)
_count_due = select(func.count()).select_from(_some_due.subquery())
_open_new = insert(attempts)
_reopen = (
    update(attempts)
    .where(attempts.c.token == bindparam("b_token"))
    .values(
        sent_at=bindparam("b_sent"),
        not_after=bindparam("b_not_after"),
        epoch=bindparam("b_epoch"),
        negatives=0,
    )
)
_retake = (
    update(attempts)
    .where(attempts.c.token == bindparam("b_token"), attempts.c.state.in_(["released", "done"]))
    .values(
        operation_id=bindparam("b_operation"),
        step=bindparam("b_step"),
        state="open",
        epoch=bindparam("b_epoch"),
        sent_at=bindparam("b_sent"),
        not_after=bindparam("b_not_after"),
        negatives=0,
        error_blob=None,
        closed_at=None,
    )
)
"""An adoption that came to nothing let go of the token, or its server was taken for gone: another one takes it up."""
_mark = (
    update(operations)
    .where(operations.c.id == bindparam("b_id"))
    .values(
        state=bindparam("b_state"),
        attempts=bindparam("b_attempts"),
        next_at=WAITING,
        updated_at=bindparam("b_now"),
    )
)
_restep = update(operations).where(operations.c.id == bindparam("b_id")).values(step=bindparam("b_step"))
_in_hand = (
    *_unfinished,
    operations.c.next_at == WAITING,
    operations.c.state.in_([OperationState.RUNNING.value, OperationState.UNCERTAIN.value]),
)
_sent_ones = select(attempts.c.operation_id).where(
    attempts.c.account == bindparam("b_account"), attempts.c.closed_at.is_(None), attempts.c.sent_at.is_not(None)
)
_orphans = update(operations).where(*_in_hand).values(next_at=bindparam("b_now"))
_orphans_sent = (
    update(operations).where(*_in_hand, operations.c.id.in_(_sent_ones)).values(state=OperationState.UNCERTAIN.value)
)
_waiting_heads = (
    select(operations.c.target_id)
    .where(*_unfinished, operations.c.next_at == WAITING, operations.c.state == OperationState.PENDING.value)
    .distinct()
)


def peek(connection: Connection, account: str) -> float | None:
    """When the account's next operation is due (maybe in the past); None if it has none that a clock takes up, but
    WAITING or more if some wait or are in hand. One index look-up."""
    return connection.execute(_next, {"b_account": account}).scalar()


def count_due(connection: Connection, account: str, now: float, limit: int) -> int:
    """How many of the account's operations are due, as far as ``limit``; by the index alone."""
    parameters = {"b_account": account, "b_now": now, "b_limit": limit}
    return int(connection.execute(_count_due, parameters).scalar_one())


def take_over(connection: Connection, fence: Fence, account: str, now: float) -> list[Call]:
    """First under a new epoch: what the last worker had in hand is due again. Returns what waits for a listing."""
    check_fence(connection, fence)
    connection.execute(_orphans_sent, {"b_account": account})
    connection.execute(_orphans, {"b_account": account, "b_now": now})
    found = []
    waiting = [_due_row(row) for row in connection.execute(_awaiting, {"b_account": account})]
    for due in _with_parts(connection, waiting):
        step = KINDS[due.kind].steps[due.step]
        if step.effect is Effect.AWAITS:
            part = part_at_turn(due, step)
            if step.part and part is None and due.kind != "part.sweep":
                # What it waited for has a tombstone: the time-out of the wait finds that out.
                continue
            found.append(_call(due, step.verb, _provider_of(due), 0.0, 0.0, "", part))
    return found


def claim(connection: Connection, fence: Fence, account: str, rules: Rules, now: float, tokens: Sequence[str]) -> Claim:
    """Take up to ``len(tokens)`` due operations, journal that their calls are sent, and say which those are.

    Operations that need no call (expired, target gone) are settled in the same transaction. Raises LeaseLost."""
    check_fence(connection, fence)
    dues = due_operations(connection, account, now, len(tokens))
    calls: list[Call] = []
    outcomes: list[Outcome] = []
    opened: list[dict[str, Any]] = []
    reopened: list[dict[str, Any]] = []
    marks: list[dict[str, Any]] = []
    for due, fresh in zip(dues, tokens, strict=False):
        if KINDS[due.kind].steps[due.step].effect is Effect.PLANS:
            due = _plan(connection, due, account, rules, now)
        decision = decide(due, rules, now, fresh)
        if isinstance(decision, Outcome):
            outcomes.append(decision)
            continue
        calls.append(decision)
        if decision.verb == "lookup":
            state = OperationState.UNCERTAIN.value
        else:
            state = OperationState.RUNNING.value
            if decision.token and decision.token == due.token:
                reopened.append(
                    {
                        "b_token": decision.token,
                        "b_sent": now,
                        "b_not_after": decision.not_after,
                        "b_epoch": fence.epoch,
                    }
                )
            elif decision.token and not (decision.verb == "adopt" and _retaken(connection, due, decision, fence, now)):
                opened.append(
                    {
                        "token": decision.token,
                        "operation_id": due.id,
                        "account": account,
                        "step": due.step,
                        "state": "open",
                        "epoch": fence.epoch,
                        "sent_at": now,
                        "not_after": decision.not_after,
                        "negatives": 0,
                        "provider_id": None,
                        "error_blob": None,
                        "closed_at": None,
                    }
                )
        marks.append({"b_id": due.id, "b_state": state, "b_attempts": decision.attempts, "b_now": now})
    if opened:
        connection.execute(_open_new, opened)
    if reopened:
        connection.execute(_reopen, reopened)
    if marks:
        connection.execute(_mark, marks)
    if outcomes:
        settle(connection, fence, account, outcomes, rules.capabilities, now)
    return Claim(calls=tuple(calls), settled=len(outcomes), next_at=peek(connection, account))


def due_operations(connection: Connection, account: str, now: float, limit: int) -> list[Due]:
    """The account's operations that a clock takes up now, the first ones first."""
    rows = connection.execute(_due, {"b_account": account, "b_now": now, "b_limit": limit}).all()
    return _with_parts(connection, [_due_row(row) for row in rows])


def _retaken(connection: Connection, due: Due, call: Call, fence: Fence, now: float) -> bool:
    values = {
        "b_token": call.token,
        "b_operation": due.id,
        "b_step": due.step,
        "b_epoch": fence.epoch,
        "b_sent": now,
        "b_not_after": call.not_after,
    }
    return connection.execute(_retake, values).rowcount > 0


def _due_row(row: Any) -> Due:
    return Due(*row)


def _with_parts(connection: Connection, dues: list[Due]) -> list[Due]:
    """The same, with the parts of those whose step is one of a server with parts."""
    concerned = {due.target_id for due in dues if due.kind in ASSEMBLY and due.step >= ASSEMBLY[due.kind]}
    if not concerned:
        return dues
    found = parts_of_servers(connection, sorted(concerned))
    return [
        msgspec.structs.replace(due, parts=found[due.target_id])
        if due.target_id in found and due.kind in ASSEMBLY and due.step >= ASSEMBLY[due.kind]
        else due
        for due in dues
    ]


def _plan(connection: Connection, due: Due, account: str, rules: Rules, now: float) -> Due:
    """Whoever asked for the server could not say what parts it needs: that is journaled now. A quota that does not
    allow them is the operation's error."""
    wanted = () if rules.parts is None else rules.parts(_decode_spec(due.spec_blob or b""))
    if wanted:
        servers_parts = [(due.target_id, due.infrastructure_id, wanted)]
        try:
            with connection.begin_nested():
                plan_parts(connection, due.scope, account, servers_parts, now, reserve=True)
        except QuotaExceeded as error:
            return msgspec.structs.replace(due, error_blob=_encode(error.payload()))
    due = msgspec.structs.replace(
        due,
        step=CREATE_WITH_PARTS if wanted else 0,
        parts=parts_of_servers(connection, [due.target_id]).get(due.target_id, ()) if wanted else (),
    )
    connection.execute(_restep, {"b_id": due.id, "b_step": due.step})
    return due


def decide(due: Due, rules: Rules, now: float, fresh: str) -> Call | Outcome:
    """What to do with an operation that is due: a call to send, or an outcome that needs none. Pure."""
    step = KINDS[due.kind].steps[due.step]
    if step.effect is Effect.PLANS:
        # It was not planned: its error says why.
        return outcome_of(due, step.verb, Failed(_last_error(due), gone=True))
    if step.effect is Effect.CREATES:
        return _decide_create(due, step, rules, now, fresh)
    if step.part and due.kind != "part.sweep":
        return _decide_part(due, step, rules, now)
    provider_id = _provider_of(due)
    if (
        due.kind.startswith("server.")
        and due.kind != "server.sweep"
        and (due.server_deleted_at is not None or provider_id is None)
    ):
        gone = Done("gone already") if due.kind in ("server.delete", "server.create") else _failed_gone(due)
        return outcome_of(due, step.verb, gone)
    if step.effect is Effect.AWAITS:
        seconds = rules.capabilities.build_timeout
        if step.verb in ("gone", "unparted"):
            return outcome_of(due, step.verb, Again(_still_there(seconds).payload(), now))
        error = DeadlineExceeded(
            f"the server did not leave {due.server_state} within {seconds:.0f} s",
            advice="Look at its console output; raise the driver's build time-out if it only needs longer.",
        )
        return outcome_of(due, step.verb, Failed(error.payload()))
    if step.effect is Effect.ONCE and due.state in (OperationState.RUNNING, OperationState.UNCERTAIN):
        return outcome_of(due, step.verb, Failed(_interrupted(due).payload()))
    if due.kind == "server.update" and due.state == OperationState.RUNNING:
        # Whoever had it in hand is dead, and its call may still arrive: see `calls.judge`.
        arrived = due.updated_at + rules.capabilities.call_timeout + rules.mark_slack + rules.capabilities.settle
        return outcome_of(due, step.verb, Uncertain(_interrupted(due).payload(), max(now, arrived)))
    if (due.kind != "server.create" or step.verb == "finish") and _expired(due, rules, now):
        return outcome_of(due, step.verb, Failed(_last_error(due)))
    deadline = now + rules.capabilities.call_timeout + rules.mark_slack
    return _call(due, step.verb, provider_id, deadline, deadline + rules.capabilities.settle, "")


def _decide_part(due: Due, step: Step, rules: Rules, now: float) -> Call | Outcome:
    part = part_at_turn(due, step)
    if part is None:
        return outcome_of(due, step.verb, Done("nothing of it is left"))
    seconds = rules.capabilities.build_timeout
    if step.verb == "unparted":
        return outcome_of(due, step.verb, Again(_still_there(seconds).payload(), now), part=part)
    if step.verb == "ready":
        if due.cancel_requested:
            error: ErrorPayload = Cancelled("the server was not wanted any more").payload()
        else:
            error = DeadlineExceeded(
                f"the {part.kind.value} {part.key!r} was not ready within {seconds:.0f} s",
                advice="Look at it in the cloud's own console; another size, kind or cloud may do.",
            ).payload()
        return outcome_of(due, step.verb, Failed(error), part=part)
    if due.kind != "server.create" and _expired(due, rules, now):
        return outcome_of(due, step.verb, Failed(_last_error(due)), part=part)
    deadline = now + rules.capabilities.call_timeout + rules.mark_slack
    return _call(due, step.verb, due.provider_id, deadline, deadline + rules.capabilities.settle, "", part)


def part_at_turn(due: Due, step: Step) -> PartRecord | None:
    """The part that is at the step's turn."""
    match step.verb:
        case "part":
            return next((p for p in due.parts if p.state is PartState.PLANNED), None)
        case "ready":
            return next((p for p in due.parts if p.state is PartState.BUILD), None)
        case "unparted":
            return next((p for p in due.parts if p.state is PartState.DELETING), None)
        case "unpart":
            return next(iter(made_parts(due.kind, due.parts)), None)
        case _:
            return None


def _decide_create(due: Due, step: Step, rules: Rules, now: float, fresh: str) -> Call | Outcome:
    capabilities = rules.capabilities
    deadline = now + capabilities.create_timeout + rules.mark_slack
    not_after = deadline + capabilities.settle
    expired = _expired(due, rules, now)
    part = part_at_turn(due, step)
    if step.part and part is None:
        return outcome_of(due, step.verb, Done("all of them are there"))
    adoption = _decode_adoption(due.parameters_blob) if due.kind == "server.adopt" else None
    target = None if adoption is None else adoption.provider_id
    if due.token is not None and due.sent_at is not None:
        # An idempotent cloud tells what became of a call by the same call sent again, sooner than any absence is known;
        # so also for a create that is not wanted any more: what it then made is deleted by who cancelled it.
        # Where the repeat is refused for good, the first one's doing is looked for like anywhere else.
        idempotent = capabilities.token_lookup is TokenLookup.IDEMPOTENT and part is None
        if (idempotent or adoption is not None) and not expired and not _refused(due):
            again = _call(due, step.verb, target, deadline, not_after, due.token)
            return msgspec.structs.replace(again, resent=True)
        look_until = now + capabilities.call_timeout + rules.mark_slack
        return _call(due, "lookup", None, look_until, due.not_after or 0.0, due.token, part)
    if due.cancel_requested or expired:
        return outcome_of(due, step.verb, Failed(_last_error(due), gone=True), token=due.token or "", part=part)
    carried = "" if adoption is None else adoption.token
    return _call(due, step.verb, target, deadline, not_after, due.token or carried or fresh, part)


def _refused(due: Due) -> bool:
    return due.error_blob is not None and _decode_error(due.error_blob).retry is RetryClass.NEVER


def _expired(due: Due, rules: Rules, now: float) -> bool:
    expires_at = due.created_at + rules.give_up_after if due.expires_at is None else due.expires_at
    return now >= expires_at


def _last_error(due: Due) -> ErrorPayload:
    if due.error_blob is not None:
        return _decode_error(due.error_blob)
    return DeadlineExceeded(
        f"{due.kind} was not carried out in time",
        advice="Ask for it again; see `pelagos explain` for the cloud's state.",
    ).payload()


def _interrupted(due: Due) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"{due.kind} was interrupted; it may have been done",
        advice="Look at the server, and ask again if it was not.",
    )


def _failed_gone(due: Due) -> Result:
    return Failed(DeadlineExceeded(f"{due.kind}: the server is gone", advice="Make a new one.").payload(), gone=True)


def _still_there(seconds: float) -> CloudBusy:
    return CloudBusy(
        f"the cloud took the delete and still has the server after {seconds:.0f} s",
        advice="It is asked again; if it never goes, look at it in the cloud's own console.",
    )


def _provider_of(due: Due) -> str | None:
    if due.kind == "server.sweep":
        return _decode_sweep(due.parameters_blob).provider_id
    return "" if due.kind in ("account.refresh", "part.sweep") else due.provider_id


def outcome_of(due: Due, verb: str, result: Result, token: str = "", part: PartRecord | None = None) -> Outcome:
    """What an operation came to without a call."""
    return Outcome(_call(due, verb, due.provider_id, 0.0, 0.0, token, part), result)


def _call(
    due: Due,
    verb: str,
    provider_id: str | None,
    deadline: float,
    not_after: float,
    token: str,
    part: PartRecord | None = None,
) -> Call:
    return Call(
        operation_id=due.id,
        kind=due.kind,
        step=due.step,
        verb=verb,
        scope=due.scope,
        server_id=due.target_id,
        infrastructure_id=due.infrastructure_id,
        instance_id=due.instance_id,
        provider_id=provider_id,
        spec_blob=due.spec_blob or b"",
        token=token,
        attempts=due.attempts + 1,
        deadline=deadline,
        not_after=not_after,
        since=due.updated_at,
        parts=due.parts,
        part=part,
        stray=_decode_part_sweep(due.parameters_blob).part if due.kind == "part.sweep" else None,
        values=_decode_update(due.parameters_blob).values if due.kind == "server.update" else {},
        counted=due.provider_id is not None and due.server_deleted_at is None,
    )
