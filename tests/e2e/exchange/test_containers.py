"""Several containers on one broker: what crosses between them, and what happens when one's connection breaks."""

from __future__ import annotations

import asyncio

import pytest
from pamqp import commands as spec

from e2e.exchange.conftest import Caller, MakeTransport, answering
from pelagos.exchange import Delivery, Envelope, Performative, Receiver
from pelagos.model.errors import Unavailable
from support.inbox import Inbox, ack

pytestmark = [pytest.mark.anyio, pytest.mark.amqp, pytest.mark.e2e]

STORE = "service:test.store"


def event(op: str, to: str) -> Envelope:
    return Envelope(to, "process:a.1", op, Performative.INFORM, f"e#{op}")


async def test_a_call_goes_to_another_container_and_its_answer_comes_back(make: MakeTransport) -> None:
    a, b = await make("a"), await make("b")
    await a.subscribe(Receiver(STORE), answering(a, STORE))
    caller = Caller(b, "process:b.1")
    await caller.start()
    reply = await caller.call(STORE, "get")
    assert (reply.content, reply.sender, reply.receiver) == (b"\xc3", STORE, "process:b.1")
    assert (await caller.call(STORE, "nested", depth=3)).content == b"\xc3"


async def test_processes_of_all_containers_compete_for_a_service(make: MakeTransport) -> None:
    a, b = await make("a"), await make("b")
    first, second = Inbox(), Inbox()
    await a.subscribe(Receiver(STORE, prefetch=10), first)
    await b.subscribe(Receiver(STORE, prefetch=10, capacity=7), second)
    for number in range(20):
        await a.publish(event(str(number), STORE))
    await first.wait_for(10)
    await second.wait_for(10)
    assert sorted(first.ops + second.ops, key=int) == [str(number) for number in range(20)]


async def test_mailboxes_of_another_container(make: MakeTransport) -> None:
    a, b = await make("a"), await make("b")
    await a.subscribe(Receiver("process:a.1"), answering(a, "process:a.1"))
    caller = Caller(b, "process:b.1")
    await caller.start()
    assert (await caller.call("process:a.1", "ping")).content == b"\xc3"
    assert await b.wait_served("process:a.1", 0)
    assert not await b.wait_served("process:nowhere.1", 0)
    with pytest.raises(Unavailable, match="nobody serves"):
        await caller.call("process:a.99", "ping")  # the container is there, the process is not
    with pytest.raises(Unavailable, match="nobody serves"):
        await caller.call("process:nowhere.1", "ping")


async def test_a_full_mailbox_of_another_container_is_overload(make: MakeTransport) -> None:
    a, b = await make("a"), await make("b")
    held = Inbox()
    await a.subscribe(Receiver("process:a.1", prefetch=1, capacity=1), held)
    caller = Caller(b, "process:b.1")
    await caller.start()
    outcomes = [asyncio.ensure_future(caller.call("process:a.1", str(number), timeout=1)) for number in range(3)]
    done, waiting = await asyncio.wait(outcomes, return_when=asyncio.FIRST_COMPLETED)
    [refused] = done
    error = refused.exception()
    assert isinstance(error, Unavailable)
    assert error.details["overloaded"]
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_events_reach_every_container_once_a_subscriber(make: MakeTransport) -> None:
    a, b = await make("a"), await make("b")
    inboxes = [Inbox(ack) for _ in range(4)]
    system = "test"
    await a.subscribe(Receiver(f"topic:{system}.server.#"), inboxes[0])
    await b.subscribe(Receiver(f"topic:{system}.server.#"), inboxes[1])
    await b.subscribe(Receiver(f"topic:{system}.*.created"), inboxes[2])
    await b.subscribe(Receiver(f"fanout:{system}.news"), inboxes[3])
    await a.publish(event("1", f"topic:{system}.server.created"))
    a.post(event("2", f"topic:{system}.server.deleted"))
    a.post(event("3", f"fanout:{system}.news"))
    await inboxes[0].wait_for(2)
    await inboxes[1].wait_for(2)
    await inboxes[3].wait_for(1)
    assert [inbox.ops for inbox in inboxes] == [["1", "2"], ["1", "2"], ["1"], ["3"]]


async def test_streams_ride_their_own_exchange_and_patterns_find_them(make: MakeTransport) -> None:
    a = await make("a")
    system = a.topology.calls.removesuffix(".calls")
    everything, stream = Inbox(ack), Inbox(ack)
    await a.subscribe(Receiver(f"topic:{system}.#"), everything)
    await a.subscribe(Receiver(f"topic:{system}.stream.sea.*"), stream)
    await a.publish(event("s", f"topic:{system}.stream.sea.level"))
    await a.publish(event("e", f"topic:{system}.server.created"))
    await everything.wait_for(2)
    await stream.wait_for(1)
    assert (sorted(everything.ops), stream.ops) == (["e", "s"], ["s"])
    assert a.topology.route(f"topic:{system}.stream.sea.level").exchange == f"{system}.streams"


async def test_what_a_lost_container_held_goes_to_another(make: MakeTransport) -> None:
    a, b = await make("a", retry_after=60.0), await make("b")
    lost, other = Inbox(), Inbox(ack)
    await a.subscribe(Receiver(STORE, prefetch=2), lost)
    for op in "abc":
        await b.publish(event(op, STORE))
    await lost.wait_for(2)
    await b.subscribe(Receiver(STORE), other)
    broken = asyncio.Event()
    a.on_disconnect(broken.set)
    a._link.wire.abort()
    await broken.wait()
    again = await other.wait_for(3)
    assert {d.envelope.op: d.redelivered for d in again} == {"a": True, "b": True, "c": False}
    for delivery in lost.deliveries:
        delivery.ack()  # of a connection that is gone
    assert a.snapshot().voided == 2
    assert not a.snapshot().connected


async def test_after_a_break_everything_is_received_again(make: MakeTransport) -> None:
    a, b = await make("a"), await make("b")
    store, work, mail, news = Inbox(ack), Inbox(ack), Inbox(ack), Inbox(ack)
    await a.subscribe(Receiver(STORE), store)
    await a.subscribe(Receiver("service:test.work", durable=True), work)
    await a.subscribe(Receiver("process:a.1"), mail)
    await a.subscribe(Receiver("topic:test.#"), news)
    a._link.wire.abort()
    await b.publish(event("kept", "service:test.work"))  # nobody is there: it waits
    await work.wait_for(1)
    assert await b.wait_served(STORE, 5)
    await b.publish(event("store", STORE))
    await b.publish(event("mail", "process:a.1"))
    await b.publish(event("news", "topic:test.x"))
    await asyncio.gather(*(inbox.wait_for(1) for inbox in (store, mail, news)))
    assert (store.ops, work.ops, mail.ops, news.ops) == (["store"], ["kept"], ["mail"], ["news"])
    assert (a.snapshot().connected, a.snapshot().disconnects) == (True, 1)


async def test_open_calls_fail_at_once_when_the_connection_breaks(make: MakeTransport) -> None:
    a, b = await make("a"), await make("b", retry_after=60.0)
    held = Inbox()
    await a.subscribe(Receiver(STORE), held)
    caller = Caller(b, "process:b.1")
    await caller.start()
    calling = asyncio.ensure_future(caller.call(STORE, "slow", timeout=30))
    await held.wait_for(1)
    b._link.wire.abort()
    with pytest.raises(Unavailable) as raised:
        await calling
    assert raised.value.retry == "uncertain"
    with pytest.raises(Unavailable, match="no connection"):
        await caller.call(STORE, "meanwhile", timeout=0.05)


async def test_load_on_a_connection_that_keeps_breaking(make: MakeTransport) -> None:
    a, b = await make("a"), await make("b")
    await a.subscribe(Receiver(STORE), answering(a, STORE))
    caller = Caller(b, "process:b.1")
    await caller.start()
    ended: list[str] = []

    async def call_on_and_on() -> None:
        done = 0
        while done < 30:
            ended.append(await caller.outcome(STORE, "get", timeout=2))
            done += ended[-1] == "ok"
            await asyncio.sleep(0.005)

    async def break_it() -> None:
        for victim in (a, b, a):
            done = len(ended)
            async with asyncio.timeout(20):
                while victim._link is None or len(ended) < done + 100:  # noqa: ASYNC110 - nothing tells of either
                    await asyncio.sleep(0.01)
            victim._link.wire.abort()

    async with asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(call_on_and_on())
        group.create_task(break_it())
    assert set(ended) <= {"ok", "unavailable", "silence", "deadline_exceeded"}
    assert a.snapshot().disconnects + b.snapshot().disconnects == 3
    assert await a.wait_served(STORE, 10)
    assert await caller.outcome(STORE, "at last", timeout=5) == "ok"


async def test_a_receiver_whose_queue_was_deleted_is_restored_on_the_same_connection(make: MakeTransport) -> None:
    a, b = await make("a"), await make("b")
    inbox = Inbox(ack)
    await a.subscribe(Receiver(STORE), inbox)
    channel = await b._link.wire.channel()
    await channel.call(spec.Queue.Delete(queue=a.topology.service_queue(STORE)))
    assert await b.wait_served(STORE, 10)
    await b.publish(event("x", STORE))
    await inbox.wait_for(1)
    assert (inbox.ops, a.snapshot().disconnects) == (["x"], 0)


async def test_a_defect_of_a_receiver_holds_up_no_other(make: MakeTransport) -> None:
    a = await make("a")
    inbox = Inbox(ack)

    def fail(delivery: Delivery) -> None:
        raise RuntimeError("a handler must not raise")

    await a.subscribe(Receiver(STORE), fail)
    await a.subscribe(Receiver("topic:test.#"), inbox)
    await a.publish(event("bad", STORE))
    await a.publish(event("good", "topic:test.x"))
    await inbox.wait_for(1)
    assert a.snapshot().disconnects == 0


async def test_somebody_deletes_an_exchange(make: MakeTransport) -> None:
    a, b = await make("a"), await make("b")
    inbox = Inbox(ack)
    await a.subscribe(Receiver("topic:test.#"), inbox)
    channel = await b._link.wire.channel()
    await channel.call(spec.Exchange.Delete(exchange=a.topology.events))
    with pytest.raises(Unavailable):
        await a.publish(event("lost", "topic:test.x"))
    async with asyncio.timeout(10):
        while not inbox.ops:
            try:
                await a.publish(event("again", "topic:test.x"))
            except Unavailable:
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.01)
    assert set(inbox.ops) == {"again"}
