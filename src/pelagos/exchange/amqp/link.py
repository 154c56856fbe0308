"""One life of the connection: the wire with everything declared on it and consumed from it.

Built anew after each break from what the transport knows. Nothing here outlives the wire.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Self

import msgspec
from pamqp import commands as spec

from pelagos.exchange.amqp.config import AmqpConfig
from pelagos.exchange.amqp.publisher import Publisher
from pelagos.exchange.amqp.topology import FAILED, Binding, Topology
from pelagos.exchange.amqp.wire import Channel, ChannelClosed, Message, Wire
from pelagos.model.world import World

__all__ = ["Inlets", "Link"]

_SHARED_PREFETCH = 64


class Inlets(msgspec.Struct, frozen=True):
    """Who takes what comes in."""

    mailbox: Callable[[Message], None]
    event: Callable[[Message], None]
    returned: Callable[[Channel, Message], None]
    """To be acknowledged on its channel."""
    failed: Callable[[Channel, Message], None]
    """To be acknowledged on its channel."""


class Link:
    """See the module's head; :meth:`open` makes one."""

    def __init__(self, wire: Wire, inbox: Channel, publisher: Publisher, mailbox: str, events: str) -> None:
        self.wire = wire
        self.publisher = publisher
        self._inbox = inbox
        self._mailbox = mailbox
        self._events = events

    @classmethod
    async def open(
        cls,
        world: World,
        config: AmqpConfig,
        topology: Topology,
        inlets: Inlets,
        *,
        mailboxes: Iterable[str],
        bindings: Iterable[Binding],
        lost: Callable[[], None],
    ) -> Self:
        """Connect, declare, and consume what belongs to the container. Raises :class:`Unavailable`, and what a wire
        raises that breaks meanwhile."""
        if config.credential_file is None and not config.url.startswith("amqps"):
            url, tls = config.connection_url(), None
        else:
            url, tls = await world.run_blocking(lambda: (config.connection_url(), config.tls()))
        wire = await Wire.open(config, url, tls)
        try:
            # The queues' names are new each time: the broker may not have noticed yet that the last connection is gone.
            nonce = world.new_id()[:8]
            link = cls(
                wire,
                await wire.channel(),
                Publisher(await wire.channel(confirms=True), world.monotonic, lost, nonce),
                f"{config.system}.container.{config.container}.{nonce}",
                f"{config.system}.listen.{config.container}.{nonce}",
            )
            await link._declare(topology, mailboxes, bindings)
            await link._consume(topology, inlets)
        except BaseException:
            await wire.close()
            raise
        return link

    async def bind_mailbox(self, exchange: str, key: str) -> None:
        await self._inbox.call(spec.Queue.Bind(queue=self._mailbox, exchange=exchange, routing_key=key))

    async def bind_events(self, binding: Binding) -> None:
        await self._inbox.call(spec.Queue.Bind(queue=self._events, exchange=binding.exchange, routing_key=binding.key))

    async def unbind_events(self, binding: Binding) -> None:
        await self._inbox.call(
            spec.Queue.Unbind(queue=self._events, exchange=binding.exchange, routing_key=binding.key)
        )

    async def _declare(self, topology: Topology, mailboxes: Iterable[str], bindings: Iterable[Binding]) -> None:
        inbox = self._inbox
        # Should the broker end this channel, nothing would arrive any more: better a new connection.
        inbox.on_closed = lambda _: self.wire.abort()
        inbox.on_cancelled = lambda _: self.wire.abort()
        for exchange in topology.exchanges:
            await inbox.call(spec.Exchange.Declare(exchange=exchange, exchange_type="topic", durable=True))
        for queue, arguments in topology.shared_queues():
            await self._declare_shared(queue, arguments)
        await inbox.call(spec.Queue.Bind(queue=topology.failed, exchange=topology.calls, routing_key=f"{FAILED}*"))
        await self._declare_own(self._mailbox, {})
        for key in mailboxes:
            await self.bind_mailbox(topology.calls, key)
        await self._declare_own(self._events, topology.events_arguments())
        for binding in bindings:
            await self.bind_events(binding)

    async def _declare_own(self, queue: str, arguments: dict[str, Any]) -> None:
        await self._inbox.call(spec.Queue.Declare(queue=queue, exclusive=True, auto_delete=True, arguments=arguments))

    async def _declare_shared(self, queue: str, arguments: dict[str, Any]) -> None:
        channel = await self.wire.channel()
        try:
            await channel.call(spec.Queue.Declare(queue=queue, durable=True, arguments=arguments))
        except ChannelClosed as error:
            if error.code != 406:
                raise
            # It is there with another container's limits, which is as good.
            channel = await self.wire.channel()
            await channel.call(spec.Queue.Declare(queue=queue, passive=True))
        await channel.close()

    async def _consume(self, topology: Topology, inlets: Inlets) -> None:
        inbox = self._inbox
        await inbox.consume(self._mailbox, inlets.mailbox, no_ack=True)
        await inbox.consume(self._events, inlets.event, no_ack=True)
        for queue, take in ((topology.returned, inlets.returned), (topology.failed, inlets.failed)):
            await inbox.consume(queue, _on(inbox, take), prefetch=_SHARED_PREFETCH)


def _on(channel: Channel, take: Callable[[Channel, Message], None]) -> Callable[[Message], None]:
    return lambda message: take(channel, message)
