"""Receiving for a service: competing consumers of queues that all containers share.

Each subscription has a channel of its own, so that what fails for one (a queue deleted in the same moment) does not
take others with it, and two consumers on it: of the queue, within its prefetch, and of the queue for nested requests,
without one.

The last consumer answers what still waits. The queue of a service goes with its last consumer, and the broker would
drop what waits in it. So whoever leaves, and seems to be the last, first unbinds the queue (new requests are then
``Unavailable`` at once), answers what waits, and only then cancels. Somebody who joins in the same moment binds before
and after consuming; whoever leaves counts consumers after unbinding and binds again if there is another. In whatever
order these steps fall, a queue with a consumer ends up bound. Should two leave in the very same moment, both see
another, and what waits is lost with the queue: its senders' deadlines end their wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

import msgspec
from pamqp import commands as spec

from pelagos.exchange.amqp.topology import NESTED, Topology
from pelagos.exchange.amqp.wire import Channel, ChannelClosed, Message, Wire, WireLost
from pelagos.exchange.envelope import Envelope, decode
from pelagos.exchange.transport import Handler, QueueSnapshot, Receiver
from pelagos.model.errors import Conflict, InternalError, InvalidInput, Unavailable

__all__ = ["AmqpDelivery", "ServiceConsumer", "ServiceKeeper", "deadline_of"]

_ATTEMPTS = 5


class ServiceKeeper(Protocol):
    """What a consumer needs of its transport."""

    topology: Topology
    voided: int
    max_message_bytes: int

    def monotonic(self) -> float: ...

    def give_up(self, envelope: Envelope, reason: str, *, begun: bool, kept: bool = False) -> None:
        """No receiver is left for it, or it was rejected; ``kept`` as a dead letter."""
        ...

    def refuse(self, address: str, size: int, problem: str) -> None:
        """It cannot be read: to be counted and logged."""
        ...

    def bury(self, body: bytes, address: str, reason: str, deliveries: int) -> asyncio.Future[None]:
        """Make a dead letter of it; the future ends when the broker has it."""
        ...


class AmqpDelivery(msgspec.Struct, eq=False):
    """A message of a service's queue; the contract is :class:`pelagos.exchange.transport.Delivery`."""

    envelope: Envelope
    deadline: float | None
    consumer: Any  # ServiceConsumer
    channel: Any  # Channel
    tag: int
    redelivered: bool
    body: bytes
    handed_out: int
    settled: bool = False

    @property
    def last(self) -> bool:
        receiver: Receiver = self.consumer.receiver
        return receiver.durable and self.handed_out >= receiver.delivery_limit

    def ack(self) -> None:
        if self._release():
            self.channel.ack(self.tag)
            self.consumer.let_go()

    def requeue(self) -> None:
        if self._release():
            self.consumer.put_back(self, begun=False)

    def reject(self, reason: str) -> None:
        if self._release():
            self.consumer.give_up(self, reason)

    def _release(self) -> bool:
        if self.settled:
            raise InternalError(f"a message to {self.envelope.receiver} was settled twice")
        self.settled = True
        if self.consumer.unsettled.pop((self.channel, self.tag), None) is None:
            self.consumer.keeper.voided += 1  # its connection is gone: the broker hands it out again
            return False
        return True


class ServiceConsumer:
    """One subscription of a service; the contract is :class:`pelagos.exchange.transport.Subscription`."""

    def __init__(
        self,
        keeper: ServiceKeeper,
        receiver: Receiver,
        handler: Handler,
        forget: Callable[[Any], None],
        restore: Callable[[Any, str], None],
    ) -> None:
        """``forget`` is called when it is cancelled, ``restore`` when the broker ended it while the connection stands:
        it is to be attached again then."""
        self.keeper = keeper
        self.receiver = receiver
        self.unsettled: dict[tuple[Channel, int], AmqpDelivery] = {}
        self.active = True
        self._handler = handler
        self._forget = forget
        self._restore = restore
        self._channel: Channel | None = None
        self._tags: list[str] = []
        self._attached: Channel | None = None
        """The channel, once it consumes."""
        self._late: list[tuple[Channel, Message]] = []
        self._last = False
        self._burying = 0
        """Messages whose dead letters are on their way."""
        self._cancelling = asyncio.Lock()
        self._drained: asyncio.Future[None] | None = None
        topology = keeper.topology
        name = topology.work_queue if receiver.durable else topology.service_queue
        route = topology.route(receiver.address)
        main = name(receiver.address)
        self._queues = ((main, route.key), (main + "." + NESTED[:-1], NESTED + route.key))
        self._exchange = route.exchange

    @property
    def attached(self) -> bool:
        """Whether it consumes."""
        return self._attached is not None and self._attached.failure is None

    # -- coming ------------------------------------------------------------------------------------------------

    async def attach(self, wire: Wire) -> None:
        """Declare, bind and consume on a connection. Raises :class:`Conflict` if others receive at the address in
        another way, :class:`WireLost`."""
        await self._check_kind(wire)
        for attempt in range(_ATTEMPTS):
            try:
                await self._attach_once(wire)
                return
            except ChannelClosed as error:
                if error.code == 406:
                    raise Conflict(
                        f"{self.receiver.address} is received in another way already: {error.text}",
                        advice="Receivers of one address must agree on durable and delivery_limit.",
                    ) from error
                if error.code != 404 or attempt == _ATTEMPTS - 1:
                    raise Unavailable(f"the broker refuses a receiver at {self.receiver.address}: {error}") from error
                # 404: the last other consumer left, and the queue with it, between our declaration and our consuming

    async def _check_kind(self, wire: Wire) -> None:
        topology, address = self.keeper.topology, self.receiver.address
        other = topology.service_queue(address) if self.receiver.durable else topology.work_queue(address)
        channel = await wire.channel()
        try:
            found = await channel.call(spec.Queue.Declare(queue=other, passive=True))
        except ChannelClosed:
            return
        await channel.close()
        if self.receiver.durable and not found.consumer_count:
            return
        raise Conflict(
            f"{address} is {'not ' if self.receiver.durable else ''}durable already",
            advice="Receivers of one address must agree; if it changed its mind: remove_queue(NAME) in pelagos shell.",
        )

    async def _attach_once(self, wire: Wire) -> None:
        (main, _), (nested, _) = self._queues
        channel = await self._declare(wire)
        self._channel = channel
        channel.on_closed = self._closed
        await self._bind(channel)
        prefetch = self.receiver.prefetch
        tags = [await channel.consume(main, lambda m: self._take(channel, m), prefetch=prefetch)]
        tags.append(await channel.consume(nested, lambda m: self._take(channel, m)))
        self._tags = tags
        await self._bind(channel)
        channel.on_cancelled = self._consumer_gone
        self._attached = channel

    async def _declare(self, wire: Wire) -> Channel:
        """The queues, with our arguments or, if they are there with another capacity, as they are."""
        channel = await wire.channel()
        for (queue, _), capacity in zip(self._queues, (self.receiver.capacity, None), strict=True):
            try:
                await channel.call(self._declaration(queue, capacity))
            except ChannelClosed as error:
                if error.code != 406 or "x-max-length" not in error.text:
                    raise
                channel = await wire.channel()
                await channel.call(spec.Queue.Declare(queue=queue, passive=True))
        return channel

    def _declaration(self, queue: str, capacity: int | None) -> spec.Queue.Declare:
        topology, receiver = self.keeper.topology, self.receiver
        if receiver.durable:
            arguments = topology.work_arguments(capacity, receiver.delivery_limit)
        else:
            arguments = topology.service_arguments(capacity)
        return spec.Queue.Declare(queue=queue, durable=True, auto_delete=not receiver.durable, arguments=arguments)

    async def _bind(self, channel: Channel) -> None:
        for queue, key in self._queues:
            await channel.call(spec.Queue.Bind(queue=queue, exchange=self._exchange, routing_key=key))

    # -- messages ----------------------------------------------------------------------------------------------

    def _take(self, channel: Channel, message: Message) -> None:
        if not self.active:
            self._late.append((channel, message))
            return
        method, properties, body = message.method, message.properties, message.body
        envelope = self._read(channel, method.delivery_tag, body, properties)
        if envelope is None:
            return
        headers = properties.headers
        deliveries = _deliveries(headers)
        tag = method.delivery_tag
        deadline = None
        if envelope.remaining_ms is not None:
            deadline = deadline_of(envelope, properties.expiration, self.keeper.monotonic())
        delivery = AmqpDelivery(envelope, deadline, self, channel, tag, method.redelivered, body, deliveries)
        self.unsettled[(channel, tag)] = delivery
        self._handler(delivery)

    def _read(self, channel: Channel, tag: int, body: bytes, properties: Any) -> Envelope | None:
        """The message; None if it is none: it is settled then."""
        address = self.receiver.address
        try:
            if len(body) > self.keeper.max_message_bytes:
                raise InvalidInput(f"{len(body)} bytes are more than {self.keeper.max_message_bytes}")
            envelope = decode(body)
            if envelope.receiver != address:
                raise InvalidInput("it is meant for another address")
            return envelope
        except InvalidInput as error:
            self.keeper.refuse(address, len(body), error.message)
            if self.receiver.durable:
                self._bury(channel, tag, body, error.message, _deliveries(properties.headers))
            else:
                channel.ack(tag)
            return None

    def give_up(self, delivery: AmqpDelivery, reason: str) -> None:
        self.keeper.give_up(delivery.envelope, reason, begun=False, kept=self.receiver.durable)
        if self.receiver.durable:
            self._bury(delivery.channel, delivery.tag, delivery.body, reason, delivery.handed_out)
        else:
            delivery.channel.ack(delivery.tag)
        self.let_go()

    def _bury(self, channel: Channel, tag: int, body: bytes, reason: str, deliveries: int) -> None:
        """Acknowledge once the dead letter is safe; if that fails, the message comes again."""

        def safe(future: asyncio.Future[None]) -> None:
            self._burying -= 1
            if future.cancelled() or future.exception() is not None:
                channel.requeue(tag)
            else:
                channel.ack(tag)
            self.let_go()

        self._burying += 1
        self.keeper.bury(body, self.receiver.address, reason, deliveries).add_done_callback(safe)

    def put_back(self, delivery: AmqpDelivery, *, begun: bool) -> None:
        if self._last:
            self.keeper.give_up(delivery.envelope, "no process serves it any more", begun=begun)
            delivery.channel.ack(delivery.tag)
        else:
            delivery.channel.requeue(delivery.tag)
        self.let_go()

    def let_go(self) -> None:
        """Something was settled: a subscription that is cancelled gives up its channel with the last message."""
        if not self.active and not self.unsettled and not self._burying:
            if self._drained is not None and not self._drained.done():
                self._drained.set_result(None)
            if not self._cancelling.locked():
                self._release_channel()

    async def drained(self) -> None:
        """Wait, after :meth:`cancel`, until what is in hand is settled."""
        if self.unsettled or self._burying:
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained

    # -- going -------------------------------------------------------------------------------------------------

    async def cancel(self) -> None:
        async with self._cancelling:
            if not self.active:
                return
            self.active = False
            self._forget(self)
            channel = self._channel
            if channel is not None and channel.failure is None:
                try:
                    await self._leave(channel)
                except (WireLost, ChannelClosed):
                    pass  # the connection broke: nothing of it is ours any more
                except Unavailable:
                    self._release_channel()
                except BaseException:
                    # Whoever wanted it does not wait. A consumer left behind would take what others should get, so the
                    # channel goes at once, and what is in hand with it: the broker hands that out again.
                    self._release_channel()
                    raise
        if not self.unsettled and not self._burying:
            self._release_channel()

    async def close(self) -> None:
        await self.cancel()
        held = list(self.unsettled.values())
        self.unsettled.clear()
        for delivery in held:
            delivery.settled = True
            if delivery.channel.failure is None:
                self.put_back(delivery, begun=True)
        self._release_channel()

    async def _leave(self, channel: Channel) -> None:
        waiting: list[Message] = []
        try:
            if not self.receiver.durable and await self._is_last(channel):
                self._last = True
                for queue, _ in self._queues:
                    while (message := await channel.get(queue, no_ack=True)) is not None:
                        waiting.append(message)
            for tag in self._tags:
                await channel.cancel(tag)
        finally:
            late, self._late = self._late, []
            for came_on, message in late:
                if self._last:
                    waiting.append(message)
                    came_on.ack(message.method.delivery_tag)
                else:
                    came_on.requeue(message.method.delivery_tag)
            for message in waiting:
                self._answer_for(message)

    def _answer_for(self, message: Message) -> None:
        """It waited, and nobody is left to take it."""
        try:
            envelope = decode(message.body)
        except InvalidInput as error:
            self.keeper.refuse(self.receiver.address, len(message.body), error.message)
        else:
            self.keeper.give_up(envelope, "no process serves it any more", begun=False)

    async def _is_last(self, channel: Channel) -> bool:
        """Whether nobody else consumes; nothing new comes into the queue then."""
        if await self._consumers(channel) > 1:
            return False
        for queue, key in self._queues:
            await channel.call(spec.Queue.Unbind(queue=queue, exchange=self._exchange, routing_key=key))
        if await self._consumers(channel) > 1:
            await self._bind(channel)
            return False
        return True

    async def _consumers(self, channel: Channel) -> int:
        found = await channel.call(spec.Queue.Declare(queue=self._queues[0][0], passive=True))
        return int(found.consumer_count)

    def _release_channel(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None and channel.failure is None:
            channel.drop()

    def _closed(self, error: Exception) -> None:
        """The channel or its connection is gone, and with it what was in hand: the broker hands it out again."""
        for key in [key for key in self.unsettled if key[0].failure is not None]:
            del self.unsettled[key]
        self._late = [entry for entry in self._late if entry[0].failure is None]
        self.let_go()
        attached = self._attached is not None and self._attached.failure is error
        if attached and self.active and isinstance(error, ChannelClosed):
            self._restore(self, error.text)

    def _consumer_gone(self, tag: str) -> None:
        """The broker ended the consumer: somebody deleted its queue."""
        attached = self._attached
        if self.active and attached is not None and attached.failure is None:
            self._attached = None
            attached.drop()
            self._restore(self, "its queue was deleted")

    def snapshot(self) -> QueueSnapshot:
        return QueueSnapshot(self.receiver.address, 1 if self.active else 0, 0, len(self.unsettled), 0)


def _deliveries(headers: Any) -> int:
    """How often a message was handed out, this time included: quorum queues count those before."""
    before = headers.get("x-delivery-count") if headers else None
    return before + 1 if isinstance(before, int) else 1


def deadline_of(envelope: Envelope, expiration: str | None, now: float) -> float | None:
    """By our clock. The broker says what was left when it was sent at last; the time it waited in the queue is not
    known here, so this is the latest that the deadline can be: what passed it in the queue never comes."""
    remaining = envelope.remaining_ms
    if remaining is None:
        return None
    if expiration and expiration.isascii() and expiration.isdigit():
        remaining = min(remaining, int(expiration))
    return now + remaining / 1000
