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

from collections import deque
from typing import Any

from pelagos.exchange import Delivery, Envelope

__all__ = ["Key", "Repeats", "by_request_id"]

Key = tuple[Any, ...]

_BY_REQUEST_ID = 6
"""The length of the keys that hold a request id."""

Waiting = list[tuple[Delivery, Any]]
"""Repeats, each with the lane it came by."""


def by_request_id(envelope: Envelope) -> Key:
    """The key of a message with a request id; that of others is sender, conversation and sequence."""
    scope = envelope.identity
    return (
        envelope.request_id,
        "" if scope is None else scope.project_id,
        "" if scope is None else scope.user_id,
        envelope.op,
        envelope.content,
        envelope.reply_to is None,
    )


class Repeats:
    """The requests in progress and the replies of the last ones. ``entries[key] = None`` begins one, if it is new."""

    __slots__ = ("_bytes", "_most", "_most_bytes", "_order", "entries")

    def __init__(self, most: int = 1024, most_bytes: int = 1 << 20) -> None:
        self.entries: dict[Key, Waiting | Envelope | None] = {}
        """None: in progress; a list: in progress, and these wait for its end; an envelope: the reply it got (or, for a
        message that nobody answers, the message)."""
        self._order: deque[Key] = deque()
        self._bytes = 0
        self._most = most
        self._most_bytes = most_bytes

    def join(self, key: Key, delivery: Delivery, lane: Any) -> Envelope | None:
        """For a repeat: the recorded reply; or None, and the delivery waits for the end of the first."""
        entry = self.entries[key]
        if isinstance(entry, Envelope):
            return entry
        if entry is None:
            entry = self.entries[key] = []
        entry.append((delivery, lane))
        return None

    def end(self, key: Key, reply: Envelope) -> Waiting | None:
        """The request in progress was answered with ``reply``; returns the repeats that waited for it, if any."""
        entries, order = self.entries, self._order
        waiting = entries.get(key)
        entries[key] = reply
        order.append(key)
        self._bytes += len(reply.content)
        while len(order) > self._most or self._bytes > self._most_bytes:
            self._bytes -= len(entries.pop(order.popleft()).content)  # type: ignore[union-attr]
        return waiting  # type: ignore[return-value]

    def forget(self, key: Key) -> Waiting | None:
        """The request in progress is not recorded; returns the repeats that waited for it."""
        waiting = self.entries.pop(key, None)
        return waiting if isinstance(waiting, list) else None

    @staticmethod
    def keeps_errors(key: Key) -> bool:
        """Whether a repeat is answered with the first one's error."""
        return len(key) != _BY_REQUEST_ID
