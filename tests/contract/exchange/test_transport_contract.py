"""What every transport must do: the port's docstrings, each as a test.

Nothing here knows how a transport works: deliveries may come at once or later, so tests wait for them, and that
something does *not* come is shown by what comes after it.
"""

from __future__ import annotations

import asyncio

import pytest

from pelagos.exchange import (
    Envelope,
    Performative,
    Receiver,
    Status,
    Subscription,
    Transport,
    decode_error,
    reply_to,
)
from pelagos.model import Scope
from pelagos.model.errors import Conflict, InternalError, Unavailable
from support.inbox import Inbox, ack

pytestmark = pytest.mark.anyio

SERVICE = "service:test.store"
CALLER = "process:test.caller"


def holding() -> Inbox:
    return Inbox(settle=None)


def acking() -> Inbox:
    return Inbox(settle=ack)


def request(op: str, *, to: str = SERVICE, remaining_ms: int | None = 5000, depth: int = 0) -> Envelope:
    return Envelope(
        receiver=to,
        sender=CALLER,
        op=op,
        performative=Performative.REQUEST,
        conv_id=f"c#{op}",
        reply_to=CALLER,
        remaining_ms=remaining_ms,
        depth=depth,
    )


def event(op: str, to: str) -> Envelope:
    return Envelope(receiver=to, sender=CALLER, op=op, performative=Performative.INFORM, conv_id=f"e#{op}")


async def serve(
    transport: Transport, inbox: Inbox, address: str = SERVICE, *, prefetch: int = 64, capacity: int = 1024
) -> Subscription:
    return await transport.subscribe(Receiver(address, prefetch=prefetch, capacity=capacity), inbox)


# -- carrying --------------------------------------------------------------------------------------------------


async def test_a_message_arrives_with_all_its_headers(transport: Transport) -> None:
    inbox = acking()
    await serve(transport, inbox, "process:test.1")
    sent = Envelope(
        receiver="process:test.1",
        sender=CALLER,
        op="create",
        performative=Performative.REQUEST,
        conv_id="c#1",
        content=b"\x93\x01\x02\x03",
        reply_to=CALLER,
        ts=1_700_000_000_123,
        remaining_ms=1500,
        depth=2,
        identity=Scope("p", "u"),
        trace="t",
        request_id="r",
    )
    await transport.publish(sent)
    [delivery] = await inbox.wait_for(1)
    assert delivery.envelope == sent
    assert not delivery.redelivered


async def test_the_deadline_is_counted_from_sending(transport: Transport) -> None:
    inbox = acking()
    await serve(transport, inbox)
    loop = asyncio.get_running_loop()
    before = loop.time()
    await transport.publish(request("a", remaining_ms=2000))
    await transport.publish(request("b", remaining_ms=None))
    first, second = await inbox.wait_for(2)
    assert first.deadline is not None
    assert before + 1.9 <= first.deadline <= loop.time() + 2.0
    assert second.deadline is None


async def test_messages_of_one_sender_keep_their_order(transport: Transport) -> None:
    inbox = acking()
    await serve(transport, inbox, prefetch=1)
    for number in range(50):
        await transport.publish(request(str(number)))
    await inbox.wait_for(50)
    assert inbox.ops == [str(number) for number in range(50)]


@pytest.mark.parametrize("address", ["process:test.nobody", "service:test.nobody"])
async def test_publishing_is_mandatory(transport: Transport, address: str) -> None:
    with pytest.raises(Unavailable, match="nobody"):
        await transport.publish(request("a", to=address))


async def test_posting_to_nobody_is_counted_and_raises_nothing(transport: Transport) -> None:
    before = transport.snapshot().undeliverable
    transport.post(reply_to(request("a"), Performative.INFORM_RESULT, b"\xc0", sender=SERVICE))
    inbox = acking()
    await serve(transport, inbox, CALLER)
    transport.post(reply_to(request("b"), Performative.INFORM_RESULT, b"\x01", sender=SERVICE))
    [delivery] = await inbox.wait_for(1)
    assert delivery.envelope.content == b"\x01"
    assert transport.snapshot().undeliverable == before + 1


async def test_a_process_address_takes_one_receiver(transport: Transport) -> None:
    await serve(transport, acking(), "process:test.1")
    with pytest.raises(Conflict):
        await serve(transport, acking(), "process:test.1")


async def test_wait_served_tells_of_a_receiver_that_comes_later(transport: Transport) -> None:
    assert not await transport.wait_served(SERVICE, 0.02)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(transport.wait_served(SERVICE, 5))
        await serve(transport, acking())
    assert waiting.result()
    assert await transport.wait_served(SERVICE, 0)


# -- competing consumers ---------------------------------------------------------------------------------------


async def test_consumers_of_a_service_share_its_messages(transport: Transport) -> None:
    first, second = acking(), acking()
    await serve(transport, first)
    await serve(transport, second)
    for number in range(20):
        await transport.publish(request(str(number)))
    await first.wait_for(5)
    await second.wait_for(20 - len(first.ops))
    await first.wait_for(20 - len(second.ops))
    sentinel = acking()
    await serve(transport, sentinel, "process:test.sentinel")
    await transport.publish(request("sentinel", to="process:test.sentinel"))
    await sentinel.wait_for(1)
    assert sorted(first.ops + second.ops, key=int) == [str(number) for number in range(20)]


async def test_prefetch_bounds_what_is_in_hand(transport: Transport) -> None:
    inbox = holding()
    await serve(transport, inbox, prefetch=2)
    for op in "abcd":
        await transport.publish(request(op))
    held = await inbox.wait_for(2)
    assert inbox.ops == ["a", "b"]
    held[0].ack()
    await inbox.wait_for(3)
    assert inbox.ops == ["a", "b", "c"]


async def test_settling_twice_is_an_error(transport: Transport) -> None:
    inbox = holding()
    await serve(transport, inbox)
    await transport.publish(request("a"))
    [delivery] = await inbox.wait_for(1)
    delivery.ack()
    for again in (delivery.ack, delivery.requeue, lambda: delivery.reject("no")):
        with pytest.raises(InternalError):
            again()


async def test_a_requeued_message_comes_again_before_later_ones(transport: Transport) -> None:
    inbox = holding()
    await serve(transport, inbox, prefetch=1)
    await transport.publish(request("a"))
    await transport.publish(request("b"))
    [delivery] = await inbox.wait_for(1)
    delivery.requeue()
    again = (await inbox.wait_for(2))[1]
    assert again.envelope.op == "a"
    assert again.redelivered
    again.ack()
    await inbox.wait_for(3)
    assert inbox.ops == ["a", "a", "b"]


async def test_a_rejected_request_is_answered(transport: Transport) -> None:
    replies = acking()
    await serve(transport, replies, CALLER)
    await serve(transport, Inbox(lambda delivery: delivery.reject("no such tenant")))
    await transport.publish(request("a"))
    [reply] = await replies.wait_for(1)
    assert reply.envelope.conv_id == "c#a"
    assert reply.envelope.status is Status.ERROR
    error = decode_error(reply.envelope.content)
    assert error.code == "unavailable"
    assert "no such tenant" in error.message


# -- going away ------------------------------------------------------------------------------------------------


async def test_what_a_lost_consumer_held_goes_to_another(transport: Transport) -> None:
    lost, other = holding(), acking()
    subscription = await serve(transport, lost)
    for op in "ab":
        await transport.publish(request(op))
    await lost.wait_for(2)
    await serve(transport, other)
    await subscription.close()
    deliveries = await other.wait_for(2)
    assert other.ops == ["a", "b"]
    assert all(delivery.redelivered for delivery in deliveries)


async def test_after_cancel_nothing_comes_and_what_is_in_hand_is_settled(transport: Transport) -> None:
    leaving, staying = holding(), acking()
    subscription = await serve(transport, leaving)
    await transport.publish(request("a"))
    [delivery] = await leaving.wait_for(1)
    await serve(transport, staying)
    await subscription.cancel()
    await subscription.cancel()
    for op in "bc":
        await transport.publish(request(op))
    await staying.wait_for(2)
    delivery.ack()
    await subscription.close()
    await transport.publish(request("d"))
    await staying.wait_for(3)
    assert leaving.ops == ["a"]
    assert staying.ops == ["b", "c", "d"]


async def test_when_the_last_consumer_goes_waiting_requests_are_answered(transport: Transport) -> None:
    replies, inbox = acking(), holding()
    await serve(transport, replies, CALLER)
    subscription = await serve(transport, inbox, prefetch=1)
    for op in "abc":
        await transport.publish(request(op))
    [held] = await inbox.wait_for(1)
    await subscription.cancel()
    await replies.wait_for(2)
    with pytest.raises(Unavailable):
        await transport.publish(request("d"))
    held.requeue()
    answered = await replies.wait_for(3)
    assert [reply.envelope.conv_id for reply in answered] == ["c#b", "c#c", "c#a"]
    assert {decode_error(reply.envelope.content).code for reply in answered} == {"unavailable"}


async def test_a_stopped_transport_says_so(transport: Transport) -> None:
    await serve(transport, acking())
    await transport.stop()
    await transport.stop()
    with pytest.raises(Unavailable):
        await transport.publish(request("a"))
    with pytest.raises(Unavailable):
        await serve(transport, acking())


# -- back-pressure and deadlines -------------------------------------------------------------------------------


async def test_a_full_queue_is_overload_after_the_deadline(transport: Transport) -> None:
    inbox = holding()
    await serve(transport, inbox, prefetch=1, capacity=2)
    for op in "abc":
        await transport.publish(request(op))
    with pytest.raises(Unavailable) as raised:
        await transport.publish(request("d", remaining_ms=30))
    assert raised.value.details["overloaded"]
    for number in range(3):
        (await inbox.wait_for(number + 1))[number].ack()
    await transport.publish(request("e"))
    await inbox.wait_for(4)
    assert inbox.ops == ["a", "b", "c", "e"]


async def test_a_publisher_waits_for_room(transport: Transport) -> None:
    inbox = holding()
    await serve(transport, inbox, prefetch=1, capacity=1)
    await transport.publish(request("a"))
    await transport.publish(request("b"))
    async with asyncio.TaskGroup() as group:
        for op in "cd":
            group.create_task(transport.publish(request(op)))
        for number in range(4):
            (await inbox.wait_for(number + 1))[number].ack()
    assert inbox.ops == ["a", "b", "c", "d"]


async def test_a_waiting_publisher_hears_that_the_service_is_gone(transport: Transport) -> None:
    inbox = holding()
    subscription = await serve(transport, inbox, prefetch=1, capacity=1)
    await transport.publish(request("a"))
    await transport.publish(request("b"))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(_outcome(transport.publish(request("c"))))
        await asyncio.sleep(0.01)
        await subscription.cancel()
    assert isinstance(task.result(), Unavailable)


async def _outcome(awaitable: object) -> BaseException | None:
    try:
        await awaitable  # type: ignore[misc]
    except Unavailable as error:
        return error
    return None


async def test_a_message_past_its_deadline_is_not_delivered(transport: Transport) -> None:
    inbox = holding()
    await serve(transport, inbox, prefetch=1)
    await transport.publish(request("a"))
    await transport.publish(request("late", remaining_ms=20))
    await transport.publish(request("c"))
    [first] = await inbox.wait_for(1)
    await asyncio.sleep(0.05)  # the deadline itself, not a wait for something to be done
    first.ack()
    await inbox.wait_for(2)
    assert inbox.ops == ["a", "c"]
    assert transport.snapshot().expired == 1


async def test_nested_requests_and_replies_pass_what_waits(transport: Transport) -> None:
    inbox = holding()
    await serve(transport, inbox, "process:test.1", prefetch=1, capacity=1)
    await transport.publish(request("a", to="process:test.1"))
    await transport.publish(request("b", to="process:test.1"))
    await transport.publish(request("nested", to="process:test.1", depth=1))
    answer = Envelope("process:test.1", SERVICE, "result", Performative.INFORM_RESULT, "c#x")
    transport.post(answer)
    await inbox.wait_for(3)
    assert inbox.ops == ["a", "nested", "result"]


# -- fan-out and topics ----------------------------------------------------------------------------------------


async def test_every_subscriber_of_a_fanout_gets_a_copy(transport: Transport) -> None:
    await transport.publish(event("nobody listens", "fanout:test.news"))
    first, second, other = acking(), acking(), acking()
    await serve(transport, first, "fanout:test.news")
    await serve(transport, second, "fanout:test.news")
    await serve(transport, other, "fanout:test.other")
    await transport.publish(event("a", "fanout:test.news"))
    transport.post(event("b", "fanout:test.news"))
    await transport.publish(event("c", "fanout:test.other"))
    await first.wait_for(2)
    await second.wait_for(2)
    await other.wait_for(1)
    assert (first.ops, second.ops, other.ops) == (["a", "b"], ["a", "b"], ["c"])


async def test_topics_match_by_words(transport: Transport) -> None:
    patterns = {"topic:test.server.*": [], "topic:test.#": [], "topic:test.server.created": [], "topic:test.*": []}
    inboxes = {pattern: acking() for pattern in patterns}
    for pattern, inbox in inboxes.items():
        await serve(transport, inbox, pattern)
    for name in ("server.created", "server.deleted", "quota", "server.created.late"):
        await transport.publish(event(name, f"topic:test.{name}"))
    await inboxes["topic:test.#"].wait_for(4)
    await inboxes["topic:test.*"].wait_for(1)
    await inboxes["topic:test.server.*"].wait_for(2)
    assert {pattern: inbox.ops for pattern, inbox in inboxes.items()} == {
        "topic:test.server.*": ["server.created", "server.deleted"],
        "topic:test.#": ["server.created", "server.deleted", "quota", "server.created.late"],
        "topic:test.server.created": ["server.created"],
        "topic:test.*": ["quota"],
    }


async def test_a_slow_subscriber_loses_its_oldest_and_holds_up_nobody(transport: Transport) -> None:
    slow, quick = holding(), acking()
    await serve(transport, slow, "fanout:test.news", prefetch=1, capacity=2)
    await serve(transport, quick, "fanout:test.news")
    for op in "abcde":
        await transport.publish(event(op, "fanout:test.news"))
    await quick.wait_for(5)
    for number in range(3):
        (await slow.wait_for(number + 1))[number].ack()
    assert slow.ops == ["a", "d", "e"]
    assert transport.snapshot().undeliverable == 2


async def test_a_subscriber_that_left_gets_nothing(transport: Transport) -> None:
    left, stayed = acking(), acking()
    subscription = await serve(transport, left, "topic:test.#")
    await serve(transport, stayed, "topic:test.#")
    await subscription.close()
    await transport.publish(event("a", "topic:test.x"))
    await stayed.wait_for(1)
    assert left.ops == []
