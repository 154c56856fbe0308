"""The port between processes and whatever carries their messages. The docstrings are the contract.

``tests/contract/exchange`` holds every transport to it. Three things shape it:

* A transport pushes; it is not polled. A receiver's handler is a plain function, called in the loop, which only admits
  the message. In one container a request then costs no task switch on its way.
* Two ways to send. :meth:`Transport.publish` is for what somebody waits for: it is confirmed, mandatory, and waits
  under back-pressure. :meth:`Transport.post` is for replies and hints: it never waits, so a reply can be sent also
  while its sender is being cancelled.
* What waits for others must not be held up by them: replies, and requests made from inside a request (``depth`` > 0),
  pass prefetch and queue bounds. Whoever receives them bounds them by depth (see :mod:`pelagos.process.serving`).
  Otherwise two services that call each other with every slot taken would wait for one another for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from pelagos.exchange.envelope import Envelope

__all__ = [
    "DeadLetter",
    "DeadLetters",
    "Delivery",
    "Handler",
    "QueueSnapshot",
    "Receiver",
    "Subscription",
    "Transport",
    "TransportSnapshot",
]


class Receiver(msgspec.Struct, frozen=True):
    """What a subscriber wants: ``address`` is full (a topic's name may be a pattern with ``*`` and ``#``)."""

    address: str
    prefetch: int = 64
    """How many messages may be delivered and not yet settled; at least 1."""
    capacity: int = 1024
    """How many messages may wait in the queue; at least 1. Competing consumers share one queue: the first one's counts.
    """
    durable: bool = False
    """Work that must not be lost, for service addresses: the queue outlives its consumers (on a broker also the
    broker's restart), so once it exists, publishing to it succeeds with nobody there. A message without a deadline
    waits for ever; one with a deadline expires like any other. What was begun and lost ``delivery_limit`` times, or is
    rejected, becomes a :class:`DeadLetter`. Consumers of one address must agree on it: :class:`Conflict` otherwise.
    """
    delivery_limit: int = 5
    """How many times a durable message is handed out before it is a dead letter; at least 1."""


class DeadLetter(msgspec.Struct, frozen=True):
    """A message that could not be delivered or worked off, kept for a person to decide."""

    id: str
    at: float
    """World seconds at which it became one."""
    address: str
    """The receiver it was meant for."""
    reason: str
    deliveries: int
    envelope: Envelope | None
    """None if it could not be read."""


class DeadLetters(Protocol):
    """The dead letters of one system. A transport keeps them bounded, dropping the oldest and counting."""

    async def list(self, limit: int = 100) -> list[DeadLetter]:
        """The oldest first. They stay where they are."""
        ...

    async def get(self, letter_id: str) -> DeadLetter:
        """Raises :class:`NotFound`."""
        ...

    async def retry(self, letter_id: str) -> None:
        """Send it once more to its address, with a fresh count of deliveries; it is gone from here once it is there.

        Raises :class:`NotFound`, or :class:`Unavailable` if the address is served by nobody: then it stays."""
        ...

    async def drop(self, letter_id: str) -> None:
        """Forget it. Raises :class:`NotFound`."""
        ...


class Delivery(Protocol):
    """A message in a receiver's hands, to be settled exactly once. Settling twice raises :class:`InternalError`."""

    @property
    def envelope(self) -> Envelope: ...

    @property
    def deadline(self) -> float | None:
        """When its sender stops waiting, by this world's monotonic clock; None without a deadline."""
        ...

    @property
    def redelivered(self) -> bool:
        """It was in somebody's hands before; its effect may have happened."""
        ...

    @property
    def handed_out(self) -> int:
        """How often it was handed out, this time included, as far as its queue counts that."""
        ...

    @property
    def last(self) -> bool:
        """Its durable queue hands it out no more: given back, it would become a :class:`DeadLetter`."""
        ...

    def ack(self) -> None:
        """Done. The message is gone and the prefetch slot is free."""
        ...

    def requeue(self) -> None:
        """Not begun: the message goes back to the head of its queue, for another consumer if there is one."""
        ...

    def reject(self, reason: str) -> None:
        """Never deliverable. If it is a request, its sender gets :class:`Unavailable` with the reason; if its queue is
        durable, it becomes a :class:`DeadLetter`."""
        ...


Handler = Callable[[Delivery], None]
"""Called in the loop for each message; must return at once and must not raise."""


class Subscription(Protocol):
    """A receiver at work."""

    async def cancel(self) -> None:
        """Receive nothing more. When it returns, the handler is not called again; what is in hand may still be settled.

        If it was the last consumer of a service or process address, the address is served no more: publishing to it
        raises :class:`Unavailable`, and requests that waited in its queue, or are requeued later, are answered
        :class:`Unavailable`. Idempotent.
        """
        ...

    async def close(self) -> None:
        """Cancel, and give back what has not been settled: others get it with ``redelivered`` set. Idempotent."""
        ...


class QueueSnapshot(msgspec.Struct, frozen=True):
    address: str
    consumers: int
    waiting: int
    unsettled: int
    dropped: int


class TransportSnapshot(msgspec.Struct, frozen=True):
    """For tests, metrics and explanations. Counters rise from the start of the transport."""

    queues: tuple[QueueSnapshot, ...]
    published: int
    posted: int
    undeliverable: int
    """Posted to an address that nobody served, or subscriber queues that were full."""
    expired: int
    """Reached their deadline in a queue."""
    returned: int
    """Requests answered by the transport because no receiver was left for them, or it rejected them."""
    dead_lettered: int = 0
    refused: int = 0
    """Messages that an interceptor, or the decoder of what came from outside, refused."""
    connected: bool = True
    """Whether there is a connection to carry messages on; a transport without one always says so."""
    disconnects: int = 0
    voided: int = 0
    """Settled after the connection they came on was lost: they are handed out once more."""


class Transport(Protocol):
    """Carries messages between addresses, in order between one sender and one queue.

    Delivery is at least once: a message whose consumer is lost before it was settled is delivered again.
    """

    async def start(self) -> None:
        """Make ready to carry. Raises :class:`Unavailable` if that is impossible."""
        ...

    async def stop(self) -> None:
        """Close all subscriptions and connections. Later sends raise or count as undeliverable. Idempotent."""
        ...

    async def publish(self, envelope: Envelope) -> None:
        """Return when the message is in its receiver's queue.

        To a process or service that nobody serves: raises :class:`Unavailable` at once. If the queue is full, waits for
        room until the message's deadline (one second if it has none), then raises :class:`Unavailable` whose details
        have ``overloaded``: nothing was done. To a fan-out or topic it never waits: with nobody listening nothing
        happens, and a subscriber whose queue is full loses its oldest message (counted: such messages are hints, truth
        is in the store). A message whose deadline passes in a queue is not delivered. Raises :class:`Unavailable` after
        :meth:`stop`.
        """
        ...

    def post(self, envelope: Envelope) -> None:
        """Send and never wait. What cannot be delivered is dropped and counted. Replies are never held up by prefetch
        or bounds.
        """
        ...

    async def subscribe(self, receiver: Receiver, handler: Handler) -> Subscription:
        """Begin to receive. A process address takes one subscriber: a second raises :class:`Conflict`."""
        ...

    async def wait_served(self, address: str, timeout: float) -> bool:
        """Whether somebody serves the process or service address, at the latest ``timeout`` seconds from now."""
        ...

    async def delete_durable(self, address: str, *, reason: str | None = None) -> int:
        """Take a durable service address away: from now on publishing to it is :class:`Unavailable`, until somebody
        receives there again.

        What waited becomes dead letters with ``reason``, or is dropped if None is given; senders of requests get
        :class:`Unavailable` in both cases. What a cancelled receiver has in its hands may still be settled, but does
        not come back. Returns how many waited, 0 also for an address without a durable queue: it may be repeated.

        Raises :class:`Conflict` while somebody serves it (nothing has changed then), :class:`InvalidInput` for what is
        no service's address, and :class:`Unavailable` without a connection. There is no forcing: a receiver whose queue
        vanishes makes it anew, which is how it outlives accidents.
        """
        ...

    def on_disconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Have ``callback`` called, in the loop, each time the connection is lost: what was asked may have been done,
        but its answer cannot come any more. Returns a function that ends this. A transport without a connection never
        calls."""
        ...

    @property
    def dead_letters(self) -> DeadLetters: ...

    def snapshot(self) -> TransportSnapshot: ...
