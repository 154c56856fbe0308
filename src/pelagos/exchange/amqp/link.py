"""One life of the connection: the wire with everything declared on it and consumed from it.

Built anew after each break from what the transport knows. Nothing here outlives the wire.

A system has one container of an id. The broker sees to that: the container's mailbox is a queue of a fixed name that is
exclusive to its connection, so a second container of that id is refused before it receives anything, on whatever host
it runs. The price is that a connection which broke unnoticed by the broker keeps the name until the broker notices. The
way rejected, a new name each time and a look at who else is there, lets two in that look at the same moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Self

import msgspec
from pamqp import commands as spec

from pelagos.exchange.amqp.config import AmqpConfig
from pelagos.exchange.amqp.publisher import Publisher
from pelagos.exchange.amqp.topology import FAILED, Binding, Topology
from pelagos.exchange.amqp.wire import Channel, ChannelClosed, Message, Wire
from pelagos.model.errors import Conflict
from pelagos.model.world import World

__all__ = ["Inlets", "Link"]

_SHARED_PREFETCH = 64
_LOCKED = 405
_CLAIM_PAUSE = 0.1


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
        patience: float = 0.0,
    ) -> Self:
        """Connect, declare, and consume what belongs to the container. Raises :class:`Unavailable`, what a wire raises
        that breaks meanwhile, and :class:`Conflict` if another connection has the container's id for longer than
        ``patience`` seconds."""
        if config.credential_file is None and not config.url.startswith("amqps"):
            url, tls = config.connection_url(), None
        else:
            url, tls = await world.run_blocking(lambda: (config.connection_url(), config.tls()))
        wire = await Wire.open(config, url, tls)
        try:
            await _claim(wire, config, topology.mailbox, world.monotonic, patience)
            # Other names are new each time: what the last connection left may be about to be deleted.
            nonce = world.new_id()[:8]
            link = cls(
                wire,
                await wire.channel(),
                Publisher(await wire.channel(confirms=True), world.monotonic, lost, nonce),
                topology.mailbox,
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
        for key in mailboxes:
            await self.bind_mailbox(topology.calls, key)
        await inbox.call(_own(self._events, topology.events_arguments()))
        for binding in bindings:
            await self.bind_events(binding)

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


async def _claim(wire: Wire, config: AmqpConfig, mailbox: str, monotonic: Callable[[], float], patience: float) -> None:
    """Declare the mailbox, which one connection can have at a time. A predecessor that was killed, or cut off, may
    keep it for a moment."""
    until = monotonic() + patience
    while True:
        channel = await wire.channel()
        try:
            await channel.call(_own(mailbox, {}))
        except ChannelClosed as error:
            if error.code != _LOCKED:
                raise
            if monotonic() >= until:
                raise Conflict(
                    f"a container {config.container!r} of the system {config.system!r} is connected to the broker at "
                    f"{config.place} already",
                    advice="Stop it, or give this one another id (--id). If its host has gone, wait until the broker "
                    f"notices: about {3 * config.heartbeat} s.",
                    details={"container": config.container, "system": config.system},
                ) from error
            await asyncio.sleep(_CLAIM_PAUSE)
        else:
            await channel.close()
            return


def _own(queue: str, arguments: dict[str, Any]) -> spec.Queue.Declare:
    return spec.Queue.Declare(queue=queue, exclusive=True, auto_delete=True, arguments=arguments)


def _on(channel: Channel, take: Callable[[Channel, Message], None]) -> Callable[[Message], None]:
    return lambda message: take(channel, message)
