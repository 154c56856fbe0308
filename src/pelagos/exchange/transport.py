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

__all__ = ["Delivery", "Handler", "QueueSnapshot", "Receiver", "Subscription", "Transport", "TransportSnapshot"]


class Receiver(msgspec.Struct, frozen=True):
    """What a subscriber wants: ``address`` is full (a topic's name may be a pattern with ``*`` and ``#``)."""

    address: str
    prefetch: int = 64
    """How many messages may be delivered and not yet settled; at least 1."""
    capacity: int = 1024
    """How many messages may wait in the queue; at least 1. Competing consumers share one queue: the first one's counts.
    """


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

    def ack(self) -> None:
        """Done. The message is gone and the prefetch slot is free."""
        ...

    def requeue(self) -> None:
        """Not begun: the message goes back to the head of its queue, for another consumer if there is one."""
        ...

    def reject(self, reason: str) -> None:
        """Never deliverable. If it is a request, its sender gets :class:`Unavailable` with the reason."""
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

    def snapshot(self) -> TransportSnapshot: ...
