"""One connection to the broker, and channels on it, until it breaks.

Sockets, TLS, the handshake, heartbeats and the codec of frames are aiormq's (the layer under aio-pika). Its channels
are not used: they keep a task each, make one more for every message, and write one message at a time, which together
costs more than all of ours. A channel here is a plain object that is handed each frame as it is read, and what is to be
sent in one turn of the loop goes out in one write. aio-pika's "robust" layer is not used either: it loses consumers;
what is to be declared anew after a break is known by :mod:`pelagos.exchange.amqp.transport`.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import ssl
import struct
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import aiormq
import pamqp.frame
import structlog
from aiormq.connection import Connection, TCPTransportFactory, TLSTransportFactory
from pamqp import commands as spec
from pamqp.base import Frame
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from pelagos.exchange.amqp.config import AmqpConfig
from pelagos.model.errors import Unavailable

__all__ = ["Channel", "ChannelClosed", "Message", "Wire", "WireLost"]

log = structlog.get_logger(__name__)

_SHORT_PATIENCE = 0.5
"""Seconds that a call waits while the broker answers nothing."""

_SILENCE = 2.0
"""Seconds in which a broker that reads at all answers."""

_PLAIN = "amqp://"

# It logs each lost connection with a traceback; we log it ourselves, once.
logging.getLogger("aiormq.connection").setLevel(logging.CRITICAL)


class WireLost(Exception):
    """The connection is gone; what was under way may have been done."""


class ChannelClosed(Exception):
    """The broker closed the channel: ``code`` 403 refused, 404 no such thing, 405 locked, 406 declared otherwise."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code} {text}")
        self.code = code
        self.text = text


class Message:
    """A message as it came: its method (Deliver, Return or GetOk), properties and body."""

    __slots__ = ("body", "method", "properties")

    def __init__(self, method: Any, properties: Any, body: bytes) -> None:
        self.method = method
        self.properties = properties
        self.body = body


class Wire:
    """An open connection. ``lost`` is done when it is one no more, for whatever reason."""

    def __init__(self, connection: Connection, writer: asyncio.StreamWriter, config: AmqpConfig) -> None:
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.frame_max = connection.connection_tune.frame_max or 131_072
        self._loop = asyncio.get_running_loop()
        self._connection = connection
        self._writer = writer
        self.silent = False
        """Somebody waited in vain for the broker to answer. Until it answers anything, nobody else waits as long: a
        broker that is short of memory reads nothing, and to leave it takes many calls."""
        self._reply_timeout = config.reply_timeout
        self._out: list[bytes] = []
        self._numbers = 0
        self._free: list[int] = []
        self._channels: dict[int, Channel] = {}
        connection.closing.add_done_callback(self._closed)

    @classmethod
    async def open(cls, config: AmqpConfig, url: str, tls: Any) -> Wire:
        """Raises :class:`Unavailable`."""
        factory = _Factory(TLSTransportFactory() if tls is not None else TCPTransportFactory())
        connection = Connection(url, context=tls, transport_factory=factory)
        try:
            async with asyncio.timeout(config.connect_timeout):
                await connection.connect()
        except (aiormq.AMQPError, OSError, TimeoutError, EOFError, asyncio.IncompleteReadError) as error:
            await _quietly_close(connection)
            raise _cannot_connect(config, error) from error
        except BaseException:
            await _quietly_close(connection)
            raise
        assert factory.writer is not None
        return cls(connection, factory.writer, config)

    @property
    def backlog(self) -> int:
        """Bytes that the socket has not taken yet."""
        return int(self._writer.transport.get_write_buffer_size())

    async def channel(self, *, confirms: bool = False) -> Channel:
        if self.lost.done():
            raise WireLost(self.lost.result())
        if self._free:
            number = self._free.pop()
        else:
            self._numbers += 1
            number = self._numbers
        channel = Channel(self, number, self._reply_timeout)
        self._channels[number] = channel
        # The reader looks channels up here and awaits ``channel.frames.put((weight, frame))``.
        self._connection.channels[number] = cast(Any, channel)
        try:
            await channel.call(spec.Channel.Open())
            if confirms:
                await channel.call(spec.Confirm.Select())
        except BaseException:
            channel.drop()  # nobody will have it, and their number is limited
            raise
        return channel

    def send(self, data: bytes) -> None:
        """Write with whatever else is to be written in this turn of the loop."""
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(data)

    def abort(self) -> None:
        """Break the socket, as a broken network does."""
        self._writer.transport.abort()

    async def close(self) -> None:
        self._flush()
        await _quietly_close(self._connection)
        self._lose("closed")

    def release(self, channel: Channel) -> None:
        """The channel is closed at both ends: its number may be used again."""
        if self._channels.pop(channel.number, None) is not None:
            self._connection.channels.pop(channel.number, None)
            self._free.append(channel.number)

    def _flush(self) -> None:
        out = self._out
        if out:
            self._out = []
            if not self._writer.is_closing():
                self._writer.write(b"".join(out) if len(out) > 1 else out[0])

    def _closed(self, closing: asyncio.Future[Any]) -> None:
        error = None if closing.cancelled() else closing.exception()
        self._lose(str(error) or type(error).__name__ if error is not None else "closed")

    def _lose(self, why: str) -> None:
        if not self.lost.done():
            self.lost.set_result(why)
            for channel in list(self._channels.values()):
                channel.fail(WireLost(why))
            self._channels.clear()


class Channel:
    """One channel. Set the callbacks before anything can come for them."""

    def __init__(self, wire: Wire, number: int, reply_timeout: float) -> None:
        self.wire = wire
        self.number = number
        self.frames = self  # what aiormq's reader calls a channel's queue of frames
        self.failure: Exception | None = None
        self.on_confirm: Callable[[int, bool, bool], None] | None = None
        """(tag, multiple, whether the broker took it)"""
        self.on_return: Callable[[Message], None] | None = None
        self.on_closed: Callable[[Exception], None] | None = None
        self.on_cancelled: Callable[[str], None] | None = None
        """The broker ended a consumer: its queue was deleted."""
        self._consumers: dict[str, Callable[[Message], None]] = {}
        self._replies: deque[asyncio.Future[Any]] = deque()
        self._reply_timeout = reply_timeout
        self._tags = 0
        self._method: Any = None
        self._properties: Any = None
        self._missing = 0
        self._body: list[bytes] = []

    async def call(self, frame: Frame) -> Any:
        """Send a synchronous method and return the broker's answer. Raises :class:`ChannelClosed`,
        :class:`WireLost`, and :class:`Unavailable` if the broker does not answer in time."""
        if self.failure is not None:
            raise self.failure
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._replies.append(future)
        self.wire.send(pamqp.frame.marshal(frame, self.number))
        loop = asyncio.get_running_loop()
        patience = min(_SHORT_PATIENCE, self._reply_timeout) if self.wire.silent else self._reply_timeout
        began = loop.time()
        try:
            async with asyncio.timeout(patience):
                return await asyncio.shield(future)
        except TimeoutError:
            raise Unavailable(f"the broker did not answer {frame.name} in {patience:g} s") from None
        finally:
            if future.done() and not future.cancelled():
                future.exception()  # looked at, also when whoever waited was cancelled meanwhile
            else:
                self.wire.silent = self.wire.silent or loop.time() - began >= _SILENCE
                future.add_done_callback(_look_at)

    def tell(self, frame: Frame) -> None:
        """Send a synchronous method whose answer nobody needs."""
        if self.failure is None:
            future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            future.add_done_callback(_look_at)
            self._replies.append(future)
            self.wire.send(pamqp.frame.marshal(frame, self.number))

    async def get(self, queue: str, *, no_ack: bool) -> Message | None:
        """The next message that waits, None if none does."""
        answer = await self.call(spec.Basic.Get(queue=queue, no_ack=no_ack))
        return answer if isinstance(answer, Message) else None

    async def consume(
        self, queue: str, take: Callable[[Message], None], *, no_ack: bool = False, prefetch: int = 0
    ) -> str:
        """Have ``take`` called for each message; returns the consumer's tag."""
        self._tags += 1
        tag = f"c{self.number}.{self._tags}"
        self._consumers[tag] = take
        if not no_ack:
            await self.call(spec.Basic.Qos(prefetch_count=min(prefetch, 65_535)))
        await self.call(spec.Basic.Consume(queue=queue, consumer_tag=tag, no_ack=no_ack))
        return tag

    async def cancel(self, tag: str) -> None:
        await self.call(spec.Basic.Cancel(consumer_tag=tag))
        self._consumers.pop(tag, None)

    def ack(self, tag: int) -> None:
        if (
            self.failure is None
        ):  # on a channel that is closed, the broker would take it for a mistake of the connection
            self.wire.send(struct.pack(">BHLHHQBB", 1, self.number, 13, 60, 80, tag, 0, 0xCE))

    def requeue(self, tag: int) -> None:
        if self.failure is None:
            self.wire.send(struct.pack(">BHLHHQBB", 1, self.number, 13, 60, 120, tag, 2, 0xCE))

    async def close(self) -> None:
        """What is not settled goes back to its queues. Idempotent."""
        if self.failure is None:
            try:
                await self.call(spec.Channel.Close(reply_code=200, reply_text="done", class_id=0, method_id=0))
            except (ChannelClosed, WireLost):
                return
            except BaseException:
                self._consumers.clear()
                self.fail(ChannelClosed(200, "closed"))  # its number is free once the broker has closed it too
                raise
            self.fail(ChannelClosed(200, "closed"))
            self.wire.release(self)

    def drop(self) -> None:
        """Close without waiting for it: nothing is taken or settled on it from now on."""
        if self.failure is None:
            self.wire.send(
                pamqp.frame.marshal(
                    spec.Channel.Close(reply_code=200, reply_text="done", class_id=0, method_id=0), self.number
                )
            )
            self._consumers.clear()
            self.fail(ChannelClosed(200, "closed"))

    def fail(self, error: Exception) -> None:
        """The channel is no more."""
        if self.failure is None:
            self.failure = error
            while self._replies:
                future = self._replies.popleft()
                if not future.done():
                    future.set_exception(error)
            if self.on_closed is not None:
                self.on_closed(error)

    # -- what aiormq's reader calls ----------------------------------------------------------------------------

    async def put(self, weighted: tuple[int, Any]) -> None:
        frame = weighted[1]
        kind = type(frame)
        if kind is ContentBody:
            self._body.append(frame.value)
            self._missing -= len(frame.value)
            if self._missing <= 0:
                self._complete()
        elif kind is ContentHeader:
            self._properties = frame.properties
            self._missing = frame.body_size
            if not self._missing:
                self._complete()
        elif kind is spec.Basic.Deliver or kind is spec.Basic.GetOk or kind is spec.Basic.Return:
            self._method = frame
        elif kind is spec.Basic.Ack:
            if self.on_confirm is not None:
                self.on_confirm(frame.delivery_tag, frame.multiple, True)
        elif kind is spec.Basic.Nack:
            if self.on_confirm is not None:
                self.on_confirm(frame.delivery_tag, frame.multiple, False)
        elif kind is spec.Channel.Close:
            self.wire.send(pamqp.frame.marshal(spec.Channel.CloseOk(), self.number))
            self.fail(ChannelClosed(frame.reply_code, frame.reply_text))
            self.wire.release(self)
        elif kind is spec.Basic.Cancel:
            self._consumers.pop(frame.consumer_tag, None)
            if self.on_cancelled is not None and self.failure is None:
                self.on_cancelled(frame.consumer_tag)
        elif self.failure is not None:  # dropped
            if kind is spec.Channel.CloseOk:
                self.wire.release(self)
        else:
            self._answer(frame)

    def _complete(self) -> None:
        method = self._method
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        message = Message(method, self._properties, body)
        self._method = self._properties = None
        self._body = []
        kind = type(method)
        if kind is spec.Basic.Deliver:
            take = self._consumers.get(method.consumer_tag)
            if take is not None:
                try:
                    take(message)
                except Exception as error:
                    # A defect of a receiver must not end the connection of all.
                    log.error("a message could not be taken", queue=method.consumer_tag, exc_info=error)
        elif kind is spec.Basic.Return:
            if self.on_return is not None:
                self.on_return(message)
        else:
            self._answer(message)

    def _answer(self, answer: Any) -> None:
        self.wire.silent = False
        if self._replies:
            future = self._replies.popleft()
            if not future.done():
                future.set_result(answer)


class _Factory(aiormq.connection.TransportFactory):
    """Opens the socket and keeps its writer, which aiormq would not share."""

    def __init__(self, inner: Any) -> None:
        self.writer: asyncio.StreamWriter | None = None
        self._inner = inner

    async def create(self, url: Any, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, self.writer = await self._inner.create(url, **kwargs)
        return reader, self.writer


def _look_at(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()


async def _quietly_close(connection: Connection) -> None:
    try:
        async with asyncio.timeout(3):
            await connection.close(aiormq.exceptions.ConnectionClosed(0, "closed"))
    except (aiormq.AMQPError, OSError, TimeoutError, AttributeError):
        return  # it is going away: nothing is left to be done about it


def _cannot_connect(config: AmqpConfig, error: BaseException) -> Unavailable:
    if isinstance(error, aiormq.exceptions.AuthenticationError | aiormq.exceptions.ProbableAuthenticationError):
        return Unavailable(
            f"the broker at {config.place} does not accept the user and password",
            advice="Look at the broker's URL or credential file.",
        )
    if isinstance(error, aiormq.exceptions.ConnectionNotAllowed):
        return Unavailable(
            f"the broker at {config.place} does not let this user into the virtual host",
            advice="Create the virtual host, or give the user permissions on it.",
        )
    if isinstance(error, aiormq.exceptions.InvalidFrameError) and "Connection.OpenOk" in str(error):
        # The broker closed instead; aiormq drops what it said. Of what may be wrong there, it is the virtual host.
        return Unavailable(
            f"the broker at {config.place} has no virtual host {config.virtual_host!r}, or does not let this user in",
            advice="Create the virtual host, give the user permissions on it, or correct its name.",
        )
    why, advice = _reason(config, error)
    return Unavailable(f"no broker answers at {config.place}: {why}", advice=advice)


def _reason(config: AmqpConfig, error: BaseException) -> tuple[str, str]:
    """Why the socket did not come to be, and what to do. aiormq hides the system's error behind one of its own."""
    advice = "Start RabbitMQ there, or look at the broker's URL."
    causes = (error, error.__cause__)
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {cause.verify_message}", "Look at ca_file in broker_options."
        if isinstance(cause, ssl.SSLError):
            advice = f"Look whether its port for TLS is another one; for a broker without TLS, write {_PLAIN}."
            return f"TLS failed ({cause.reason or cause}); is there no TLS on this port?", advice
        if isinstance(cause, socket.gaierror):
            return "the host's name is unknown", "Look at the host in the broker's URL, and at the resolver."
        if isinstance(cause, ConnectionRefusedError):
            return "connection refused", advice
    if isinstance(error, TimeoutError):
        return f"no answer within {config.connect_timeout:g} s", advice
    numbers = [cause.errno for cause in causes if isinstance(cause, OSError) and cause.errno]
    if numbers and numbers[0] in errno.errorcode:
        return os.strerror(numbers[0]).lower(), advice
    if isinstance(error, ConnectionError | EOFError):
        return f"it ended the connection ({type(error).__name__}); is it a broker, and is TLS wanted?", advice
    return type(error).__name__, advice
