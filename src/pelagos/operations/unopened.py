"""Operations of an account whose cloud cannot be opened: what becomes of them, and why the others wait.

Nothing of the account is sent meanwhile, and nobody knows for how long. What certainly was never sent and makes
something anew may be made elsewhere: where it is the account's own fault (a key that is missing, a secret that is not
there, a driver that is not installed) it is refused, as if its cloud had refused it. All else waits for the account to
be mended: what is to be deleted is there, and what may have been sent may be, too. Each is told once why it waits.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection

from pelagos.clouds.values import Capabilities, TokenLookup
from pelagos.model.errors import ErrorPayload
from pelagos.model.errors import Retry as RetryClass
from pelagos.model.scope import Fence
from pelagos.model.states import OperationState
from pelagos.operations.claims import Due, due_operations, outcome_of, part_at_turn, take_over
from pelagos.operations.kinds import KINDS, Effect
from pelagos.operations.records import Failed, Outcome, Retry, Uncertain
from pelagos.operations.settling import settle

__all__ = ["decide_unopened", "tell_unopened"]

_decode_error = msgspec.msgpack.Decoder(ErrorPayload).decode
_ALL = 1_000_000
_NOBODY_CAN = Capabilities(token_lookup=TokenLookup.TAG, settle=0.0)
"""What the cloud can do is not known, and nothing that is settled here asks for it."""


def tell_unopened(
    connection: Connection, fence: Fence, account: str, error: ErrorPayload, now: float, again_at: float
) -> int:
    """Refuse what can be refused, and tell the others why they wait until ``again_at`` at least; how many were told
    anything. Raises LeaseLost, writing nothing."""
    take_over(connection, fence, account, now)
    outcomes = _decided(due_operations(connection, account, now, _ALL), error, again_at)
    if outcomes:
        settle(connection, fence, account, outcomes, _NOBODY_CAN, now)
    return len(outcomes)


def _decided(dues: Sequence[Due], error: ErrorPayload, again_at: float) -> list[Outcome]:
    found = (decide_unopened(due, error, again_at) for due in dues)
    return [outcome for outcome in found if outcome is not None]


def decide_unopened(due: Due, error: ErrorPayload, again_at: float) -> Outcome | None:
    """What becomes of an operation that is due; None: it goes on waiting, and nothing new is to be said. Pure."""
    step = KINDS[due.kind].steps[due.step]
    begins = step.effect in (Effect.CREATES, Effect.PLANS)
    if due.kind == "account.refresh":
        return outcome_of(due, step.verb, Failed(error))
    if due.kind == "server.create" and not begins and step.verb != "finish":
        return None  # its error is why it is taken back
    part = part_at_turn(due, step) if step.part else None
    if begins and step.part and part is None:
        return None
    token = due.token or ""
    if due.state == OperationState.PENDING and (token == "" or due.sent_at is None):
        if begins and error.retry is RetryClass.NEVER:
            return outcome_of(due, step.verb, Failed(error, gone=True), token, part)
        if not _told(due, error):
            return outcome_of(due, step.verb, Retry(_for_now(error), again_at), token, part)
    elif due.state == OperationState.UNCERTAIN and not _told(due, error):
        return outcome_of(due, step.verb, Uncertain(_for_now(error), again_at), token, part)
    return None


def _told(due: Due, error: ErrorPayload) -> bool:
    return due.error_blob is not None and _decode_error(due.error_blob).message == error.message


def _for_now(error: ErrorPayload) -> ErrorPayload:
    """The account may be mended: it is not the operation that is refused."""
    return msgspec.structs.replace(error, retry=RetryClass.TRANSIENT) if error.retry is RetryClass.NEVER else error
