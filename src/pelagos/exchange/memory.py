"""The transport inside one interpreter: queues as deques, deliveries as function calls.

Envelopes are frozen and their content is bytes, so they are handed over by reference. A message goes from its sender's
``publish`` into the receiver's handler within one call when a consumer has room: no task of ours lies between. The way
not chosen, an ``asyncio.Queue`` and a reading task a receiver, costs two task switches and several futures a message,
for nothing that the contract asks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pelagos.exchange.address import Kind, kind_of, topic_matches
from pelagos.exchange.envelope import Envelope, Performative, Status, encode_error, reply_to
from pelagos.exchange.memory_letters import MemoryDeadLetters
from pelagos.exchange.memory_queue import MemoryConsumer, MemoryDelivery, MemoryQueue, unserved
from pelagos.exchange.transport import DeadLetters, Handler, Receiver, Subscription, TransportSnapshot
from pelagos.model.errors import Conflict, DeadlineExceeded, InvalidInput, Retry, Unavailable
from pelagos.model.world import World

__all__ = ["MemoryTransport"]

# Looking a member up in its enum costs almost as much as making a message.
_RESULT = Performative.INFORM_RESULT

_NO_DEADLINE_PATIENCE = 1.0
"""Seconds that a publisher without a deadline waits for room."""


class MemoryTransport:
    """See the module's head and :class:`pelagos.exchange.transport.Transport`."""

    def __init__(
        self,
        world: World,
        *,
        post: Callable[[Envelope], None] | None = None,
        dead_letter_limit: int = 10_000,
    ) -> None:
        """``post`` takes the answers that the transport itself gives, if this is the local part of a larger one."""
        self._letters = MemoryDeadLetters(world, self.publish, self.lose, dead_letter_limit)
        self.monotonic = world.monotonic
        self._post_answer = self.post if post is None else post
        self.seal: Callable[[Envelope], Envelope] | None = None
        """Set by interceptors: what the transport itself says passes it before it is sent."""
        self._now = world.now
        self._queues: dict[str, MemoryQueue] = {}
        self._fanouts: dict[str, list[MemoryQueue]] = {}
        self._topics: list[MemoryQueue] = []
        self._waiters: dict[str, list[asyncio.Future[None]]] = {}
        self._open = False
        self._published = 0
        self._posted = 0
        self._expired = 0
        self._returned = 0
        self._undeliverable = 0

    async def start(self) -> None:
        self._open = True

    async def stop(self) -> None:
        self._open = False
        everyone = [*self._queues.values(), *(q for qs in self._fanouts.values() for q in qs), *self._topics]
        for queue in everyone:
            for consumer in list(queue.consumers):
                consumer.close_now()

    async def publish(self, envelope: Envelope) -> None:
        queue = self._queues.get(envelope.receiver)
        deadline = None
        if envelope.remaining_ms is not None:
            deadline = self.monotonic() + envelope.remaining_ms / 1000
        if queue is not None and (queue.consumers or self._open):
            self._published += 1
            # Nobody may overtake a publisher who waits for room.
            if (not queue.publishers or envelope.depth) and queue.offer(envelope, deadline):
                return
            await self._publish_when_there_is_room(envelope, deadline, queue)
            return
        if not self._open:
            raise Unavailable("the exchange has stopped")
        match kind_of(envelope.receiver):
            case Kind.FANOUT | Kind.TOPIC:
                self._published += 1
                self._copy_to_subscribers(envelope, deadline)
            case Kind.PROCESS | Kind.SERVICE:
                raise unserved(envelope.receiver)

    def post(self, envelope: Envelope) -> None:
        self._posted += 1
        queue = self._queues.get(envelope.receiver)
        if queue is not None:
            if envelope.performative is _RESULT and queue.consumers:
                queue.next_consumer().hand(envelope, None)
            elif not queue.offer(envelope, None):
                self._undeliverable += 1
        elif kind_of(envelope.receiver) in (Kind.FANOUT, Kind.TOPIC):
            self._copy_to_subscribers(envelope, None)
        else:
            self._undeliverable += 1

    def serves(self, address: str) -> bool:
        """Whether a process or service address has a receiver here."""
        queue = self._queues.get(address)
        return queue is not None and bool(queue.consumers)

    def accept(self, envelope: Envelope, deadline: float | None) -> None:
        """Take a message that came from outside: nobody waits for it to be queued, so a request that finds no receiver
        or no room is answered."""
        queue = self._queues.get(envelope.receiver)
        if queue is not None:
            if envelope.performative is _RESULT and queue.consumers:
                queue.next_consumer().hand(envelope, None)
            elif not queue.offer(envelope, deadline):
                self.turn_away(envelope, _overloaded(queue))
        elif kind_of(envelope.receiver) in (Kind.FANOUT, Kind.TOPIC):
            self._copy_to_subscribers(envelope, deadline)
        else:
            self.turn_away(envelope, unserved(envelope.receiver))

    async def subscribe(self, receiver: Receiver, handler: Handler) -> Subscription:
        if not self._open:
            raise Unavailable("the exchange has stopped")
        if receiver.delivery_limit < 1:
            raise InvalidInput(f"the delivery limit of {receiver.address} must be at least 1")
        if receiver.durable and kind_of(receiver.address) is not Kind.SERVICE:
            raise InvalidInput(f"{receiver.address} cannot be durable", advice="Only services can.")
        if receiver.prefetch < 1 or receiver.capacity < 1:
            raise InvalidInput(f"prefetch and capacity of {receiver.address} must be at least 1")
        queue = self._queue_for(receiver)
        consumer = MemoryConsumer(queue, handler, receiver.prefetch)
        queue.consumers.append(consumer)
        for waiter in self._waiters.pop(receiver.address, ()):
            if not waiter.done():
                waiter.set_result(None)
        queue.pump()
        return consumer

    async def wait_served(self, address: str, timeout: float) -> bool:
        if self.serves(address):
            return True
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(address, []).append(waiter)
        try:
            async with asyncio.timeout(timeout):
                await waiter
        except TimeoutError:
            return False
        finally:
            waiting = self._waiters.get(address)
            if waiting is not None and waiter in waiting:
                waiting.remove(waiter)
                if not waiting:
                    del self._waiters[address]
        return True

    async def delete_durable(self, address: str, *, reason: str | None = None) -> int:
        if kind_of(address) is not Kind.SERVICE:
            raise InvalidInput(f"{address} is no service's", advice="Only services have durable queues.")
        queue = self._queues.get(address)
        if queue is None or not queue.durable:
            return 0
        if queue.consumers:
            raise Conflict(f"{address} is served by somebody", advice="Stop who receives there first.")
        self._remove_queue(queue)
        queue.durable = False  # what comes back late finds nobody
        waited = 0
        while queue.waiting:
            delivery = queue.waiting.popleft()
            if delivery.deadline is not None and delivery.deadline <= self.monotonic():
                self.expire(delivery)
                continue
            waited += 1
            delivery.begun = delivery.handed_out > 0
            if reason is not None:
                self.bury(delivery, reason)
            error = _given_up(delivery, reason or "it was removed")
            self.turn_away(delivery.envelope, error, kept=reason is not None)
        queue.turn_publishers_away()
        return waited

    def on_disconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        return lambda: None

    @property
    def dead_letters(self) -> DeadLetters:
        return self._letters

    def snapshot(self) -> TransportSnapshot:
        queues = [*self._queues.values(), *(q for qs in self._fanouts.values() for q in qs), *self._topics]
        return TransportSnapshot(
            queues=tuple(q.snapshot() for q in queues),
            published=self._published,
            posted=self._posted,
            undeliverable=self._undeliverable,
            expired=self._expired,
            returned=self._returned,
            dead_lettered=self._letters.buried,
        )

    # -- what the queues tell: pelagos.exchange.memory_queue.Keeper -------------------------------------------------

    def lose(self) -> None:
        self._undeliverable += 1

    def give_up(self, delivery: MemoryDelivery, reason: str) -> None:
        """No receiver is left for it: a request is answered, anything else is counted."""
        self.turn_away(delivery.envelope, _given_up(delivery, reason), kept=delivery.queue.durable)

    def expire(self, delivery: MemoryDelivery) -> None:
        """Its deadline passed in the queue."""
        self.tell_expired(delivery.envelope)

    def tell_expired(self, request: Envelope) -> None:
        """A message's deadline passed in a queue: a request is answered."""
        self._expired += 1
        if request.wants_answer:
            error = DeadlineExceeded(f"{request.receiver}: the deadline passed in its queue; nothing was done")
            error.retry = Retry.TRANSIENT
            self._answer(request, encode_error(error))

    def bury(self, delivery: MemoryDelivery, reason: str) -> None:
        self._letters.bury(delivery, reason)

    def turn_away(self, request: Envelope, error: Unavailable, *, kept: bool = False) -> None:
        """Answer a request that is not delivered; anything else is counted, unless it is kept as a dead letter."""
        if not request.wants_answer:
            self._undeliverable += not kept
            return
        self._returned += 1
        self._answer(request, encode_error(error))

    def _answer(self, request: Envelope, content: bytes) -> None:
        answer = reply_to(
            request,
            Performative.FAILURE,
            content,
            sender=request.receiver,
            status=Status.ERROR,
            ts=int(self._now() * 1000),
        )
        self._post_answer(answer if self.seal is None else self.seal(answer))

    async def _publish_when_there_is_room(self, envelope: Envelope, deadline: float | None, queue: MemoryQueue) -> None:
        patience = _NO_DEADLINE_PATIENCE if deadline is None else deadline - self.monotonic()
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        place = (waiter, envelope, deadline)
        queue.publishers.append(place)
        try:
            async with asyncio.timeout(max(0.0, patience)):
                await waiter
        except BaseException as error:
            if place in queue.publishers:
                queue.publishers.remove(place)
            if not isinstance(error, TimeoutError):
                raise
            if waiter.cancelled() or not waiter.done():
                raise _overloaded(queue) from None
            waiter.result()  # it was taken in the very moment that its time was up

    def _copy_to_subscribers(self, envelope: Envelope, deadline: float | None) -> None:
        kind, _, name = envelope.receiver.partition(":")
        if kind == Kind.FANOUT:
            queues = self._fanouts.get(envelope.receiver, [])
        else:
            queues = [q for q in self._topics if topic_matches(q.address.partition(":")[2], name)]
        for queue in list(queues):
            queue.offer(envelope, deadline)

    def _queue_for(self, receiver: Receiver) -> MemoryQueue:
        address = receiver.address
        match kind_of(address):
            case Kind.FANOUT:
                subscribers = self._fanouts.setdefault(address, [])
                queue = MemoryQueue(self, address, receiver.capacity, lossy=True, on_empty=self._remove_fanout)
                subscribers.append(queue)
                return queue
            case Kind.TOPIC:
                queue = MemoryQueue(self, address, receiver.capacity, lossy=True, on_empty=self._topics.remove)
                self._topics.append(queue)
                return queue
            case kind:
                known = self._queues.get(address)
                limit = receiver.delivery_limit if receiver.durable else 0
                if known is None:
                    known = MemoryQueue(
                        self,
                        address,
                        receiver.capacity,
                        lossy=False,
                        on_empty=self._remove_queue,
                        delivery_limit=limit,
                    )
                    self._queues[address] = known
                elif known.delivery_limit != limit:
                    raise Conflict(
                        f"{address} is received in another way already",
                        advice="Receivers of one address must agree on durable and delivery_limit.",
                    )
                elif kind is Kind.PROCESS:
                    raise Conflict(f"{address} has its receiver already")
                return known

    def _remove_queue(self, queue: MemoryQueue) -> None:
        del self._queues[queue.address]

    def _remove_fanout(self, queue: MemoryQueue) -> None:
        subscribers = self._fanouts[queue.address]
        subscribers.remove(queue)
        if not subscribers:
            del self._fanouts[queue.address]


def _given_up(delivery: MemoryDelivery, reason: str) -> Unavailable:
    error = Unavailable(f"{delivery.envelope.receiver}: {reason}")
    if delivery.begun:
        error.retry = Retry.UNCERTAIN
    return error


def _overloaded(queue: MemoryQueue) -> Unavailable:
    return Unavailable(
        f"{queue.address} is overloaded: {queue.capacity} messages wait already",
        advice="Try again later, or run more processes of it.",
        details={"overloaded": True},
    )
