"""Messages on their way out: many at a time on one channel, each confirmed by its number.

A publish is a few bytes put by hand into the connection's next write and one entry of a dictionary; the broker confirms
numbers, often many at once. A mandatory message that no queue takes is first returned (with the id we gave it, which
ends in its number), then confirmed: the return wins.
"""

from __future__ import annotations

import asyncio
import functools
import struct
from collections.abc import Callable
from typing import Any

import pamqp.frame
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from pelagos.exchange.amqp.wire import Channel, Message, WireLost
from pelagos.model.errors import Retry, Unavailable

__all__ = ["Nacked", "Publisher", "Returned"]

_PERSISTENT = 2
_SWEEP = 0.1
_FRAME_OVERHEAD = 8


class Nacked(Exception):
    """The broker did not take it: the queue is full."""


class Returned(Exception):
    """No queue is bound for it."""


_NACKED = Nacked()
_RETURNED = Returned()


class Publisher:
    """One connection's; it ends with it. ``lost`` is called for each message that was returned or refused while nobody
    waited to hear it."""

    def __init__(self, channel: Channel, monotonic: Callable[[], float], lost: Callable[[], None], tag: str) -> None:
        self._channel = channel
        self._monotonic = monotonic
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._count = 0
        self._prefix = f"{tag}-"
        self._pending: dict[int, tuple[asyncio.Future[None] | None, float]] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._settled: asyncio.Future[None] | None = None
        self._body_max = channel.wire.frame_max - _FRAME_OVERHEAD
        channel.on_confirm = self._confirmed
        channel.on_return = self._returned
        channel.on_closed = self._fail

    @property
    def in_flight(self) -> int:
        return len(self._pending)

    def send(
        self, exchange: str, key: str, body: bytes, *, mandatory: bool, expiration: str, conv_id: str, reply_to: str
    ) -> None:
        """Publish; whether it arrived is nobody's business here (but counted). Raises :class:`WireLost`."""
        self._write(exchange, key, body, mandatory, expiration, conv_id, reply_to)
        self._pending[self._count] = (None, 0.0)

    def confirm(
        self,
        exchange: str,
        key: str,
        body: bytes,
        *,
        mandatory: bool,
        expiration: str,
        conv_id: str,
        reply_to: str,
        until: float,
    ) -> asyncio.Future[None]:
        """Publish; the future ends when the broker has it, at the latest at ``until`` by the monotonic clock.

        It fails with :class:`Nacked`, :class:`Returned`, or an :class:`Unavailable` that says it is not known. Raises
        :class:`WireLost`."""
        self._write(exchange, key, body, mandatory, expiration, conv_id, reply_to)
        return self._watch(until)

    def confirm_persistent(
        self, queue: str, body: bytes, headers: dict[str, Any], message_id: str, until: float
    ) -> asyncio.Future[None]:
        """Publish straight to a queue, to be kept on disk."""
        if self._channel.failure is not None:
            raise WireLost(str(self._channel.failure))
        number = self._channel.number
        self._count += 1
        properties = Basic.Properties(
            content_type="application/msgpack",
            delivery_mode=_PERSISTENT,
            headers=headers,
            message_id=message_id,
            correlation_id=f"{self._prefix}{self._count}",
        )
        self._channel.wire.send(
            pamqp.frame.marshal(Basic.Publish(exchange="", routing_key=queue, mandatory=True), number)
            + pamqp.frame.marshal(ContentHeader(body_size=len(body), properties=properties), number)
            + self._body_frames(body)
        )
        return self._watch(until)

    def confirm_probe(self, exchange: str, key: str, kind: str, until: float) -> asyncio.Future[None]:
        """Publish an empty message of a type, only to hear whether a queue takes it."""
        if self._channel.failure is not None:
            raise WireLost(str(self._channel.failure))
        number = self._channel.number
        self._count += 1
        properties = Basic.Properties(message_type=kind, message_id=f"{self._prefix}{self._count}")
        self._channel.wire.send(
            _method(number, exchange, key, True)
            + bytes(pamqp.frame.marshal(ContentHeader(body_size=0, properties=properties), number))
        )
        return self._watch(until)

    async def settle(self, timeout: float) -> None:
        """Wait until everything is confirmed, or ``timeout`` seconds."""
        if self._pending and self._channel.failure is None:
            self._settled = self._loop.create_future()
            try:
                async with asyncio.timeout(timeout):
                    await self._settled
            except TimeoutError:
                return
            finally:
                self._settled = None

    # -- sending -----------------------------------------------------------------------------------------------

    def _write(
        self, exchange: str, key: str, body: bytes, mandatory: bool, expiration: str, conv_id: str, reply_to: str
    ) -> None:
        channel = self._channel
        if channel.failure is not None:
            raise WireLost(str(channel.failure))
        self._count += 1
        number = channel.number
        message_id = f"{self._prefix}{self._count}".encode()
        conversation, answer, ttl = conv_id.encode()[:255], reply_to.encode()[:255], expiration.encode()
        # content-type, delivery-mode, correlation-id, reply-to, expiration, message-id: in the order of their bits.
        flags = 0x9680 | (0x0100 if ttl else 0)
        properties = b"".join(
            (
                b"\x13application/msgpack\x01",
                bytes((len(conversation),)),
                conversation,
                bytes((len(answer),)),
                answer,
                bytes((len(ttl),)) + ttl if ttl else b"",
                bytes((len(message_id),)),
                message_id,
                b"\xce",
            )
        )
        size = len(body)
        head = struct.pack(">BHLHHQH", 2, number, 13 + len(properties), 60, 0, size, flags)
        method = _method(number, exchange, key, mandatory)
        if size <= self._body_max:
            tail = (struct.pack(">BHL", 3, number, size), body, b"\xce") if size else ()
            channel.wire.send(b"".join((method, head, properties, *tail)))
        else:
            channel.wire.send(b"".join((method, head, properties, self._body_frames(body))))

    def _body_frames(self, body: bytes) -> bytes:
        number, most = self._channel.number, self._body_max
        parts = []
        for start in range(0, len(body), most):
            part = body[start : start + most]
            parts += [struct.pack(">BHL", 3, number, len(part)), part, b"\xce"]
        return b"".join(parts)

    def _watch(self, until: float) -> asyncio.Future[None]:
        future: asyncio.Future[None] = self._loop.create_future()
        self._pending[self._count] = (future, until)
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(_SWEEP, self._sweep)
        return future

    # -- what the broker says ----------------------------------------------------------------------------------

    def _confirmed(self, tag: int, multiple: bool, taken: bool) -> None:
        pending = self._pending
        if multiple:
            # In the order of their numbers, so the walk ends at the first one that is not meant. Tag 0 means all.
            tags = []
            for known in pending:
                if tag and known > tag:
                    break
                tags.append(known)
            for known in tags:
                self._end(pending.pop(known)[0], None if taken else _NACKED)
        else:
            entry = pending.pop(tag, None)
            if entry is not None:
                self._end(entry[0], None if taken else _NACKED)
        if not pending and self._settled is not None and not self._settled.done():
            self._settled.set_result(None)

    def _returned(self, message: Message) -> None:
        name = message.properties.message_id or ""
        if not name.startswith(self._prefix):
            name = message.properties.correlation_id or ""
        tag = name.rpartition("-")[2]
        entry = self._pending.pop(int(tag), None) if tag.isascii() and tag.isdigit() else None
        if entry is not None:
            self._end(entry[0], _RETURNED)

    def _end(self, future: asyncio.Future[None] | None, error: Exception | None) -> None:
        if future is None:
            if error is not None:
                self._lost()
        elif not future.done():
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(type(error)())
                future.exception()  # looked at: whoever waits may be cancelled in this very turn of the loop

    def _sweep(self) -> None:
        now = self._monotonic()
        self._sweeper = None
        waiting = False
        for tag, (future, until) in list(self._pending.items()):
            if future is None:
                continue
            if until <= now:
                del self._pending[tag]
                if not future.done():
                    future.set_exception(_unknown("the broker did not confirm the message within its deadline"))
                    future.exception()
            else:
                waiting = True
        if waiting:
            self._sweeper = self._loop.call_later(_SWEEP, self._sweep)

    def _fail(self, error: Exception) -> None:
        pending, self._pending = self._pending, {}
        for future, _ in pending.values():
            if future is None:
                self._lost()
            elif not future.done():
                future.set_exception(_unknown("the connection to the broker was lost while the message was sent"))
                future.exception()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        if self._settled is not None and not self._settled.done():
            self._settled.set_result(None)
        # Closed by the broker (somebody deleted an exchange): nothing can be sent any more, so all begins anew.
        self._channel.wire.abort()


@functools.lru_cache(4096)
def _method(number: int, exchange: str, key: str, mandatory: bool) -> bytes:
    return bytes(pamqp.frame.marshal(Basic.Publish(exchange=exchange, routing_key=key, mandatory=mandatory), number))


def _unknown(message: str) -> Unavailable:
    error = Unavailable(message, advice="It may have arrived: look before sending it again.")
    error.retry = Retry.UNCERTAIN
    return error
