"""How what was asked is answered, and how a message is settled once it has been worked off.

A request is answered, then acknowledged. An event is acknowledged, whatever its handler did. A one-way message is
acknowledged when its handler has ended; if it failed on a durable receiver, it is given back after a pause if trying
again may help, and becomes a dead letter with the reason if not, or when the receiver's delivery limit is reached. What
a process that ends had in work from a durable receiver is given back, unanswered: another one does it. Repeats of a
request (see :mod:`pelagos.process.duplicates`) share its fate.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from pelagos.exchange import Delivery, Envelope, Performative, Status, encode_error
from pelagos.model.errors import PelagosError, Refused, Retry
from pelagos.process.duplicates import Key, Repeats
from pelagos.process.host import Host
from pelagos.process.lanes import Item, Lane
from pelagos.process.log import get_logger

__all__ = ["Settler"]

log = get_logger(__name__)

# Looking a member up in its enum costs almost as much as making a message.
_RESULT, _OK = Performative.INFORM_RESULT, Status.OK

_PAUSE = 0.25
"""Seconds before a durable message whose handler failed is given back, unless the error says when."""


class Settler:
    """Answers and settles the messages of one process. ``admit`` takes a repeat that is to be carried out after all."""

    def __init__(self, host: Host, *, address: str, label: str, admit: Callable[[Delivery, Lane], None]) -> None:
        self.repeats = Repeats()
        self.unanswerable = 0
        self.requeued = 0
        self.rejected = 0
        self._transport = host.transport
        self._now = host.world.now
        self._loop = asyncio.get_running_loop()
        self._address = address
        self._label = label
        self._admit = admit
        self._paused: dict[Delivery, asyncio.TimerHandle] = {}
        """Durable messages soon to be given back."""

    def take_paused(self) -> list[Delivery]:
        """What waits to be given back, from now on the caller's to settle."""
        for timer in self._paused.values():
            timer.cancel()
        paused = list(self._paused)
        self._paused.clear()
        return paused

    def finish(
        self,
        item: Item,
        content: bytes,
        error: PelagosError | None,
        early: bool,
        ending: BaseException | None,
    ) -> None:
        """Answer and settle what a handler has ended with. ``early``: it has its reply already. ``ending``: what ends
        the worker with it.
        """
        delivery, _, lane, key = item
        envelope = delivery.envelope
        if early:
            if error is not None:
                log.error("handler failed after its reply", op=envelope.op, trace=envelope.trace, error=str(error))
            delivery.ack()
        elif error is None:
            if envelope.reply_to is not None:
                self.reply(envelope, content, key)
            elif key is not None:
                self._settle_repeats(self.repeats.end(key, envelope), envelope)
            delivery.ack()
        elif lane.events:
            log.error("event handler failed", address=envelope.receiver, op=envelope.op, error=str(error))
            delivery.ack()
        elif ending is not None and lane.durable:
            if key is not None:
                self.repeats.forget(key)  # what waits for it is unsettled too, and goes the same way
            delivery.requeue()
        elif envelope.reply_to is None:
            self._one_way_failed(delivery, lane, key, error)
        else:
            self._reply_error(envelope, key, error)
            delivery.ack()

    def turn_away(self, delivery: Delivery, lane: Lane, key: Key | None, error: PelagosError) -> None:
        """Nothing of it was begun."""
        envelope = delivery.envelope
        if lane.events:
            delivery.ack()
        elif envelope.reply_to is None:
            self._one_way_failed(delivery, lane, key, error)
        else:
            self._reply_error(envelope, key, error)
            delivery.ack()

    def _one_way_failed(self, delivery: Delivery, lane: Lane, key: Key | None, error: PelagosError) -> None:
        envelope = delivery.envelope
        if key is not None:
            for again, its_lane in self.repeats.forget(key) or ():
                self._one_way_failed(again, its_lane, None, error)
        log.warning("nobody to tell", op=envelope.op, sender=envelope.sender, code=error.code, error=str(error))
        if not lane.durable:
            self.unanswerable += 1
            delivery.ack()
        elif error.retry is Retry.NEVER:
            self.rejected += 1
            delivery.reject(f"{error.code}: {error.message}")
        elif delivery.last:
            # Given back, it would become a dead letter too, but with a reason that says only how often it was tried.
            self.rejected += 1
            delivery.reject(f"{error.code}: {error.message} (tried {delivery.handed_out} times)")
        else:
            self.requeued += 1
            pause = _PAUSE if error.retry_after is None else error.retry_after
            self._paused[delivery] = self._loop.call_later(pause, self._requeue, delivery)

    def _requeue(self, delivery: Delivery) -> None:
        del self._paused[delivery]
        delivery.requeue()

    def reply(self, envelope: Envelope, content: bytes, key: Key | None) -> None:
        """Send the result, and remember it for repeats."""
        assert envelope.reply_to is not None
        reply = Envelope(
            envelope.reply_to,
            self._address,
            "result",
            _RESULT,
            envelope.conv_id,
            content,
            envelope.conv_seq + 1,
            envelope.protocol,
            _OK,
            None,
            int(self._now() * 1000),
            trace=envelope.trace,
            sender_name=self._label,
        )
        self._transport.post(reply)
        if key is not None:
            waiting = self.repeats.end(key, reply)
            if waiting is not None:
                self._settle_repeats(waiting, reply)

    def _reply_error(self, envelope: Envelope, key: Key | None, error: PelagosError) -> None:
        assert envelope.reply_to is not None
        reply = Envelope(
            envelope.reply_to,
            self._address,
            "result",
            Performative.REFUSE if isinstance(error, Refused) else Performative.FAILURE,
            envelope.conv_id,
            encode_error(error),
            envelope.conv_seq + 1,
            envelope.protocol,
            Status.ERROR,
            None,
            int(self._now() * 1000),
            trace=envelope.trace,
            sender_name=self._label,
        )
        self._transport.post(reply)
        if key is None:
            return
        if self.repeats.keeps_errors(key):
            self._settle_repeats(self.repeats.end(key, reply), reply)
        else:
            for delivery, lane in self.repeats.forget(key) or ():
                self._admit(delivery, lane)

    def _settle_repeats(self, waiting: list[Any] | None, recorded: Envelope) -> None:
        for delivery, _ in waiting or ():
            self.answer_again(delivery, recorded)

    def answer_again(self, delivery: Delivery, recorded: Envelope) -> None:
        """The reply to the first, in the repeat's own conversation."""
        envelope = delivery.envelope
        if envelope.reply_to is not None:
            self._transport.post(
                msgspec.structs.replace(
                    recorded,
                    receiver=envelope.reply_to,
                    conv_id=envelope.conv_id,
                    conv_seq=envelope.conv_seq + 1,
                    protocol=envelope.protocol,
                    trace=envelope.trace,
                )
            )
        delivery.ack()
