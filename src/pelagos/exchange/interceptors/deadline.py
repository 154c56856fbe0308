"""Nothing is begun after its deadline.

The transport expires what waits in its queues; this one refuses what has no time left when it is sent, and what was so
long on its way that its sender cannot wait for it any more. The latter goes by the clocks of two hosts, so it allows
for their difference; where messages stay in one interpreter there is only one clock, which the transport has looked at.
"""

from __future__ import annotations

from typing import Any

import msgspec

from pelagos.exchange.envelope import Envelope
from pelagos.exchange.transport import Receiver
from pelagos.model.errors import DeadlineExceeded, Retry
from pelagos.model.world import World

__all__ = ["Deadline", "DeadlineOptions"]


class DeadlineOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    skew: float = 60.0
    """Seconds by which clocks of two hosts may differ."""


class Deadline:
    """See the module's head."""

    name = "deadline"
    replies = False

    def __init__(self, world: World, options: DeadlineOptions | None = None, *, local: bool = False) -> None:
        self._now = world.now
        self._skew = (options or DeadlineOptions()).skew
        self.sees_inbound = not local
        self._refused = 0

    def outbound(self, envelope: Envelope) -> Envelope:
        remaining = envelope.remaining_ms
        if remaining is not None and remaining <= 0:
            raise self._too_late(envelope)
        return envelope

    def inbound(self, envelope: Envelope, receiver: Receiver, redelivered: bool) -> Envelope:
        remaining = envelope.remaining_ms
        if remaining is not None and (
            remaining <= 0 or (envelope.ts and envelope.ts + remaining < (self._now() - self._skew) * 1000)
        ):
            raise self._too_late(envelope)
        return envelope

    def snapshot(self) -> dict[str, Any]:
        return {"refused": self._refused}

    def _too_late(self, envelope: Envelope) -> DeadlineExceeded:
        self._refused += 1
        error = DeadlineExceeded(f"the deadline of {envelope.op} has passed; nothing was done")
        error.retry = Retry.TRANSIENT
        return error
