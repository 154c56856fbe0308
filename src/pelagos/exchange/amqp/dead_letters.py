"""Dead letters on the broker: a durable queue that is looked through, never rearranged.

To look, letters are taken without settling them, and put back by closing the channel they came on: a classic queue
gives them their old places again. (A quorum queue would count each look as a delivery, and bury what was looked at
often.) While somebody looks, the letters are nowhere else, so one looks at a time in the whole system: whoever has
declared the exclusive queue that serves as the lock, which the broker frees should its holder die.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol

from pamqp import commands as spec

from pelagos.exchange.amqp.topology import Topology
from pelagos.exchange.amqp.wire import Channel, ChannelClosed, Message, Wire, WireLost
from pelagos.exchange.envelope import Envelope, decode
from pelagos.exchange.transport import DeadLetter
from pelagos.model.errors import InvalidInput, NotFound, Unavailable

__all__ = ["AmqpDeadLetters", "letter_headers"]

_PATIENCE = 5.0
_PAUSE = 0.03


class LetterKeeper(Protocol):
    """What it needs of its transport."""

    topology: Topology

    async def wire(self) -> Wire:
        """The connection. Raises :class:`Unavailable`."""
        ...

    def monotonic(self) -> float: ...

    async def publish(self, envelope: Envelope) -> None: ...


def letter_headers(*, at: float, address: str, reason: str, deliveries: int) -> dict[str, Any]:
    """What a dead letter carries beside the message as it was."""
    return {
        "x-pelagos-at": repr(at),
        "x-pelagos-address": address,
        "x-pelagos-reason": reason[:1000],
        "x-pelagos-deliveries": deliveries,
    }


class AmqpDeadLetters:
    """See :class:`pelagos.exchange.transport.DeadLetters`."""

    def __init__(self, keeper: LetterKeeper) -> None:
        self._keeper = keeper
        self._turn = asyncio.Lock()

    async def list(self, limit: int = 100) -> list[DeadLetter]:
        found: list[DeadLetter] = []
        async with self._looking() as channel:
            while len(found) < limit and (message := await self._next(channel)) is not None:
                found.append(_letter(message))
        return found

    async def get(self, letter_id: str) -> DeadLetter:
        async with self._looking() as channel:
            return _letter(await self._find(channel, letter_id))

    async def retry(self, letter_id: str) -> None:
        async with self._looking() as channel:
            message = await self._find(channel, letter_id)
            envelope = _letter(message).envelope
            if envelope is None:
                raise InvalidInput(
                    f"dead letter {letter_id} cannot be read; it cannot be sent again", advice="Drop it."
                )
            await self._keeper.publish(envelope)
            channel.ack(message.method.delivery_tag)

    async def drop(self, letter_id: str) -> None:
        async with self._looking() as channel:
            channel.ack((await self._find(channel, letter_id)).method.delivery_tag)

    async def _find(self, channel: Channel, letter_id: str) -> Message:
        while (message := await self._next(channel)) is not None:
            if message.properties.message_id == letter_id:
                return message
        raise NotFound(f"there is no dead letter {letter_id}", advice="pelagos dead-letters list")

    async def _next(self, channel: Channel) -> Message | None:
        return await channel.get(self._keeper.topology.dead, no_ack=False)

    @asynccontextmanager
    async def _looking(self) -> AsyncIterator[Channel]:
        """A channel to look through the letters on; whatever was not acknowledged goes back to its place."""
        async with self._turn:
            try:
                wire = await self._keeper.wire()
                lock = await self._lock(wire)
                try:
                    channel = await wire.channel()
                    try:
                        yield channel
                    finally:
                        await channel.close()
                finally:
                    await self._unlock(lock)
            except (WireLost, ChannelClosed) as error:
                raise Unavailable(f"the dead letters could not be read: {error}") from error

    async def _lock(self, wire: Wire) -> Channel:
        until = self._keeper.monotonic() + _PATIENCE
        while True:
            channel = await wire.channel()
            try:
                await channel.call(spec.Queue.Declare(queue=self._keeper.topology.dead_lock, exclusive=True))
                return channel
            except ChannelClosed as error:
                if error.code != 405 or self._keeper.monotonic() > until:
                    raise Unavailable(
                        "somebody else looks through the dead letters", advice="Try again in a moment."
                    ) from error
            except BaseException:
                # It may be ours by now, and while this connection lives nobody else would get it.
                channel.tell(spec.Queue.Delete(queue=self._keeper.topology.dead_lock))
                channel.drop()
                raise
            await asyncio.sleep(_PAUSE)

    async def _unlock(self, lock: Channel) -> None:
        """Whatever happens meanwhile: the deletion is sent before anything is waited for."""
        if lock.failure is None:
            try:
                await lock.call(spec.Queue.Delete(queue=self._keeper.topology.dead_lock))
            finally:
                lock.drop()


def _letter(message: Message) -> DeadLetter:
    headers: dict[str, Any] = message.properties.headers or {}
    envelope: Envelope | None
    try:
        envelope = decode(message.body)
    except InvalidInput:
        envelope = None
    return DeadLetter(
        id=message.properties.message_id or "",
        at=_number(headers.get("x-pelagos-at"), float, 0.0),
        address=str(headers.get("x-pelagos-address", "")),
        reason=str(headers.get("x-pelagos-reason", "unknown")),
        deliveries=int(_number(headers.get("x-pelagos-deliveries"), float, 0.0)),
        envelope=envelope,
    )


def _number(value: Any, kind: Callable[[Any], float], otherwise: float) -> float:
    try:
        return kind(value)
    except (TypeError, ValueError):
        return otherwise
