"""Requests that come twice: the repeat gets the reply to the first.

A message comes again when the transport lost its settling (the same sender, conversation and sequence), or when whoever
made the call makes it again under the same request id. While the first is in progress the repeat waits for its end;
within the window it gets the recorded reply. The window is bounded by count and bytes and lives in memory: it is a
short cut only. What makes an effect happen once is the record in the effect's own transaction
(:func:`pelagos.store.once`), which also holds after a restart and between processes.

A request id is repeated to get the work done, so what it is answered with is a result. If the first failed, the repeat
is carried out: the error may have been a passing one. Operation and content belong to the key: two different requests
under one id are not repeats.
"""

from __future__ import annotations

import hashlib
from collections import deque
from typing import Any

from pelagos.exchange import Delivery, Envelope, Performative

__all__ = ["Key", "Repeats", "by_request_id"]

Key = str | tuple[Any, ...]
"""The conversation, for the first message of a call; (sender, conversation, sequence) if another sender's has the same
name; scope, operation and content with a request id.
"""

_BY_REQUEST_ID = 6
"""The length of keys with a request id."""

_AS_IT_IS = 64
"""Bytes of content that a key holds; of longer ones it has a digest, since a thousand keys are kept."""

Waiting = list[tuple[Delivery, Any]]
"""Repeats, each with the lane it came by."""


def by_request_id(envelope: Envelope) -> Key:
    """The key of a message with a request id."""
    scope, content = envelope.identity, envelope.content
    return (
        envelope.request_id,
        "" if scope is None else scope.project_id,
        "" if scope is None else scope.user_id,
        envelope.op,
        content if len(content) <= _AS_IT_IS else (len(content), hashlib.sha256(content).digest()),
        envelope.reply_to is None,
    )


class Repeats:
    """The requests in progress and the replies of the last ones. ``entries[key] = delivery`` begins a new one."""

    __slots__ = ("_bytes", "_most", "_most_bytes", "_order", "_waiting", "entries")

    def __init__(self, most: int = 1024, most_bytes: int = 1 << 20) -> None:
        self.entries: dict[Key, Delivery | Envelope] = {}
        """A delivery: in progress; an envelope: the reply it got (or, if nobody is answered, the message)."""
        self._waiting: dict[Key, Waiting] = {}
        self._order: deque[Key] = deque()
        self._bytes = 0
        self._most = most
        self._most_bytes = most_bytes

    def true_key(self, key: Key, envelope: Envelope) -> Key:
        """The key is known; if it is another sender's conversation of that name, or another message of it, the key
        that tells them apart.
        """
        if not isinstance(key, str):
            return key
        entry = self.entries[key]
        if isinstance(entry, Envelope):
            if entry.performative is Performative.INFORM:
                same = (entry.sender, entry.conv_seq) == (envelope.sender, envelope.conv_seq)
            else:
                same = (entry.receiver, entry.conv_seq) == (envelope.reply_to, envelope.conv_seq + 1)
        else:
            first = entry.envelope
            same = (first.sender, first.conv_seq) == (envelope.sender, envelope.conv_seq)
        return key if same else (envelope.sender, envelope.conv_id, envelope.conv_seq)

    def join(self, key: Key, delivery: Delivery, lane: Any) -> Envelope | None:
        """For a repeat: the recorded reply; or None, and the delivery waits for the end of the first."""
        entry = self.entries[key]
        if isinstance(entry, Envelope):
            return entry
        self._waiting.setdefault(key, []).append((delivery, lane))
        return None

    def end(self, key: Key, reply: Envelope) -> Waiting | None:
        """The request in progress was answered with ``reply``; returns the repeats that waited for it, if any."""
        self.entries[key] = reply
        self._order.append(key)
        self._bytes += len(reply.content)
        if len(self._order) > self._most or self._bytes > self._most_bytes:
            self._trim()
        return self._waiting.pop(key, None) if self._waiting else None

    def forget(self, key: Key) -> Waiting | None:
        """The request in progress is not recorded; returns the repeats that waited for it."""
        self.entries.pop(key, None)
        return self._waiting.pop(key, None)

    def _trim(self) -> None:
        """The oldest go, some at once."""
        fewer, smaller = self._most - self._most // 16, self._most_bytes - self._most_bytes // 16
        order, entries, held = self._order, self.entries, self._bytes
        surplus = len(order) - fewer
        while order and (surplus > 0 or held > smaller):
            surplus -= 1
            old: Any = entries.pop(order.popleft())  # an envelope: what is in progress has no place in the order
            held -= len(old.content)
        self._bytes = held

    @staticmethod
    def keeps_errors(key: Key) -> bool:
        """Whether a repeat is answered with the first one's error."""
        return isinstance(key, str) or len(key) != _BY_REQUEST_ID
