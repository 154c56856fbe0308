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
from pelagos.exchange.amqp.dead_letters import AmqpDeadLetters
from pelagos.exchange.amqp.intake import PROBE, Intake
from pelagos.exchange.amqp.link import Link
from pelagos.exchange.amqp.outlet import NO_DEADLINE_PATIENCE, Outlet
from pelagos.exchange.amqp.publisher import Nacked, Returned
from pelagos.exchange.amqp.removing import remove_durable
from pelagos.exchange.amqp.services import ServiceConsumer
from pelagos.exchange.amqp.topology import Binding, Route, Topology, mailbox_key
from pelagos.exchange.amqp.wire import ChannelClosed, Wire, WireLost
from pelagos.exchange.envelope import Envelope
from pelagos.exchange.memory import MemoryTransport
from pelagos.exchange.transport import DeadLetters, Handler, Receiver, Subscription, TransportSnapshot
from pelagos.model.errors import Conflict, InvalidInput, PelagosError, Unavailable
from pelagos.model.world import World

__all__ = ["AmqpTransport"]

log = structlog.get_logger(__name__)

_CLAIM_AGAIN = 0.3
"""Seconds that an attempt to connect again waits for the old connection's end; then there is a next one."""
_BACKLOG = 4096
"""Replies and hints kept while there is no connection."""


class AmqpTransport:
    """See the module's head and :class:`pelagos.exchange.transport.Transport`."""

    def __init__(self, world: World, config: AmqpConfig) -> None:
        self.monotonic = world.monotonic
        self.topology = Topology(config.system, config.container, config.dead_letter_limit)
        self._world = world
        self._config = config
        self._rng = world.rng("exchange.amqp")
        self._local = MemoryTransport(world, post=self.post)
        self._outlet = Outlet(config, self.topology, world.monotonic, self._wait_connected)
        self._intake = Intake(world, config, self.topology, self._local, lambda: self._link)
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
        self._backlog: deque[Envelope] = deque()
        self._listeners: dict[int, Callable[[], None]] = {}
        self._listener_count = 0
        self._letters = AmqpDeadLetters(self)
        self._posted = 0
        self._undeliverable = 0
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
            await self._connect(self._config.claim_timeout)
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
        try:
            for consumer in consumers:
                await consumer.cancel()
            await self._drain(consumers)
            for consumer in consumers:
                await consumer.close()
            await self._local.stop()
            if self._link is not None:
                await self._link.publisher.settle(self._config.drain or 0.1)
        finally:  # also when it takes too long for whoever stops it
            await self._hang_up()

    async def _hang_up(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
        link, self._link = self._link, None
        if self._up is not None and not self._up.done():
            self._up.set_result(None)
        self._undeliverable += len(self._backlog)
        self._backlog.clear()
        try:
            if self._keeper is not None:
                await asyncio.wait([self._keeper])
        finally:
            if link is not None:
                await link.wire.close()

    async def _drain(self, consumers: list[ServiceConsumer]) -> None:
        try:
            async with asyncio.timeout(self._config.drain):
                for consumer in consumers:
                    await consumer.drained()
        except TimeoutError:
            return  # the rest is given back

    async def _connect(self, patience: float) -> None:
        """``patience``: seconds that it waits for the container's id to be free."""
        link = await Link.open(
            self._world,
            self._config,
            self.topology,
            self._intake.inlets,
            mailboxes=tuple(self._intake.mailbox_keys),
            bindings=tuple(self._bindings),
            lost=self._count_undeliverable,
            patience=patience,
        )
        self._link = link  # from here on messages come, and their handlers may send
        try:
            for consumer in tuple(self._services):
                await self._attach(consumer, link.wire)
        except BaseException:
            self._link = None
            self._tell_of_break()
            await link.wire.close()
            raise

    async def _attach(self, consumer: ServiceConsumer, wire: Wire) -> None:
        """Have a receiver consume again. Should others receive at its address in another way by now, that is no reason
        to keep all of the container from its work: this one is tried again later."""
        try:
            await consumer.attach(wire)
        except Conflict as error:
            log.error("a receiver was not restored", address=consumer.receiver.address, error=str(error))
            loop = asyncio.get_running_loop()
            loop.call_later(self._config.retry_at_most, self._restore, consumer, "it was in conflict with others")

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
            if consumer.active and not consumer.attached:
                try:
                    await self._attach(consumer, link.wire)
                except (PelagosError, WireLost, ChannelClosed) as error:
                    log.warning("a receiver was not restored", address=consumer.receiver.address, error=str(error))
                    link.wire.abort()  # what cannot be mended one by one begins anew, with pauses between attempts
                    return

    def _restore(self, consumer: ServiceConsumer, reason: str) -> None:
        if not (self._open and consumer.active) or self._link is None:
            return  # whoever connects attaches them all
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
            try:
                callback()
            except Exception as error:
                log.error("whoever was told of the lost connection failed", exc_info=error)

    async def _reconnect(self) -> None:
        pause = self._config.retry_after
        taken = False
        while True:
            await asyncio.sleep(pause * self._rng.uniform(0.5, 1.0))
            try:
                await self._connect(_CLAIM_AGAIN)
                return
            except Conflict as error:
                # Most likely the connection that was lost, which the broker has not missed yet.
                if not taken:
                    log.warning("waiting for the container's id to be free on the broker", error=str(error))
                taken = True
            except (PelagosError, WireLost, ChannelClosed) as error:
                log.warning("no connection to the broker yet", broker=self._config.place, error=str(error))
            pause = min(pause * 2, self._config.retry_at_most)

    def _connected(self) -> None:
        backlog, self._backlog = self._backlog, deque()
        self._posted -= len(backlog)  # they are counted when they are posted once more
        for envelope in backlog:
            self.post(envelope)
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
        await self._outlet.publish(self._link, envelope)

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

    def post(self, envelope: Envelope) -> None:
        receiver = envelope.receiver
        if self._local.serves(receiver) or receiver.startswith(self._prefix):
            self._local.post(envelope)
            return
        self._posted += 1
        if self._link is not None:
            self._outlet.send(self._link, envelope)
        elif self._open and len(self._backlog) < _BACKLOG:
            self._backlog.append(envelope)
        else:
            self._undeliverable += 1

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
        if key not in self._intake.mailbox_keys:  # not one of this container's own names
            self._intake.mailbox_keys[key] = None
            try:
                await self._on_link(lambda link: link.bind_mailbox(self.topology.calls, key))
            except BaseException:
                self._intake.mailbox_keys.pop(key, None)
                await subscription.close()
                raise
        return subscription

    async def _subscribe_service(self, receiver: Receiver, handler: Handler) -> Subscription:
        consumer = ServiceConsumer(self._intake, receiver, handler, self._forget, self._restore)
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
                except (WireLost, ChannelClosed, Unavailable):
                    return  # the next connection binds only what is known then

    def _forget(self, consumer: ServiceConsumer) -> None:
        self._services.pop(consumer, None)

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

    async def wire(self) -> Wire:
        return (await self._wait_connected(self.monotonic() + NO_DEADLINE_PATIENCE)).wire

    async def delete_durable(self, address: str, *, reason: str | None = None) -> int:
        if self.topology.route(address).kind is not Kind.SERVICE:
            raise InvalidInput(f"{address} is no service's", advice="Only services have durable queues.")
        try:
            return await remove_durable(self._intake, await self.wire(), address, reason)
        except (WireLost, ChannelClosed, Nacked, Returned) as error:
            raise Unavailable(
                f"the queues of {address} could not be removed: {error}", advice="Try again; it goes on where it was."
            ) from error

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
            published=local.published + self._outlet.published,
            posted=local.posted + self._posted,
            undeliverable=(
                local.undeliverable + self._undeliverable + self._outlet.undeliverable + self._intake.dropped_letters
            ),
            expired=local.expired,
            returned=local.returned,
            dead_lettered=self._intake.dead_lettered,
            refused=self._intake.refused + self._outlet.refused,
            connected=self._link is not None,
            disconnects=self._disconnects,
            voided=self._intake.voided,
        )

    def _count_undeliverable(self) -> None:
        self._undeliverable += 1

    async def _probe(self, link: Link, route: Route) -> bool:
        """Whether the container that hosts a process is there: a message of no kind, which it drops."""
        try:
            await link.publisher.confirm_probe(route.exchange, route.key, PROBE, self.monotonic() + 5.0)
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
