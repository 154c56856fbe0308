"""The transport inside one interpreter: queues as deques, deliveries as function calls.

Envelopes are frozen and their content is bytes, so they are handed over by reference. A message goes from its sender's
``publish`` into the receiver's handler within one call when a consumer has room: no task of ours lies between. The way
not chosen, an ``asyncio.Queue`` and a reading task a receiver, costs two task switches and several futures a message,
for nothing that the contract asks.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from pelagos.exchange.address import Kind, kind_of, topic_matches
from pelagos.exchange.envelope import Envelope, Performative, Status, encode_error, reply_to
from pelagos.exchange.transport import Handler, QueueSnapshot, Receiver, Subscription, TransportSnapshot
from pelagos.model.errors import Conflict, DeadlineExceeded, InternalError, InvalidInput, Retry, Unavailable
from pelagos.model.world import World

__all__ = ["MemoryTransport"]

_NO_DEADLINE_PATIENCE = 1.0
"""Seconds that a publisher without a deadline waits for room."""


class _Delivery(msgspec.Struct, eq=False):
    """A message on its way; the contract is :class:`pelagos.exchange.transport.Delivery`.

    A Struct because one is made for every message, and that is done in C. ``begun`` says that a receiver went away
    without settling it, so its effect may have happened.
    """

    envelope: Envelope
    deadline: float | None
    queue: Any  # _Queue
    consumer: Any = None  # _Consumer | None
    redelivered: bool = False
    begun: bool = False

    def ack(self) -> None:
        consumer = self.consumer
        if consumer is None:
            raise InternalError(f"a message to {self.queue.address} was settled twice")
        self.consumer = None
        del consumer.unsettled[self]
        if self.queue.waiting:
            self.queue.pump()

    def requeue(self) -> None:
        self._release()
        self.redelivered = True
        self.queue.put_back([self])

    def reject(self, reason: str) -> None:
        self._release()
        self.queue.transport.give_up(self, reason)
        self.queue.pump()

    def _release(self) -> None:
        consumer = self.consumer
        if consumer is None:
            raise InternalError(f"a message to {self.queue.address} was settled twice")
        self.consumer = None
        del consumer.unsettled[self]


class _Consumer:
    """One subscription; the contract is :class:`pelagos.exchange.transport.Subscription`."""

    __slots__ = ("active", "handler", "prefetch", "queue", "unsettled")

    def __init__(self, queue: _Queue, handler: Handler, prefetch: int) -> None:
        self.queue = queue
        self.handler = handler
        self.prefetch = prefetch
        self.unsettled: dict[_Delivery, None] = {}  # a dict, not a set: its order is that of arrival, in every run
        self.active = True

    def take(self, delivery: _Delivery) -> None:
        delivery.consumer = self
        self.unsettled[delivery] = None
        self.handler(delivery)

    async def cancel(self) -> None:
        self.cancel_now()

    def cancel_now(self) -> None:
        if self.active:
            self.active = False
            self.queue.drop_consumer(self)

    async def close(self) -> None:
        self.close_now()

    def close_now(self) -> None:
        self.cancel_now()
        held = list(self.unsettled)
        self.unsettled.clear()
        for delivery in held:
            delivery.consumer = None
            delivery.redelivered = delivery.begun = True
        self.queue.put_back(held)


class _Queue:
    """What waits for the consumers of one address (or for one subscriber of a fan-out or topic)."""

    __slots__ = (
        "address",
        "capacity",
        "consumers",
        "dropped",
        "lossy",
        "on_empty",
        "publishers",
        "pumping",
        "transport",
        "turn",
        "waiting",
    )

    def __init__(
        self,
        transport: MemoryTransport,
        address: str,
        capacity: int,
        *,
        lossy: bool,
        on_empty: Callable[[_Queue], None],
    ) -> None:
        self.transport = transport
        self.address = address
        self.capacity = capacity
        self.lossy = lossy
        self.on_empty = on_empty
        self.waiting: deque[_Delivery] = deque()
        self.publishers: deque[asyncio.Future[None]] = deque()
        self.consumers: list[_Consumer] = []
        self.turn = 0
        self.pumping = False
        self.dropped = 0

    def offer(self, delivery: _Delivery) -> bool:
        """Deliver or queue it; False if there is no room."""
        envelope = delivery.envelope
        if envelope.depth or (envelope.performative is not Performative.REQUEST and envelope.is_reply):
            self.next_consumer().take(delivery)
            return True
        if not self.waiting and (consumer := self._free_consumer()) is not None:
            consumer.take(delivery)
            return True
        if len(self.waiting) >= self.capacity:
            self._drop_expired()
            if len(self.waiting) >= self.capacity:
                if not self.lossy:
                    return False
                self.waiting.popleft()
                self.dropped += 1
                self.transport.undeliverable += 1
        self.waiting.append(delivery)
        return True

    def put_back(self, deliveries: list[_Delivery]) -> None:
        """To the queue's head, in their order."""
        if self.consumers:
            self.waiting.extendleft(reversed(deliveries))
            self.pump()
            return
        for delivery in deliveries:
            self.transport.give_up(delivery, "no process serves it any more")

    def pump(self) -> None:
        """Hand out what waits while consumers have room, then let publishers in."""
        if self.pumping:  # a handler that settles at once comes back here: the outer call's loop goes on for it
            return
        self.pumping = True
        try:
            while self.waiting and (consumer := self._free_consumer()) is not None:
                delivery = self.waiting.popleft()
                if delivery.deadline is not None and delivery.deadline <= self.transport.monotonic():
                    self.transport.expire(delivery)
                else:
                    consumer.take(delivery)
        finally:
            self.pumping = False
        self._admit_publishers()

    def drop_consumer(self, consumer: _Consumer) -> None:
        self.consumers.remove(consumer)
        self.turn = 0
        if self.consumers:
            self.pump()
            return
        self.on_empty(self)
        while self.waiting:
            self.transport.give_up(self.waiting.popleft(), "no process serves it any more")
        while self.publishers:
            waiter = self.publishers.popleft()
            if not waiter.done():
                waiter.set_exception(_unserved(self.address))

    def snapshot(self) -> QueueSnapshot:
        return QueueSnapshot(
            self.address,
            len(self.consumers),
            len(self.waiting),
            sum(len(c.unsettled) for c in self.consumers),
            self.dropped,
        )

    def next_consumer(self) -> _Consumer:
        consumers = self.consumers
        if len(consumers) == 1:
            return consumers[0]
        self.turn = (self.turn + 1) % len(consumers)
        return consumers[self.turn]

    def _free_consumer(self) -> _Consumer | None:
        consumers = self.consumers
        count = len(consumers)
        if count == 1:
            return consumers[0] if len(consumers[0].unsettled) < consumers[0].prefetch else None
        for step in range(1, count + 1):
            turn = (self.turn + step) % count
            consumer = consumers[turn]
            if len(consumer.unsettled) < consumer.prefetch:
                self.turn = turn
                return consumer
        return None

    def _drop_expired(self) -> None:
        now = self.transport.monotonic()
        expired = [d for d in self.waiting if d.deadline is not None and d.deadline <= now]
        for delivery in expired:
            self.waiting.remove(delivery)
            self.transport.expire(delivery)

    def _admit_publishers(self) -> None:
        room = self.capacity - len(self.waiting)
        while room > 0 and self.publishers:
            waiter = self.publishers.popleft()
            if not waiter.done():
                waiter.set_result(None)
                room -= 1


class MemoryTransport:
    """See the module's head and :class:`pelagos.exchange.transport.Transport`."""

    def __init__(self, world: World) -> None:
        self.monotonic = world.monotonic
        self._now = world.now
        self._queues: dict[str, _Queue] = {}
        self._fanouts: dict[str, list[_Queue]] = {}
        self._topics: list[_Queue] = []
        self._waiters: dict[str, list[asyncio.Future[None]]] = {}
        self._open = False
        self._published = 0
        self._posted = 0
        self._expired = 0
        self._returned = 0
        self.undeliverable = 0

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
        if queue is not None:
            self._published += 1
            # Nobody may overtake a publisher who waits for room.
            if (not queue.publishers or envelope.depth) and queue.offer(_Delivery(envelope, deadline, queue)):
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
                raise _unserved(envelope.receiver)

    def post(self, envelope: Envelope) -> None:
        self._posted += 1
        queue = self._queues.get(envelope.receiver)
        if queue is not None:
            if envelope.performative is Performative.INFORM_RESULT:
                queue.next_consumer().take(_Delivery(envelope, None, queue))
            elif not queue.offer(_Delivery(envelope, None, queue)):
                self.undeliverable += 1
        elif kind_of(envelope.receiver) in (Kind.FANOUT, Kind.TOPIC):
            self._copy_to_subscribers(envelope, None)
        else:
            self.undeliverable += 1

    async def subscribe(self, receiver: Receiver, handler: Handler) -> Subscription:
        if not self._open:
            raise Unavailable("the exchange has stopped")
        if receiver.prefetch < 1 or receiver.capacity < 1:
            raise InvalidInput(f"prefetch and capacity of {receiver.address} must be at least 1")
        queue = self._queue_for(receiver)
        consumer = _Consumer(queue, handler, receiver.prefetch)
        queue.consumers.append(consumer)
        for waiter in self._waiters.pop(receiver.address, ()):
            if not waiter.done():
                waiter.set_result(None)
        queue.pump()
        return consumer

    async def wait_served(self, address: str, timeout: float) -> bool:
        if address in self._queues:
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

    def snapshot(self) -> TransportSnapshot:
        queues = [*self._queues.values(), *(q for qs in self._fanouts.values() for q in qs), *self._topics]
        return TransportSnapshot(
            queues=tuple(q.snapshot() for q in queues),
            published=self._published,
            posted=self._posted,
            undeliverable=self.undeliverable,
            expired=self._expired,
            returned=self._returned,
        )

    def give_up(self, delivery: _Delivery, reason: str) -> None:
        """No receiver is left for it: a request is answered, anything else is counted."""
        request = delivery.envelope
        if request.performative is not Performative.REQUEST or request.reply_to is None:
            self.undeliverable += 1
            return
        self._returned += 1
        error = Unavailable(f"{request.receiver}: {reason}")
        if delivery.begun:
            error.retry = Retry.UNCERTAIN
        self._answer(request, encode_error(error))

    def expire(self, delivery: _Delivery) -> None:
        """Its deadline passed in the queue."""
        self._expired += 1
        request = delivery.envelope
        if request.performative is Performative.REQUEST and request.reply_to is not None:
            error = DeadlineExceeded(f"{request.receiver}: the deadline passed in its queue; nothing was done")
            error.retry = Retry.TRANSIENT
            self._answer(request, encode_error(error))

    def _answer(self, request: Envelope, content: bytes) -> None:
        self.post(
            reply_to(
                request,
                Performative.FAILURE,
                content,
                sender=request.receiver,
                status=Status.ERROR,
                ts=int(self._now() * 1000),
            )
        )

    async def _publish_when_there_is_room(self, envelope: Envelope, deadline: float | None, queue: _Queue) -> None:
        patience = _NO_DEADLINE_PATIENCE if deadline is None else deadline - self.monotonic()
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(max(0.0, patience)):
                while True:
                    waiter = loop.create_future()
                    queue.publishers.append(waiter)
                    try:
                        await waiter
                    except asyncio.CancelledError:
                        if waiter in queue.publishers:
                            queue.publishers.remove(waiter)
                        else:
                            queue.pump()  # the room that was promised to us goes to the next one
                        raise
                    if queue.offer(_Delivery(envelope, deadline, queue)):
                        return
        except TimeoutError:
            raise Unavailable(
                f"{envelope.receiver} is overloaded: {queue.capacity} messages wait already",
                advice="Try again later, or run more processes of it.",
                details={"overloaded": True},
            ) from None

    def _copy_to_subscribers(self, envelope: Envelope, deadline: float | None) -> None:
        kind, _, name = envelope.receiver.partition(":")
        if kind == Kind.FANOUT:
            queues = self._fanouts.get(envelope.receiver, [])
        else:
            queues = [q for q in self._topics if topic_matches(q.address.partition(":")[2], name)]
        for queue in list(queues):
            queue.offer(_Delivery(envelope, deadline, queue))

    def _queue_for(self, receiver: Receiver) -> _Queue:
        address = receiver.address
        match kind_of(address):
            case Kind.FANOUT:
                subscribers = self._fanouts.setdefault(address, [])
                queue = _Queue(self, address, receiver.capacity, lossy=True, on_empty=self._remove_fanout)
                subscribers.append(queue)
                return queue
            case Kind.TOPIC:
                queue = _Queue(self, address, receiver.capacity, lossy=True, on_empty=self._topics.remove)
                self._topics.append(queue)
                return queue
            case kind:
                known = self._queues.get(address)
                if known is None:
                    known = _Queue(self, address, receiver.capacity, lossy=False, on_empty=self._remove_queue)
                    self._queues[address] = known
                elif kind is Kind.PROCESS:
                    raise Conflict(f"{address} has its receiver already")
                return known

    def _remove_queue(self, queue: _Queue) -> None:
        del self._queues[queue.address]

    def _remove_fanout(self, queue: _Queue) -> None:
        subscribers = self._fanouts[queue.address]
        subscribers.remove(queue)
        if not subscribers:
            del self._fanouts[queue.address]


def _unserved(address: str) -> Unavailable:
    return Unavailable(
        f"nobody serves {address}",
        advice="Start the process or service, or wait until it is active.",
        details={"address": address},
    )
