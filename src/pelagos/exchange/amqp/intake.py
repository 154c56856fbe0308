"""What comes in for the whole container: mailboxes, events, and what queues gave back. And the fate of what is not
delivered: answered, counted, or kept as a dead letter.

Whatever a message holds, it is settled, counted and logged without its content; nothing here raises for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from pelagos.exchange.address import Kind
from pelagos.exchange.amqp.config import AmqpConfig
from pelagos.exchange.amqp.dead_letters import letter_headers
from pelagos.exchange.amqp.link import Inlets, Link
from pelagos.exchange.amqp.services import deadline_of
from pelagos.exchange.amqp.topology import FAILED, NESTED, Topology, mailbox_key
from pelagos.exchange.amqp.wire import Channel, Message, WireLost
from pelagos.exchange.envelope import Envelope, decode
from pelagos.exchange.memory import MemoryTransport
from pelagos.model.errors import InvalidInput, Retry, Unavailable
from pelagos.model.world import World

__all__ = ["PROBE", "Intake"]

log = structlog.get_logger(__name__)

PROBE = "probe"
"""The type of a message that only asks whether somebody takes it."""

_BURY_PATIENCE = 30.0


class Intake:
    """``local`` delivers to this container's processes and subscribers; ``link`` tells the connection, or None."""

    def __init__(
        self,
        world: World,
        config: AmqpConfig,
        topology: Topology,
        local: MemoryTransport,
        link: Callable[[], Link | None],
    ) -> None:
        self.topology = topology
        self.monotonic = world.monotonic
        self.max_message_bytes = config.max_message_bytes
        self.mailbox_keys: dict[str, None] = {topology.mailbox_key: None}
        """Routing keys of the process addresses that are received here."""
        self.inlets = Inlets(self._take_mail, self._take_event, self._take_returned, self._take_failed)
        self.voided = 0
        self.refused = 0
        self.dead_lettered = 0
        self.dropped_letters = 0
        self._new_id = world.new_id
        self._now = world.now
        self._letter_limit = config.dead_letter_limit
        self._local = local
        self._link = link

    # -- what comes in -----------------------------------------------------------------------------------------

    def _take_mail(self, message: Message) -> None:
        if message.properties.message_type == PROBE:
            return
        envelope = self._decode(message, "the mailboxes")
        if envelope is None:
            return
        kind, _, name = envelope.receiver.partition(":")
        if kind != Kind.PROCESS or not name or mailbox_key(envelope.receiver) not in self.mailbox_keys:
            self.refuse("the mailboxes", len(message.body), "it is meant for no process of this container")
            return
        self._local.accept(envelope, deadline_of(envelope, message.properties.expiration, self.monotonic()))

    def _take_event(self, message: Message) -> None:
        envelope = self._decode(message, "events")
        if envelope is None:
            return
        kind, _, name = envelope.receiver.partition(":")
        if kind not in (Kind.TOPIC, Kind.FANOUT) or not name:
            self.refuse("events", len(message.body), "it is no event")
            return
        self._local.accept(envelope, deadline_of(envelope, message.properties.expiration, self.monotonic()))

    def _take_returned(self, channel: Channel, message: Message) -> None:
        """It expired in a service's queue, or was the oldest of too many dead letters."""
        if _death(message, "queue") == self.topology.dead:
            self.dropped_letters += 1
            log.warning("the oldest dead letter was dropped", limit=self._letter_limit)
        else:
            envelope = self._decode(message, self.topology.returned)
            if envelope is not None:
                self._local.tell_expired(envelope)
        channel.ack(message.method.delivery_tag)

    def _take_failed(self, channel: Channel, message: Message) -> None:
        """It left a durable queue undone."""
        tag = message.method.delivery_tag
        envelope = self._decode(message, self.topology.failed)
        if _death(message, "reason") == "expired":
            if envelope is not None:
                self._local.tell_expired(envelope)
            channel.ack(tag)
            return
        queue = _death(message, "queue").removesuffix("." + NESTED[:-1])
        address = f"service:{queue.removeprefix(self.topology.work_queue('service:'))}"
        limit = message.method.routing_key.removeprefix(FAILED)
        deliveries = int(limit) if limit.isascii() and limit.isdigit() else 0
        reason = f"it was handed out {limit} times and never finished"

        def safe(future: asyncio.Future[None]) -> None:
            if channel.failure is not None:
                return
            if future.cancelled() or future.exception() is not None:
                channel.requeue(tag)
                return
            channel.ack(tag)
            if envelope is not None:
                self.give_up(envelope, reason, begun=True, kept=True)

        self.bury(message.body, address, reason, deliveries).add_done_callback(safe)

    def _decode(self, message: Message, place: str) -> Envelope | None:
        try:
            if len(message.body) > self.max_message_bytes:
                raise InvalidInput(f"{len(message.body)} bytes are more than {self.max_message_bytes}")
            return decode(message.body)
        except InvalidInput as error:
            self.refuse(place, len(message.body), error.message)
            return None

    # -- what becomes of it ------------------------------------------------------------------------------------

    def give_up(self, envelope: Envelope, reason: str, *, begun: bool, kept: bool = False) -> None:
        """No receiver is left for it, or it was rejected; ``kept`` as a dead letter."""
        error = Unavailable(f"{envelope.receiver}: {reason}")
        if begun:
            error.retry = Retry.UNCERTAIN
        self._local.turn_away(envelope, error, kept=kept)

    def refuse(self, address: str, size: int, problem: str) -> None:
        """It cannot be read, or should not be here."""
        self.refused += 1
        log.warning("a message was refused", address=address, bytes=size, problem=problem)

    def bury(self, body: bytes, address: str, reason: str, deliveries: int) -> asyncio.Future[None]:
        """Make a dead letter of it; the future ends when the broker has it."""
        headers = letter_headers(at=self._now(), address=address, reason=reason, deliveries=deliveries)
        link = self._link()
        try:
            if link is None:
                raise WireLost("there is no connection")
            future = link.publisher.confirm_persistent(
                self.topology.dead, body, headers, self._new_id(), self.monotonic() + _BURY_PATIENCE
            )
        except WireLost as error:
            future = asyncio.get_running_loop().create_future()
            future.set_exception(error)
            future.exception()
            return future
        self.dead_lettered += 1
        return future


def _death(message: Message, field: str) -> str:
    """Of the last queue that a message left dead, as the broker tells."""
    deaths = (message.properties.headers or {}).get("x-death")
    if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict):
        return str(deaths[0].get(field, ""))
    return ""
