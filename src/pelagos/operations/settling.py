"""Settling: transaction B. What calls came to is written in bulk: attempts, servers, operations, quotas, events.

Each outcome becomes rows for a handful of statements, which are then sent once each, whatever the number of outcomes.
An outcome counts only if its operation is still unfinished at the step it was claimed at (a delete may have overtaken
it), and under the fence: a worker that lost its lease writes nothing.

What an outcome writes, by its result:

=========  ==================================  ================================================================
result     attempt                             operation, server, quota
=========  ==================================  ================================================================
Found      done, with the provider's id        ACTIVE: succeeded. BUILD: to the step that awaits the boot; ERROR: to
                                               the undo step. Quota committed: the server exists.
Made       done, with the provider's id        its part's row; see `assembling`, also for the other results of steps
                                               that are about parts, or that follow them
Done       -                                   to the step that awaits the effect; the last one's: succeeded.
                                               A delete's: server DELETED, quota released
Reached    -                                   succeeded, server's state and addresses written
Retry      stays open, not sent                PENDING, again later with the same token
Again      -                                   PENDING at the step before, again later
Uncertain  stays open, sent                    UNCERTAIN, looked for later
Absent     second one that counts: absent      PENDING with no attempt: a new token may be made
Failed     refused; an adoption's: released    nothing was made: failed, server DELETED with the reason, quota
                                               cancelled. Something was made: to the undo step, which ends so.
=========  ==================================  ================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, assert_never

import msgspec
from sqlalchemy import Connection, bindparam, select, update

from pelagos import quotas
from pelagos.clouds.errors import CloudError
from pelagos.clouds.values import Capabilities, CloudServer, ServerSpec
from pelagos.model.errors import Cancelled, ErrorPayload
from pelagos.model.scope import Fence
from pelagos.model.states import OperationState, ServerState
from pelagos.operations.assembling import Assembly
from pelagos.operations.kinds import KINDS, Effect, step_of, undo_of
from pelagos.operations.reading import chunks
from pelagos.operations.records import (
    SERVER_QUOTA,
    Absent,
    Again,
    Call,
    Done,
    Failed,
    Found,
    Made,
    Outcome,
    Reached,
    Retry,
    Uncertain,
)
from pelagos.operations.rows import encode_addresses
from pelagos.operations.succession import free_successors
from pelagos.store import append_many, check_fence
from pelagos.store.events import event_row
from pelagos.store.schema import attempts, operations, servers

__all__ = ["NEGATIVES_TO_CLOSE", "Ledger", "Settled", "settle"]

NEGATIVES_TO_CLOSE = 2
"""Look-ups after ``not_after`` that find nothing, before an attempt counts as not made."""

_encode = msgspec.msgpack.Encoder().encode
_decode_error = msgspec.msgpack.Decoder(ErrorPayload).decode
_decode_spec = msgspec.msgpack.Decoder(ServerSpec).decode

_live = (
    select(operations.c.id, operations.c.step, operations.c.cancel_requested, operations.c.error_blob)
    .where(operations.c.id.in_(bindparam("b_ids", expanding=True)), operations.c.finished_at.is_(None))
    .with_for_update()
)
_lock_servers = (
    select(servers.c.id)
    .where(servers.c.id.in_(bindparam("b_ids", expanding=True)))
    .order_by(servers.c.id)
    .with_for_update()
)
_negatives = select(attempts.c.token, attempts.c.negatives).where(
    attempts.c.token.in_(bindparam("b_tokens", expanding=True))
)
_close_attempt = (
    update(attempts)
    .where(attempts.c.token == bindparam("b_token"), attempts.c.state == "open")
    .values(
        state=bindparam("b_state"),
        provider_id=bindparam("b_provider"),
        error_blob=bindparam("b_error"),
        closed_at=bindparam("b_now"),
    )
)
_unsend_attempt = update(attempts).where(attempts.c.token == bindparam("b_token")).values(sent_at=None, not_after=None)
_count_negative = (
    update(attempts).where(attempts.c.token == bindparam("b_token")).values(negatives=attempts.c.negatives + 1)
)
_finish = (
    update(operations)
    .where(operations.c.id == bindparam("b_id"))
    .values(
        state=bindparam("b_state"),
        error_blob=bindparam("b_error"),
        finished_at=bindparam("b_now"),
        updated_at=bindparam("b_now"),
    )
)
_go_on = (
    update(operations)
    .where(operations.c.id == bindparam("b_id"))
    .values(
        state=bindparam("b_state"),
        step=bindparam("b_step"),
        attempts=bindparam("b_attempts"),
        next_at=bindparam("b_next"),
        error_blob=bindparam("b_error"),
        updated_at=bindparam("b_now"),
    )
)
_server_seen = (
    update(servers)
    .where(servers.c.id == bindparam("b_id"))
    .values(
        provider_id=bindparam("b_provider"),
        state=bindparam("b_state"),
        reason=bindparam("b_reason"),
        addresses=bindparam("b_addresses"),
        private_addresses=bindparam("b_private"),
        observed_at=bindparam("b_now"),
        updated_at=bindparam("b_now"),
    )
)
_server_state = (
    update(servers)
    .where(servers.c.id == bindparam("b_id"))
    .values(state=bindparam("b_state"), reason=bindparam("b_reason"), updated_at=bindparam("b_now"))
)
_server_spec = (
    update(servers)
    .where(servers.c.id == bindparam("b_id"))
    .values(spec_blob=bindparam("b_spec"), updated_at=bindparam("b_now"))
)
_server_gone = (
    update(servers)
    .where(servers.c.id == bindparam("b_id"))
    .values(
        state=ServerState.DELETED.value,
        reason=bindparam("b_reason"),
        deleted_at=bindparam("b_now"),
        updated_at=bindparam("b_now"),
    )
)
_STATE_EVENT = {
    ServerState.ACTIVE: "server.active",
    ServerState.BUILD: "server.building",
    ServerState.STOPPED: "server.stopped",
    ServerState.ERROR: "server.error",
}


class Settled(msgspec.Struct, frozen=True):
    """What the worker must know afterwards: what waits for a listing now."""

    awaits: tuple[Call, ...] = ()


def settle(
    connection: Connection,
    fence: Fence,
    account: str,
    outcomes: Sequence[Outcome],
    capabilities: Capabilities,
    now: float,
) -> Settled:
    """Write what calls came to. Raises LeaseLost, writing nothing."""
    check_fence(connection, fence)
    server_ids = sorted({o.call.server_id for o in outcomes})
    if connection.dialect.name != "sqlite":
        for chunk in chunks(server_ids):
            connection.execute(_lock_servers, {"b_ids": chunk}).all()
    live = {
        row.id: row
        for chunk in chunks(o.call.operation_id for o in outcomes)
        for row in connection.execute(_live, {"b_ids": chunk})
    }
    tokens = [o.call.token for o in outcomes if isinstance(o.result, Absent) and o.result.counts]
    negatives = {
        token: count for chunk in chunks(tokens) for token, count in connection.execute(_negatives, {"b_tokens": chunk})
    }
    ledger = Ledger(capabilities, now, negatives)
    for outcome in outcomes:
        row = live.pop(outcome.call.operation_id, None)
        if row is not None and row.step == outcome.call.step:
            ledger.enter(outcome, row.cancel_requested, row.error_blob)
    ledger.write(connection)
    if ledger.finished:
        free_successors(connection, account, now)
    return Settled(awaits=tuple(ledger.awaits))


class Ledger:
    """Gathers the rows that outcomes write, then writes them. What is public is for :class:`Assembly`."""

    def __init__(self, capabilities: Capabilities, now: float, negatives: dict[str, int]) -> None:
        self._capabilities = capabilities
        self._now = now
        self._negatives = negatives
        self._closed: list[dict[str, Any]] = []
        self._unsent: list[dict[str, Any]] = []
        self._counted: list[dict[str, Any]] = []
        self._seen: list[dict[str, Any]] = []
        self._states: list[dict[str, Any]] = []
        self._gone: list[dict[str, Any]] = []
        self._specs: list[dict[str, Any]] = []
        self._went_on: list[dict[str, Any]] = []
        self._events: list[dict[str, Any]] = []
        self.commits: list[str] = []
        self.cancels: list[str] = []
        self._released: dict[str, int] = {}
        self._assembly = Assembly(self, now)
        self.finished: list[dict[str, Any]] = []
        self.awaits: list[Call] = []

    def enter(self, outcome: Outcome, cancelled: bool, error_blob: bytes | None) -> None:
        call, result = outcome.call, outcome.result
        match result:
            case Found():
                self._found(call, result.server, cancelled)
            case Made():
                self._assembly.made(call, result.part, cancelled)
            case Done():
                self._done(call, result, error_blob, cancelled)
            case Reached():
                self._reached(call, result.server)
            case Retry():
                if call.token:
                    self._unsent.append({"b_token": call.token})
                self._later(call, OperationState.PENDING, result.error, result.next_at)
                self.event(call, "operation.retrying", {"error": _brief(result.error), "next_at": result.next_at})
            case Uncertain():
                self._later(call, OperationState.UNCERTAIN, result.error, result.next_at)
                self.event(call, "operation.uncertain", {"error": _brief(result.error), "next_at": result.next_at})
            case Again():
                self.go(call, OperationState.PENDING, call.step - 1, call.attempts, result.next_at, result.error)
                self.event(call, "operation.retrying", {"error": _brief(result.error), "next_at": result.next_at})
            case Absent():
                self._absent(call, result, error_blob, cancelled)
            case Failed():
                self._failed(call, result, cancelled)
            case _:
                assert_never(result)

    def write(self, connection: Connection) -> None:
        for statement, rows in (
            (_close_attempt, self._closed),
            (_unsend_attempt, self._unsent),
            (_count_negative, self._counted),
            (_server_seen, self._seen),
            (_server_state, self._states),
            (_server_gone, self._gone),
            (_server_spec, self._specs),
            (_finish, self.finished),
            (_go_on, self._went_on),
        ):
            if rows:
                connection.execute(statement, rows)
        self._assembly.write(connection)
        quotas.commit_many(connection, self.commits)
        quotas.cancel_many(connection, self.cancels)
        for project_id, count in sorted(self._released.items()):
            quotas.release(connection, project_id, {name: each * count for name, each in SERVER_QUOTA.items()})
        append_many(connection, self._events)

    def _found(self, call: Call, server: CloudServer, cancelled: bool) -> None:
        self.close(call, "done", server.provider_id, None)
        self._server(call, _unfinished(server) if call.parts else server)
        self.commits.append(call.operation_id)
        if cancelled:
            # Whoever cancelled it deletes it next.
            self.finish(call, OperationState.CANCELLED)
        elif server.state is ServerState.ERROR and undo_of(call.kind, call.step) is not None:
            self._undo(call, _broken(server))
        elif server.state in step_of(call.kind, call.step + 1).until:
            if call.parts:
                self._state_event(call, _unfinished(server))
                self.go(call, OperationState.PENDING, call.step + 2, 0, self._now, None)
                return
            self.finish(call, OperationState.SUCCEEDED)
            self._state_event(call, server)
        else:
            self._state_event(call, server)
            self.await_(call, server.provider_id, None)

    def _reached(self, call: Call, server: CloudServer) -> None:
        if call.parts and call.verb == "boot":
            # It runs, and is not what was asked for before its parts are in place.
            self._server(call, _unfinished(server))
            self.go(call, OperationState.PENDING, call.step + 1, 0, self._now, None)
            return
        self._server(call, server)
        self.finish(call, OperationState.SUCCEEDED)
        self._state_event(call, server)
        if call.kind not in ("server.create", "server.adopt"):
            self.event(call, "operation.succeeded", {"kind": call.kind})

    def _done(self, call: Call, done: Done, error_blob: bytes | None, cancelled: bool) -> None:
        steps = KINDS[call.kind].steps
        if call.kind == "part.sweep":
            self._swept(call, done)
        elif steps[call.step].part:
            self._assembly.done(call, done.reason, error_blob, cancelled)
        elif call.step + 1 < len(steps) and steps[call.step + 1].effect is Effect.AWAITS and not done.reason:
            self.await_(call, call.provider_id, error_blob)
        elif call.parts:
            self._assembly.done(call, done.reason, error_blob, cancelled)
        elif call.kind == "account.refresh":
            self.finish(call, OperationState.SUCCEEDED)
        elif call.kind == "server.sweep":
            self.finish(call, OperationState.SUCCEEDED)
            self.event(call, "server.swept", {"provider_id": call.provider_id})
        elif call.kind == "server.update":
            self._updated(call)
        elif call.kind == "server.delete":
            self.end_deleted(call, gone_before=bool(done.reason))
        elif call.kind == "server.create":
            # The undo step is through: the operation ends with the error that led to it.
            error = None if error_blob is None else _decode_error(error_blob)
            self.end_failed(call, error or Cancelled("the server was discarded").payload(), release=call.counted)
        else:
            self.finish(call, OperationState.SUCCEEDED)

    def _updated(self, call: Call) -> None:
        """The server's record says how it is now."""
        spec = _decode_spec(call.spec_blob)
        options = {key: value for key, value in {**spec.options, **call.values}.items() if value is not None}
        blob = _encode(msgspec.structs.replace(spec, options=options))
        self._specs.append({"b_id": call.server_id, "b_spec": blob, "b_now": self._now})
        self.finish(call, OperationState.SUCCEEDED)
        self.event(call, "server.updated", {"keys": sorted(call.values)})

    def _swept(self, call: Call, done: Done) -> None:
        if call.verb == "unpart" and not done.reason:
            self.await_(call, call.provider_id, None)
            return
        assert call.stray is not None
        self.finish(call, OperationState.SUCCEEDED)
        self.event(call, "part.swept", {"kind": call.stray.kind.value, "provider_id": call.stray.provider_id})

    def _absent(self, call: Call, absent: Absent, error_blob: bytes | None, cancelled: bool) -> None:
        error = self.error_of(error_blob)
        if not absent.counts:
            self._later(call, OperationState.UNCERTAIN, error, absent.next_at)
        elif self._negatives.get(call.token, 0) + 1 < NEGATIVES_TO_CLOSE:
            self._counted.append({"b_token": call.token})
            self._later(call, OperationState.UNCERTAIN, error, absent.next_at)
        elif call.kind == "server.adopt":
            # It was not written into the server, or into one that is gone: whoever asked may ask again.
            self._failed(call, Failed(error or _not_adopted().payload()), cancelled)
        else:
            self.close(call, "absent", None, error)
            self._later(call, OperationState.PENDING, error, self._now)

    def _failed(self, call: Call, failed: Failed, cancelled: bool) -> None:
        step, undo = step_of(call.kind, call.step), undo_of(call.kind, call.step)
        if step.effect in (Effect.CREATES, Effect.PLANS):
            # A token that was to be written into a server of somebody else's may still appear there: it must never be
            # taken for a late arrival of ours, which would be swept.
            self.close(call, "released" if call.kind == "server.adopt" else "refused", None, failed.error)
            if step.part or call.parts:
                self._assembly.refused(call, failed.error, cancelled)
                return
            self.cancels.append(call.operation_id)
            if cancelled:
                self.end_cancelled(call, failed.error, release=False)
            else:
                self.end_failed(call, failed.error, release=False)
        elif call.kind == "server.create" and call.parts and (failed.gone or call.verb == "ready"):
            self._assembly.take_back(call, failed.error, told=not cancelled)
        elif (
            call.kind == "server.create"
            and not failed.gone
            and undo is not None
            and call.step != undo
            and call.verb != "unpart"
        ):
            self._undo(call, failed.error)
        elif call.kind == "server.create" and call.parts:
            self._assembly.left(call, failed.error)
        elif call.kind == "server.create":
            self.end_failed(call, failed.error, release=call.counted)
        else:
            self.finish(call, OperationState.FAILED, failed.error)
            self.cancels.append(call.operation_id)
            self.event(call, "operation.failed", {"kind": call.kind, "error": _brief(failed.error)})
            if call.kind == "server.delete":
                # It is there still, in whatever state: the next listing says which.
                reason = f"not deleted: {failed.error.message}"
                self._states.append(self._state_row(call, ServerState.UNKNOWN, reason))

    def error_of(self, blob: bytes | None) -> ErrorPayload | None:
        """The error that a row carries."""
        return None if blob is None else _decode_error(blob)

    def end_deleted(self, call: Call, *, gone_before: bool) -> None:
        """A delete is through; ``gone_before``: its server had a tombstone already."""
        self.finish(call, OperationState.SUCCEEDED)
        if gone_before:
            self.cancels.append(call.operation_id)
        else:
            self._gone.append({"b_id": call.server_id, "b_reason": "", "b_now": self._now})
            self.commits.append(call.operation_id)
            self.event(call, "server.deleted", {})

    def end_cancelled(self, call: Call, error: ErrorPayload, *, release: bool) -> None:
        """A create that nobody wants any more ends without a server."""
        self.finish(call, OperationState.CANCELLED, error)
        self._gone.append({"b_id": call.server_id, "b_reason": error.message, "b_now": self._now})
        if release:
            self._release(call)
        self.event(call, "server.deleted", {"reason": error.message})

    def end_failed(self, call: Call, error: ErrorPayload, *, release: bool) -> None:
        """A create ends without a server."""
        self.finish(call, OperationState.FAILED, error)
        self._gone.append({"b_id": call.server_id, "b_reason": error.message, "b_now": self._now})
        if release:
            self._release(call)
        self.event(call, "operation.failed", {"kind": call.kind, "error": _brief(error)})

    def _release(self, call: Call) -> None:
        self._released[call.scope.project_id] = self._released.get(call.scope.project_id, 0) + 1

    def _undo(self, call: Call, error: ErrorPayload) -> None:
        undo = undo_of(call.kind, call.step)
        assert undo is not None
        self.go(call, OperationState.PENDING, undo, 0, self._now, error)
        self.server_failed(call, error)

    def server_failed(self, call: Call, error: ErrorPayload) -> None:
        """The server's record says what went wrong, while what was made is taken back."""
        self._states.append(self._state_row(call, ServerState.ERROR, error.message))
        self.event(call, "server.error", {"reason": error.message})

    def await_(self, call: Call, provider_id: str | None, error_blob: bytes | None) -> None:
        """On to the next step, which a listing ends."""
        step = call.step + 1
        counted = call.counted or (call.part is None and step_of(call.kind, call.step).effect is Effect.CREATES)
        # Why a create is taken back is its error, until the end; another's last error is over with the step.
        error = None if error_blob is None or call.kind != "server.create" else _decode_error(error_blob)
        following = msgspec.structs.replace(
            call,
            step=step,
            verb=KINDS[call.kind].steps[step].verb,
            provider_id=provider_id,
            token="",
            since=self._now,
            counted=counted,
        )
        next_at = self._now + self._capabilities.build_timeout
        self.go(call, OperationState.RUNNING, step, call.attempts, next_at, error)
        self.awaits.append(following)

    def _later(self, call: Call, state: OperationState, error: ErrorPayload | None, next_at: float) -> None:
        self.go(call, state, call.step, call.attempts, next_at, error)

    def go(
        self,
        call: Call,
        state: OperationState,
        step: int,
        attempts_made: int,
        next_at: float,
        error: ErrorPayload | None,
    ) -> None:
        """The operation is at this step now."""
        self._went_on.append(
            {
                "b_id": call.operation_id,
                "b_state": state.value,
                "b_step": step,
                "b_attempts": attempts_made,
                "b_next": next_at,
                "b_error": None if error is None else _encode(error),
                "b_now": self._now,
            }
        )

    def finish(self, call: Call, state: OperationState, error: ErrorPayload | None = None) -> None:
        """The operation has ended."""
        self.finished.append(
            {
                "b_id": call.operation_id,
                "b_state": state.value,
                "b_error": None if error is None else _encode(error),
                "b_now": self._now,
            }
        )

    def close(self, call: Call, state: str, provider_id: str | None, error: ErrorPayload | None) -> None:
        """The attempt has ended, if the step has one."""
        if call.token:
            self._closed.append(
                {
                    "b_token": call.token,
                    "b_state": state,
                    "b_provider": provider_id,
                    "b_error": None if error is None else _encode(error),
                    "b_now": self._now,
                }
            )

    def _server(self, call: Call, server: CloudServer) -> None:
        self._seen.append(
            {
                "b_id": call.server_id,
                "b_provider": server.provider_id,
                "b_state": server.state.value,
                "b_reason": server.reason,
                "b_addresses": encode_addresses(server.addresses),
                "b_private": encode_addresses(server.private_addresses),
                "b_now": self._now,
            }
        )

    def _state_row(self, call: Call, state: ServerState, reason: str) -> dict[str, Any]:
        return {"b_id": call.server_id, "b_state": state.value, "b_reason": reason, "b_now": self._now}

    def _state_event(self, call: Call, server: CloudServer) -> None:
        kind = _STATE_EVENT.get(server.state)
        if kind == "server.active":
            self.event(call, kind, {"addresses": list(server.addresses)})
        elif kind is not None:
            self.event(call, kind, {"reason": server.reason} if server.reason else {})

    def event(self, call: Call, kind: str, data: dict[str, Any]) -> None:
        """Tell of it, as of the operation."""
        self._events.append(event_row(call.scope, kind, at=self._now, data=data, **call.carry()))


def _unfinished(server: CloudServer) -> CloudServer:
    """A server that is there, and not yet what was asked for."""
    return msgspec.structs.replace(server, state=ServerState.BUILD) if server.state is not ServerState.ERROR else server


def _brief(error: ErrorPayload) -> dict[str, Any]:
    """An error as an event tells it."""
    return {"code": error.code, "message": error.message, "advice": error.advice}


def _not_adopted() -> CloudError:
    return CloudError("the server was not adopted: the cloud does not show the token", advice="Ask for it again.")


def _broken(server: CloudServer) -> ErrorPayload:
    reason = server.reason or "no reason given"
    return CloudError(
        f"the cloud could not build server {server.name}: {reason}",
        advice="Look at its console output; another flavor, image or cloud may do.",
    ).payload()
