"""What is said in a conversation, what is remembered of it, and what the protocol forbids."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from pelagos.exchange import Performative, Status, decode_error
from pelagos.model.errors import Conflict, InternalError, PelagosError, from_payload

__all__ = ["LOST", "NOT_UNDERSTOOD", "ConversationError", "Line", "Message", "granted"]

T = TypeVar("T")

NOT_UNDERSTOOD = "conversation.not_understood"
"""The operation of an error reply to a message that the table does not allow. It changes no state, on either side."""
LOST = "conversation.lost"
"""The operation of a farewell that the table does not know: the sender's side has gone."""


class ConversationError(Conflict):
    """The protocol does not allow this now; nothing was sent, and the state has not changed."""

    code = "conversation_error"


class Line(msgspec.Struct, frozen=True, gc=False):
    """A message in the history: its headers, without content."""

    at: float
    """World seconds."""
    sent: bool
    performative: Performative
    op: str
    seq: int
    state: str
    """After it."""
    note: str = ""
    """duplicate, gap, out of the table."""


class Message(msgspec.Struct, frozen=True, gc=False):
    """What the other side said."""

    performative: Performative
    op: str
    content: bytes
    status: Status = Status.OK

    def value(self, kind: type[T] | Any = Any) -> T:
        """The content as ``kind``. Raises :class:`InternalError` if it is something else."""
        try:
            decoded: T = msgspec.msgpack.decode(self.content, type=kind)
        except (msgspec.DecodeError, RecursionError) as problem:
            raise InternalError(
                f"{self.performative} of {self.op} has other content than expected: {problem}"
            ) from problem
        return decoded

    def error(self) -> PelagosError | None:
        """The error that it carries."""
        return from_payload(decode_error(self.content)) if self.status is Status.ERROR else None


def granted(message: Message) -> int:
    """How many more messages the initiator has room for; content that is no number grants none."""
    try:
        return max(0, message.value(int))
    except InternalError:
        return 0
