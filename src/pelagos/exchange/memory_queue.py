"""Queues of the in-memory transport: deliveries, consumers with prefetch, publishers that wait for room."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from pelagos.exchange.envelope import Envelope, Performative
from pelagos.exchange.transport import Handler, QueueSnapshot
from pelagos.model.errors import InternalError, Unavailable

__all__ = ["Keeper", "MemoryConsumer", "MemoryDelivery", "MemoryQueue", "unserved"]

# Looking a member up in its enum costs almost as much as making a message.
_REQUEST = Performative.REQUEST


class Keeper(Protocol):
    """What a queue needs of its transport."""

    def monotonic(self) -> float: ...

    def give_up(self, delivery: MemoryDelivery, reason: str) -> None:
        """No receiver is left for it."""
        ...

    def expire(self, delivery: MemoryDelivery) -> None:
        """Its deadline passed in the queue."""
        ...

    def bury(self, delivery: MemoryDelivery, reason: str) -> None:
        """It left a durable queue undone: to be kept as a dead letter."""
        ...

    def lose(self) -> None:
        """A subscriber's queue was full and its oldest message was dropped."""
        ...


class MemoryDelivery(msgspec.Struct, eq=False):
    """A message on its way; the contract is :class:`pelagos.exchange.transport.Delivery`.

    A Struct because one is made for every message, and that is done in C. To change one costs more than to make one, so
    what has a consumer at once is made with it, and whether it is settled is for the consumer's list to say.
    ``begun`` says that a receiver went away without settling it, so its effect may have happened.
    """

    envelope: Envelope
    deadline: float | None
    queue: Any  # MemoryQueue
    consumer: Any = None  # MemoryConsumer | None
    redelivered: bool = False
    begun: bool = False
    handed_out: int = 0

    @property
    def last(self) -> bool:
        limit: int = self.queue.delivery_limit
        return 0 < limit <= self.handed_out

    def ack(self) -> None:
        consumer = self.consumer
        if consumer is None or consumer.unsettled.pop(self, self) is self:
            raise self._settled_twice()
        if self.queue.waiting:
            self.queue.pump()

    def requeue(self) -> None:
        self._release()
        self.redelivered = True
        self.queue.put_back([self])

    def reject(self, reason: str) -> None:
        self._release()
        if self.queue.durable:
            self.queue.keeper.bury(self, reason)
        self.queue.keeper.give_up(self, reason)
        self.queue.pump()

    def _release(self) -> None:
        consumer = self.consumer
        if consumer is None or consumer.unsettled.pop(self, self) is self:
            raise self._settled_twice()

    def _settled_twice(self) -> InternalError:
        return InternalError(f"a message to {self.queue.address} was settled twice")


class MemoryConsumer:
    """One subscription; the contract is :class:`pelagos.exchange.transport.Subscription`."""

    __slots__ = ("active", "handler", "prefetch", "queue", "unsettled")

    def __init__(self, queue: MemoryQueue, handler: Handler, prefetch: int) -> None:
        self.queue = queue
        self.handler = handler
        self.prefetch = prefetch
        self.unsettled: dict[MemoryDelivery, None] = {}  # a dict, not a set: its order is that of arrival, in every run
        self.active = True

    def hand(self, envelope: Envelope, deadline: float | None) -> None:
        """A message that never waited for a consumer, or has only waited."""
        delivery = MemoryDelivery(envelope, deadline, self.queue, self, False, False, 1)
        self.unsettled[delivery] = None
        self.handler(delivery)

    def hand_again(self, delivery: MemoryDelivery) -> None:
        delivery.consumer = self
        delivery.handed_out += 1
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


class MemoryQueue:
    """What waits for the consumers of one address (or for one subscriber of a fan-out or topic)."""

    __slots__ = (
        "address",
        "capacity",
        "consumers",
        "delivery_limit",
        "dropped",
        "durable",
        "keeper",
        "lossy",
        "on_empty",
        "publishers",
        "pumping",
        "turn",
        "waiting",
    )

    def __init__(
        self,
        keeper: Keeper,
        address: str,
        capacity: int,
        *,
        lossy: bool,
        on_empty: Callable[[MemoryQueue], None],
        delivery_limit: int = 0,
    ) -> None:
        """``delivery_limit`` 0: not durable."""
        self.keeper = keeper
        self.address = address
        self.capacity = capacity
        self.lossy = lossy
        self.on_empty = on_empty
        self.durable = delivery_limit > 0
        self.delivery_limit = delivery_limit
        self.waiting: deque[MemoryDelivery] = deque()
        self.publishers: deque[tuple[asyncio.Future[None], Envelope, float | None]] = deque()
        """Who waits for room, with what: it is taken from them in their order, so that nobody is quicker."""
        self.consumers: list[MemoryConsumer] = []
        self.turn = 0
        self.pumping = False
        self.dropped = 0

    def offer(self, envelope: Envelope, deadline: float | None) -> bool:
        """Deliver or queue it; False if there is no room."""
        if envelope.depth or (envelope.performative is not _REQUEST and envelope.is_reply):
            if self.consumers:
                self.next_consumer().hand(envelope, deadline)
            else:  # durable work, made inside of a request, for nobody yet
                self.waiting.append(MemoryDelivery(envelope, deadline, self))
            return True
        if not self.waiting and (consumer := self._free_consumer()) is not None:
            consumer.hand(envelope, deadline)
            return True
        if len(self.waiting) >= self.capacity:
            self._drop_expired()
            if len(self.waiting) >= self.capacity:
                if not self.lossy:
                    return False
                self.waiting.popleft()
                self.dropped += 1
                self.keeper.lose()
        self.waiting.append(MemoryDelivery(envelope, deadline, self))
        return True

    def put_back(self, deliveries: list[MemoryDelivery]) -> None:
        """To the queue's head, in their order."""
        if self.durable:
            deliveries = self._bury_worn_out(deliveries)
        if self.consumers or self.durable:
            self.waiting.extendleft(reversed(deliveries))
            self.pump()
            return
        for delivery in deliveries:
            self.keeper.give_up(delivery, "no process serves it any more")

    def pump(self) -> None:
        """Hand out what waits while consumers have room, then let publishers in."""
        if self.pumping:  # a handler that settles at once comes back here: the outer call's loop goes on for it
            return
        self.pumping = True
        try:
            while self.waiting and (consumer := self._free_consumer()) is not None:
                delivery = self.waiting.popleft()
                if delivery.deadline is not None and delivery.deadline <= self.keeper.monotonic():
                    self.keeper.expire(delivery)
                elif delivery.handed_out:
                    consumer.hand_again(delivery)
                else:
                    consumer.hand(delivery.envelope, delivery.deadline)
        finally:
            self.pumping = False
        self._admit_publishers()

    def drop_consumer(self, consumer: MemoryConsumer) -> None:
        self.consumers.remove(consumer)
        self.turn = 0
        if self.consumers or self.durable:
            self.pump()
            return
        self.on_empty(self)
        while self.waiting:
            self.keeper.give_up(self.waiting.popleft(), "no process serves it any more")
        self.turn_publishers_away()

    def snapshot(self) -> QueueSnapshot:
        return QueueSnapshot(
            self.address,
            len(self.consumers),
            len(self.waiting),
            sum(len(c.unsettled) for c in self.consumers),
            self.dropped,
        )

    def next_consumer(self) -> MemoryConsumer:
        consumers = self.consumers
        if len(consumers) == 1:
            return consumers[0]
        self.turn = (self.turn + 1) % len(consumers)
        return consumers[self.turn]

    def _free_consumer(self) -> MemoryConsumer | None:
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

    def _bury_worn_out(self, deliveries: list[MemoryDelivery]) -> list[MemoryDelivery]:
        kept = []
        for delivery in deliveries:
            if delivery.handed_out < self.delivery_limit:
                kept.append(delivery)
            else:
                reason = f"it was handed out {delivery.handed_out} times and never finished"
                delivery.begun = True
                self.keeper.bury(delivery, reason)
                self.keeper.give_up(delivery, reason)
        return kept

    def _drop_expired(self) -> None:
        now = self.keeper.monotonic()
        expired = [d for d in self.waiting if d.deadline is not None and d.deadline <= now]
        for delivery in expired:
            self.waiting.remove(delivery)
            self.keeper.expire(delivery)

    def _admit_publishers(self) -> None:
        while self.publishers and len(self.waiting) < self.capacity:
            waiter, envelope, deadline = self.publishers.popleft()
            if not waiter.done() and (deadline is None or deadline > self.keeper.monotonic()):
                waiter.set_result(None)
                self.offer(envelope, deadline)

    def turn_publishers_away(self) -> None:
        """Nobody serves the address any more."""
        while self.publishers:
            waiter = self.publishers.popleft()[0]
            if not waiter.done():
                waiter.set_exception(unserved(self.address))


def unserved(address: str) -> Unavailable:
    return Unavailable(
        f"nobody serves {address}",
        advice="Start the process or service, or wait until it is active.",
        details={"address": address},
    )
