"""Live subscriptions: what is published from now on, as it comes, in order, from memory.

Each subscription has its own bounded queue in the transport, where the oldest is dropped (and counted there) if the
handler cannot keep up: such events are hints. The handler gets one event at a time, so it sees them in the order of
their publishers; the way not chosen, :meth:`Process.listen`, serves many at once and cannot be ended before its
process.

Only events of the subscriber's own project come, unless it asks for every project's: that is for infrastructure.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec

from pelagos.exchange import Envelope
from pelagos.model.scope import DEFAULT_SCOPE, Scope
from pelagos.process import Context, Process, current_context, get_logger, use_context
from pelagos.services.events.messages import PublishedEvent
from pelagos.services.events.reading import TopicReader
from pelagos.services.events.topics import check_patterns

__all__ = ["EventHandler", "LiveSnapshot", "LiveSubscription", "subscribe"]

EventHandler = Callable[[PublishedEvent], Awaitable[None]]

log = get_logger(__name__)
_decode = msgspec.msgpack.Decoder(PublishedEvent).decode
_decode_data = msgspec.msgpack.Decoder(dict[str, Any]).decode


class LiveSnapshot(msgspec.Struct, frozen=True):
    patterns: tuple[str, ...]
    waiting: int
    handled: int
    failed: int
    """Events whose handler raised; the log says why."""
    foreign: int
    """Events of other projects, and messages that are no events."""


async def subscribe(
    process: Process,
    patterns: str | Iterable[str],
    handler: EventHandler,
    *,
    capacity: int = 1024,
    every_project: bool = False,
) -> LiveSubscription:
    """Have ``handler`` called with the events that fit one of the patterns, until the process ends or
    :meth:`LiveSubscription.cancel`. Call it from ``on_init`` or later; events come at once.

    ``capacity``: how many may wait. A handler that raises is logged, and the next event comes all the same. Raises
    InvalidInput (patterns), Unavailable (the exchange has stopped)."""
    subscription = LiveSubscription(process, check_patterns(patterns), handler, every_project, capacity)
    await subscription.begin()
    return subscription


class LiveSubscription(TopicReader):
    """Made by :func:`subscribe`."""

    def __init__(
        self, process: Process, patterns: tuple[str, ...], handler: EventHandler, every_project: bool, capacity: int
    ) -> None:
        addresses = [f"topic:event.{pattern}" for pattern in patterns]
        super().__init__(process, addresses, capacity, f"events {' '.join(patterns)}")
        self._patterns = patterns
        self._handler = handler
        self._project = None if every_project else current_context().scope.project_id
        self._prefix = len(process.container.names.full("topic:event.x").partition(":")[2]) - 1
        self._handled = 0
        self._failed = 0
        self._foreign = 0

    def snapshot(self) -> LiveSnapshot:
        return LiveSnapshot(self._patterns, len(self._waiting), self._handled, self._failed, self._foreign)

    async def handle(self, envelope: Envelope) -> None:
        """Decode it, and give it to the handler in its own scope."""
        event = self._read(envelope)
        if event is None:
            self._foreign += 1
            log.warning("not an event", address=envelope.receiver, sender=envelope.sender)
            return
        if self._project is not None and event.project_id != self._project:
            self._foreign += 1
            return
        scope = Scope(event.project_id, event.user_id)
        try:
            with use_context(Context(scope, trace=envelope.trace, process=self._process.id)):
                await self._handler(event)
            self._handled += 1
        except Exception as error:
            self._failed += 1
            log.error("event handler failed", type=event.type, origin=event.origin, exc_info=error)

    def _read(self, envelope: Envelope) -> PublishedEvent | None:
        """What rooms below this one tell is the data alone; the topic says the rest."""
        try:
            return _decode(envelope.content)
        except (msgspec.DecodeError, RecursionError):
            pass
        try:
            data = _decode_data(envelope.content)
        except (msgspec.DecodeError, RecursionError):
            return None
        told = envelope.receiver.partition(":")[2][self._prefix :]
        event_type, _, origin = told.partition(".")
        scope = envelope.identity or DEFAULT_SCOPE
        return PublishedEvent(event_type, origin, envelope.ts / 1000, scope.project_id, scope.user_id, 0, data)
