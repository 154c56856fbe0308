"""Orders, outcomes and refusals of a stack."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from pelagos.exchange import (
    Delivery,
    Envelope,
    MemoryTransport,
    Performative,
    Receiver,
    Status,
    decode_error,
    reply_to,
)
from pelagos.exchange.interceptors import (
    Done,
    Drop,
    InterceptedTransport,
    Interceptor,
    Undecided,
    unchanged_inbound,
    unchanged_outbound,
)
from pelagos.model.errors import Forbidden, InvalidInput, PelagosError, Unauthenticated, Unavailable
from pelagos.simulation import SimulatedWorld

pytestmark = pytest.mark.anyio

SERVICE, CALLER = "service:test.store", "process:test.caller"


class Marker:
    """Writes its name into the trace, and does what it is told instead."""

    mandatory = False

    def __init__(self, name: str, *, mandatory: bool = False) -> None:
        self.name = name
        self.mandatory = mandatory
        self.out: Callable[[Envelope], None] = lambda envelope: None
        self.into: Callable[[Envelope], None] = lambda envelope: None

    def outbound(self, envelope: Envelope) -> Envelope:
        self.out(envelope)
        return msgspec.structs.replace(envelope, trace=f"{envelope.trace}{self.name}>")

    def inbound(self, envelope: Envelope, receiver: Receiver, redelivered: bool) -> Envelope:
        self.into(envelope)
        return msgspec.structs.replace(envelope, trace=f"{envelope.trace}<{self.name}")

    def snapshot(self) -> dict[str, Any]:
        return {}


class Inbox:
    def __init__(self, settle: Callable[[Delivery], None] | None = lambda delivery: delivery.ack()) -> None:
        self.deliveries: list[Delivery] = []
        self._settle = settle

    def __call__(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)
        if self._settle is not None:
            self._settle(delivery)

    @property
    def traces(self) -> list[str]:
        return [delivery.envelope.trace for delivery in self.deliveries]

    @property
    def ops(self) -> list[str]:
        return [delivery.envelope.op for delivery in self.deliveries]


def request(op: str = "put", *, to: str = SERVICE, **more: Any) -> Envelope:
    return Envelope(to, CALLER, op, Performative.REQUEST, f"c#{op}", reply_to=CALLER, **more)


def always(raised: Exception) -> Callable[[Envelope], None]:
    def act(envelope: Envelope) -> None:
        raise raised

    return act


def on_requests(raised: Exception) -> Callable[[Envelope], None]:
    def act(envelope: Envelope) -> None:
        if not envelope.is_reply:
            raise raised

    return act


@asynccontextmanager
async def scene(
    *stack: Interceptor, durable: bool = False, kind: type[MemoryTransport] = MemoryTransport, **options: Any
) -> AsyncIterator[tuple[InterceptedTransport, Inbox, Inbox]]:
    """(transport, the service's inbox, the caller's)"""
    world = SimulatedWorld()
    transport = InterceptedTransport(kind(world), stack, world, **options)
    await transport.start()
    service, caller = Inbox(), Inbox()
    await transport.subscribe(Receiver(SERVICE, durable=durable), service)
    await transport.subscribe(Receiver(CALLER), caller)
    yield transport, service, caller
    await transport.stop()


def unsettled(transport: InterceptedTransport) -> int:
    return sum(queue.unsettled + queue.waiting for queue in transport.snapshot().queues)


async def test_out_from_first_to_last_and_in_from_last_to_first() -> None:
    async with scene(Marker("a"), Marker("b"), Marker("c")) as (transport, service, caller):
        await transport.publish(request())
        transport.post(reply_to(request(), Performative.INFORM_RESULT, b"\xc0", sender=SERVICE))
        assert service.traces == ["a>b>c><c<b<a"]
        assert caller.traces == ["a>b>c><c<b<a"]


async def test_an_unchanged_message_is_the_very_delivery_of_the_transport_beneath() -> None:
    class Looker(Marker):
        outbound = unchanged_outbound  # type: ignore[assignment]
        inbound = unchanged_inbound  # type: ignore[assignment]

    async with scene(Looker("a")) as (transport, service, _):
        sent = request()
        await transport.publish(sent)
        assert service.deliveries[0].envelope is sent
        assert type(service.deliveries[0]).__name__ == "MemoryDelivery"


async def test_who_has_no_interest_in_replies_sees_none() -> None:
    deaf = Marker("a")
    deaf.replies = False  # type: ignore[attr-defined]
    async with scene(deaf, Marker("b")) as (transport, service, caller):
        await transport.publish(request())
        transport.post(reply_to(request(), Performative.FAILURE, b"\xc0", sender=SERVICE))
        assert (service.traces, caller.traces) == (["a>b><b<a"], ["b><b"])


async def test_a_reply_to_something_else_than_a_mailbox_passes_all() -> None:
    """Or a performative would be a way around the policy: a service's queue runs what it is sent."""
    deaf = Marker("a")
    deaf.replies = False  # type: ignore[attr-defined]
    deaf.into = always(Forbidden("no"))
    async with scene(deaf) as (transport, service, _):
        for performative in (Performative.AGREE, Performative.INFORM_RESULT, Performative.FAILURE):
            transport.post(Envelope(SERVICE, CALLER, "terminate", performative, "c#1"))
        assert service.ops == []
        assert transport.snapshot().refused == 3
        assert unsettled(transport) == 0


async def test_an_outbound_refusal_is_raised_to_who_publishes_and_counted_of_who_posts() -> None:
    strict = Marker("b")
    strict.out = always(Forbidden("no"))
    async with scene(Marker("a"), strict) as (transport, service, _):
        with pytest.raises(Forbidden):
            await transport.publish(request())
        transport.post(Envelope(SERVICE, CALLER, "x", Performative.INFORM, "c#1"))
        assert service.ops == []
        assert transport.snapshot().refused == 2


async def test_a_reply_that_may_not_go_out_becomes_its_error() -> None:
    strict = Marker("b")

    def refuse_results(envelope: Envelope) -> None:
        if envelope.status is Status.OK:
            raise InvalidInput("too secret")

    strict.out = refuse_results
    async with scene(Marker("a"), strict, Marker("c")) as (transport, _, caller):
        transport.post(reply_to(request(), Performative.INFORM_RESULT, b"\x01", sender=SERVICE))
        [reply] = caller.deliveries
        assert reply.envelope.status is Status.ERROR
        assert decode_error(reply.envelope.content).message == "too secret"
        assert reply.envelope.trace == "a>b>c><c<b<a"


@pytest.mark.parametrize("raised", [Forbidden("no"), ZeroDivisionError("oops")])
async def test_an_inbound_refusal_is_answered_from_the_refuser_outward_and_settles(raised: Exception) -> None:
    strict = Marker("b")
    strict.into = on_requests(raised)
    async with scene(Marker("a"), strict, Marker("c")) as (transport, service, caller):
        await transport.publish(request())
        assert service.ops == []
        [reply] = caller.deliveries
        error = decode_error(reply.envelope.content)
        assert error.code == ("forbidden" if isinstance(raised, PelagosError) else "internal_error")
        # It answers the request as the refuser saw it (a>b>c><c), then passes the refuser and those behind it.
        assert reply.envelope.trace == "a>b>c><cb>c><c<b<a"
        assert transport.snapshot().refused == 1
        assert unsettled(transport) == 0


@pytest.mark.parametrize("performative", [Performative.INFORM, Performative.CANCEL])
async def test_what_nobody_waits_for_is_settled_all_the_same(performative: Performative) -> None:
    strict = Marker("a")
    strict.into = always(Unauthenticated("who?"))
    async with scene(strict) as (transport, service, caller):
        transport.post(Envelope(SERVICE, CALLER, "x", performative, "c#1"))
        await transport.publish(msgspec.structs.replace(request(), reply_to=None))
        assert (service.ops, caller.ops) == ([], [])
        assert transport.snapshot().refused == 2
        assert unsettled(transport) == 0


async def test_refused_durable_work_is_a_dead_letter_with_the_reason() -> None:
    strict = Marker("a")
    strict.into = on_requests(Forbidden("not you"))
    async with scene(strict, durable=True) as (transport, _, caller):
        await transport.publish(request())
        [letter] = await transport.dead_letters.list()
        assert (letter.address, letter.reason) == (SERVICE, "forbidden: not you")
        assert decode_error(caller.deliveries[0].envelope.content).code == "forbidden"


async def test_whoever_waits_for_a_refused_reply_gets_an_error_at_once() -> None:
    strict = Marker("a")
    strict.into = always(Unauthenticated("not signed"))
    async with scene(strict) as (transport, _, caller):
        transport.post(reply_to(request(), Performative.INFORM_RESULT, b"\x01", sender=SERVICE))
        [reply] = caller.deliveries
        assert reply.envelope.conv_id == "c#put"
        assert reply.envelope.status is Status.ERROR
        error = decode_error(reply.envelope.content)
        assert (error.code, error.retry, error.details["refused"]) == (
            "unauthenticated",
            "uncertain",
            "unauthenticated",
        )
        assert unsettled(transport) == 0


async def test_a_dropped_message_is_settled_and_nobody_is_told() -> None:
    quiet = Marker("a")
    quiet.into = on_requests(Drop("noise"))
    async with scene(quiet) as (transport, service, caller):
        await transport.publish(request())
        assert (service.ops, caller.ops, unsettled(transport)) == ([], [], 0)
        quiet.out = always(Drop("noise"))
        await transport.publish(request())
        transport.post(request())
        assert transport.interceptors()["stack"]["dropped"] == 3


async def test_done_skips_the_rest_but_not_the_mandatory() -> None:
    first, last = Marker("a"), Marker("d")

    def done_out(envelope: Envelope) -> None:
        raise Done(msgspec.structs.replace(envelope, trace="done"))

    first.out = done_out
    last.into = done_out
    stack = (first, Marker("b", mandatory=True), Marker("c"), last)
    async with scene(*stack) as (transport, service, _):
        await transport.publish(request())
        assert service.traces == ["done<b"]


class Elsewhere(MemoryTransport):
    """Not known to carry only what was checked on its way out."""


async def test_too_long_a_content_is_refused_both_ways() -> None:
    async with scene(Marker("a"), kind=Elsewhere, max_content=1000) as (transport, service, caller):
        with pytest.raises(InvalidInput, match="1001 bytes"):
            await transport.publish(request(content=b"x" * 1001))
        await transport.inner.publish(request("big", content=b"x" * 1001))
        await transport.publish(request("fits", content=b"x" * 1000))
        assert service.ops == ["fits"]
        assert decode_error(caller.deliveries[0].envelope.content).code == "invalid_input"


# -- what cannot be decided yet --------------------------------------------------------------------------------


class Hesitant(Marker):
    """Undecided about every message that is not named in ``known``."""

    def __init__(self) -> None:
        super().__init__("h")
        self.known: set[str] = set()
        self.future: asyncio.Future[None] | None = None

    def inbound(self, envelope: Envelope, receiver: Receiver, redelivered: bool) -> Envelope:
        if envelope.op not in self.known and not envelope.is_reply:
            if self.future is None or self.future.done():
                self.future = asyncio.get_running_loop().create_future()
            raise Undecided(self.future, Unauthenticated("nobody knows you"))
        return super().inbound(envelope, receiver, redelivered)

    def learn(self, *ops: str) -> None:
        self.known.update(ops)
        assert self.future is not None
        self.future.set_result(None)


async def test_an_undecided_message_waits_and_keeps_its_senders_order() -> None:
    hesitant = Hesitant()
    async with scene(Marker("a"), hesitant, Marker("c")) as (transport, service, _):
        hesitant.known.add("other")
        for op in ("one", "two", "three"):
            await transport.publish(request(op))
        other = msgspec.structs.replace(request("other"), sender="process:test.other")
        await transport.publish(other)
        await transport.publish(request("other"))
        assert service.ops == ["other"]
        assert transport.interceptors()["stack"]["parked"] == 4
        hesitant.learn("one", "three")
        await asyncio.sleep(0)
        assert service.ops == ["other", "one"]
        hesitant.learn("two")
        await asyncio.sleep(0)
        assert service.ops == ["other", "one", "two", "three", "other"]
        assert service.traces[1:] == ["a>h>c><c<h<a"] * 4
        assert transport.interceptors()["stack"]["parked"] == 0
        assert unsettled(transport) == 0


async def test_what_stays_undecided_is_refused_when_its_time_is_up() -> None:
    hesitant = Hesitant()
    async with scene(hesitant, park_seconds=2.0) as (transport, service, caller):
        hesitant.known.add("fine")
        for op in ("odd", "fine"):
            await transport.publish(request(op))
        await asyncio.sleep(1.9)
        assert (service.ops, caller.ops) == ([], [])
        await asyncio.sleep(0.2)
        assert service.ops == ["fine"]
        assert decode_error(caller.deliveries[0].envelope.content).code == "unauthenticated"
        assert unsettled(transport) == 0


async def test_what_is_parked_is_bounded() -> None:
    async with scene(Hesitant(), park_limit=3) as (transport, _, caller):
        for number in range(5):
            await transport.publish(request(str(number)))
        assert transport.interceptors()["stack"]["parked"] == 3
        assert len(caller.deliveries) == 2
        await asyncio.sleep(3)
        assert len(caller.deliveries) == 5


@pytest.mark.parametrize("closing", [True, False])
async def test_when_a_subscription_ends_its_parked_messages_go_to_another(closing: bool) -> None:
    hesitant = Hesitant()
    world = SimulatedWorld()
    transport = InterceptedTransport(MemoryTransport(world), [hesitant], world)
    await transport.start()
    first, second = Inbox(), Inbox()
    leaving = await transport.subscribe(Receiver(SERVICE), first)
    await transport.publish(request("one"))
    await transport.publish(request("two"))
    hesitant.known.update({"one", "two"})
    await transport.subscribe(Receiver(SERVICE), second)
    await (leaving.close() if closing else leaving.cancel())
    assert first.ops == []
    assert second.ops == ["one", "two"] or (not closing and second.ops == ["two", "one"])
    await asyncio.sleep(5)
    assert (sorted(second.ops), transport.snapshot().refused, unsettled(transport)) == (["one", "two"], 0, 0)
    await transport.stop()


async def test_stopping_gives_back_what_is_parked() -> None:
    async with scene(Hesitant()) as (transport, service, _):
        await transport.publish(request("one"))
        await transport.stop()
        assert transport.interceptors()["stack"]["parked"] == 0
        await asyncio.sleep(5)
        assert service.ops == []
        with pytest.raises(Unavailable):
            await transport.publish(request("two"))


async def test_two_of_one_name_are_a_mistake() -> None:
    world = SimulatedWorld()
    with pytest.raises(InvalidInput, match="twice"):
        InterceptedTransport(MemoryTransport(world), [Marker("a"), Marker("a")], world)
