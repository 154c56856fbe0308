"""One side of one conversation: its state, what has come and not been received yet, and the way to say something.

Each side steps through the table on its own. What it wants to send is stepped first, so the machine vetoes before
anything goes out; what comes is stepped on arrival, before application code sees it, so a conversation ends in time
also when nobody receives. Only :meth:`Conversation.send` and the methods that receive ever wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import msgspec

from pelagos.exchange import Envelope, Performative, Status, encode_error
from pelagos.model.errors import (
    Cancelled,
    DeadlineExceeded,
    InternalError,
    PelagosError,
    Refused,
    Unavailable,
)
from pelagos.process.context import Context
from pelagos.process.conversations.machine import Said, TimedOut, Violation, after_saying, step
from pelagos.process.conversations.message import LOST, NOT_UNDERSTOOD, ConversationError, Line, Message, granted
from pelagos.process.conversations.protocol import Outcome, Protocol
from pelagos.process.failures import too_large

if TYPE_CHECKING:
    from pelagos.process.conversations.manager import Conversations

__all__ = ["CURRENT", "Conversation", "Values"]

T = TypeVar("T")

CURRENT: ContextVar[Conversation | None] = ContextVar("pelagos_conversation", default=None)
"""The conversation whose handler runs."""

_HISTORY = 16
_GRACE = 5.0
"""Seconds in which an operation may finish when the other side has ended a conversation without a deadline."""
_encode = msgspec.msgpack.Encoder().encode


class Conversation:
    """Made by ``Process.converse`` for the initiator, and found as ``self.conversation`` in a participant's operation.

    As an asynchronous context manager it cancels what has not ended when the block is left. Iterating gives messages
    until the end, without the one that ends it.
    """

    __slots__ = (
        "_agreed",
        "_armed",
        "_buffer",
        "_cancel_wanted",
        "_consumed",
        "_drop_oldest",
        "_error",
        "_final",
        "_history",
        "_inbox",
        "_manager",
        "_waiters",
        "cancelled",
        "context",
        "credit",
        "deadline",
        "handler",
        "id",
        "initiated",
        "op",
        "outcome",
        "peer",
        "protocol",
        "role",
        "seen",
        "seq",
        "state",
        "target",
    )

    def __init__(
        self,
        manager: Conversations,
        protocol: Protocol,
        *,
        conversation_id: str,
        initiated: bool,
        target: str,
        peer: str | None,
        op: str,
        context: Context,
        deadline: float | None,
        buffer: int,
        drop_oldest: bool,
    ) -> None:
        self._manager = manager
        self.protocol = protocol
        self.id = conversation_id
        self.initiated = initiated
        self.role = protocol.roles[0 if initiated else 1]
        self.state = protocol.initial
        self.outcome: Outcome | None = None
        """None while it is open."""
        self.target = target
        """Whom the opening message was addressed to."""
        self.peer = peer
        """The process on the other side; None until it is known."""
        self.op = op
        """The operation that was asked for; messages carry it unless they name another."""
        self.context = context
        self.deadline = deadline
        self.seq = 0
        self.seen = 0
        self.credit = 0 if protocol.lease is None else protocol.lease.window
        self.cancelled = False
        """The other side wants it to end."""
        self.handler: asyncio.Task[None] | None = None
        # Lists, not deques: most conversations put two or three things into them, and an empty deque takes 600 bytes.
        self._history: list[tuple[float, bool, Performative, str, int, str, str]] = []
        self._buffer = buffer if protocol.lease is None or drop_oldest else max(buffer, protocol.lease.window)
        self._drop_oldest = drop_oldest
        self._inbox: list[Message] = []
        self._waiters: list[asyncio.Future[None]] = []
        self._final: Message | None = None
        self._error: PelagosError | None = None
        self._agreed = False
        self._cancel_wanted = False
        self._consumed = 0
        self._armed: float | None = None

    def __repr__(self) -> str:
        return f"<{self.protocol.name} {self.id} {self.role} {self.outcome or self.state}>"

    @property
    def history(self) -> tuple[Line, ...]:
        """The headers of the last messages, oldest first."""
        return tuple(Line(*line) for line in self._history)

    @property
    def error(self) -> PelagosError | None:
        """What it ended with; None while it is open, and when it ended well."""
        if self._error is None and self.outcome is not None and self.outcome is not Outcome.DONE:
            self._error = self._why()
        return self._error

    # -- receiving ---------------------------------------------------------------------------------------------

    async def receive(self) -> Message:
        """The next message, in order. Raises the error that it carries, and once there is nothing more to come the
        error that the conversation ended with, or :class:`ConversationError` if it ended well."""
        while not self._inbox:
            if self.outcome is not None:
                raise self.error or ConversationError(f"{self} has ended; nothing more will come")
            await self._change()
        message = self._inbox.pop(0)
        self._give_credit()
        error = message.error()
        if error is not None:
            raise error
        return message

    def __aiter__(self) -> AsyncIterator[Message]:
        return self

    async def __anext__(self) -> Message:
        while not self._inbox and self.outcome is None:
            await self._change()
        if self._inbox and self._inbox[0] is not self._final:
            return await self.receive()
        if self.error is not None:
            raise self.error
        raise StopAsyncIteration

    def values(self, kind: type[T] | Any = Any) -> Values[T]:
        """Iterate over the contents of what comes, as ``kind``, until the end."""
        return Values(self, kind)

    async def agreed(self) -> None:
        """Wait until the other side has agreed. Raises :class:`Refused` or whatever ended the conversation before."""
        while not self._agreed and self.outcome is None:
            await self._change()
        if not self._agreed and self.error is not None:
            raise self.error

    async def result(self, kind: type[T] | Any = Any) -> T:
        """Wait for the end; the content of the message that ended it. Raises the error that it ended with."""
        while self.outcome is None:
            await self._change()
        if self.error is not None:
            raise self.error
        if self._final is None:
            return None  # type: ignore[return-value]
        value: T = self._final.value(kind)
        return value

    # -- saying ------------------------------------------------------------------------------------------------

    async def send(self, performative: Performative, content: object = None, *, op: str = "") -> None:
        """Say something to the other side; returns when it is in its mailbox.

        Raises :class:`ConversationError` before anything goes out if the table does not allow it, and
        :class:`Unavailable`, which ends the conversation, if the other side is gone. An error of the family as content
        travels as such. Waits while it is not known which process of a service has taken the conversation, and, in a
        protocol with a lease, holds INFORM back until the other side has room.
        """
        lease = self.protocol.lease
        if self.peer is None and self.may(performative, op):
            while self.peer is None and self.outcome is None and self.state != self.protocol.initial:
                await self._change()
        if lease is not None and performative is Performative.INFORM and not self.initiated:
            while self.credit < 1 and self.outcome is None:
                await self._change()
            envelope = self._say(performative, content, op)
            self.credit -= 1
        else:
            envelope = self._say(performative, content, op)
        try:
            await self._manager.transport.publish(envelope)
        except Unavailable as error:
            self.lose(error)
            raise
        except PelagosError as error:  # this side has stepped and the other will not: they cannot go on
            self.abandon(error)
            raise

    async def inform(self, content: object = None, *, op: str = "") -> None:
        """:meth:`send` INFORM."""
        await self.send(Performative.INFORM, content, op=op)

    def agree(self, content: object = None) -> None:
        """Say AGREE: the request will be carried out. Never waits."""
        self.post(Performative.AGREE, content)

    def refuse(self, error: Refused) -> None:
        """Say REFUSE. An operation may as well raise :class:`Refused` before it has agreed."""
        self.post(Performative.REFUSE, error)

    def fail(self, error: PelagosError) -> None:
        """Say FAILURE."""
        self.post(Performative.FAILURE, error)

    def end(self, content: object = None) -> None:
        """Say INFORM_RESULT, which in most protocols is the end."""
        self.post(Performative.INFORM_RESULT, content)

    def cancel(self) -> None:
        """Ask the other side to end; :meth:`result` tells what came of it. Never waits, and does nothing after the end.

        While the other side's process is not known yet (nobody has agreed), CANCEL goes out as soon as it is.
        """
        if self.outcome is not None or self._cancel_wanted:
            return
        if self.peer is None:
            self._cancel_wanted = True
        else:
            self.post(Performative.CANCEL)

    def may(self, performative: Performative, op: str = "") -> bool:
        """Whether the table lets this side say it now."""
        if self.outcome is not None:
            return False
        return after_saying(self.protocol, self.state, self.role, performative, op or self.op) is not None

    def post(self, performative: Performative, content: object = None, *, op: str = "") -> None:
        """:meth:`send` without waiting: whether it arrived is not known."""
        self._manager.transport.post(self._say(performative, content, op))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.outcome is not None:
            return
        if self.peer is None or self.may(Performative.CANCEL):
            self.cancel()
        else:
            self.abandon(Cancelled(f"the {self.role} left the conversation"))

    # -- for the manager ---------------------------------------------------------------------------------------

    def _say(self, performative: Performative, content: object, op: str) -> Envelope:
        """Step, and make the envelope."""
        op = op or self.op
        if self.outcome is not None:
            self._manager.vetoed += 1
            raise self.error or ConversationError(f"{self} has ended; {performative} was not sent")
        to = after_saying(self.protocol, self.state, self.role, performative, op)
        if to is None:
            self._manager.vetoed += 1
            told = step(self.protocol, self.state, Said(self.role, performative, op))
            raise ConversationError(
                f"{told} (conversation {self.id})",
                details={"state": self.state, "expected": list(self.protocol.expected(self.state))},
            )
        if self.peer is None and self.state != self.protocol.initial:
            self._manager.vetoed += 1
            raise ConversationError(f"{self}: nobody has answered yet, so there is nobody to send {performative} to")
        status = Status.OK
        if isinstance(content, PelagosError):
            encoded, status = encode_error(content), Status.ERROR
        else:
            encoded = _encode(content)
        if len(encoded) > self._manager.most_bytes:
            raise too_large(f"{performative} of {op}", len(encoded), self._manager.most_bytes)
        envelope = self._envelope(performative, op, encoded, status)
        self._note(True, performative, op, self.seq, to)
        self._enter(to, received=False)
        if to in self.protocol.final:
            said = None if status is Status.OK else Message(performative, op, encoded, status)
            self._finish(to, said, own=True)
        return envelope

    def _envelope(self, performative: Performative, op: str, content: bytes, status: Status) -> Envelope:
        self.seq += 1
        manager, context, mine = self._manager, self.context, self.initiated
        opening = self.state == self.protocol.initial
        remaining = None
        if opening and self.deadline is not None:
            remaining = max(1, int((self.deadline - manager.monotonic()) * 1000))
        return Envelope(
            self.peer or self.target,
            manager.address,
            op,
            performative,
            self.id,
            content,
            self.seq,
            self.protocol.name,
            status,
            manager.address if mine else None,
            int(manager.now() * 1000),
            remaining,
            # What belongs to an open conversation passes prefetch and bounds: the buffer here bounds it.
            context.depth if opening else max(1, context.depth),
            context.scope if mine else None,
            context.trace,
            context.request_id if opening else None,
            context.assertion if mine else b"",
            context.expiry if mine else 0,
            manager.label,
        )

    def take_opening(self, envelope: Envelope, to: str) -> None:
        """The message that opened it, for the participant; ``to`` is the state it leads to."""
        self.seen = envelope.conv_seq
        self._note(False, envelope.performative, envelope.op, envelope.conv_seq, to)
        self._enter(to, received=True)
        if to in self.protocol.final:
            self._finish(to, None)

    def take(self, envelope: Envelope) -> None:
        """A message came for this side."""
        manager = self._manager
        failed = envelope.performative is Performative.FAILURE and envelope.status is Status.ERROR
        if self.peer is None or envelope.sender == self.peer:
            if envelope.conv_seq <= self.seen:
                manager.duplicates += 1
                self._note(False, envelope.performative, envelope.op, envelope.conv_seq, self.state, "duplicate")
                return
            if envelope.conv_seq > self.seen + 1 and not failed:
                manager.gaps += 1
                self._note(False, envelope.performative, envelope.op, envelope.conv_seq, self.state, "gap")
            self.seen = envelope.conv_seq
        elif not (failed and envelope.sender == self.target):
            manager.strays += 1
            return
        message = Message(envelope.performative, envelope.op, envelope.content, envelope.status)
        if failed and envelope.op == NOT_UNDERSTOOD:
            self._not_understood(message)
            return
        other = self.protocol.roles[1 if self.initiated else 0]
        to = after_saying(self.protocol, self.state, other, envelope.performative, envelope.op)
        if to is None:
            if failed:
                self.lose(message.error() or Unavailable(f"{self}: lost"))
                return
            manager.violations += 1
            self._note(False, envelope.performative, envelope.op, envelope.conv_seq, self.state, "out of the table")
            manager.answer_not_understood(
                envelope,
                self,
                ConversationError(
                    str(step(self.protocol, self.state, Said(other, envelope.performative, envelope.op))),
                    details={"expected": list(self.protocol.expected(self.state))},
                ),
            )
            return
        if self.peer is None:
            self.peer = envelope.sender
        self._note(False, envelope.performative, envelope.op, envelope.conv_seq, to)
        self._enter(to, received=True)
        self._deliver(message, ends=to in self.protocol.final)
        if to in self.protocol.final:
            self._finish(to, message, heard=True)
        else:
            self._wake()

    def _deliver(self, message: Message, *, ends: bool) -> None:
        lease = self.protocol.lease
        if lease is not None and message.op == lease.op:
            if not self.initiated:
                self.credit = min(self.credit + granted(message), lease.window)
                if self.may(Performative.AGREE, lease.op):
                    self.post(Performative.AGREE, op=lease.op)
            return
        if message.performative is Performative.CANCEL and self.handler is not None:
            self.cancelled = True
            self.handler.cancel()
            return
        if message.performative is Performative.AGREE and not self._agreed:
            self._agreed = True
            if self._cancel_wanted and not ends:
                self._cancel_wanted = False
                if self.may(Performative.CANCEL):
                    self.post(Performative.CANCEL)
            elif lease is not None and not ends:
                self._manager.renew_later(self)
            if self.protocol.auto_agree:
                return
        if len(self._inbox) >= self._buffer and not ends:
            if not self._drop_oldest:
                self.abandon(
                    Unavailable(f"{len(self._inbox)} messages wait already in {self}", details={"overloaded": True})
                )
                return
            self._inbox.pop(0)
            self._manager.dropped += 1
            self._give_credit()
        self._inbox.append(message)

    def _not_understood(self, message: Message) -> None:
        error = message.error()
        assert error is not None
        self._manager.not_understood += 1
        self._note(False, message.performative, message.op, self.seen, self.state)
        if error.code in ("gone", "not_found"):
            self.lose(error)
        elif len(self._inbox) < self._buffer:
            self._inbox.append(message)
            self._wake()

    def expire(self) -> None:
        """A time-out, or the deadline, has passed. States may follow one another until one has time left."""
        self._armed = None
        if self.outcome is not None:
            if self.handler is not None:
                self.handler.cancel()
            return
        to = step(self.protocol, self.state, TimedOut())
        if isinstance(to, Violation):
            return  # unbounded
        if to in self.protocol.final:
            self._finish(to, None)
        else:
            self._enter(to, received=True)
            self._wake()

    def renew(self) -> None:
        """Tell the other side that this one is there, and what room it has."""
        lease = self.protocol.lease
        if lease is not None and self.may(Performative.INFORM, lease.op):
            granted, self._consumed = self._consumed, 0
            self.post(Performative.INFORM, granted, op=lease.op)

    def abandon(self, error: PelagosError) -> None:
        """End it from this side, whatever the table says, and let the other side know."""
        if self.outcome is not None:
            return
        if self.may(Performative.FAILURE):
            self.post(Performative.FAILURE, error)  # its outcome is the table's
            return
        if self.peer is not None:
            self._manager.transport.post(self._envelope(Performative.FAILURE, LOST, encode_error(error), Status.ERROR))
        self.lose(error)

    def lose(self, error: PelagosError) -> None:
        """End it as LOST."""
        if self.outcome is None:
            self._end(Outcome.LOST, error)

    def _finish(self, state: str, final: Message | None, *, own: bool = False, heard: bool = False) -> None:
        """A final state was reached by the message ``final``; ``own``: this side's code said it; ``heard``: it came."""
        self.state = state
        self._final = final
        outcome = self.protocol.final[state]
        # Who waits for the next message shall hear the one that ends it well, and have time to act on it.
        self._end(outcome, None, own=own, heard=heard and outcome in (Outcome.DONE, Outcome.REFUSED))

    def _why(self) -> PelagosError:
        """The error of an end that was not good. Made when somebody looks: on one side mostly nobody does."""
        what = f"{self.op} of {self.target}"
        said = None if self._final is None else self._final.error()
        if self.outcome is Outcome.CANCELLED:
            return Cancelled(f"{what} was cancelled (conversation {self.id})")
        if said is not None:
            said.add_note(f"in conversation {self.id} about {what}")
            return said
        match self.outcome:
            case Outcome.TIMED_OUT:
                return DeadlineExceeded(f"{what} did not end in time (conversation {self.id})")
            case Outcome.REFUSED:
                return Refused(f"{what} was refused (conversation {self.id})")
            case _:
                return InternalError(f"{what} failed and did not say why (conversation {self.id})")

    def _end(self, outcome: Outcome, error: PelagosError | None, *, own: bool = False, heard: bool = False) -> None:
        self.outcome = outcome
        self._error = error
        self._cancel_wanted = False
        self._manager.ended(self)
        if self.handler is not None and not (own and self.handler is asyncio.current_task()):
            if heard and not self.handler.done():
                self._manager.watch(self, self.deadline or self._manager.monotonic() + _GRACE)
            else:
                self.handler.cancel()
        self._wake()

    def _enter(self, to: str, *, received: bool) -> None:
        """Another state, or news in the same one: set its time-out."""
        changed = to != self.state
        self.state = to
        if to in self.protocol.final:
            return
        row = self.protocol.after.get(to)
        due = self.deadline
        if row is None:
            due = None
        elif row.seconds is not None:
            if not (changed or received):
                return
            due = self._manager.monotonic() + row.seconds
            if self.deadline is not None and self.deadline < due:
                due = self.deadline
        if due != self._armed:
            self._armed = due
            self._manager.watch(self, due)

    def _give_credit(self) -> None:
        lease = self.protocol.lease
        if lease is not None and self.initiated:
            self._consumed += 1
            if 2 * self._consumed >= lease.window:
                self.renew()

    def _note(self, sent: bool, performative: Performative, op: str, seq: int, state: str, note: str = "") -> None:
        history = self._history
        if len(history) == _HISTORY:
            del history[0]
        history.append((self._manager.now(), sent, performative, op, seq, state, note))

    async def _change(self) -> None:
        """Wait until something has happened."""
        waiter = self._manager.loop.create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def _wake(self) -> None:
        if self._waiters:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)


class Values(Generic[T]):
    """The contents of a conversation's messages."""

    def __init__(self, conversation: Conversation, kind: type[T] | Any) -> None:
        self._conversation = conversation
        self._kind = kind

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        value: T = (await self._conversation.__anext__()).value(self._kind)
        return value
