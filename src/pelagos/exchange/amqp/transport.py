"""The transport on RabbitMQ: one connection a container, kept up by a task of its own.

What a container's processes receive comes in three ways, and two of them end in a :class:`MemoryTransport` inside this
one. Everything for process addresses comes through one exclusive queue, everything published to fan-outs and topics
through another; both are consumed without acknowledgement (they die with the connection, so there is nobody to give
anything back to) and parted by address in memory, where mailboxes, prefetch, bounds and lossy subscribers are those of
the in-memory transport. So a process costs the broker nothing, and an event crosses the wire once a container, however
many subscribe. Services are the third way: :mod:`pelagos.exchange.amqp.services`.

Messages to a process of the same container do not go through the broker: its address tells who hosts it, nobody else
may receive there, and order is kept, since all that one sender sends there goes the same way. Requests to a service do,
always: its processes in all containers compete.

When the connection breaks, waiting publishes fail as uncertain, the callbacks of :meth:`AmqpTransport.on_disconnect`
are called (callers fail their open calls), and everything is declared again from what is known here: subscriptions,
bindings, the topology as data. Publishes meanwhile wait for the next connection until their deadline; replies and
hints are kept, up to a bound.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import structlog
from pamqp import commands as spec

from pelagos.exchange.address import Kind
from pelagos.exchange.amqp.config import AmqpConfig
from pelagos.exchange.amqp.dead_letters import AmqpDeadLetters, letter_headers
from pelagos.exchange.amqp.link import Inlets, Link
from pelagos.exchange.amqp.publisher import Nacked, Returned
from pelagos.exchange.amqp.services import ServiceConsumer, deadline_of
from pelagos.exchange.amqp.topology import FAILED, NESTED, Binding, Route, Topology, mailbox_key
from pelagos.exchange.amqp.wire import Channel, ChannelClosed, Message, Wire, WireLost
from pelagos.exchange.envelope import Envelope, decode, encode
from pelagos.exchange.memory import MemoryTransport
from pelagos.exchange.memory_queue import unserved
from pelagos.exchange.transport import DeadLetters, Handler, Receiver, Subscription, TransportSnapshot
from pelagos.model.errors import InvalidInput, PelagosError, Retry, Unavailable
from pelagos.model.world import World

__all__ = ["AmqpTransport"]

log = structlog.get_logger(__name__)

_NO_DEADLINE_PATIENCE = 1.0
"""Seconds that a publisher without a deadline waits for room, or for a connection."""

_CONFIRM_PATIENCE = 30.0
"""Seconds that a message without a deadline may take to be confirmed."""

_BACKLOG = 4096
"""Replies and hints kept while there is no connection."""

_PROBE = "probe"
"""The type of a message that only asks whether somebody takes it."""

_WRITE_BUFFER = 64 * 1024 * 1024
"""Bytes that the socket has not taken, beyond which nothing more is sent; replies get twice as much."""


class AmqpTransport:
    """See the module's head and :class:`pelagos.exchange.transport.Transport`."""

    def __init__(self, world: World, config: AmqpConfig) -> None:
        self.monotonic = world.monotonic
        self.topology = Topology(config.system, config.container, config.dead_letter_limit)
        self.voided = 0
        self._world = world
        self._config = config
        self._rng = world.rng("exchange.amqp")
        self._local = MemoryTransport(world, post=self.post)
        self._prefix = self.topology.prefix
        self._link: Link | None = None
        self._up: asyncio.Future[None] | None = None
        """While there is no connection: ends when there is one again, or none will be."""
        self._keeper: asyncio.Task[None] | None = None
        self._open = False
        self._services: dict[ServiceConsumer, None] = {}
        self._broken: dict[ServiceConsumer, None] = {}
        """To be attached again on the connection that stands."""
        self._wake: asyncio.Future[None] | None = None
        self._bindings: dict[Binding, int] = {}
        self._mailbox_keys: dict[str, None] = {self.topology.mailbox_key: None}
        self._gates: dict[str, deque[asyncio.Future[None]]] = {}
        self._backlog: deque[Envelope] = deque()
        self._listeners: dict[int, Callable[[], None]] = {}
        self._listener_count = 0
        self._letters = AmqpDeadLetters(self)
        self._published = 0
        self._posted = 0
        self._undeliverable = 0
        self._refused = 0
        self._dead_lettered = 0
        self._disconnects = 0

    @property
    def seal(self) -> Callable[[Envelope], Envelope] | None:
        """Set by interceptors: what the transport itself says passes it before it is sent."""
        return self._local.seal

    @seal.setter
    def seal(self, seal: Callable[[Envelope], Envelope] | None) -> None:
        self._local.seal = seal

    # -- life --------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        if self._open:
            return
        await self._local.start()
        try:
            await self._connect()
        except (WireLost, ChannelClosed) as error:
            raise Unavailable(f"the broker at {self._config.place} ended the connection: {error}") from error
        self._open = True
        # A task that no task group owns: start() and stop() may be called from different tasks, which a group does not
        # allow. This object owns it: stop() cancels and awaits it.
        self._keeper = asyncio.get_running_loop().create_task(self._keep_connected(), name="exchange amqp")

    async def stop(self) -> None:
        """Receive nothing more, wait ``drain`` seconds for what is in hand, give the rest back, close. Idempotent."""
        if not self._open:
            return
        self._open = False
        consumers = list(self._services)
        for consumer in consumers:
            await consumer.cancel()
        await self._drain(consumers)
        for consumer in consumers:
            await consumer.close()
        await self._local.stop()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        if self._up is not None and not self._up.done():
            self._up.set_result(None)
        link, self._link = self._link, None
        if link is not None:
            await link.publisher.settle(self._config.drain or 0.1)
            await link.wire.close()
        self._undeliverable += len(self._backlog)
        self._backlog.clear()

    async def _drain(self, consumers: list[ServiceConsumer]) -> None:
        try:
            async with asyncio.timeout(self._config.drain):
                for consumer in consumers:
                    await consumer.drained()
        except TimeoutError:
            return  # the rest is given back

    async def _connect(self) -> None:
        inlets = Inlets(self._take_mail, self._take_event, self._take_returned, self._take_failed)
        link = await Link.open(
            self._world,
            self._config,
            self.topology,
            inlets,
            mailboxes=tuple(self._mailbox_keys),
            bindings=tuple(self._bindings),
            lost=self._lose,
        )
        self._link = link  # from here on messages come, and their handlers may send
        try:
            for consumer in tuple(self._services):
                await consumer.attach(link.wire)
        except BaseException:
            self._link = None
            self._tell_of_break()
            await link.wire.close()
            raise

    async def _keep_connected(self) -> None:
        while True:
            try:
                await self._watch_link()
            except Exception as error:
                log.error("keeping the connection to the broker failed", broker=self._config.place, exc_info=error)
                if self._link is not None:
                    self._link.wire.abort()
                await asyncio.sleep(self._config.retry_at_most)

    async def _watch_link(self) -> None:
        """Until the connection breaks and stands again, or some receivers have been restored."""
        link = self._link
        if link is not None:
            self._wake = asyncio.get_running_loop().create_future()
            if not self._broken:
                either: tuple[asyncio.Future[Any], ...] = (link.wire.lost, self._wake)
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not link.wire.lost.done():
                await self._attach_broken(link)
                return
            self._disconnected(link.wire.lost.result())
            await link.wire.close()
        await self._reconnect()
        log.info("connected to the broker again", broker=self._config.place)
        self._connected()

    async def _attach_broken(self, link: Link) -> None:
        while self._broken:
            consumer = next(iter(self._broken))
            del self._broken[consumer]
            if consumer.active:
                try:
                    await consumer.attach(link.wire)
                except (PelagosError, WireLost, ChannelClosed) as error:
                    log.warning("a receiver was not restored", address=consumer.receiver.address, error=str(error))
                    link.wire.abort()  # what cannot be mended one by one begins anew, with pauses between attempts
                    return

    def restore(self, consumer: ServiceConsumer, reason: str) -> None:
        log.warning("the broker ended a receiver", address=consumer.receiver.address, reason=reason)
        self._broken[consumer] = None
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def _disconnected(self, reason: str) -> None:
        log.warning("the connection to the broker is lost", broker=self._config.place, reason=reason)
        self._link = None
        self._disconnects += 1
        self._broken.clear()
        self._up = asyncio.get_running_loop().create_future()
        self._tell_of_break()

    def _tell_of_break(self) -> None:
        for callback in tuple(self._listeners.values()):
            callback()

    async def _reconnect(self) -> None:
        pause = self._config.retry_after
        while True:
            await asyncio.sleep(pause * self._rng.uniform(0.5, 1.0))
            try:
                await self._connect()
                return
            except (PelagosError, WireLost, ChannelClosed) as error:
                log.warning("no connection to the broker yet", broker=self._config.place, error=str(error))
            pause = min(pause * 2, self._config.retry_at_most)

    def _connected(self) -> None:
        backlog, self._backlog = self._backlog, deque()
        for envelope in backlog:
            self._send(envelope)
        if self._up is not None:
            up, self._up = self._up, None
            if not up.done():
                up.set_result(None)

    # -- sending -----------------------------------------------------------------------------------------------

    async def publish(self, envelope: Envelope) -> None:
        receiver = envelope.receiver
        if self._local.serves(receiver) or receiver.startswith(self._prefix):
            await self._local.publish(envelope)
            return
        route = self.topology.route(receiver)
        body = self._encode(envelope)
        self._published += 1
        remaining = envelope.remaining_ms
        now = self.monotonic()
        until = now + (_NO_DEADLINE_PATIENCE if remaining is None else remaining / 1000)
        nested = envelope.depth > 0
        if self._gates and not nested and receiver in self._gates:
            # Nobody may overtake a publisher who waits for room.
            await self._publish_when_there_is_room(envelope, route, body, until)
            return
        try:
            await self._confirmed(envelope, route, body, until)
        except Nacked:
            await self._publish_when_there_is_room(envelope, route, body, until)

    async def _confirmed(self, envelope: Envelope, route: Route, body: bytes, until: float) -> None:
        """Publish once. Raises :class:`Unavailable`, and :class:`Nacked` if there is no room."""
        link = self._link
        if link is None:
            link = await self._wait_connected(until)
        expiration = ""
        patience = until
        if envelope.remaining_ms is None:
            patience = self.monotonic() + _CONFIRM_PATIENCE
        else:
            expiration = str(max(1, int((until - self.monotonic()) * 1000)))
        key = NESTED + route.key if envelope.depth > 0 and route.kind is Kind.SERVICE else route.key
        if link.wire.backlog > _WRITE_BUFFER:
            raise Unavailable(
                f"the broker at {self._config.place} takes nothing at the moment; nothing was done",
                advice="Look at the broker: it stops taking messages when its memory or disk is short.",
                details={"overloaded": True},
            )
        try:
            await link.publisher.confirm(
                route.exchange,
                key,
                body,
                mandatory=route.mandatory,
                expiration=expiration,
                conv_id=envelope.conv_id,
                reply_to=envelope.reply_to or "",
                until=patience,
            )
        except Returned:
            raise unserved(envelope.receiver) from None
        except WireLost:
            raise _lost_before_sending() from None

    async def _wait_connected(self, until: float) -> Link:
        while self._link is None:
            up = self._up
            if not self._open or up is None:
                raise Unavailable("the exchange has stopped")
            try:
                async with asyncio.timeout(max(0.0, until - self.monotonic())):
                    await asyncio.shield(up)
            except TimeoutError:
                raise Unavailable(
                    f"there is no connection to the broker at {self._config.place}; nothing was done",
                    advice="Try again later, or look at the broker.",
                ) from None
        return self._link

    async def _publish_when_there_is_room(self, envelope: Envelope, route: Route, body: bytes, until: float) -> None:
        """One publisher an address tries again, the others queue behind it, so they keep their order."""
        gate = self._gates.setdefault(envelope.receiver, deque())
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        gate.append(turn)
        pause = 0.002
        try:
            if gate[0] is not turn:
                async with asyncio.timeout(max(0.0, until - self.monotonic())):
                    await turn
            while True:
                left = until - self.monotonic()
                if left <= 0:
                    raise TimeoutError
                try:
                    await self._confirmed(envelope, route, body, until)
                    return
                except Nacked:
                    await asyncio.sleep(min(pause, max(0.0, until - self.monotonic())))
                    pause = min(pause * 2, 0.05)
        except TimeoutError:
            raise Unavailable(
                f"{envelope.receiver} is overloaded: its queue is full",
                advice="Try again later, or run more processes of it.",
                details={"overloaded": True},
            ) from None
        finally:
            gate.remove(turn)
            if not gate:
                del self._gates[envelope.receiver]
            elif not gate[0].done():
                gate[0].set_result(None)

    def post(self, envelope: Envelope) -> None:
        receiver = envelope.receiver
        if self._local.serves(receiver) or receiver.startswith(self._prefix):
            self._local.post(envelope)
            return
        self._posted += 1
        if self._link is not None:
            self._send(envelope)
        elif self._open and len(self._backlog) < _BACKLOG:
            self._backlog.append(envelope)
        else:
            self._undeliverable += 1

    def _send(self, envelope: Envelope) -> None:
        link = self._link
        try:
            route = self.topology.route(envelope.receiver)
            if link is None or link.wire.backlog > (2 * _WRITE_BUFFER if envelope.is_reply else _WRITE_BUFFER):
                self._undeliverable += 1
                return
            link.publisher.send(
                route.exchange,
                route.key,
                self._encode(envelope),
                mandatory=route.mandatory,
                expiration="" if envelope.remaining_ms is None else str(max(1, envelope.remaining_ms)),
                conv_id=envelope.conv_id,
                reply_to=envelope.reply_to or "",
            )
        except (InvalidInput, WireLost) as error:
            self._undeliverable += 1
            log.warning("not sent", receiver=envelope.receiver[:300], op=envelope.op, error=str(error))

    def _encode(self, envelope: Envelope) -> bytes:
        body = encode(envelope)
        if len(body) > self._config.max_message_bytes:
            self._refused += 1
            raise InvalidInput(
                f"a message of {len(body)} bytes; at most {self._config.max_message_bytes} may be sent",
                advice="Bulk data does not travel by message: keep it in the object store and send its name.",
            )
        return body

    # -- receiving ---------------------------------------------------------------------------------------------

    async def subscribe(self, receiver: Receiver, handler: Handler) -> Subscription:
        if not self._open:
            raise Unavailable("the exchange has stopped")
        if receiver.prefetch < 1 or receiver.capacity < 1 or receiver.delivery_limit < 1:
            raise InvalidInput(f"prefetch, capacity and delivery_limit of {receiver.address} must be at least 1")
        route = self.topology.route(receiver.address)
        if receiver.durable and route.kind is not Kind.SERVICE:
            raise InvalidInput(f"{receiver.address} cannot be durable", advice="Only services can.")
        match route.kind:
            case Kind.PROCESS:
                return await self._subscribe_process(receiver, handler)
            case Kind.SERVICE:
                return await self._subscribe_service(receiver, handler)
            case _:
                return await self._subscribe_events(receiver, handler)

    async def _subscribe_process(self, receiver: Receiver, handler: Handler) -> Subscription:
        subscription = await self._local.subscribe(receiver, handler)
        key = mailbox_key(receiver.address)
        if key not in self._mailbox_keys:  # not one of this container's own names
            self._mailbox_keys[key] = None
            await self._on_link(lambda link: link.bind_mailbox(self.topology.calls, key))
        return subscription

    async def _subscribe_service(self, receiver: Receiver, handler: Handler) -> Subscription:
        consumer = ServiceConsumer(self, receiver, handler, self._forget)
        try:
            await self._on_link(lambda link: consumer.attach(link.wire))
        except BaseException:
            await consumer.close()
            raise
        self._services[consumer] = None
        return consumer

    async def _subscribe_events(self, receiver: Receiver, handler: Handler) -> Subscription:
        bindings = self.topology.bindings(receiver.address)
        inner = await self._local.subscribe(receiver, handler)
        for binding in bindings:
            self._bindings[binding] = self._bindings.get(binding, 0) + 1
        subscription = _EventSubscription(inner, lambda: self._unbind(bindings))

        async def bind(link: Link) -> None:
            for binding in bindings:
                await link.bind_events(binding)

        try:
            await self._on_link(bind)
        except BaseException:
            await subscription.close()
            raise
        return subscription

    async def _on_link(self, action: Callable[[Link], Any]) -> None:
        """Do something on the connection, once more if it breaks meanwhile."""
        for attempt in range(2):
            link = await self._wait_connected(self.monotonic() + self._config.connect_timeout)
            try:
                await action(link)
                if self._link is not link and self._open:
                    continue
                return
            except (WireLost, ChannelClosed) as error:
                if attempt:
                    raise Unavailable(f"the connection to the broker was lost: {error}") from error
        raise Unavailable("the connection to the broker was lost")

    async def _unbind(self, bindings: tuple[Binding, ...]) -> None:
        for binding in bindings:
            left = self._bindings.get(binding, 0) - 1
            if left > 0:
                self._bindings[binding] = left
                continue
            self._bindings.pop(binding, None)
            if self._link is not None and self._open:
                try:
                    await self._link.unbind_events(binding)
                except (WireLost, ChannelClosed):
                    return  # the next connection binds only what is known then

    def _forget(self, consumer: ServiceConsumer) -> None:
        self._services.pop(consumer, None)

    def _take_mail(self, message: Message) -> None:
        if message.properties.message_type == _PROBE:
            return
        envelope = self._decode(message, "the mailboxes")
        if envelope is None:
            return
        if mailbox_key(envelope.receiver) not in self._mailbox_keys:
            self.refuse("the mailboxes", len(message.body), "it is meant for no process of this container")
            return
        self._local.accept(envelope, deadline_of(envelope, message.properties.expiration, self.monotonic()))

    def _take_event(self, message: Message) -> None:
        envelope = self._decode(message, "events")
        if envelope is None:
            return
        kind, _, name = envelope.receiver.partition(":")
        if kind not in (Kind.TOPIC, Kind.FANOUT) or not name:
            self.refuse("events", len(message.body), "it is no event")
            return
        self._local.accept(envelope, deadline_of(envelope, message.properties.expiration, self.monotonic()))

    def _decode(self, message: Message, place: str) -> Envelope | None:
        try:
            if len(message.body) > self._config.max_message_bytes:
                raise InvalidInput(f"{len(message.body)} bytes are more than {self._config.max_message_bytes}")
            return decode(message.body)
        except InvalidInput as error:
            self.refuse(place, len(message.body), error.message)
            return None

    def _take_returned(self, channel: Channel, message: Message) -> None:
        """It expired in a service's queue, or was the oldest of too many dead letters."""
        if _death(message, "queue") == self.topology.dead:
            self._undeliverable += 1
            log.warning("the oldest dead letter was dropped", limit=self._config.dead_letter_limit)
        else:
            envelope = self._decode(message, self.topology.returned)
            if envelope is not None:
                self._local.tell_expired(envelope)
        channel.ack(message.method.delivery_tag)

    def _take_failed(self, channel: Channel, message: Message) -> None:
        """It left a durable queue undone."""
        tag = message.method.delivery_tag
        envelope = self._decode(message, self.topology.failed)
        if _death(message, "reason") == "expired":
            if envelope is not None:
                self._local.tell_expired(envelope)
            channel.ack(tag)
            return
        queue = _death(message, "queue").removesuffix("." + NESTED[:-1])
        address = f"service:{queue.removeprefix(self.topology.work_queue('service:'))}"
        limit = message.method.routing_key.removeprefix(FAILED)
        deliveries = int(limit) if limit.isascii() and limit.isdigit() else 0
        reason = f"it was handed out {limit} times and never finished"

        def safe(future: asyncio.Future[None]) -> None:
            if channel.failure is None:
                if future.cancelled() or future.exception() is not None:
                    channel.requeue(tag)
                    return
                channel.ack(tag)
                if envelope is not None:
                    self.give_up(envelope, reason, begun=True, kept=True)

        self.bury(message.body, address, reason, deliveries).add_done_callback(safe)

    async def wait_served(self, address: str, timeout: float) -> bool:
        if address.startswith(self._prefix):
            return await self._local.wait_served(address, timeout)
        until = self.monotonic() + timeout
        pause = 0.02
        while True:
            if self._local.serves(address) or await self._is_served(address):
                return True
            left = until - self.monotonic()
            if left <= 0:
                return False
            await asyncio.sleep(min(pause, left))
            pause = min(pause * 1.5, 0.25)

    async def _is_served(self, address: str) -> bool:
        link = self._link
        if link is None:
            return False
        route = self.topology.route(address)
        try:
            if route.kind is Kind.PROCESS:
                return await self._probe(link, route)
            return await self._has_consumers(link.wire, address)
        except (WireLost, ChannelClosed, Unavailable):
            return False

    # -- what services and dead letters need -------------------------------------------------------------------

    @property
    def max_message_bytes(self) -> int:
        return self._config.max_message_bytes

    def give_up(self, envelope: Envelope, reason: str, *, begun: bool, kept: bool = False) -> None:
        error = Unavailable(f"{envelope.receiver}: {reason}")
        if begun:
            error.retry = Retry.UNCERTAIN
        self._local.turn_away(envelope, error, kept=kept)

    def expire(self, envelope: Envelope) -> None:
        self._local.tell_expired(envelope)

    def refuse(self, address: str, size: int, problem: str) -> None:
        self._refused += 1
        log.warning("a message was refused", address=address, bytes=size, problem=problem)

    def bury(self, body: bytes, address: str, reason: str, deliveries: int) -> asyncio.Future[None]:
        letter_id, at = self._world.new_id(), self._world.now()
        headers = letter_headers(at=at, address=address, reason=reason, deliveries=deliveries)
        link = self._link
        try:
            if link is None:
                raise WireLost("there is no connection")
            future = link.publisher.confirm_persistent(
                self.topology.dead, body, headers, letter_id, self.monotonic() + _CONFIRM_PATIENCE
            )
        except WireLost as error:
            future = asyncio.get_running_loop().create_future()
            future.set_exception(error)
            future.exception()
            return future
        self._dead_lettered += 1
        return future

    async def wire(self) -> Wire:
        return (await self._wait_connected(self.monotonic() + _NO_DEADLINE_PATIENCE)).wire

    @property
    def dead_letters(self) -> DeadLetters:
        return self._letters

    def on_disconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        self._listener_count += 1
        number = self._listener_count
        self._listeners[number] = callback
        return lambda: self._listeners.pop(number, None) and None

    def snapshot(self) -> TransportSnapshot:
        local = self._local.snapshot()
        return TransportSnapshot(
            queues=(*local.queues, *(consumer.snapshot() for consumer in self._services)),
            published=local.published + self._published,
            posted=local.posted + self._posted,
            undeliverable=local.undeliverable + self._undeliverable,
            expired=local.expired,
            returned=local.returned,
            dead_lettered=self._dead_lettered,
            refused=self._refused,
            connected=self._link is not None,
            disconnects=self._disconnects,
            voided=self.voided,
        )

    def _lose(self) -> None:
        self._undeliverable += 1

    async def _probe(self, link: Link, route: Route) -> bool:
        """Whether the container that hosts a process is there: a message of no kind, which it drops."""
        try:
            await link.publisher.confirm_probe(route.exchange, route.key, _PROBE, self.monotonic() + 5.0)
        except Returned:
            return False
        except Nacked:
            return True
        return True

    async def _has_consumers(self, wire: Wire, address: str) -> bool:
        for queue in (self.topology.service_queue(address), self.topology.work_queue(address)):
            channel = await wire.channel()
            try:
                found = await channel.call(spec.Queue.Declare(queue=queue, passive=True))
            except ChannelClosed:
                continue
            await channel.close()
            if found.consumer_count:
                return True
        return False


class _EventSubscription:
    """A subscription of the local part, and the bindings it needs on the broker."""

    def __init__(self, inner: Subscription, unbind: Callable[[], Any]) -> None:
        self._inner = inner
        self._unbind = unbind
        self._bound = True

    async def cancel(self) -> None:
        await self._inner.cancel()
        await self._let_go()

    async def close(self) -> None:
        await self._inner.close()
        await self._let_go()

    async def _let_go(self) -> None:
        if self._bound:
            self._bound = False
            await self._unbind()


def _death(message: Message, field: str) -> str:
    """Of the last queue that a message left dead, as the broker tells."""
    deaths = (message.properties.headers or {}).get("x-death")
    if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict):
        return str(deaths[0].get(field, ""))
    return ""


def _lost_before_sending() -> Unavailable:
    return Unavailable("the connection to the broker was lost; nothing was sent", advice="Try again.")
