"""Publishing to streams and reading them.

Live readers need no registry at all: whoever publishes and whoever listens agree on a name. A durable subscription is a
row, which publishers read: they send a copy to each subscription's own durable queue, where workers share it. The way
not chosen, binding durable queues to the topic exchange, would put the truth about who is subscribed into the broker,
where nothing lists it and no transaction reaches it.

A publisher without a store serves live readers alone.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any

import msgspec

from pelagos.exchange import Delivery, Envelope, Performative, Receiver, Subscription, topic_matches
from pelagos.model.errors import InvalidInput, Unavailable
from pelagos.model.scope import Scope
from pelagos.process import Context, Process, current_context, get_logger, use_context
from pelagos.process.host import begin_of
from pelagos.services.events.reading import TopicReader
from pelagos.services.streams.messages import StreamMessage, StreamSubscription
from pelagos.services.streams.rows import address_of, bindings, check_key_patterns, check_stream_name
from pelagos.store import Store

__all__ = ["LiveStream", "StreamHandler", "StreamPublisher", "StreamWorker", "listen", "work"]

StreamHandler = Callable[[str, Any], Awaitable[None]]
"""Called with key and content."""

log = get_logger(__name__)
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(StreamMessage).decode


class StreamPublisher:
    """Publishes to one stream on behalf of a process. ``type_``: of all contents; others are refused."""

    def __init__(self, process: Process, stream: str, store: Store | None = None, type_: Any = Any) -> None:
        self._process = process
        self._stream = check_stream_name(stream)
        self._store = store
        self._type = type_
        self._bell = None if store is None else store.watch()
        if self._bell is not None:  # a publisher made for one request leaves nothing behind
            weakref.finalize(self, self._bell.close)
        self._bindings: dict[str, tuple[StreamSubscription, ...]] = {}
        self._looking = asyncio.Lock()
        self._count = 0

    async def publish(self, key: str, content: object) -> int:
        """Returns, when each durable subscription that fits has it in its queue, how many these were.

        Raises InvalidInput (key, content), and Unavailable if a queue cannot take it: then some may have got it."""
        if "*" in key or "#" in key:
            raise InvalidInput("a key has no * and no #: those are for patterns")
        check_key_patterns((key,))
        if self._type is not Any:
            try:
                content = msgspec.convert(msgspec.to_builtins(content), self._type)
            except (msgspec.ValidationError, TypeError) as error:
                raise InvalidInput(f"not what stream {self._stream} carries: {error}") from error
        context = current_context()
        world = self._process.world
        message = StreamMessage(self._stream, key, world.now(), context.scope.project_id, msgspec.Raw(_encode(content)))
        self._process.publish(f"topic:stream.{self._stream}.{key}", message)
        wanted = self._fitting(await self._subscriptions(context.scope), key)
        for address in tuple(wanted):
            self._count += 1
            envelope = Envelope(
                self._process.container.names.full(address),
                self._process.address,
                "stream",
                Performative.INFORM,
                f"{begin_of(self._process.id, world.now())}/{self._stream}#{self._count}",
                _encode(message),
                protocol="none",
                ts=int(world.now() * 1000),
                identity=context.scope,
                trace=context.trace,
                sender_name=self._process.label,
            )
            try:
                await self._process.container.transport.publish(envelope)
            except Unavailable:
                # It may have been removed in this moment, before the bell was heard.
                self._bindings.clear()
                if address in self._fitting(await self._subscriptions(context.scope), key):
                    raise
                wanted.remove(address)
        return len(wanted)

    def _fitting(self, subscriptions: tuple[StreamSubscription, ...], key: str) -> list[str]:
        return [one.address for one in subscriptions if any(topic_matches(pattern, key) for pattern in one.patterns)]

    async def _subscriptions(self, scope: Scope) -> tuple[StreamSubscription, ...]:
        """As they are in the store: read again only when anything was committed since."""
        if self._store is None or self._bell is None:
            return ()
        async with self._looking:
            if await self._bell.changed(0):
                self._bindings.clear()
            if scope.project_id not in self._bindings:
                found = await self._store.read(partial(bindings, scope=scope, stream=self._stream))
                self._bindings[scope.project_id] = found
            return self._bindings[scope.project_id]

    def close(self) -> None:
        """Let go of the store's bell."""
        if self._bell is not None:
            self._bell.close()


async def listen(
    process: Process,
    stream: str,
    handler: StreamHandler,
    patterns: str | Iterable[str] = "#",
    *,
    type_: Any = Any,
    capacity: int = 1024,
) -> LiveStream:
    """Have ``handler`` called with what is published from now on under keys that fit, one after another, until the
    process ends or :meth:`LiveStream.cancel`. The oldest is dropped if more than ``capacity`` wait.

    Contents that are no ``type_``, and those of other projects, are left out and counted. Raises InvalidInput."""
    wanted = check_key_patterns((patterns,) if isinstance(patterns, str) else patterns)
    live = LiveStream(process, check_stream_name(stream), wanted, handler, type_, capacity)
    await live.begin()
    return live


class LiveStream(TopicReader):
    """Made by :func:`listen`."""

    def __init__(
        self,
        process: Process,
        stream: str,
        patterns: tuple[str, ...],
        handler: StreamHandler,
        type_: Any,
        capacity: int,
    ) -> None:
        super().__init__(process, [f"topic:stream.{stream}.{one}" for one in patterns], capacity, f"stream {stream}")
        self._project = current_context().scope.project_id
        self._handler = handler
        self._content = msgspec.msgpack.Decoder(type_).decode
        self.foreign = 0
        """Messages of others, and of another type."""
        self.failed = 0

    async def handle(self, envelope: Envelope) -> None:
        """Decode it, and give it to the handler."""
        try:
            message = _decode(envelope.content)
            content = self._content(message.content)
        except (msgspec.DecodeError, RecursionError) as error:
            self.foreign += 1
            log.warning("not a message of this stream", address=envelope.receiver, error=str(error))
            return
        if message.project_id != self._project:
            self.foreign += 1
            return
        try:
            with use_context(_context(self._process, envelope, message)):
                await self._handler(message.key, content)
        except Exception as error:
            self.failed += 1
            log.error("stream handler failed", stream=message.stream, key=message.key, exc_info=error)


async def work(
    process: Process,
    stream: str,
    subscription: str,
    handler: StreamHandler,
    *,
    type_: Any = Any,
    concurrent: int = 1,
    attempts: int = 5,
) -> StreamWorker:
    """Take work from a durable subscription's queue, which all workers of that name share; at least once each.

    A handler that raises is called again after a back-off, ``attempts`` times in all; then the message becomes a dead
    letter with the reason, as does one that is no ``type_``. Raises InvalidInput."""
    check_stream_name(stream)
    check_stream_name(subscription)
    address = address_of(current_context().scope, stream, subscription)
    worker = StreamWorker(process, address, handler, type_, concurrent, attempts)
    await worker._begin()
    return worker


class StreamWorker:
    """Made by :func:`work`."""

    def __init__(
        self, process: Process, address: str, handler: StreamHandler, type_: Any, concurrent: int, attempts: int
    ) -> None:
        if concurrent < 1 or attempts < 1:
            raise InvalidInput("a worker works at one message at least, and tries it once at least")
        self._process = process
        self._address = process.container.names.full(address)
        self._handler = handler
        self._content = msgspec.msgpack.Decoder(type_).decode
        self._concurrent = concurrent
        self._attempts = attempts
        self._waiting: deque[Delivery] = deque()
        self._wake = asyncio.Event()
        self._subscription: Subscription | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.done = 0
        self.rejected = 0

    async def cancel(self) -> None:
        """Take nothing more; what is in hand goes back to the others. Idempotent. Not for the handler to call."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _begin(self) -> None:
        receiver = Receiver(self._address, prefetch=self._concurrent, durable=True)
        self._subscription = await self._process.container.transport.subscribe(receiver, self._admit)
        try:
            for number in range(self._concurrent):
                self._tasks.append(self._process.start_task(self._run(), name=f"stream worker {number}"))
        except BaseException:
            await self._subscription.close()
            raise

    def _admit(self, delivery: Delivery) -> None:
        self._waiting.append(delivery)
        self._wake.set()

    async def _run(self) -> None:
        try:
            while True:
                if not self._waiting:
                    self._wake.clear()
                    await self._wake.wait()
                    continue
                await self._settle(self._waiting.popleft())
        finally:
            if self._subscription is not None:
                await self._subscription.close()

    async def _settle(self, delivery: Delivery) -> None:
        try:
            message = _decode(delivery.envelope.content)
            content = self._content(message.content)
        except (msgspec.DecodeError, RecursionError) as error:
            self.rejected += 1
            delivery.reject(f"not a message of this stream: {error}")
            return
        for attempt in range(1, self._attempts + 1):
            try:
                with use_context(_context(self._process, delivery.envelope, message)):
                    await self._handler(message.key, content)
            except Exception as error:
                log.error("stream handler failed", stream=message.stream, key=message.key, exc_info=error)
                if attempt == self._attempts:
                    self.rejected += 1
                    delivery.reject(f"failed {attempt} times: {type(error).__name__}: {error}")
                    return
                await asyncio.sleep(min(0.1 * 2**attempt, 30.0))
            else:
                self.done += 1
                delivery.ack()
                return


def _context(process: Process, envelope: Envelope, message: StreamMessage) -> Context:
    scope = envelope.identity or Scope(message.project_id, "unknown")
    return Context(scope, trace=envelope.trace, process=process.id)
