"""Conformance: watches messages that go by, and tells which of them their protocol's table does not allow.

A monitor sees each message once, from outside, in the order in which they were sent: it needs no part in the
conversation, and it works on a recording as well as on live traffic, on envelopes as well as on a tap's observations
(of which the sent ones suffice). Whoever speaks first is the initiator. It knows no time, so a conversation that timed
out stays open to it until ``capacity`` newer ones have pushed it out.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable

import msgspec

from pelagos.exchange import Envelope, Performative, Status
from pelagos.exchange.observing import Observation
from pelagos.process.conversations.builtin import BUILT_IN
from pelagos.process.conversations.machine import Said, Violation, step
from pelagos.process.conversations.message import LOST, NOT_UNDERSTOOD
from pelagos.process.conversations.protocol import Outcome, Protocol

__all__ = ["Breach", "Monitor", "MonitorSnapshot"]


class Breach(msgspec.Struct, frozen=True):
    """A message that its protocol does not allow."""

    conversation: str
    sender: str
    receiver: str
    reason: str
    violation: Violation | None = None
    """None if the message was wrong in another way."""


class MonitorSnapshot(msgspec.Struct, frozen=True):
    messages: int
    open: int
    ended: dict[Outcome, int]
    breaches: int
    duplicates: int
    """Messages seen before, by sender and sequence: a transport may deliver again."""
    unknown: int
    """Messages of protocols that the monitor does not know; those of ``none`` have no conversation."""


class _Watched:
    __slots__ = ("ended", "initiator", "protocol", "seen", "state")

    def __init__(self, protocol: Protocol, initiator: str) -> None:
        self.protocol = protocol
        self.initiator = initiator
        self.state = protocol.initial
        self.seen: dict[tuple[str, bool], int] = {}
        self.ended = False


class Monitor:
    """Call it with envelopes, or :meth:`watch` a recording; ``breaches`` has the last ones."""

    def __init__(self, protocols: Iterable[Protocol] = BUILT_IN, *, capacity: int = 10_000) -> None:
        self.breaches: deque[Breach] = deque(maxlen=capacity)
        self._protocols = {protocol.name: protocol for protocol in protocols}
        self._capacity = capacity
        self._watched: OrderedDict[str, _Watched] = OrderedDict()
        self._outcomes: Counter[Outcome] = Counter()
        self._messages = 0
        self._breaches = 0
        self._duplicates = 0
        self._unknown = 0

    def watch(self, messages: Iterable[Envelope | Observation]) -> list[Breach]:
        """All breaches in a recording."""
        return [breach for message in messages if (breach := self.observe(message)) is not None]

    def __call__(self, envelope: Envelope | Observation) -> None:
        """:meth:`observe`, as a callback."""
        self.observe(envelope)

    def observe(self, envelope: Envelope | Observation) -> Breach | None:
        """A message went by; what was wrong with it, if so. The state does not follow a wrong message."""
        self._messages += 1
        protocol = self._protocols.get(envelope.protocol)
        if protocol is None:
            self._unknown += envelope.protocol != "none"
            return None
        watched = self._watched.get(envelope.conv_id)
        if watched is None:
            watched = self._watched[envelope.conv_id] = _Watched(protocol, envelope.sender)
            if len(self._watched) > self._capacity:
                self._watched.popitem(last=False)
        if watched.protocol is not protocol:
            return self._breach(envelope, f"it was {watched.protocol.name} and is now {protocol.name}")
        asks = envelope.sender == watched.initiator
        if envelope.sender == envelope.receiver and isinstance(envelope, Envelope):
            asks = envelope.reply_to is not None  # it talks to itself
        side = (envelope.sender, asks)
        if envelope.conv_seq <= watched.seen.get(side, 0):
            self._duplicates += 1
            return None
        watched.seen[side] = envelope.conv_seq
        if envelope.status is Status.ERROR and envelope.op in (NOT_UNDERSTOOD, LOST):
            if envelope.op == LOST:
                self._end(watched, Outcome.LOST)
            return None
        if watched.ended:
            return self._breach(envelope, f"{envelope.performative} after the end ({watched.state})")
        role = protocol.roles[0 if asks else 1]
        to = step(protocol, watched.state, Said(role, envelope.performative, envelope.op))
        if isinstance(to, Violation):
            if envelope.performative is Performative.FAILURE and envelope.status is Status.ERROR:
                self._end(watched, Outcome.LOST)  # a transport or a side that gave up; see the manager
                return None
            return self._breach(envelope, str(to), to)
        watched.state = to
        if to in protocol.final:
            self._end(watched, protocol.final[to])
        return None

    def snapshot(self) -> MonitorSnapshot:
        return MonitorSnapshot(
            messages=self._messages,
            open=sum(not watched.ended for watched in self._watched.values()),
            ended=dict(self._outcomes),
            breaches=self._breaches,
            duplicates=self._duplicates,
            unknown=self._unknown,
        )

    def _end(self, watched: _Watched, outcome: Outcome) -> None:
        if not watched.ended:
            watched.ended = True
            self._outcomes[outcome] += 1

    def _breach(self, envelope: Envelope | Observation, reason: str, violation: Violation | None = None) -> Breach:
        self._breaches += 1
        breach = Breach(envelope.conv_id, envelope.sender, envelope.receiver, reason, violation)
        self.breaches.append(breach)
        return breach
