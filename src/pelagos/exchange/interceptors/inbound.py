"""The way in: subscriptions whose handler sits behind the stack, refusals, and what waits for a decision.

A refused request is answered and settled; a refused reply is answered too, to the one who waits for it: an error
takes its place under the same conversation, since silence would cost the caller its whole deadline. That a caller's
open call can so be ended by a forged reply is the price; who can send one can also delete the caller's queue.

A message about which an interceptor is :class:`Undecided` is kept, unsettled, and the same interceptor is asked again
when what it waits for is there. Whatever the same sender sent to the same subscription after it is kept behind it, so
that order between one sender and one queue holds.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import structlog

from pelagos.exchange.envelope import Envelope, Performative, Status, encode_error
from pelagos.exchange.interceptors.port import Done, Drop, Interceptor, Undecided, unchanged_inbound
from pelagos.exchange.interceptors.refusing import Sparingly, as_error, check_size
from pelagos.exchange.transport import Delivery, Handler, Receiver, Subscription
from pelagos.model.errors import InternalError, PelagosError, Retry, Unauthenticated, Unavailable

__all__ = ["InboundWay", "InterceptedSubscription"]

log = structlog.get_logger(__name__)

# Looking a member up in its enum costs more than comparing it.
_REQUEST, _RESULT = Performative.REQUEST, Performative.INFORM_RESULT

Inbound = Callable[[Envelope, Receiver, bool], Envelope]
Answer = Callable[[Envelope, PelagosError, Receiver, int], None]
"""(request, error, receiver, position of the interceptor that refused it): sends the error reply."""


class _ChangedDelivery:
    """A delivery with another envelope than the transport's."""

    __slots__ = ("_inner", "envelope")

    def __init__(self, envelope: Envelope, inner: Delivery) -> None:
        self.envelope = envelope
        self._inner = inner

    @property
    def deadline(self) -> float | None:
        return self._inner.deadline

    @property
    def redelivered(self) -> bool:
        return self._inner.redelivered

    @property
    def handed_out(self) -> int:
        return self._inner.handed_out

    @property
    def last(self) -> bool:
        return self._inner.last

    def ack(self) -> None:
        self._inner.ack()

    def requeue(self) -> None:
        self._inner.requeue()

    def reject(self, reason: str) -> None:
        self._inner.reject(reason)


class _Case:
    """A delivery whose way in is not the plain one: where it stands, and what it waits for."""

    __slots__ = ("at", "delivery", "envelope", "error", "mandatory", "position", "timer", "until")

    def __init__(self, delivery: Delivery, envelope: Envelope, position: int) -> None:
        self.delivery = delivery
        self.envelope = envelope
        self.position = position
        """Of the interceptor to ask next; below 0: the handler."""
        self.mandatory = False
        """Only the mandatory ones are asked from here on."""
        self.until: asyncio.Future[Any] | None = None
        self.error: PelagosError | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.at = 0.0
        """When its time is up, counted from its arrival, also for what waits behind another."""


class InboundWay:
    """What all subscriptions of one transport share: the stack, counters, and the bound of what is parked."""

    def __init__(
        self,
        stack: tuple[Interceptor, ...],
        answer: Answer,
        *,
        park_limit: int,
        park_seconds: float,
        max_content: int | None,
    ) -> None:
        """``max_content``: None if the size was checked on the way out, since nothing comes from elsewhere."""
        self.stack = stack
        self.answer = answer
        self.park_limit = park_limit
        self.park_seconds = park_seconds
        self._max_content = max_content
        first = () if max_content is None else (self._check_size,)
        self.messages = (*first, *_inbound_methods(stack, replies=False))
        self.replies = (*first, *_inbound_methods(stack, replies=True))
        self.parked = 0
        self.refused = 0
        self.dropped = 0
        self._strangers = Sparingly()
        self._holding: dict[InterceptedSubscription, None] = {}

    def _check_size(self, envelope: Envelope, receiver: Receiver, redelivered: bool) -> Envelope:
        assert self._max_content is not None
        if len(envelope.content) > self._max_content:
            check_size(envelope, self._max_content)
        return envelope

    def tell_refused(self, envelope: Envelope, receiver: Receiver, error: PelagosError) -> None:
        """In the log. A stranger's heartbeats come every few seconds, as long as it runs: they are told sparingly."""
        untold = 0
        if isinstance(error, Unauthenticated):
            found = self._strangers.tell((envelope.sender, envelope.op), asyncio.get_running_loop().time())
            if found is None:
                return
            untold = found
        log.warning(
            "refused",
            op=envelope.op,
            receiver=receiver.address,
            sender=envelope.sender,
            conversation=envelope.conv_id,
            code=error.code,
            error=str(error),
            **({"times_before": untold} if untold else {}),
        )

    def holds(self, subscription: InterceptedSubscription, *, something: bool) -> None:
        if something:
            self._holding[subscription] = None
        else:
            self._holding.pop(subscription, None)

    def forget_all(self) -> None:
        for subscription in list(self._holding):
            subscription.forget()


class InterceptedSubscription:
    """One subscription: see the module's head."""

    __slots__ = (
        "_handler",
        "_lines",
        "_mailbox",
        "_messages",
        "_receiver",
        "_replies",
        "_way",
        "inner",
    )

    def __init__(self, way: InboundWay, receiver: Receiver, handler: Handler) -> None:
        self.inner: Subscription | None = None
        self._way = way
        self._receiver = receiver
        self._handler = handler
        self._messages = way.messages
        # Only a mailbox takes replies as such. Elsewhere a performative that says "reply" is no way around the policy.
        self._mailbox = receiver.address.startswith("process:")
        self._replies = way.replies if self._mailbox else way.messages
        self._lines: dict[str, deque[_Case]] = {}
        """What is parked, by sender: the first of each line is undecided, the others wait behind it."""

    def receive(self, delivery: Delivery) -> None:
        """The handler for the transport beneath."""
        original = envelope = delivery.envelope
        if self._lines and envelope.sender in self._lines:
            self._park(_Case(delivery, envelope, len(self._way.stack) - 1))
            return
        performative = envelope.performative
        if performative is _REQUEST or not (performative is _RESULT or envelope.is_reply):
            way = self._messages
        else:
            way = self._replies
        inbound = None
        try:
            receiver, redelivered = self._receiver, delivery.redelivered
            for inbound in way:
                envelope = inbound(envelope, receiver, redelivered)
        except Exception as raised:  # noqa: BLE001 - the edge of interceptors: sorted out there
            case = _Case(delivery, envelope, self._position(inbound))
            if not self._conclude(case, raised):
                self._park(case)
            return
        self._handler(delivery if envelope is original else _ChangedDelivery(envelope, delivery))

    async def cancel(self) -> None:
        assert self.inner is not None
        await self.inner.cancel()
        self.give_back()

    async def close(self) -> None:
        assert self.inner is not None
        await self.inner.cancel()
        self.forget()
        await self.inner.close()

    def give_back(self) -> None:
        """Requeue all that is parked, the newest first, so that the oldest is at the queue's head again."""
        for case in reversed(self.forget()):
            _settle(case.delivery.requeue)

    def forget(self) -> list[_Case]:
        """Decide nothing more about what is parked; returns it. The transport beneath still holds it, unsettled."""
        cases = [case for line in self._lines.values() for case in line]
        self._lines.clear()
        self._way.parked -= len(cases)
        self._way.holds(self, something=False)
        for case in cases:
            _stop_waiting(case)
        return cases

    # -- when an interceptor raised --------------------------------------------------------------------------------

    def _conclude(self, case: _Case, raised: Exception) -> bool:
        """Do what was raised at the case's position says. True when that is the end of it; False if it waits."""
        way = self._way
        delivery, envelope = case.delivery, case.envelope
        if isinstance(raised, Undecided):
            case.until, case.error = raised.until, raised.error
            return False
        elif isinstance(raised, Done):
            case.envelope, case.mandatory = raised.envelope, True
            case.position -= 1
            return self._go_on(case)
        elif isinstance(raised, Drop):
            way.dropped += 1
            log.debug("dropped", op=envelope.op, sender=envelope.sender, note=raised.note)
            _settle(delivery.ack)
        else:
            name = way.stack[case.position].name if case.position < len(way.stack) else "size"
            self._refuse(case, as_error(raised, name, envelope))
        return True

    def _go_on(self, case: _Case) -> bool:
        """Pass the interceptors from the case's position down to the first, then the handler; as :meth:`_conclude`."""
        delivery = case.delivery
        reply = self._mailbox and case.envelope.is_reply
        while case.position >= 0:
            interceptor = self._way.stack[case.position]
            if (not reply or getattr(interceptor, "replies", True)) and (
                not case.mandatory or getattr(interceptor, "mandatory", False)
            ):
                try:
                    case.envelope = interceptor.inbound(case.envelope, self._receiver, delivery.redelivered)
                except Exception as raised:  # noqa: BLE001 - the edge of interceptors: sorted out there
                    return self._conclude(case, raised)
            case.position -= 1
        envelope = case.envelope
        self._handler(delivery if envelope is delivery.envelope else _ChangedDelivery(envelope, delivery))
        return True

    def _refuse(self, case: _Case, error: PelagosError) -> None:
        delivery, envelope = case.delivery, case.envelope
        self._way.refused += 1
        self._way.tell_refused(envelope, self._receiver, error)
        if envelope.is_reply and self._mailbox:
            self._handler(_ChangedDelivery(_in_place_of(envelope, self._receiver, error), delivery))
            return
        if envelope.wants_answer:
            # Before the transport says anything of its own: whoever waits takes the first answer.
            self._way.answer(envelope, error, self._receiver, case.position)
        if self._receiver.durable:
            _settle(lambda: delivery.reject(f"{error.code}: {error.message}"))
        else:
            _settle(delivery.ack)

    def _position(self, inbound: Inbound | None) -> int:
        """Of the interceptor whose method it is; the length of the stack for none, as if it stood behind the last."""
        stack = self._way.stack
        for position, interceptor in enumerate(stack):
            if inbound is not None and interceptor.inbound == inbound:
                return position
        return len(stack)

    # -- parking ---------------------------------------------------------------------------------------------------

    def _park(self, case: _Case) -> None:
        way = self._way
        if way.parked >= way.park_limit:
            full = Unavailable("too many messages wait for a decision about them", advice="Try again later.")
            self._refuse(case, case.error or full)
            return
        way.parked += 1
        sender = case.delivery.envelope.sender
        line = self._lines.get(sender)
        if line is None:
            line = self._lines[sender] = deque()
            way.holds(self, something=True)
        line.append(case)
        case.at = asyncio.get_running_loop().time() + way.park_seconds
        if case.until is not None:
            self._watch(case)

    def _watch(self, case: _Case) -> None:
        """Have the first of a line looked at again when it can be decided, or when its time is up."""
        assert case.until is not None
        case.timer = timer = asyncio.get_running_loop().call_at(case.at, self._too_long, case)

        def decided(_: object) -> None:
            if case.timer is timer:
                _stop_waiting(case)
                self._advance(case.delivery.envelope.sender)

        case.until.add_done_callback(decided)

    def _too_long(self, case: _Case) -> None:
        assert case.error is not None
        error = case.error
        _stop_waiting(case)
        sender = case.delivery.envelope.sender
        self._lines[sender].popleft()
        self._way.parked -= 1
        self._refuse(case, error)
        self._advance(sender)

    def _advance(self, sender: str) -> None:
        """Let those in the line go on, until one is undecided. What comes while they do stands behind them."""
        line = self._lines[sender]
        while line:
            case = line[0]
            if not self._go_on(case):
                self._watch(case)
                return
            if self._lines.get(sender) is not line:  # a handler ended the subscription, and all went back
                return
            line.popleft()
            self._way.parked -= 1
        del self._lines[sender]
        if not self._lines:
            self._way.holds(self, something=False)


def _stop_waiting(case: _Case) -> None:
    if case.timer is not None:
        case.timer.cancel()
    case.timer = case.until = case.error = None


def _in_place_of(reply: Envelope, receiver: Receiver, error: PelagosError) -> Envelope:
    """What whoever waits for a refused reply gets: it may have been done, only its answer cannot be trusted."""
    # Whose answer cannot be told from a forgery did not fail to answer: the keys are what is to be looked at.
    kind = Unauthenticated if isinstance(error, Unauthenticated) else Unavailable
    unsure = kind(
        f"the answer was refused: {error.message}",
        advice=error.advice,
        details={**error.details, "refused": error.code},
    )
    unsure.retry = Retry.UNCERTAIN
    return Envelope(
        receiver.address,
        reply.sender,
        "result",
        Performative.FAILURE,
        reply.conv_id,
        encode_error(unsure),
        reply.conv_seq,
        reply.protocol,
        Status.ERROR,
        ts=reply.ts,
        trace=reply.trace,
    )


def _settle(settle: Callable[[], None]) -> None:
    """Its queue may have taken it back meanwhile: then it comes again, and there is nothing to settle."""
    try:
        settle()
    except InternalError as error:
        log.debug("was settled already", error=str(error))


def _inbound_methods(stack: tuple[Interceptor, ...], *, replies: bool) -> tuple[Inbound, ...]:
    return tuple(
        interceptor.inbound
        for interceptor in reversed(stack)
        if getattr(type(interceptor), "inbound", None) is not unchanged_inbound
        and getattr(interceptor, "sees_inbound", True)
        and (not replies or getattr(interceptor, "replies", True))
    )
