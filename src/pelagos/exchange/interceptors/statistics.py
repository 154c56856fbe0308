"""How many messages went where, how they ended and how long their answers took, by address and operation.

Bounded: past ``limit`` pairs of address and operation, the rest is counted under ``other``. A call that is never
answered leaves an entry, of which the oldest go first.

All are counted; timed are the first hundred calls of an operation and one in sixteen after that, since two clocks cost
more than the rest of it. Times are kept as a histogram with bounds that grow by the power of two, from 2**-14 s (61 us)
to 2**4 s: adding to one costs no more than to a sum, and quantiles can be had.
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
_ALL_TIMED = 100
OTHER = "other"

# Looking a member up in its enum costs more than comparing it.
_REQUEST, _INFORM, _CANCEL, _AGREE = (
    Performative.REQUEST,
    Performative.INFORM,
    Performative.CANCEL,
    Performative.AGREE,
)
_ERROR = Status.ERROR


class StatisticsOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    limit: int = 1000
    """Pairs of address and operation that are counted apart."""
    open: int = 10_000
    """Calls whose answer is waited for."""


class OperationStatistics(msgspec.Struct, frozen=True):
    """Of one operation at one address. Seconds."""

    address: str
    op: str
    sent: int = 0
    received: int = 0
    answered: int = 0
    errors: int = 0
    """Of ``answered``."""
    timed: int = 0
    """Answers whose time was taken; what follows is of these."""
    seconds: float = 0.0
    """Sum of the times to the answers."""
    longest: float = 0.0
    histogram: tuple[int, ...] = (0,) * _BUCKETS
    """Answers by time: bucket ``n`` ends at 2 ** (n - 14) seconds, the last one never."""

    def quantile(self, share: float) -> float:
        """An upper bound of the time within which that share of the answers came; 0 without any."""
        wanted = share * self.timed
        seen = 0
        for bucket, count in enumerate(self.histogram):
            seen += count
            if count and seen >= wanted:
                return min(float(2.0 ** (bucket + _LOWEST)), self.longest)
        return 0.0


class _Counters:
    """An :class:`OperationStatistics` as it grows. No Struct: to change one costs several times as much."""

    __slots__ = ("address", "answered", "errors", "histogram", "longest", "op", "received", "seconds", "sent", "timed")

    def __init__(self, address: str, op: str) -> None:
        self.address = address
        self.op = op
        self.sent = self.received = self.answered = self.errors = self.timed = 0
        self.seconds = self.longest = 0.0
        self.histogram = [0] * _BUCKETS

    def read(self) -> OperationStatistics:
        return OperationStatistics(
            self.address,
            self.op,
            self.sent,
            self.received,
            self.answered,
            self.errors,
            self.timed,
            self.seconds,
            self.longest,
            tuple(self.histogram),
        )


class Statistics:
    """See the module's head."""

    name = "statistics"
    sent_replies = False

    def __init__(self, world: World, options: StatisticsOptions | None = None) -> None:
        options = options or StatisticsOptions()
        self._monotonic = world.monotonic
        self._limit = options.limit
        self._most_open = options.open
        self._by_address: dict[str, dict[str, _Counters]] = {}
        self._count = 0
        self._open: dict[str, _Counters] = {}
        self._begun: dict[str, float] = {}
        """When the calls that are timed were sent."""
        self._unanswered = 0

    def outbound(self, envelope: Envelope) -> Envelope:
        performative = envelope.performative
        if performative is _REQUEST:
            operations = self._by_address.get(envelope.receiver)
            entry = None if operations is None else operations.get(envelope.op)
            if entry is None:
                entry = self._entry(envelope.receiver, envelope.op)
            entry.sent = sent = entry.sent + 1
            pending = self._open
            pending[envelope.conv_id] = entry
            if sent < _ALL_TIMED or not sent & 15:
                self._begun[envelope.conv_id] = self._monotonic()
            if len(pending) > self._most_open:
                oldest = next(iter(pending))
                del pending[oldest]
                self._begun.pop(oldest, None)
                self._unanswered += 1
        elif performative is _INFORM:
            self._entry(envelope.receiver, envelope.op).sent += 1
        return envelope

    def inbound(self, envelope: Envelope, receiver: Receiver, redelivered: bool) -> Envelope:
        performative = envelope.performative
        if performative is _REQUEST or performative is _INFORM or performative is _CANCEL:
            operations = self._by_address.get(receiver.address)
            entry = None if operations is None else operations.get(envelope.op)
            if entry is None:
                entry = self._entry(receiver.address, envelope.op)
            entry.received += 1
        elif performative is not _AGREE:
            entry = self._open.pop(envelope.conv_id, None)
            if entry is not None:
                entry.answered += 1
                if envelope.status is _ERROR:
                    entry.errors += 1
                if envelope.conv_id in self._begun:
                    self._time(entry, self._monotonic() - self._begun.pop(envelope.conv_id))
        return envelope

    def _time(self, entry: _Counters, took: float) -> None:
        entry.timed += 1
        entry.seconds += took
        entry.longest = max(entry.longest, took)
        entry.histogram[_bucket(took)] += 1

    def operations(self) -> list[OperationStatistics]:
        """Copies of all there are, in the order they were first seen."""
        return [entry.read() for operations in self._by_address.values() for entry in operations.values()]

    def snapshot(self) -> dict[str, Any]:
        return {
            "open": len(self._open),
            "unanswered": self._unanswered,
            "operations": [msgspec.to_builtins(entry) for entry in self.operations()],
        }

    def _entry(self, address: str, op: str) -> _Counters:
        operations = self._by_address.get(address)
        if operations is not None:
            entry = operations.get(op)
            if entry is not None:
                return entry
        if self._count >= self._limit and address != OTHER:
            return self._entry(OTHER, "")
        self._count += 1
        entry = _Counters(address, op)
        self._by_address.setdefault(address, {})[op] = entry
        return entry


def _bucket(seconds: float) -> int:
    if seconds <= 0:
        return 0
    return min(max(math.frexp(seconds)[1] - _LOWEST, 0), _BUCKETS - 1)
