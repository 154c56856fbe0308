"""Taking a durable service address away: its queues, and what waits in them.

A durable queue outlives its consumers, which is what it is for; so somebody has to say when it is not wanted any more.
The order is that of a last consumer's leaving (:mod:`pelagos.exchange.amqp.services`): unbind, so that new work is
unserved at once; look whether somebody has come meanwhile, and bind again if so; deal with what waits, one by one; and
only then delete. A program that dies in between leaves an unbound queue, with which the next removal goes on.

The way rejected, deleting the queue at once, would drop requests whose senders wait, and what nobody has read.
"""

from __future__ import annotations

import asyncio

from pamqp import commands as spec

from pelagos.exchange.amqp.services import ServiceKeeper
from pelagos.exchange.amqp.topology import NESTED
from pelagos.exchange.amqp.wire import Channel, ChannelClosed, Message, Wire
from pelagos.exchange.envelope import decode
from pelagos.model.errors import Conflict, InvalidInput

__all__ = ["remove_durable"]

_LEAVING = 2.0
"""Seconds in which a broker may still count the consumer of a channel that has closed: a queue hears of it later."""


async def remove_durable(keeper: ServiceKeeper, wire: Wire, address: str, reason: str | None) -> int:
    """As :meth:`pelagos.exchange.transport.Transport.delete_durable`; raises also what a wire raises that breaks."""
    main = keeper.topology.work_queue(address)
    route = keeper.topology.route(address)
    keys = {main: route.key, f"{main}.{NESTED[:-1]}": NESTED + route.key}
    there = {queue: key for queue, key in keys.items() if await _consumers(wire, queue) is not None}
    if not await _left(wire, there):
        raise _served_by_somebody(address)
    if not there:
        return 0
    channel = await wire.channel()
    try:
        for queue, key in there.items():
            await channel.call(spec.Queue.Unbind(queue=queue, exchange=route.exchange, routing_key=key))
        if await _served(wire, there):
            for queue, key in there.items():
                await channel.call(spec.Queue.Bind(queue=queue, exchange=route.exchange, routing_key=key))
            raise _served_by_somebody(address)
        count = 0
        for queue in there:
            while (message := await channel.get(queue, no_ack=False)) is not None:
                await _give_up(keeper, channel, message, address, reason)
                count += 1
        for queue in there:
            await channel.call(spec.Queue.Delete(queue=queue))
        return count
    finally:
        await channel.close()


async def _give_up(keeper: ServiceKeeper, channel: Channel, message: Message, address: str, reason: str | None) -> None:
    before = (message.properties.headers or {}).get("x-delivery-count")
    deliveries = before if isinstance(before, int) else 0
    if reason is not None:
        await keeper.bury(message.body, address, reason, deliveries)
    try:
        envelope = decode(message.body)
    except InvalidInput as error:
        if reason is None:
            keeper.refuse(address, len(message.body), error.message)
    else:
        why = reason or "it was removed"
        keeper.give_up(envelope, why, begun=deliveries > 0, kept=reason is not None)
    channel.ack(message.method.delivery_tag)


async def _left(wire: Wire, queues: dict[str, str]) -> bool:
    """Whether nobody consumes, now or soon."""
    pause = 0.02
    while await _served(wire, queues):
        if pause > _LEAVING / 2:
            return False
        await asyncio.sleep(pause)
        pause *= 2
    return True


async def _served(wire: Wire, queues: dict[str, str]) -> bool:
    return any([await _consumers(wire, queue) for queue in queues])


async def _consumers(wire: Wire, queue: str) -> int | None:
    """None if there is no such queue."""
    channel = await wire.channel()
    try:
        found = await channel.call(spec.Queue.Declare(queue=queue, passive=True))
    except ChannelClosed as error:
        if error.code != 404:
            raise
        return None
    await channel.close()
    return int(found.consumer_count)


def _served_by_somebody(address: str) -> Conflict:
    return Conflict(f"{address} is served by somebody", advice="Stop who receives there first.")
