"""What goes out to the broker: confirmed or not, within deadlines, and in order where a queue is full.

A full queue refuses a message, and nobody tells when there is room again. So one publisher an address tries again and
again, with growing pauses, and all others of the container queue behind it: they keep their order, and a flood costs
the broker one attempt at a time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

import structlog

from pelagos.exchange.address import Kind
from pelagos.exchange.amqp.config import AmqpConfig
from pelagos.exchange.amqp.link import Link
from pelagos.exchange.amqp.publisher import Nacked, Returned
from pelagos.exchange.amqp.topology import NESTED, Route, Topology
from pelagos.exchange.amqp.wire import WireLost
from pelagos.exchange.envelope import Envelope, encode
from pelagos.exchange.memory_queue import unserved
from pelagos.model.errors import InvalidInput, Unavailable

__all__ = ["NO_DEADLINE_PATIENCE", "Outlet"]

log = structlog.get_logger(__name__)

NO_DEADLINE_PATIENCE = 1.0
"""Seconds that a publisher without a deadline waits for room, or for a connection."""

_CONFIRM_PATIENCE = 30.0
"""Seconds that a message without a deadline may take to be confirmed."""

_FIRST_PAUSE = 0.002
_LONGEST_PAUSE = 0.05

_WRITE_BUFFER = 64 * 1024 * 1024
"""Bytes that the socket has not taken, beyond which nothing more is sent; replies get twice as much."""


class Outlet:
    """``connected(until)`` waits for the connection; it raises :class:`Unavailable`."""

    def __init__(
        self,
        config: AmqpConfig,
        topology: Topology,
        monotonic: Callable[[], float],
        connected: Callable[[float], Awaitable[Link]],
    ) -> None:
        self.published = 0
        self.undeliverable = 0
        self.refused = 0
        self._place = config.place
        self._most_bytes = config.max_message_bytes
        self._topology = topology
        self._monotonic = monotonic
        self._connected = connected
        self._gates: dict[str, deque[asyncio.Future[None]]] = {}

    @property
    def waiting(self) -> int:
        """Publishers that wait for room."""
        return sum(len(gate) for gate in self._gates.values())

    async def publish(self, link: Link | None, envelope: Envelope) -> None:
        """As the port's ``publish``; ``link`` is the connection that stands, if one does."""
        receiver = envelope.receiver
        route = self._topology.route(receiver)
        body = self._encode(envelope)
        self.published += 1
        remaining = envelope.remaining_ms
        until = self._monotonic() + (NO_DEADLINE_PATIENCE if remaining is None else remaining / 1000)
        # Nobody may overtake a publisher who waits for room, but nested requests pass all that waits.
        if not self._gates or receiver not in self._gates or envelope.depth > 0:
            try:
                await self._confirmed(link, envelope, route, body, until)
                return
            except Nacked:
                pass
        await self._publish_when_there_is_room(envelope, route, body, until)

    def send(self, link: Link, envelope: Envelope) -> None:
        """Send without waiting; what cannot be sent is counted."""
        try:
            route = self._topology.route(envelope.receiver)
            body = self._encode(envelope)
            if link.wire.backlog > (2 * _WRITE_BUFFER if envelope.is_reply else _WRITE_BUFFER):
                self.undeliverable += 1
                return
            link.publisher.send(
                route.exchange,
                _key(route, envelope),
                body,
                mandatory=route.mandatory,
                expiration="" if envelope.remaining_ms is None else str(max(1, envelope.remaining_ms)),
                conv_id=envelope.conv_id,
                reply_to=envelope.reply_to or "",
            )
        except (InvalidInput, WireLost) as error:
            self.undeliverable += 1
            log.warning("not sent", receiver=envelope.receiver[:300], op=envelope.op, error=str(error))

    async def _confirmed(self, link: Link | None, envelope: Envelope, route: Route, body: bytes, until: float) -> None:
        """Publish once. Raises :class:`Unavailable`, and :class:`Nacked` if there is no room."""
        if link is None:
            link = await self._connected(until)
        if link.wire.backlog > _WRITE_BUFFER:
            raise Unavailable(
                f"the broker at {self._place} takes nothing at the moment; nothing was done",
                advice="Look at the broker: it stops taking messages when its memory or disk is short.",
                details={"overloaded": True},
            )
        now = self._monotonic()
        limited = envelope.remaining_ms is not None
        try:
            await link.publisher.confirm(
                route.exchange,
                _key(route, envelope),
                body,
                mandatory=route.mandatory,
                expiration=str(max(1, int((until - now) * 1000))) if limited else "",
                conv_id=envelope.conv_id,
                reply_to=envelope.reply_to or "",
                until=until if limited else now + _CONFIRM_PATIENCE,
            )
        except Returned:
            raise unserved(envelope.receiver) from None
        except WireLost:
            raise Unavailable("the connection to the broker was lost; nothing was sent", advice="Try again.") from None

    async def _publish_when_there_is_room(self, envelope: Envelope, route: Route, body: bytes, until: float) -> None:
        gate = self._gates.setdefault(envelope.receiver, deque())
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        gate.append(turn)
        pause = _FIRST_PAUSE
        try:
            if gate[0] is not turn:
                async with asyncio.timeout(max(0.0, until - self._monotonic())):
                    await turn
            while (left := until - self._monotonic()) > 0:
                try:
                    await self._confirmed(None, envelope, route, body, until)
                    return
                except Nacked:
                    await asyncio.sleep(min(pause, left))
                    pause = min(pause * 2, _LONGEST_PAUSE)
            raise TimeoutError
        except TimeoutError:
            raise Unavailable(
                f"{envelope.receiver} is overloaded: its queue is full",
                advice="Try again later, or run more processes of it.",
                details={"overloaded": True},
            ) from None
        finally:
            gate.remove(turn)
            if not gate:
                del self._gates[envelope.receiver]
            elif not gate[0].done():
                gate[0].set_result(None)

    def _encode(self, envelope: Envelope) -> bytes:
        body = encode(envelope)
        if len(body) > self._most_bytes:
            self.refused += 1
            raise InvalidInput(
                f"a message of {len(body)} bytes; at most {self._most_bytes} may be sent",
                advice="Bulk data does not travel by message: keep it in the object store and send its name.",
            )
        return body


def _key(route: Route, envelope: Envelope) -> str:
    return NESTED + route.key if envelope.depth > 0 and route.kind is Kind.SERVICE else route.key
