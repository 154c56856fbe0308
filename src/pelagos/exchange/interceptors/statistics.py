"""How many messages went where, how they ended and how long their answers took, by address and operation.

Bounded: past ``limit`` pairs of address and operation, the rest is counted under ``other``. A call that is never
answered leaves an entry, of which the oldest go first. Latencies are kept as a histogram with bounds that grow by the
power of two, from 2**-14 s (61 us) to 2**4 s: adding to one costs no more than to a sum, and quantiles can be had.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from pelagos.exchange.envelope import Envelope, Performative, Status
from pelagos.exchange.transport import Receiver
from pelagos.model.world import World

__all__ = ["OperationStatistics", "Statistics", "StatisticsOptions"]

_LOWEST = -14
_BUCKETS = 20
OTHER = "other"


class StatisticsOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    limit: int = 1000
    """Pairs of address and operation that are counted apart."""
    open: int = 10_000
    """Calls whose answer is waited for."""


class OperationStatistics(msgspec.Struct):
    """Of one operation at one address. Seconds."""

    address: str
    op: str
    sent: int = 0
    received: int = 0
    answered: int = 0
    errors: int = 0
    """Of ``answered``."""
    seconds: float = 0.0
    """Sum of the times to the answers."""
    longest: float = 0.0
    histogram: list[int] = msgspec.field(default_factory=lambda: [0] * _BUCKETS)
    """Answers by time: bucket ``n`` ends at 2 ** (n - 14) seconds, the last one never."""

    def quantile(self, share: float) -> float:
        """An upper bound of the time within which that share of the answers came; 0 without any."""
        wanted = share * self.answered
        seen = 0
        for bucket, count in enumerate(self.histogram):
            seen += count
            if count and seen >= wanted:
                return min(float(2.0 ** (bucket + _LOWEST)), self.longest)
        return 0.0


class Statistics:
    """See the module's head."""

    name = "statistics"

    def __init__(self, world: World, options: StatisticsOptions | None = None) -> None:
        options = options or StatisticsOptions()
        self._monotonic = world.monotonic
        self._limit = options.limit
        self._most_open = options.open
        self._by_address: dict[str, dict[str, OperationStatistics]] = {}
        self._count = 0
        self._open: dict[str, tuple[float, OperationStatistics]] = {}
        self._unanswered = 0

    def outbound(self, envelope: Envelope) -> Envelope:
        performative = envelope.performative
        if performative is Performative.REQUEST:
            entry = self._entry(envelope.receiver, envelope.op)
            entry.sent += 1
            pending = self._open
            pending[envelope.conv_id] = (self._monotonic(), entry)
            if len(pending) > self._most_open:
                del pending[next(iter(pending))]
                self._unanswered += 1
        elif performative is Performative.INFORM:
            self._entry(envelope.receiver, envelope.op).sent += 1
        return envelope

    def inbound(self, envelope: Envelope, receiver: Receiver, redelivered: bool) -> Envelope:
        performative = envelope.performative
        if performative is Performative.INFORM_RESULT or (performative is not Performative.AGREE and envelope.is_reply):
            known = self._open.pop(envelope.conv_id, None)
            if known is not None:
                took = self._monotonic() - known[0]
                entry = known[1]
                entry.answered += 1
                entry.seconds += took
                if took > entry.longest:
                    entry.longest = took
                entry.histogram[_bucket(took)] += 1
                if envelope.status is Status.ERROR:
                    entry.errors += 1
        else:
            self._entry(receiver.address, envelope.op).received += 1
        return envelope

    def operations(self) -> list[OperationStatistics]:
        """Copies of all there are, in the order they were first seen."""
        return [
            msgspec.structs.replace(entry, histogram=list(entry.histogram))
            for operations in self._by_address.values()
            for entry in operations.values()
        ]

    def snapshot(self) -> dict[str, Any]:
        return {
            "open": len(self._open),
            "unanswered": self._unanswered,
            "operations": [msgspec.to_builtins(entry) for entry in self.operations()],
        }

    def _entry(self, address: str, op: str) -> OperationStatistics:
        operations = self._by_address.get(address)
        if operations is not None:
            entry = operations.get(op)
            if entry is not None:
                return entry
        if self._count >= self._limit and address != OTHER:
            return self._entry(OTHER, "")
        self._count += 1
        entry = OperationStatistics(address, op)
        self._by_address.setdefault(address, {})[op] = entry
        return entry


def _bucket(seconds: float) -> int:
    if seconds <= 0:
        return 0
    return min(max(math.frexp(seconds)[1] - _LOWEST, 0), _BUCKETS - 1)
