"""Publishing: a row in the store, in the transaction of the state it tells, and a hint on its topic afterwards.

The message carries the whole event, so whoever listens needs no store; but it is only a hint: it may be lost, and may
be overtaken by its row. Who must miss nothing reads rows by position (:mod:`pelagos.services.events.durable`). In a
container without a store all events are hints.

    publisher = EventPublisher(self, store)
    await publisher.publish("business_state", "pump-3", BusinessState("running"))

    def transaction(connection):  # or together with a state of one's own
        ...
        return append_event(connection, scope, "business_state", "pump-3", BusinessState("running"), at=now)
    publisher.announce(await store.run(transaction))
"""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec
from sqlalchemy import Connection

from pelagos.model.errors import InvalidInput
from pelagos.model.scope import Scope
from pelagos.process import Process, current_context
from pelagos.services.events.catalogue import CATALOGUE, Catalogue
from pelagos.services.events.messages import PublishedEvent
from pelagos.services.events.topics import topic_of
from pelagos.store import Store, append_at, append_many_at, event_row

__all__ = ["EventPublisher", "append_event", "make_event", "write_events"]

_MOST_BYTES = 262_144


def make_event(
    scope: Scope, event_type: str, origin: str, payload: object, *, at: float, catalogue: Catalogue = CATALOGUE
) -> PublishedEvent:
    """An event that fits the catalogue, without a position yet.

    ``payload``: the type's Struct, or a map of its fields. Raises NotFound (type), InvalidInput (payload, origin)."""
    known = catalogue.get(event_type)
    topic_of(event_type, origin)
    try:
        if known.payload is not None:
            if not isinstance(payload, known.payload):
                payload = msgspec.convert({} if payload is None else payload, known.payload)
            data = msgspec.to_builtins(payload, str_keys=True)
        else:
            data = msgspec.convert({} if payload is None else msgspec.to_builtins(payload), dict[str, Any])
        size = len(msgspec.json.encode(data))
    except (msgspec.ValidationError, TypeError, ValueError) as error:
        raise InvalidInput(f"not what an event {event_type} carries: {error}") from error
    if size > _MOST_BYTES:
        raise InvalidInput(
            f"an event of {size} bytes; at most {_MOST_BYTES} are told",
            advice="Store the content and tell where it is.",
        )
    return PublishedEvent(event_type, origin, at, scope.project_id, scope.user_id, 0, data)


def append_event(
    connection: Connection,
    scope: Scope,
    event_type: str,
    origin: str,
    payload: object,
    *,
    at: float,
    catalogue: Catalogue = CATALOGUE,
) -> PublishedEvent:
    """Write an event in the caller's transaction; announce what this returns after the commit.

    Raises what :func:`make_event` raises."""
    event = make_event(scope, event_type, origin, payload, at=at, catalogue=catalogue)
    if not catalogue.get(event_type).kept:
        return event
    return msgspec.structs.replace(event, position=append_at(connection, _row(event, catalogue)))


def write_events(
    connection: Connection, events: list[PublishedEvent], catalogue: Catalogue = CATALOGUE
) -> list[PublishedEvent]:
    """Write made events of kept types in one statement; returns them, in their order, with their positions."""
    positions = append_many_at(connection, [_row(event, catalogue) for event in events])
    return [
        msgspec.structs.replace(event, position=position) for event, position in zip(events, positions, strict=True)
    ]


def _row(event: PublishedEvent, catalogue: Catalogue) -> dict[str, Any]:
    return event_row(
        Scope(event.project_id, event.user_id),
        catalogue.get(event.type).row_kind,
        at=event.at,
        origin=event.origin,
        data=event.data,
    )


class EventPublisher:
    """Publishes on behalf of a process. ``store`` None: nothing is kept, whatever its type says."""

    def __init__(self, process: Process, store: Store | None = None, catalogue: Catalogue = CATALOGUE) -> None:
        self._process = process
        self._store = store
        self._catalogue = catalogue
        self.published = 0

    async def publish(self, event_type: str, origin: str, payload: object = None) -> PublishedEvent:
        """Returns when it is written (a type that is kept), and told to those who listen.

        Raises NotFound (type), InvalidInput (payload, origin), StoreUnavailable."""
        scope = current_context().scope
        event = make_event(scope, event_type, origin, payload, at=self._process.world.now(), catalogue=self._catalogue)
        if self._store is not None and self._catalogue.get(event_type).kept:
            row = _row(event, self._catalogue)
            position = await self._store.run(partial(append_at, row=row))
            event = msgspec.structs.replace(event, position=position)
        self.announce(event)
        return event

    def announce(self, *events: PublishedEvent) -> None:
        """Tell those who listen. To be called after the commit. Never waits and never fails for want of listeners."""
        for event in events:
            self.published += 1
            self._process.publish(f"topic:event.{topic_of(event.type, event.origin)}", event)
