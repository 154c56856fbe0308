"""Durable work and dead letters: what every transport must do with what must not be lost."""

from __future__ import annotations

import asyncio

import pytest

from pelagos.exchange import (
    DeadLetter,
    Envelope,
    Performative,
    Receiver,
    Subscription,
    Transport,
    decode_error,
)
from pelagos.model.errors import Conflict, InvalidInput, NotFound, Unavailable
from support.inbox import Inbox, ack

pytestmark = pytest.mark.anyio

WORK = "service:test.work"
CALLER = "process:test.caller"


def work(op: str, *, remaining_ms: int | None = None, depth: int = 0, answer: bool = False) -> Envelope:
    return Envelope(
        receiver=WORK,
        sender=CALLER,
        op=op,
        performative=Performative.REQUEST if answer else Performative.INFORM,
        conv_id=f"w#{op}",
        content=b"\xa4work",
        reply_to=CALLER if answer else None,
        remaining_ms=remaining_ms,
        depth=depth,
        ts=1_700_000_000_123,
        trace="t",
    )


async def serve(transport: Transport, inbox: Inbox, *, prefetch: int = 64, limit: int = 5) -> Subscription:
    return await transport.subscribe(Receiver(WORK, prefetch=prefetch, durable=True, delivery_limit=limit), inbox)


async def letters(transport: Transport, count: int) -> list[DeadLetter]:
    """The dead letters, once there are so many: on a broker they travel."""
    async with asyncio.timeout(5):
        while len(found := await transport.dead_letters.list()) < count:  # noqa: ASYNC110 - nothing tells of one
            await asyncio.sleep(0.01)
    assert len(found) == count
    return found


async def test_work_waits_for_a_consumer_to_come_back(transport: Transport) -> None:
    first, second = Inbox(), Inbox(ack)
    subscription = await serve(transport, first)
    await transport.publish(work("a"))
    await transport.publish(work("b"))
    await first.wait_for(2)
    first.deliveries[0].ack()
    await subscription.close()
    await transport.publish(work("c"))
    await transport.publish(work("nested", depth=2))
    assert not await transport.wait_served(WORK, 0)
    await serve(transport, second)
    await second.wait_for(3)
    assert sorted(second.ops) == ["b", "c", "nested"]
    assert {d.envelope.op: d.redelivered for d in second.deliveries}["b"]
    assert second.deliveries[0].envelope.content == b"\xa4work"


async def test_before_anybody_served_it_publishing_is_mandatory(transport: Transport) -> None:
    with pytest.raises(Unavailable):
        await transport.publish(work("a"))


async def test_work_with_a_deadline_expires_and_is_no_dead_letter(transport: Transport) -> None:
    replies, inbox = Inbox(ack), Inbox(ack)
    await transport.subscribe(Receiver(CALLER), replies)
    await (await serve(transport, Inbox())).close()
    await transport.publish(work("late", remaining_ms=20, answer=True))
    await transport.publish(work("patient"))
    await asyncio.sleep(0.05)  # the deadline itself, not a wait for something to be done
    await serve(transport, inbox)
    await inbox.wait_for(1)
    [answer] = await replies.wait_for(1)
    assert inbox.ops == ["patient"]
    assert decode_error(answer.envelope.content).code == "deadline_exceeded"
    assert await transport.dead_letters.list() == []


async def test_consumers_must_agree_that_it_is_durable(transport: Transport) -> None:
    subscription = await transport.subscribe(Receiver(WORK), Inbox(ack))
    with pytest.raises(Conflict):
        await serve(transport, Inbox())
    await subscription.close()
    await serve(transport, Inbox())
    with pytest.raises(Conflict):
        await transport.subscribe(Receiver(WORK), Inbox())
    with pytest.raises(Conflict):
        await serve(transport, Inbox(), limit=2)


async def test_only_services_are_durable(transport: Transport) -> None:
    with pytest.raises(InvalidInput):
        await transport.subscribe(Receiver(CALLER, durable=True), Inbox())
    with pytest.raises(InvalidInput):
        await serve(transport, Inbox(), limit=0)


@pytest.mark.parametrize("limit", [1, 3])
async def test_what_is_lost_too_often_becomes_a_dead_letter(transport: Transport, limit: int) -> None:
    replies = Inbox(ack)
    await transport.subscribe(Receiver(CALLER), replies)
    for number in range(limit):
        inbox = Inbox()
        subscription = await serve(transport, inbox, limit=limit)
        if not number:
            await transport.publish(work("a", answer=True))
        [held] = await inbox.wait_for(1)
        assert held.redelivered == (number > 0)
        assert (held.handed_out, held.last) == (number + 1, number + 1 == limit)
        await subscription.close()
    [letter] = await letters(transport, 1)
    assert (letter.address, letter.deliveries) == (WORK, limit)
    assert "never finished" in letter.reason
    assert letter.envelope == work("a", answer=True)
    [answer] = await replies.wait_for(1)
    error = decode_error(answer.envelope.content)
    assert (error.code, error.retry) == ("unavailable", "uncertain")


async def test_what_is_requeued_for_ever_becomes_a_dead_letter(transport: Transport) -> None:
    inbox = Inbox(lambda delivery: delivery.requeue())
    await serve(transport, inbox, limit=3)
    await transport.publish(work("a"))
    [letter] = await letters(transport, 1)
    assert inbox.ops == ["a"] * 3
    assert letter.deliveries == 3


async def test_rejected_work_is_a_dead_letter_and_its_sender_hears_of_it(transport: Transport) -> None:
    replies = Inbox(ack)
    await transport.subscribe(Receiver(CALLER), replies)
    await serve(transport, Inbox(lambda delivery: delivery.reject("no such tenant")))
    await transport.publish(work("a", answer=True))
    [answer] = await replies.wait_for(1)
    assert "no such tenant" in decode_error(answer.envelope.content).message
    [letter] = await letters(transport, 1)
    assert (letter.reason, letter.deliveries, letter.address) == ("no such tenant", 1, WORK)
    assert letter.at > 0
    assert transport.snapshot().dead_lettered == 1
    assert transport.snapshot().undeliverable == 0


async def _bury(transport: Transport, *ops: str) -> list[DeadLetter]:
    subscription = await serve(transport, Inbox(lambda delivery: delivery.reject("bad")))
    for op in ops:
        await transport.publish(work(op))
    found = await letters(transport, len(ops))
    await subscription.close()
    return found


def _ops(found: list[DeadLetter]) -> list[str]:
    return [letter.envelope.op for letter in found if letter.envelope is not None]


async def test_looking_neither_rearranges_nor_loses_letters(transport: Transport) -> None:
    found = await _bury(transport, *"abcdef")
    assert _ops(found) == list("abcdef")
    for _ in range(3):
        assert _ops(await transport.dead_letters.list(limit=2)) == ["a", "b"]
        assert await transport.dead_letters.get(found[4].id) == found[4]
    both = await asyncio.gather(transport.dead_letters.list(), transport.dead_letters.list())
    assert both == [found, found]


async def test_a_letter_is_sent_once_more_with_a_fresh_count(transport: Transport) -> None:
    found = await _bury(transport, *"abc")
    inbox = Inbox(ack)
    await serve(transport, inbox)
    await transport.dead_letters.retry(found[1].id)
    [again] = await inbox.wait_for(1)
    assert again.envelope.op == "b"
    assert not again.redelivered
    assert _ops(await transport.dead_letters.list()) == ["a", "c"]


async def test_a_letter_is_dropped(transport: Transport) -> None:
    found = await _bury(transport, *"abc")
    await transport.dead_letters.drop(found[0].id)
    assert _ops(await transport.dead_letters.list()) == ["b", "c"]


async def test_a_letter_that_is_not_there(transport: Transport) -> None:
    await _bury(transport, "a")
    for action in (transport.dead_letters.get, transport.dead_letters.retry, transport.dead_letters.drop):
        with pytest.raises(NotFound):
            await action("nonesuch")
    assert len(await transport.dead_letters.list()) == 1


async def test_the_oldest_letters_make_room(transport: Transport) -> None:
    subscription = await serve(transport, Inbox(lambda delivery: delivery.reject("bad")))
    for number in range(53):
        await transport.publish(work(str(number)))
    async with asyncio.timeout(5):
        while transport.snapshot().undeliverable < 3:  # noqa: ASYNC110 - a counter
            await asyncio.sleep(0.01)
    await subscription.close()
    assert _ops(await transport.dead_letters.list()) == [str(number) for number in range(3, 53)]
    assert transport.snapshot().dead_lettered == 53


async def test_a_removed_address_is_unserved_and_what_waited_is_told_of(transport: Transport) -> None:
    replies, first = Inbox(ack), Inbox()
    await transport.subscribe(Receiver(CALLER), replies)
    subscription = await serve(transport, first, prefetch=1)
    for op in "ab":
        await transport.publish(work(op))
    await transport.publish(work("asked", answer=True))
    await first.wait_for(1)
    with pytest.raises(Conflict):
        await transport.delete_durable(WORK, reason="removed")
    await transport.publish(work("nested", depth=2))
    await first.wait_for(2)
    await subscription.close()
    assert await transport.delete_durable(WORK, reason="nobody wants it") == 4
    found = await letters(transport, 4)
    assert sorted(_ops(found)) == ["a", "asked", "b", "nested"]
    assert {letter.reason for letter in found} == {"nobody wants it"}
    assert {letter.envelope.op: letter.deliveries for letter in found if letter.envelope is not None}["a"] == 1
    [answer] = await replies.wait_for(1)
    error = decode_error(answer.envelope.content)
    assert (error.code, error.retry) == ("unavailable", "transient")
    with pytest.raises(Unavailable):
        await transport.publish(work("c"))
    assert await transport.delete_durable(WORK, reason="again") == 0
    again = Inbox(ack)
    await serve(transport, again, limit=3)  # another limit: nothing of the old queue is left
    await transport.publish(work("d"))
    await again.wait_for(1)
    assert again.ops == ["d"]


async def test_what_waits_at_a_removed_address_can_be_dropped(transport: Transport) -> None:
    await (await serve(transport, Inbox())).close()
    for op in "abc":
        await transport.publish(work(op))
    assert await transport.delete_durable(WORK) == 3
    assert await transport.dead_letters.list() == []
    assert transport.snapshot().undeliverable == 3


async def test_only_what_can_be_durable_is_removed(transport: Transport) -> None:
    assert await transport.delete_durable("service:test.never") == 0
    with pytest.raises(InvalidInput):
        await transport.delete_durable(CALLER)
    subscription = await transport.subscribe(Receiver("service:test.transient"), Inbox(ack))
    assert await transport.delete_durable("service:test.transient") == 0
    assert await transport.wait_served("service:test.transient", 0)
    await subscription.cancel()
