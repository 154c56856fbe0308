"""What stands between processes and a transport: each message passes every interceptor of the stack, in order.

The stack is listed in the order of sending: what goes out passes it from first to last, what comes in from last to
first. So whoever is last sees a message as it travels, and the first as processes see it.

What an interceptor may do with a message, and what the ancestor called it (reference section 8.1):

==============================  =============  ==================================================================
it                              ancestor       then
==============================  =============  ==================================================================
returns the envelope            ``process``    the next one has it; a changed copy takes its place
raises :class:`Done`            ``done``       the rest is skipped, but for those that are ``mandatory``
raises :class:`Drop`            ``drop``       it is settled, counted, and nobody is told
raises an error of the family   ``reject``     it is settled, counted, and whoever waits gets the error
raises anything else            ``error``      the same, as :class:`InternalError`, with the traceback in the log
raises :class:`Undecided`       (none)         inbound only: it is kept for a moment and asked about again
==============================  =============  ==================================================================
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from pelagos.exchange.envelope import Envelope
from pelagos.exchange.transport import Receiver
from pelagos.model.errors import PelagosError

__all__ = ["Done", "Drop", "Interceptor", "Undecided", "unchanged_inbound", "unchanged_outbound"]


class Done(Exception):
    """The message needs no more interceptors. Those with ``mandatory = True`` (signature, identity, policy) see it all
    the same: nobody's short cut is a way around them."""

    def __init__(self, envelope: Envelope) -> None:
        super().__init__()
        self.envelope = envelope


class Drop(Exception):
    """The message goes no further and nobody is told. ``note`` is for the log."""

    def __init__(self, note: str = "") -> None:
        super().__init__(note)
        self.note = note


class Undecided(Exception):
    """It cannot be decided yet. The same interceptor is asked again when ``until`` is done; if that takes too long, the
    message is refused with ``error``."""

    def __init__(self, until: asyncio.Future[Any], error: PelagosError) -> None:
        super().__init__(error.message)
        self.until = until
        self.error = error


class Interceptor(Protocol):
    """One of the stack. Its methods are called in the loop for each message and return at once.

    To let a message pass, return it, or a changed one. To refuse it, raise an error of the family: outbound, whoever
    sends gets it (a ``post`` counts it); inbound, the message is settled, and if it is a request its sender gets the
    error as reply. Anything else that is raised is logged and becomes an :class:`InternalError`, treated alike.

    Some optional attributes: ``mandatory = True`` says that :class:`Done` does not skip it; ``replies = False``
    that it has no interest in replies, which then do not pass it, and ``sent_replies = False`` the same of those that
    go out. One that looks at one direction only takes :func:`unchanged_inbound` or :func:`unchanged_outbound` for the
    other, which is then not called at all; one that knows only when it is made has ``sees_inbound = False``.
    """

    @property
    def name(self) -> str:
        """As the configuration names it; unique in a stack."""
        ...

    def outbound(self, envelope: Envelope) -> Envelope: ...

    def inbound(self, envelope: Envelope, receiver: Receiver, redelivered: bool) -> Envelope:
        """``receiver`` is the address it is received at, which nobody outside can choose; the envelope's own is only
        what its sender wrote. It is the same object for all messages of a subscription, and another one's is another.
        """
        ...

    def snapshot(self) -> dict[str, Any]:
        """Counters, as plain values."""
        ...


def unchanged_outbound(self: object, envelope: Envelope) -> Envelope:
    """For interceptors that only look at what comes in: ``outbound = unchanged_outbound``."""
    return envelope


def unchanged_inbound(self: object, envelope: Envelope, receiver: Receiver, redelivered: bool) -> Envelope:
    """For interceptors that only look at what goes out: ``inbound = unchanged_inbound``."""
    return envelope
