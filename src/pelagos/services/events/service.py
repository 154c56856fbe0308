"""The events service: the catalogue and durable subscriptions for those who are no process, by message.

Publishing and subscribing need no service; it is for programs outside, people, and whoever manages subscriptions. It
holds nothing, so any number of these may serve.
"""

from __future__ import annotations

from functools import partial

import msgspec

from pelagos.process import ServiceProcess, current_context, operation
from pelagos.services.events.catalogue import CATALOGUE, Catalogue
from pelagos.services.events.messages import (
    Declare,
    EventTypeInfo,
    Publish,
    Published,
    PublishedEvent,
    Seek,
    SubscriptionInfo,
    SubscriptionRef,
)
from pelagos.services.events.publishing import EventPublisher, append_event
from pelagos.services.events.subscriptions import declare, list_subscriptions, remove, seek
from pelagos.services.requests import repeatable
from pelagos.store import Store

__all__ = ["EventsService"]


class EventsService(ServiceProcess):
    """See :mod:`pelagos.services.events.messages` for what it is asked and answers."""

    name = "events"
    version = "1.0"

    def __init__(self, store: Store, catalogue: Catalogue = CATALOGUE) -> None:
        super().__init__()
        self._store = store
        self._catalogue = catalogue
        self._publisher = EventPublisher(self, store, catalogue)

    @operation
    async def types(self) -> tuple[EventTypeInfo, ...]:
        """The catalogue, by name."""
        return tuple(
            EventTypeInfo(
                name=one.name,
                description=one.description,
                origin=one.origin,
                kept=one.kept,
                number=one.number,
                fields=() if one.payload is None else tuple(f.encode_name for f in msgspec.structs.fields(one.payload)),
            )
            for one in sorted(self._catalogue, key=lambda one: one.name)
        )

    @operation
    async def publish_event(self, request: Publish) -> Published:
        """Raises NotFound (type), InvalidInput (payload, origin)."""
        scope, now = current_context().scope, self.world.now()
        write = partial(
            append_event,
            scope=scope,
            event_type=request.type,
            origin=request.origin,
            payload=request.payload,
            at=now,
            catalogue=self._catalogue,
        )
        event = await self._store.run(repeatable("events.publish", now, write, PublishedEvent))
        self._publisher.announce(event)
        return Published(event.position)

    @operation
    async def declare(self, request: Declare) -> SubscriptionInfo:
        """Raises InvalidInput."""
        scope = current_context().scope
        stored, added = await self._store.run(
            partial(
                declare,
                scope=scope,
                id=self.world.new_id(),
                name=request.name,
                patterns=request.patterns,
                now=self.world.now(),
                position=request.position,
                at=request.at,
            )
        )
        if added is not None:
            self._publisher.announce(added)
        return await self._info(stored.name)

    @operation
    async def remove(self, request: SubscriptionRef) -> None:
        """Forget a durable subscription. Raises NotFound."""
        scope, now = current_context().scope, self.world.now()
        forget = partial(remove, scope=scope, name=request.name, now=now)
        self._publisher.announce(await self._store.run(repeatable("events.remove", now, forget, PublishedEvent)))

    @operation
    async def seek(self, request: Seek) -> SubscriptionInfo:
        """Replay from a position or time. Raises NotFound, InvalidInput."""
        move = partial(
            seek,
            scope=current_context().scope,
            name=request.name,
            now=self.world.now(),
            position=request.position,
            at=request.at,
        )
        await self._store.run(move)
        return await self._info(request.name)

    @operation
    async def subscriptions(self) -> tuple[SubscriptionInfo, ...]:
        """The project's durable subscriptions, by name."""
        query = partial(list_subscriptions, scope=current_context().scope, catalogue=self._catalogue)
        return tuple(await self._store.read(query))

    async def _info(self, name: str) -> SubscriptionInfo:
        return next(one for one in await self.subscriptions() if one.name == name)
