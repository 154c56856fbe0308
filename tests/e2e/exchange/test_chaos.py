"""The broker killed and restarted under load, floods, and messages that are none: nothing hangs, nothing is lost in
silence, memory stays bounded."""

from __future__ import annotations

import asyncio

import pytest
from pamqp import commands as spec

from e2e.exchange.conftest import Caller, MakeTransport, answering, transports
from pelagos.exchange import Delivery, Envelope, Performative, Receiver, encode
from pelagos.model.errors import InvalidInput, PelagosError, Unavailable
from support.brokers import own_broker
from support.inbox import Inbox, ack

pytestmark = [pytest.mark.anyio, pytest.mark.amqp, pytest.mark.e2e]

STORE = "service:test.store"
WORK = "service:test.work"


def work(op: str) -> Envelope:
    return Envelope(WORK, "process:b.1", op, Performative.INFORM, f"w#{op}")


@pytest.mark.timeout(400)
async def test_the_broker_is_killed_and_restarted_under_load() -> None:
    async with own_broker() as broker, transports(broker.url, "chaos") as make:
        a, b = await make("a", reply_timeout=30.0), await make("b", reply_timeout=30.0)
        done: list[str] = []
        ended: list[str] = []
        accepted: list[str] = []
        uncertain: list[str] = []
        stop = asyncio.Event()

        def handle(delivery: Delivery) -> None:
            if delivery.envelope.op.startswith("poison"):
                delivery.reject("nobody can do this")
                return
            done.append(delivery.envelope.op)
            delivery.ack()

        await a.subscribe(Receiver(STORE), answering(a, STORE))
        await a.subscribe(Receiver(WORK, durable=True, delivery_limit=20, prefetch=8), handle)
        caller = Caller(b, "process:b.1")
        await caller.start()

        async def call_on_and_on() -> None:
            while not stop.is_set():
                ended.append(await caller.outcome(STORE, "get", timeout=1))
                await asyncio.sleep(0.005)

        async def hand_in(name: str) -> None:
            number = 0
            while not stop.is_set():
                number += 1
                op = f"{'poison' if number % 10 == 0 else 'work'}-{name}-{number}"
                try:
                    await b.publish(work(op))
                    accepted.append(op)
                except PelagosError:
                    uncertain.append(op)
                await asyncio.sleep(0.005)

        async def break_it() -> None:
            for _ in range(2):
                await asyncio.sleep(1.0)
                await broker.kill()
                await asyncio.sleep(0.3)
                await broker.start()
                async with asyncio.timeout(60):
                    while not (a.snapshot().connected and b.snapshot().connected):  # noqa: ASYNC110 - a state
                        await asyncio.sleep(0.05)
            await asyncio.sleep(1.0)
            stop.set()

        async with asyncio.timeout(300), asyncio.TaskGroup() as group:
            for name in "xyz":
                group.create_task(call_on_and_on())
                group.create_task(hand_in(name))
            group.create_task(break_it())

        # Every call ended, and calls work again.
        assert set(ended) <= {"ok", "unavailable", "deadline_exceeded", "silence"}
        assert await a.wait_served(STORE, 20)
        assert await caller.outcome(STORE, "at last", timeout=10) == "ok"
        # What was confirmed is done, once or more, or is a dead letter with its reason.
        wanted = set(accepted)
        async with asyncio.timeout(60):
            while True:
                letters = await b.dead_letters.list(limit=100_000)
                buried = {letter.envelope.op: letter.reason for letter in letters if letter.envelope is not None}
                if wanted <= set(done) | set(buried):
                    break
                await asyncio.sleep(0.2)
        assert {op for op in wanted if op.startswith("work")} <= set(done)
        assert {buried[op] for op in wanted if op.startswith("poison")} == {"nobody can do this"}
        assert set(done) | set(buried) <= wanted | set(uncertain)
        assert len(wanted) > 100


async def test_a_flood_of_a_slow_service_stays_bounded(make: MakeTransport) -> None:
    a, b = await make("a"), await make("b")
    held: list[Delivery] = []
    most = 0

    def hold(delivery: Delivery) -> None:
        nonlocal most
        held.append(delivery)
        most = max(most, len(held))

    await a.subscribe(Receiver(STORE, prefetch=4, capacity=50), hold)
    caller = Caller(b, "process:b.1")
    await caller.start()

    async def work_slowly() -> None:
        while True:
            await asyncio.sleep(0.01)
            if held:
                answering(a, STORE)(held.pop(0))

    wire = b._link.wire
    channel = await wire.channel()
    async with asyncio.TaskGroup() as group:
        slow = group.create_task(work_slowly())
        calls = [group.create_task(caller.outcome(STORE, str(number), timeout=1.0)) for number in range(600)]
        lengths = []
        while not all(call.done() for call in calls):
            found = await channel.call(spec.Queue.Declare(queue=a.topology.service_queue(STORE), passive=True))
            lengths.append(found.message_count)
            await asyncio.sleep(0.05)
        slow.cancel()
    ends = [call.result() for call in calls]
    assert set(ends) <= {"ok", "unavailable", "deadline_exceeded", "silence"}
    assert {"ok", "unavailable"} <= set(ends)
    assert max(lengths) <= 50
    assert most <= 4
    assert b._outlet.waiting == 0


async def _raw(transport: object, key: str, body: bytes, exchange: str | None = None) -> None:
    """Publish bytes as some other program would."""
    link = transport._link  # type: ignore[attr-defined]
    await link.publisher.confirm(
        exchange or transport.topology.calls,  # type: ignore[attr-defined]
        key,
        body,
        mandatory=True,
        expiration="",
        conv_id="",
        reply_to="",
        until=transport.monotonic() + 5,  # type: ignore[attr-defined]
    )


def _bad(address: str) -> list[bytes]:
    good = Envelope(address, "process:x.1", "op", Performative.INFORM, "c#1")
    return [
        b"",
        b"\xff\x00garbage",
        b"\x93\x01\x02\x03",
        encode(Envelope(address, "process:x.1", "op", Performative.INFORM, "c#1", v=99)),
        encode(Envelope("service:test.other", "process:x.1", "op", Performative.INFORM, "c#1")),
        encode(Envelope("nonsense", "process:x.1", "op", Performative.INFORM, "c#1")),
        encode(good).replace(b"inform", b"sing!!"),
        encode(Envelope(address, "process:x.1", "op", Performative.INFORM, "c#1", content=b"x" * 5000)),
    ]


async def test_messages_that_are_none_are_refused_and_hold_up_nobody(make: MakeTransport) -> None:
    a, b = await make("a", max_message_bytes=4096), await make("b")
    store, mail, news = Inbox(ack), Inbox(ack), Inbox(ack)
    await a.subscribe(Receiver(STORE, prefetch=1), store)
    await a.subscribe(Receiver("process:a.1"), mail)
    await a.subscribe(Receiver("topic:test.#"), news)
    places = [
        ("service.test.store", STORE, None),
        ("nested.service.test.store", STORE, None),
        ("process.a", "process:a.1", None),
        ("test.news", "topic:test.news", a.topology.events),
    ]
    for key, address, exchange in places:
        for body in _bad(address):
            await _raw(b, key, body, exchange)
    for _, address, _ in places[1:]:
        await b.publish(Envelope(address, "process:b.1", "good", Performative.INFORM, "c#good"))
    await asyncio.gather(store.wait_for(1), mail.wait_for(1), news.wait_for(1))
    assert (store.ops, mail.ops, news.ops) == (["good"], ["good"], ["good"])
    assert a.snapshot().refused == 8 * len(places)
    assert a.snapshot().disconnects == 0


async def test_durable_messages_that_are_none_become_dead_letters(make: MakeTransport) -> None:
    a = await make("a", max_message_bytes=4096)
    inbox = Inbox(ack)
    await a.subscribe(Receiver(WORK, durable=True), inbox)
    for body in _bad(WORK):
        await _raw(a, "service.test.work", body)
    await a.publish(work("good"))
    await inbox.wait_for(1)
    async with asyncio.timeout(10):
        while len(letters := await a.dead_letters.list()) < 8:  # noqa: ASYNC110 - nothing tells of one
            await asyncio.sleep(0.02)
    assert all(letter.reason and letter.address == WORK for letter in letters)
    unreadable = [letter for letter in letters if letter.envelope is None]
    assert len(unreadable) >= 4
    with pytest.raises(InvalidInput):
        await a.dead_letters.retry(unreadable[0].id)
    await a.dead_letters.drop(unreadable[0].id)
    assert len(await a.dead_letters.list()) == 7


async def test_what_is_too_large_is_not_sent(make: MakeTransport) -> None:
    a = await make("a", max_message_bytes=4096)
    inbox = Inbox(ack)
    await a.subscribe(Receiver(STORE), inbox)
    large = Envelope(STORE, "process:a.1", "large", Performative.INFORM, "c#1", content=b"x" * 5000)
    with pytest.raises(InvalidInput, match="bytes"):
        await a.publish(large)
    a.post(large)
    await a.publish(Envelope(STORE, "process:a.1", "small", Performative.INFORM, "c#1"))
    await inbox.wait_for(1)
    assert inbox.ops == ["small"]
    assert a.snapshot().refused == 2


async def test_large_messages_travel_in_many_frames(make: MakeTransport) -> None:
    a, b = await make("a"), await make("b")
    inbox = Inbox(ack)
    await a.subscribe(Receiver(STORE), inbox)
    content = bytes(range(256)) * 16_000
    await b.publish(Envelope(STORE, "process:b.1", "large", Performative.INFORM, "c#1", content=content))
    [delivery] = await inbox.wait_for(1)
    assert delivery.envelope.content == content


async def test_many_publishes_are_confirmed_at_a_time(make: MakeTransport) -> None:
    a = await make("a")
    inbox = Inbox(ack)
    await a.subscribe(Receiver(STORE), inbox)
    publishing = [
        asyncio.ensure_future(a.publish(Envelope(STORE, "process:a.1", str(n), Performative.INFORM, f"c#{n}")))
        for n in range(1000)
    ]
    await asyncio.sleep(0)
    assert a._link.publisher.in_flight == 1000
    await asyncio.gather(*publishing)
    await inbox.wait_for(1000)
    assert inbox.ops == [str(n) for n in range(1000)]


async def test_a_service_that_leaves_while_another_comes_is_served_all_the_time_in_the_end(make: MakeTransport) -> None:
    a, b = await make("a"), await make("b")
    inbox = Inbox(ack)
    leaving = await a.subscribe(Receiver(STORE), inbox)
    for _ in range(10):
        coming = asyncio.ensure_future(b.subscribe(Receiver(STORE), inbox))
        await leaving.close()
        leaving = await coming
        a, b = b, a
        sent = len(inbox.ops)
        await b.publish(Envelope(STORE, "process:a.1", "x", Performative.INFORM, "c#x"))
        await inbox.wait_for(sent + 1)
    await leaving.close()
    with pytest.raises(Unavailable):
        await a.publish(Envelope(STORE, "process:a.1", "x", Performative.INFORM, "c#x"))
