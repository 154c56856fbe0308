"""The protocols that every process speaks.

``rpc`` is how :mod:`pelagos.process.calling` and :mod:`pelagos.process.serving` behave: they do not run this table, it
is for those who watch them. ``request`` is FIPA's Request with a way to cancel; a cancellation may cross any answer,
and the answer counts if it was first. ``subscribe`` is a leased stream. ``generic`` binds nobody to anything, but it
ends; that it was taken is told by AGREE.
"""

from __future__ import annotations

from pelagos.exchange import Performative
from pelagos.process.conversations.protocol import After, Lease, Outcome, Protocol, Says

__all__ = ["BUILT_IN", "GENERIC", "REQUEST", "RPC", "SUBSCRIBE"]

_ASKS, _ANSWERS = "initiator", "participant"

_REQUEST, _AGREE, _REFUSE = Performative.REQUEST, Performative.AGREE, Performative.REFUSE
_RESULT, _FAILURE = Performative.INFORM_RESULT, Performative.FAILURE
_INFORM, _CANCEL = Performative.INFORM, Performative.CANCEL

_CANCEL_TIMEOUT = 5.0
"""Seconds until a cancelled conversation counts as cancelled without an answer."""

RPC = Protocol(
    "rpc",
    initial="start",
    table=(
        Says("start", _ASKS, _REQUEST, "requested"),
        Says("requested", _ANSWERS, _AGREE, "requested"),
        Says("requested", _ANSWERS, _RESULT, "done"),
        Says("requested", _ANSWERS, _FAILURE, "failed"),
        Says("requested", _ANSWERS, _REFUSE, "refused"),
        After("requested", None, "timed_out"),
    ),
    final={
        "done": Outcome.DONE,
        "failed": Outcome.FAILED,
        "refused": Outcome.REFUSED,
        "timed_out": Outcome.TIMED_OUT,
    },
)

REQUEST = Protocol(
    "request",
    initial="start",
    table=(
        Says("start", _ASKS, _REQUEST, "requested"),
        Says("requested", _ANSWERS, _AGREE, "agreed"),
        Says("requested", _ANSWERS, _REFUSE, "refused"),
        Says("requested", _ANSWERS, _FAILURE, "failed"),
        Says("requested", _ASKS, _CANCEL, "cancelling"),
        After("requested", None, "timed_out"),
        Says("agreed", _ANSWERS, _RESULT, "done"),
        Says("agreed", _ANSWERS, _FAILURE, "failed"),
        Says("agreed", _ASKS, _CANCEL, "cancelling"),
        After("agreed", None, "timed_out"),
        Says("cancelling", _ANSWERS, _AGREE, "cancelling"),
        Says("cancelling", _ANSWERS, _REFUSE, "refused"),
        Says("cancelling", _ANSWERS, _RESULT, "done"),
        Says("cancelling", _ANSWERS, _FAILURE, "cancelled"),
        After("cancelling", _CANCEL_TIMEOUT, "cancelled"),
    ),
    final={
        "done": Outcome.DONE,
        "failed": Outcome.FAILED,
        "refused": Outcome.REFUSED,
        "cancelled": Outcome.CANCELLED,
        "timed_out": Outcome.TIMED_OUT,
    },
    auto_agree=True,
)

_RENEW = "lease.renew"
_LEASE = 30.0
"""Seconds after which a side that was not heard of is gone."""

SUBSCRIBE = Protocol(
    "subscribe",
    initial="start",
    table=(
        Says("start", _ASKS, _REQUEST, "requested"),
        Says("requested", _ANSWERS, _AGREE, "active"),
        Says("requested", _ANSWERS, _REFUSE, "refused"),
        Says("requested", _ANSWERS, _FAILURE, "failed"),
        Says("requested", _ASKS, _CANCEL, "cancelling"),
        After("requested", _LEASE, "timed_out"),
        Says("active", _ANSWERS, _INFORM, "active"),
        Says("active", _ASKS, _INFORM, "active", op=_RENEW),
        Says("active", _ANSWERS, _AGREE, "active", op=_RENEW),
        Says("active", _ANSWERS, _RESULT, "done"),
        Says("active", _ANSWERS, _FAILURE, "failed"),
        Says("active", _ASKS, _CANCEL, "cancelling"),
        After("active", _LEASE, "timed_out"),
        Says("cancelling", _ASKS, _INFORM, "cancelling", op=_RENEW),
        Says("cancelling", _ANSWERS, _AGREE, "cancelling"),
        Says("cancelling", _ANSWERS, _REFUSE, "refused"),
        Says("cancelling", _ANSWERS, _INFORM, "cancelling"),
        Says("cancelling", _ANSWERS, _RESULT, "done"),
        Says("cancelling", _ANSWERS, _FAILURE, "cancelled"),
        After("cancelling", _CANCEL_TIMEOUT, "cancelled"),
    ),
    final={
        "done": Outcome.DONE,
        "failed": Outcome.FAILED,
        "refused": Outcome.REFUSED,
        "cancelled": Outcome.CANCELLED,
        "timed_out": Outcome.TIMED_OUT,
    },
    auto_agree=True,
    lease=Lease(_RENEW, every=_LEASE / 3, window=64),
)

GENERIC = Protocol(
    "generic",
    initial="start",
    table=(
        Says("start", _ASKS, _REQUEST, "open"),
        Says("start", _ASKS, _INFORM, "open"),
        *(
            Says("open", role, performative, "open")
            for role in (_ASKS, _ANSWERS)
            for performative in (_REQUEST, _AGREE, _REFUSE, _INFORM)
        ),
        *(
            Says("open", role, performative, to)
            for role in (_ASKS, _ANSWERS)
            for performative, to in ((_RESULT, "done"), (_FAILURE, "failed"), (_CANCEL, "cancelled"))
        ),
        After("open", None, "timed_out"),
    ),
    final={
        "done": Outcome.DONE,
        "failed": Outcome.FAILED,
        "cancelled": Outcome.CANCELLED,
        "timed_out": Outcome.TIMED_OUT,
    },
    auto_agree=True,
)

BUILT_IN = (RPC, REQUEST, SUBSCRIBE, GENERIC)
