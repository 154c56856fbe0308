"""The streams service: names of streams, their durable subscriptions, and what is bound to what."""

from __future__ import annotations

from functools import partial

from pelagos.exchange import Delivery, Receiver
from pelagos.model.errors import Conflict
from pelagos.model.scope import Scope
from pelagos.process import ServiceProcess, current_context, operation
from pelagos.services.events import EventPublisher, PublishedEvent
from pelagos.services.events.catalogue import SubscriptionChanged
from pelagos.services.requests import repeatable
from pelagos.services.streams.messages import (
    Bind,
    DeclareStream,
    FindStreams,
    Stream,
    StreamRef,
    StreamSubscription,
    SubscribeStream,
    SubscriptionName,
)
from pelagos.services.streams.rows import (
    address_of,
    bind,
    bindings,
    declare_stream,
    find_streams,
    is_subscribed,
    subscribe_stream,
    unbind,
    undeclare_stream,
    unsubscribe_stream,
)
from pelagos.store import Store

__all__ = ["StreamsService"]


class StreamsService(ServiceProcess):
    """See :mod:`pelagos.services.streams.messages` for what it is asked and answers."""

    name = "streams"
    version = "1.0"

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store
        self._publisher = EventPublisher(self, store)

    @operation
    async def declare(self, request: DeclareStream) -> Stream:
        """Raises InvalidInput."""
        scope, now = current_context().scope, self.world.now()
        return await self._store.run(
            partial(declare_stream, scope=scope, id=self.world.new_id(), request=request, now=now)
        )

    @operation
    async def undeclare(self, request: StreamRef) -> None:
        """Remove a stream with its subscriptions and their queues.

        Raises NotFound, and Conflict while workers receive from one of them: then nothing has changed."""
        scope, now = current_context().scope, self.world.now()
        there = await self._store.read(partial(bindings, scope=scope, stream=request.name))
        await self._must_be_idle(*(one.address for one in there))
        effect = partial(undeclare_stream, scope=scope, name=request.name, now=now)
        told = await self._store.run(repeatable("streams.undeclare", now, effect, list[PublishedEvent]))
        self._publisher.announce(*told)
        for one in told:
            stream, _, name = one.payload(SubscriptionChanged).name.partition("/")
            await self._remove_queue(scope, SubscriptionName(stream, name, request.drop))

    @operation
    async def find(self, request: FindStreams) -> tuple[Stream, ...]:
        """A page of the project's streams, with their subscriptions."""
        return tuple(await self._store.read(partial(find_streams, scope=current_context().scope, request=request)))

    @operation
    async def subscribe(self, request: SubscribeStream) -> StreamSubscription:
        """When this has answered, what is published waits for its workers. Raises NotFound (stream), InvalidInput."""
        scope, now = current_context().scope, self.world.now()
        if not await self._store.read(partial(is_subscribed, scope=scope, request=request)):
            # Before the row: whoever publishes reads the row, and must find the queue; and if the broker is away there
            # is no row, so that the request may come again.
            await self._make_queue(address_of(scope, request.stream, request.name))
        subscription, told = await self._store.run(
            partial(subscribe_stream, scope=scope, id=self.world.new_id(), request=request, now=now)
        )
        if told is not None:
            self._publisher.announce(told)
        return subscription

    @operation
    async def unsubscribe(self, request: SubscriptionName) -> None:
        """Remove a subscription and its queue. Raises NotFound, and Conflict while workers receive: then nothing
        has changed."""
        scope, now = current_context().scope, self.world.now()
        await self._must_be_idle(address_of(scope, request.stream, request.name))
        effect = partial(unsubscribe_stream, scope=scope, request=request, now=now)
        told = await self._store.run(repeatable("streams.unsubscribe", now, effect, PublishedEvent))
        self._publisher.announce(told)
        await self._remove_queue(scope, request)

    @operation
    async def bind(self, request: Bind) -> StreamSubscription:
        """Add patterns. Raises NotFound, InvalidInput."""
        return await self._store.run(partial(bind, scope=current_context().scope, request=request))

    @operation
    async def unbind(self, request: Bind) -> StreamSubscription:
        """Take patterns away. Raises NotFound."""
        return await self._store.run(partial(unbind, scope=current_context().scope, request=request))

    async def _must_be_idle(self, *addresses: str) -> None:
        for address in addresses:
            if await self.container.transport.wait_served(self.container.names.full(address), 0):
                raise Conflict(f"workers receive at {address}", advice="Stop them first.")

    async def _remove_queue(self, scope: Scope, name: SubscriptionName) -> None:
        """After the row: publishers read it no more, so nothing new comes. What fails here fails the request, which may
        come again with its id."""
        address = self.container.names.full(address_of(scope, name.stream, name.name))
        reason = None if name.drop else f"subscription {name.stream}/{name.name} was removed"
        await self.container.transport.delete_durable(address, reason=reason)

    async def _make_queue(self, address: str) -> None:
        """A durable queue is there from its first consumer on; this one goes at once and takes nothing."""
        receiver = Receiver(self.container.names.full(address), prefetch=1, durable=True)
        subscription = await self.container.transport.subscribe(receiver, _give_back)
        await subscription.close()


def _give_back(delivery: Delivery) -> None:
    """Left unsettled: closing the subscription gives it back."""
