"""The calling side of a process: sends requests, matches replies, keeps deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from pelagos.exchange import Envelope, Performative, Status, decode_error
from pelagos.model.errors import DeadlineExceeded, InternalError, Retry, Unavailable, from_payload
from pelagos.process.context import CONTEXT, Context
from pelagos.process.deadlines import DeadlineWatch
from pelagos.process.failures import too_large
from pelagos.process.host import Host, begin_of

__all__ = ["Caller"]

# Looking a member up in its enum costs almost as much as making a message.
_REQUEST, _AGREE = Performative.REQUEST, Performative.AGREE
_OK, _ERROR = Status.OK, Status.ERROR


class Caller:
    """Open calls of one process. Replies come to its mailbox; one that nobody waits for any more is dropped and
    counted.

    Conversations are numbered, so the last number is the tombstone of all calls that have ended: a reply to a lower one
    is late, any other is to a call that was never made.
    """

    def __init__(self, host: Host, *, address: str, process_id: str, label: str) -> None:
        self.late_replies = 0
        self.unknown_replies = 0
        self.names = host.names
        self._transport = host.transport
        self._now = host.world.now
        self._monotonic = host.world.monotonic
        self._default_timeout = host.call_timeout
        self._address = address
        self._label = label
        self._most_bytes = host.max_message_bytes
        self._prefix = f"{begin_of(process_id, self._now())}#"
        self._count = 0
        self._loop = asyncio.get_running_loop()
        self._calls: DeadlineWatch[str, asyncio.Future[Envelope]] = DeadlineWatch(
            self._loop, self._monotonic, self._expire
        )
        self._closed = False
        self._heed_no_breaks = host.transport.on_disconnect(self._disconnected)

    @property
    def pending(self) -> int:
        """Calls that wait for a reply."""
        return len(self._calls.entries)

    async def call(
        self,
        address: str,
        op: str,
        content: bytes,
        decode: Callable[[bytes], Any],
        timeout: float | None,
        context: Context | None,
    ) -> Any:
        """Send a request to a full address and return its decoded result.

        Waits ``timeout`` seconds (the host's default if None) or what is left of the context's deadline, whichever is
        shorter. Raises :class:`Unavailable` if nobody serves the address or its queue stays full,
        :class:`DeadlineExceeded` without an answer in time, and the error that the other side answered with.
        """
        here = CONTEXT.get() if context is None else context
        remaining = self._default_timeout if timeout is None else timeout
        now = self._monotonic()
        if here.deadline is not None and here.deadline - now < remaining:
            remaining = here.deadline - now
        if remaining <= 0:
            late = DeadlineExceeded(f"no time was left to call {op} of {address}; nothing was done")
            late.retry = Retry.TRANSIENT
            raise late
        if self._closed:
            raise Unavailable(f"{self._label} has ended; it calls nobody any more")
        if len(content) > self._most_bytes:
            raise too_large(f"the content of {op} for {address}", len(content), self._most_bytes)
        self._count += 1
        conversation = f"{self._prefix}{self._count}"
        request = Envelope(
            address,
            self._address,
            op,
            _REQUEST,
            conversation,
            content,
            1,
            "rpc",
            _OK,
            self._address,
            int(self._now() * 1000),
            int(remaining * 1000) or 1,
            here.depth,
            here.scope,
            here.trace or conversation,
            here.request_id if here.depth == 0 else None,
            here.assertion,
            here.expiry,
            self._label,
        )
        future: asyncio.Future[Envelope] = self._loop.create_future()
        self._calls.add(conversation, now + remaining, future)
        try:
            await self._transport.publish(request)
            reply = await future
        except _Expired:
            raise DeadlineExceeded(
                f"{op} of {address} did not answer within {remaining:.3g} s (conversation {conversation})"
            ) from None
        except BaseException:  # a reply, and the deadline, would have taken it out
            self._calls.entries.pop(conversation, None)
            raise
        if reply.status is _ERROR:
            error = from_payload(decode_error(reply.content))
            by = f"{reply.sender_name} ({reply.sender})" if reply.sender_name else reply.sender
            error.add_note(f"answered by {by} to {op} in conversation {conversation}, trace {request.trace}")
            raise error
        try:
            return decode(reply.content)
        except (msgspec.DecodeError, RecursionError) as problem:
            raise InternalError(
                f"{op} of {address} answered with something else than it declares: {problem}"
            ) from problem

    async def send(self, address: str, op: str, content: bytes) -> None:
        """Send one message that nobody answers to a full address that somebody serves; returns when it is in the
        queue, at the latest at the context's deadline. Raises as :meth:`call` does before it waits for the answer, and
        :class:`DeadlineExceeded`, of which it is not known whether the message arrived.
        """
        if self._closed:
            raise Unavailable(f"{self._label} has ended; it sends nothing any more")
        message = self._one_way(address, op, content, repeatable=True)
        deadline = CONTEXT.get().deadline
        if deadline is None:
            await self._transport.publish(message)
            return
        # The message itself has none: once it is in the queue, it waits for its receiver as long as that takes.
        remaining = deadline - self._monotonic()
        if remaining <= 0:
            late = DeadlineExceeded(f"no time was left to send {op} to {address}; nothing was done")
            late.retry = Retry.TRANSIENT
            raise late
        try:
            async with asyncio.timeout(remaining):
                await self._transport.publish(message)
        except TimeoutError:
            raise DeadlineExceeded(
                f"the exchange did not take {op} for {address} within {remaining:.3g} s",
                advice="It may have arrived: send it again under the same request id.",
            ) from None

    def post(self, address: str, op: str, content: bytes) -> None:
        """Send one hint that nobody answers, and perhaps nobody hears."""
        self._transport.post(self._one_way(address, op, content))

    def _one_way(self, address: str, op: str, content: bytes, *, repeatable: bool = False) -> Envelope:
        if len(content) > self._most_bytes:
            raise too_large(f"the content of {op} for {address}", len(content), self._most_bytes)
        here = CONTEXT.get()
        self._count += 1
        conversation = f"{self._prefix}{self._count}"
        return Envelope(
            address,
            self._address,
            op,
            Performative.INFORM,
            conversation,
            content,
            protocol="none",
            ts=int(self._now() * 1000),
            identity=here.scope,
            trace=here.trace or conversation,
            request_id=here.request_id if repeatable and here.depth == 0 else None,
            assertion=here.assertion,
            expiry=here.expiry,
            sender_name=self._label,
        )

    def take_reply(self, reply: Envelope) -> None:
        """A reply came to the mailbox."""
        if reply.performative is _AGREE:
            return  # the final answer is still to come
        entry = self._calls.entries.pop(reply.conv_id, None)
        if entry is None or entry[1].done():
            if self._has_ended(reply.conv_id):
                self.late_replies += 1
            else:
                self.unknown_replies += 1
            return
        entry[1].set_result(reply)

    def close(self) -> None:
        """Fail the calls that still wait: their replies cannot arrive any more."""
        self._closed = True
        self._calls.close()
        self._heed_no_breaks()
        self._fail_open(f"{self._label} ended before the answer came")

    def _disconnected(self) -> None:
        self._fail_open("the connection to the exchange was lost before the answer came")

    def _fail_open(self, reason: str) -> None:
        for _, future in self._calls.entries.values():
            if not future.done():
                gone = Unavailable(reason)
                gone.retry = Retry.UNCERTAIN
                future.set_exception(gone)
                future.exception()  # looked at: a caller that still waits for its publish may fail with that instead
        self._calls.entries.clear()

    def _has_ended(self, conversation: str) -> bool:
        prefix, mark, number = conversation.rpartition("#")
        return f"{prefix}{mark}" == self._prefix and number.isdecimal() and 0 < int(number) <= self._count

    def _expire(self, conversation: str, future: asyncio.Future[Envelope]) -> None:
        if not future.done():
            future.set_exception(_Expired)
            future.exception()  # looked at: a caller cancelled in this very turn of the loop never will


class _Expired(Exception):
    """The deadline passed; whoever waits knows what for."""
