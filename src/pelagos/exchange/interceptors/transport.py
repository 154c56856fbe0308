"""A transport around a transport, through whose stack of interceptors every message passes.

The problem: authority, signatures, deadlines and counts concern every message of every process, and must not be a
matter of each caller's and each handler's care. The port has one place where messages go out and one where they come
in, so a transport that wraps another sees them all, also those a process sends to itself.

Most messages pass unchanged, and in one container the stack is a good part of what a message costs. So which methods
are called is worked out once, apart for replies, and when nothing changes the envelope the receiver gets the very
delivery of the transport beneath. The rest is in the except branches and in
:mod:`pelagos.exchange.interceptors.inbound`.

An error reply to a refused request passes, outbound, the interceptor that refused it and all that stand behind it in
the list: so it is signed like any other, also when the signature's own interceptor refuses, and those in front, which
never saw the request, do not see its answer.

What the transport beneath says itself (nobody serves an address any more, a queue was given up) never came through
here. It passes the transport's attribute ``seal``, which is set here: the outbound way of the mandatory interceptors,
so that its receiver can tell it from a forgery.

The way rejected was a chain of closures, each calling the next: shorter to write, but a frame deeper with every
interceptor, and one that fails cannot be told from those behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import msgspec
import structlog

from pelagos.exchange.envelope import Envelope, Performative, Status, encode_error, reply_to
from pelagos.exchange.interceptors.inbound import InboundWay, InterceptedSubscription
from pelagos.exchange.interceptors.port import Done, Drop, Interceptor, unchanged_outbound
from pelagos.exchange.interceptors.refusing import MAX_CONTENT, as_error, check_size
from pelagos.exchange.interceptors.retrying import ResigningDeadLetters
from pelagos.exchange.memory import MemoryTransport
from pelagos.exchange.transport import (
    DeadLetters,
    Handler,
    Receiver,
    Subscription,
    Transport,
    TransportSnapshot,
)
from pelagos.model.errors import InvalidInput, PelagosError, Refused
from pelagos.model.world import World

__all__ = ["InterceptedTransport"]

log = structlog.get_logger(__name__)

# Looking a member up in its enum costs more than comparing it.
_REQUEST, _RESULT = Performative.REQUEST, Performative.INFORM_RESULT

Outbound = Callable[[Envelope], Envelope]


class InterceptedTransport:
    """See the module's head and :class:`pelagos.exchange.transport.Transport`.

    ``park_limit`` messages are kept at most while an interceptor is
    :class:`~pelagos.exchange.interceptors.port.Undecided`, each for at most ``park_seconds``. ``max_content`` is in
    bytes, both ways.
    """

    def __init__(
        self,
        inner: Transport,
        stack: Sequence[Interceptor],
        world: World,
        *,
        park_limit: int = 256,
        park_seconds: float = 2.0,
        max_content: int = MAX_CONTENT,
    ) -> None:
        names = [interceptor.name for interceptor in stack]
        if len(set(names)) != len(names):
            raise InvalidInput(f"an interceptor stands twice in the stack: {', '.join(names)}")
        self.inner = inner
        self.stack = tuple(stack)
        self._now = world.now
        self._max_content = max_content
        self._messages = _outbound_methods(self.stack, replies=False)
        self._replies = _outbound_methods(self.stack, replies=True)
        self._inbound = InboundWay(
            self.stack,
            self._answer,
            park_limit=park_limit,
            park_seconds=park_seconds,
            max_content=None if type(inner) is MemoryTransport else max_content,
        )
        self._publish = inner.publish
        self._post = inner.post
        self._refused = 0
        self._dropped = 0
        if hasattr(inner, "seal"):
            inner.seal = self.seal

    # -- sending -----------------------------------------------------------------------------------------------

    def publish(self, envelope: Envelope) -> Coroutine[Any, Any, None]:
        """As :meth:`Transport.publish`; awaiting it raises what an interceptor refuses the message with."""
        outbound = None
        try:
            if len(envelope.content) > self._max_content:
                check_size(envelope, self._max_content)
            for outbound in self._messages if envelope.performative is _REQUEST else self._way(envelope):
                envelope = outbound(envelope)
        except Exception as raised:  # noqa: BLE001 - the edge of interceptors: sorted out there
            return self._publish_stopped(envelope, outbound, raised)
        return self._publish(envelope)

    def post(self, envelope: Envelope) -> None:
        outbound = None
        try:
            if len(envelope.content) > self._max_content:
                check_size(envelope, self._max_content)
            way = self._replies if envelope.performative is _RESULT else self._way(envelope)
            for outbound in way:
                envelope = outbound(envelope)
        except Exception as raised:  # noqa: BLE001 - the edge of interceptors: sorted out there
            self._post_stopped(envelope, outbound, raised)
            return
        self._post(envelope)

    def seal(self, envelope: Envelope) -> Envelope:
        """A message of the transport's own making as it may travel. It must not refuse: the message goes as it is, and
        its receiver decides."""
        for interceptor in self.stack:
            if getattr(interceptor, "mandatory", False):
                try:
                    envelope = interceptor.outbound(envelope)
                except Exception as raised:
                    log.warning(
                        "could not seal a message", interceptor=interceptor.name, op=envelope.op, exc_info=raised
                    )
        return envelope

    def _way(self, envelope: Envelope) -> tuple[Outbound, ...]:
        return self._replies if envelope.is_reply else self._messages

    async def _publish_stopped(self, envelope: Envelope, outbound: Outbound | None, raised: Exception) -> None:
        rest = self._after(envelope, outbound, raised)
        if rest is not None:
            await self._publish(rest)

    def _post_stopped(self, envelope: Envelope, outbound: Outbound | None, raised: Exception) -> None:
        try:
            rest = self._after(envelope, outbound, raised)
        except PelagosError as error:
            log.warning(
                "refused to send", op=envelope.op, receiver=envelope.receiver, code=error.code, error=str(error)
            )
            if envelope.is_reply and envelope.status is Status.OK:
                # Somebody waits for it: they get the reason in its place.
                failure = msgspec.structs.replace(
                    envelope,
                    performative=Performative.FAILURE,
                    status=Status.ERROR,
                    content=encode_error(error),
                )
                self._send_error(failure, self._position(outbound))
            return
        if rest is not None:
            self._post(rest)

    def _after(self, envelope: Envelope, outbound: Outbound | None, raised: Exception) -> Envelope | None:
        """What goes out after an interceptor raised: None if nothing does. Raises the error to refuse with."""
        position = self._position(outbound)
        if isinstance(raised, Done):
            envelope = raised.envelope
            for interceptor in self.stack[position + 1 :]:
                if getattr(interceptor, "mandatory", False):
                    try:
                        envelope = interceptor.outbound(envelope)
                    except Done as done:
                        envelope = done.envelope
                    except Exception as again:  # noqa: BLE001 - the edge of interceptors
                        return self._after(envelope, interceptor.outbound, again)
            return envelope
        if isinstance(raised, Drop):
            self._dropped += 1
            return None
        self._refused += 1
        raise as_error(raised, self._name(position), envelope) from (
            None if isinstance(raised, PelagosError) else raised
        )

    def _position(self, outbound: Outbound | None) -> int:
        """Of the interceptor whose method it is; -1 for none, as if it stood before the first."""
        for position, interceptor in enumerate(self.stack):
            if outbound is not None and interceptor.outbound == outbound:
                return position
        return -1

    def _name(self, position: int) -> str:
        return self.stack[position].name if position >= 0 else "size"

    def _answer(self, request: Envelope, error: PelagosError, receiver: Receiver, position: int) -> None:
        """The error reply to a request refused by the interceptor at ``position``."""
        answer = reply_to(
            request,
            Performative.REFUSE if isinstance(error, Refused) else Performative.FAILURE,
            encode_error(error),
            sender=receiver.address,
            status=Status.ERROR,
            ts=int(self._now() * 1000),
        )
        self._send_error(answer, position)

    def _send_error(self, answer: Envelope, position: int) -> None:
        for interceptor in self.stack[max(0, min(position, len(self.stack) - 1)) :]:
            try:
                answer = interceptor.outbound(answer)
            except Done as done:
                answer = done.envelope
            except Drop:
                self._dropped += 1
                return
            except Exception as raised:
                self._refused += 1
                log.error("could not send an error reply", interceptor=interceptor.name, exc_info=raised)
                return
        self._post(answer)

    # -- receiving ---------------------------------------------------------------------------------------------

    async def subscribe(self, receiver: Receiver, handler: Handler) -> Subscription:
        # A copy, so that no two subscriptions have the same object: see the port.
        own = msgspec.structs.replace(receiver)
        subscription = InterceptedSubscription(self._inbound, own, handler)
        subscription.inner = await self.inner.subscribe(own, subscription.receive)
        return subscription

    # -- the rest of the port ----------------------------------------------------------------------------------

    async def start(self) -> None:
        await self.inner.start()

    async def stop(self) -> None:
        self._inbound.forget_all()  # the transport beneath has it still, and does with it what it does with the rest
        await self.inner.stop()

    async def wait_served(self, address: str, timeout: float) -> bool:
        return await self.inner.wait_served(address, timeout)

    async def delete_durable(self, address: str, *, reason: str | None = None) -> int:
        return await self.inner.delete_durable(address, reason=reason)

    def on_disconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        return self.inner.on_disconnect(callback)

    @property
    def dead_letters(self) -> DeadLetters:
        return ResigningDeadLetters(self.inner, self.stack)

    def snapshot(self) -> TransportSnapshot:
        snapshot = self.inner.snapshot()
        return msgspec.structs.replace(snapshot, refused=snapshot.refused + self._refused + self._inbound.refused)

    def interceptors(self) -> dict[str, dict[str, Any]]:
        """Counters of each interceptor, by name, in the stack's order; and, as ``stack``, those of their frame."""
        counters = {interceptor.name: interceptor.snapshot() for interceptor in self.stack}
        counters["stack"] = {
            "refused_outbound": self._refused,
            "refused_inbound": self._inbound.refused,
            "dropped": self._dropped + self._inbound.dropped,
            "parked": self._inbound.parked,
        }
        return counters


def _outbound_methods(stack: tuple[Interceptor, ...], *, replies: bool) -> tuple[Outbound, ...]:
    return tuple(
        interceptor.outbound
        for interceptor in stack
        if getattr(type(interceptor), "outbound", None) is not unchanged_outbound
        and (not replies or (getattr(interceptor, "replies", True) and getattr(interceptor, "sent_replies", True)))
    )
