"""What stands between processes and a transport: each message passes every interceptor of the stack, in order.

The stack is listed in the order of sending: what goes out passes it from first to last, what comes in from last to
first. So whoever is last sees a message as it travels, and the first as processes see it.
"""

from __future__ import annotations

from typing import Any, Protocol

from pelagos.exchange.envelope import Envelope
from pelagos.exchange.transport import Receiver

__all__ = ["Interceptor"]


class Interceptor(Protocol):
    """One of the stack. Its methods are called in the loop for each message and return at once.

    To let a message pass, return it, or a changed one. To refuse it, raise an error of the family: outbound, whoever
    sends gets it (a ``post`` counts it); inbound, the message is settled, and if it is a request its sender gets the
    error as reply. Anything else that is raised is logged and becomes an :class:`InternalError`, treated alike.
    """

    @property
    def name(self) -> str:
        """As the configuration names it; unique in a stack."""
        ...

    def outbound(self, envelope: Envelope) -> Envelope: ...

    def inbound(self, envelope: Envelope, receiver: Receiver, redelivered: bool) -> Envelope:
        """``receiver`` is the address it is received at, which nobody outside can choose; the envelope's own is only
        what its sender wrote."""
        ...

    def snapshot(self) -> dict[str, Any]:
        """Counters, as plain values."""
        ...
