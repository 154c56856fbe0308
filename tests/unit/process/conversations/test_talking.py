"""Conversations between processes of a container, on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from pelagos.container import Container
from pelagos.exchange import Envelope, Performative, Status
from pelagos.exchange.observing import Direction, Observation
from pelagos.model.errors import (
    Cancelled,
    Conflict,
    DeadlineExceeded,
    InternalError,
    InvalidInput,
    NotFound,
    Refused,
    Retry,
    Unavailable,
    Unsupported,
)
from pelagos.process import Context, Process, Restart, ServiceProcess, client, current_context, operation, use_context
from pelagos.process.conversations import (
    After,
    Conversation,
    ConversationError,
    Monitor,
    Outcome,
    Protocol,
    Says,
    decides,
    subscription,
)

if TYPE_CHECKING:
    from conftest import RecordingTransport

pytestmark = pytest.mark.anyio

HAGGLE = Protocol(
    "haggle",
    roles=("buyer", "seller"),
    initial="start",
    table=(
        Says("start", "buyer", Performative.REQUEST, "asked"),
        Says("asked", "seller", Performative.INFORM, "offered"),
        Says("offered", "buyer", Performative.INFORM, "asked"),
        Says("offered", "buyer", Performative.AGREE, "sold"),
        Says("offered", "buyer", Performative.REFUSE, "left"),
        After("asked", 10, "gone"),
        After("offered", None, "gone"),
    ),
    final={"sold": Outcome.DONE, "left": Outcome.REFUSED, "gone": Outcome.TIMED_OUT},
)


class Order(msgspec.Struct, frozen=True):
    item: str
    count: int = 1


class Shop(ServiceProcess):
    name = "shop"
    protocols = (HAGGLE,)

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.seen: list[Context] = []
        self.cancelled = 0
        self.sent = 0
        self.heard: list[Any] = []
        self.sold: list[int] = []

    @operation
    async def buy(self, order: Order) -> str:
        self.seen.append(current_context())
        return f"{order.count} {order.item}"

    @operation
    async def hold(self) -> str:
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return "held"

    @operation
    async def stubborn(self) -> str:
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
        return "done all the same"

    @operation
    @decides
    async def picky(self, order: Order) -> str:
        if order.count > 5:
            raise Refused("not so many")
        await self.gate.wait()
        self.conversation.agree()
        return order.item

    @operation
    @decides
    async def silent(self) -> str:
        return "agreed by answering"

    @operation
    async def fail(self, kind: str) -> None:
        match kind:
            case "family":
                raise NotFound("no such thing", details={"x": 1})
            case "refused":
                raise Refused("after agreeing")
            case "defect":
                raise ZeroDivisionError("oops")

    @operation
    async def relay(self, order: Order) -> str:
        """A conversation inside of one."""
        inner = await self.converse("request", f"process:{self.id}", "buy", order)
        answer: str = await inner.result(str)
        return answer

    @subscription
    async def numbers(self, count: int) -> AsyncIterator[int]:
        for n in range(count):
            self.sent += 1
            yield n

    @subscription
    async def ticks(self) -> AsyncIterator[float]:
        try:
            while True:
                await asyncio.sleep(7)
                yield self.world.monotonic()
        finally:
            self.cancelled += 1

    @operation
    async def pushed(self) -> None:
        await self.conversation.inform("one")
        await self.conversation.inform("two")

    @operation
    async def price(self, start: int) -> None:
        price = start
        while True:
            await self.conversation.inform(price)
            answer = await self.conversation.receive()
            if answer.performative is not Performative.INFORM:
                self.sold.append(price)
                return
            price -= 10

    @operation
    async def chat(self, first: str) -> str:
        self.heard.append(first)
        async for message in self.conversation:
            self.heard.append(message.value())
            if message.value() == "bye":
                break
            await self.conversation.inform(f"re: {message.value()}")
        return "bye bye"


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def nothing_left(container: Container) -> None:
    await settle()
    for process in container.processes:
        if process._pelagos_conversations is not None:
            snapshot = process.conversations.snapshot()
            assert (snapshot.initiated, snapshot.taken, snapshot.handlers) == (0, 0, 0), snapshot.open


@pytest.fixture
async def shop(container: Container) -> Shop:
    shop = Shop()
    await container.spawn(shop, restart=Restart.TEMPORARY)
    return shop


# -- request ---------------------------------------------------------------------------------------------------


async def test_a_request_is_agreed_and_answered(
    container: Container, shop: Shop, transport: RecordingTransport
) -> None:
    conversation = await container.edge.converse("request", "service:shop", "buy", Order("bolt", 3))
    await conversation.agreed()
    assert conversation.peer == shop.address, "AGREE tells which of the competing processes it is"
    assert await conversation.result(str) == "3 bolt"
    assert conversation.outcome is Outcome.DONE
    said = [e for e in transport.sent if e.protocol == "request"]
    assert [(e.performative.value, e.conv_seq) for e in said] == [("request", 1), ("agree", 1), ("inform_result", 2)]
    assert [line.state for line in conversation.history] == ["requested", "agreed", "done"]
    await nothing_left(container)
    with pytest.raises(ConversationError):
        await conversation.send(Performative.CANCEL)


async def test_scope_trace_deadline_and_depth_travel(container: Container, shop: Shop) -> None:
    here = Context(
        current_context().scope, deadline=container.world.monotonic() + 3, trace="t", request_id="r", depth=2
    )
    with use_context(here):
        conversation = await container.edge.converse("request", "service:shop", "buy", Order("nut"), timeout=60)
    await conversation.result()
    (seen,) = shop.seen
    assert (seen.trace, seen.conversation, seen.depth, seen.process) == ("t", conversation.id, 3, shop.id)
    assert seen.deadline is not None and seen.deadline <= container.world.monotonic() + 3


async def test_a_process_talks_to_itself_and_two_to_each_other(container: Container, shop: Shop) -> None:
    outer = await container.edge.converse("request", "service:shop", "relay", Order("x"))
    assert await outer.result(str) == "1 x"
    alone = await container.edge.converse("generic", container.edge.address, "ping")
    assert await alone.result() == "pong"
    await nothing_left(container)


@pytest.mark.parametrize(("kind", "error"), [("family", NotFound), ("refused", Refused), ("defect", InternalError)])
async def test_a_failure_comes_back_as_what_it_was(
    container: Container, shop: Shop, kind: str, error: type[Exception]
) -> None:
    conversation = await container.edge.converse("request", "service:shop", "fail", kind)
    with pytest.raises(error):
        await conversation.result()
    assert conversation.outcome is Outcome.FAILED, "it had agreed"
    await nothing_left(container)


async def test_application_code_refuses(container: Container, shop: Shop) -> None:
    conversation = await container.edge.converse("request", "service:shop", "picky", Order("x", 9))
    with pytest.raises(Refused, match="not so many"):
        await conversation.agreed()
    assert conversation.outcome is Outcome.REFUSED
    kept = await container.edge.converse("request", "service:shop", "picky", Order("x"))
    await settle()
    assert kept.state == "requested", "it has not agreed yet"
    shop.gate.set()
    await kept.agreed()
    assert await kept.result(str) == "x"
    quiet = await container.edge.converse("request", "service:shop", "silent")
    assert await quiet.result(str) == "agreed by answering"
    await nothing_left(container)


async def test_cancel_reaches_the_handler_and_is_answered(container: Container, shop: Shop) -> None:
    conversation = await container.edge.converse("request", "service:shop", "hold")
    await conversation.agreed()
    conversation.cancel()
    with pytest.raises(Cancelled):
        await conversation.result()
    assert (shop.cancelled, conversation.outcome) == (1, Outcome.CANCELLED)
    assert conversation.history[-1].performative is Performative.FAILURE, "answered, not timed out"
    await nothing_left(container)


async def test_a_cancel_before_anybody_agreed_waits_for_it(container: Container, shop: Shop) -> None:
    conversation = await container.edge.converse("request", "service:shop", "picky", Order("x"))
    conversation.cancel()
    shop.gate.set()
    # It agrees and answers in one turn: the result is there before the cancellation, and counts.
    assert await conversation.result(str) == "x"
    held = await container.edge.converse("request", "service:shop", "hold")
    shop.gate.clear()
    held.cancel()
    with pytest.raises(Cancelled):
        await held.result()
    await nothing_left(container)


async def test_a_result_that_crosses_the_cancellation_counts(container: Container, shop: Shop) -> None:
    conversation = await container.edge.converse("request", "service:shop", "stubborn")
    await conversation.agreed()
    conversation.cancel()
    assert await conversation.result(str) == "done all the same"
    assert conversation.outcome is Outcome.DONE


async def test_leaving_the_block_cancels(container: Container, shop: Shop) -> None:
    async with await container.edge.converse("request", "service:shop", "hold") as conversation:
        await conversation.agreed()
    with pytest.raises(Cancelled):
        await conversation.result()
    assert shop.cancelled == 1


async def test_a_deadline_ends_both_sides(container: Container, shop: Shop) -> None:
    begun = container.world.monotonic()
    conversation = await container.edge.converse("request", "service:shop", "hold", timeout=4)
    with pytest.raises(DeadlineExceeded):
        await conversation.result()
    assert container.world.monotonic() - begun == pytest.approx(4, abs=0.01)
    await asyncio.sleep(0.1)
    assert shop.cancelled == 1
    await nothing_left(container)


async def test_nobody_there_unknown_operation_protocol_and_argument(container: Container, shop: Shop) -> None:
    with pytest.raises(Unavailable):
        await container.edge.converse("request", "service:nobody", "x")
    with pytest.raises(NotFound):
        await container.edge.converse("waltz", "service:shop", "x")
    with pytest.raises(Unsupported):
        await container.edge.converse("rpc", "service:shop", "x")
    for op, content, error in (("nope", None, Unsupported), ("buy", 7, InvalidInput), ("numbers", 1, Unsupported)):
        conversation = await container.edge.converse("request", "service:shop", op, content)
        with pytest.raises(error):
            await conversation.result()
    deaf = await container.edge.converse(HAGGLE, container.edge.address, "ping")
    with pytest.raises(ConversationError, match="not the end"):
        await deaf.result()
    await nothing_left(container)


async def test_a_protocol_the_other_side_does_not_speak(container: Container, shop: Shop) -> None:
    class Plain(ServiceProcess):
        name = "plain"

    await container.spawn(Plain())
    conversation = await container.edge.converse(HAGGLE, "service:plain", "ping")
    with pytest.raises(Unsupported, match="does not speak"):
        await conversation.result()


async def test_too_many_are_refused(container: Container) -> None:
    class Small(Shop):
        max_conversations = 2

    await container.spawn(Small())
    kept = [await container.edge.converse("request", "service:shop", "hold") for _ in range(2)]
    third = await container.edge.converse("request", "service:shop", "hold")
    with pytest.raises(Unavailable) as told:
        await third.result()
    assert told.value.details == {"overloaded": True}
    for conversation in kept:
        conversation.cancel()
        with pytest.raises(Cancelled):
            await conversation.result()
    await nothing_left(container)


async def test_a_process_that_ends_ends_its_conversations(container: Container, shop: Shop) -> None:
    conversation = await container.edge.converse("request", "service:shop", "hold")
    await conversation.agreed()
    ticks = await container.edge.converse("subscribe", "service:shop", "ticks")
    await ticks.agreed()
    await container.terminate(shop.id)
    with pytest.raises(Unavailable) as told:
        await conversation.result()
    assert told.value.retry is Retry.UNCERTAIN
    with pytest.raises(Unavailable):
        await ticks.result()
    await nothing_left(container)


async def test_an_initiator_that_ends_has_its_requests_cancelled(container: Container, shop: Shop) -> None:
    class Asker(Process):
        pass

    asker = Asker()
    pid = await container.spawn(asker)
    conversation = await asker.converse("request", "service:shop", "hold")
    await conversation.agreed()
    await container.terminate(pid)
    with pytest.raises(Unavailable):
        await conversation.result()
    await settle()
    assert shop.cancelled == 1
    await nothing_left(container)


async def test_a_lost_connection_ends_what_this_process_asked_for(container: Container, shop: Shop) -> None:
    conversation = await container.edge.converse("request", "service:shop", "hold", timeout=20)
    await conversation.agreed()
    shop.conversations.disconnected()
    assert conversation.outcome is None, "the shop goes on: whoever asked may still hear of it"
    container.edge.conversations.disconnected()
    with pytest.raises(Unavailable, match="connection to the exchange was lost") as told:
        await conversation.result()
    assert (conversation.outcome, told.value.retry) == (Outcome.LOST, Retry.UNCERTAIN)
    await asyncio.sleep(21)
    assert shop.cancelled == 1, "at its deadline"
    await nothing_left(container)


# -- the table holds -------------------------------------------------------------------------------------------


def forged(conversation: Conversation, performative: Performative, seq: int, *, sender: str) -> Envelope:
    return Envelope(
        conversation._manager.address,
        sender,
        "x",
        performative,
        conversation.id,
        b"\xc0",
        seq,
        conversation.protocol.name,
    )


async def test_a_forbidden_send_never_goes_out(container: Container, shop: Shop, transport: RecordingTransport) -> None:
    conversation = await container.edge.converse("request", "service:shop", "hold")
    await conversation.agreed()
    before = len(transport.sent)
    with pytest.raises(ConversationError, match="possible is") as told:
        await conversation.send(Performative.INFORM_RESULT, "me first")
    assert told.value.details["state"] == "agreed"
    assert (len(transport.sent), conversation.state) == (before, "agreed")
    assert container.edge.conversations.snapshot().vetoed == 1
    shop.gate.set()
    assert await conversation.result(str) == "held", "the conversation goes on"


async def test_what_is_out_of_the_table_is_answered_and_changes_nothing(
    container: Container, shop: Shop, transport: RecordingTransport
) -> None:
    conversation = await container.edge.converse("request", "service:shop", "hold")
    await conversation.agreed()
    transport.post(forged(conversation, Performative.AGREE, 2, sender=shop.address))
    assert conversation.state == "agreed"
    answer = transport.sent[-1]
    assert (answer.receiver, answer.performative, answer.op, answer.status) == (
        shop.address,
        Performative.FAILURE,
        "conversation.not_understood",
        Status.ERROR,
    )
    assert container.edge.conversations.snapshot().violations == 1
    assert shop.conversations.snapshot().not_understood == 1
    assert conversation.history[-1].note == "out of the table"
    conversation.cancel()
    # The other side's count stands at 1, and what it says next seems a repeat: it ends all the same.
    with pytest.raises(Cancelled):
        await conversation.result()
    await asyncio.sleep(10)
    await nothing_left(container)


async def test_duplicates_gaps_strangers_and_what_comes_late(
    container: Container, shop: Shop, transport: RecordingTransport
) -> None:
    conversation = await container.edge.converse("request", "service:shop", "hold")
    await conversation.agreed()
    transport.post(forged(conversation, Performative.AGREE, 1, sender=shop.address))
    transport.post(forged(conversation, Performative.INFORM_RESULT, 2, sender="process:stranger"))
    assert conversation.outcome is None
    transport.post(forged(conversation, Performative.INFORM_RESULT, 5, sender=shop.address))
    assert conversation.outcome is Outcome.DONE
    transport.post(forged(conversation, Performative.INFORM_RESULT, 6, sender=shop.address))
    snapshot = container.edge.conversations.snapshot()
    assert (snapshot.duplicates, snapshot.gaps, snapshot.strays, snapshot.late) == (1, 1, 1, 1)
    assert [line.note for line in conversation.history] == ["", "", "duplicate", "gap", ""]
    assert snapshot.tombstones == 1
    await asyncio.sleep(200)
    assert container.edge.conversations.snapshot().tombstones == 0, "tombstones age"
    sent = len(transport.sent)
    transport.post(forged(conversation, Performative.INFORM_RESULT, 7, sender=shop.address))
    assert transport.sent[sent + 1].op == "conversation.not_understood", (
        "after that nobody knows it any more, and the sender is told"
    )


async def test_an_opening_that_comes_twice_is_served_once(
    container: Container, shop: Shop, transport: RecordingTransport
) -> None:
    conversation = await container.edge.converse("request", "service:shop", "buy", Order("x"))
    opening = next(e for e in transport.sent if e.performative is Performative.REQUEST)
    transport.post(opening)
    await conversation.result()
    transport.post(opening)
    await settle()
    assert len(shop.seen) == 1
    snapshot = shop.conversations.snapshot()
    assert (snapshot.duplicates, snapshot.late) == (1, 1)


# -- other protocols -------------------------------------------------------------------------------------------


async def test_one_of_the_users_own(container: Container, shop: Shop) -> None:
    container.edge.conversations.register(HAGGLE)
    conversation = await container.edge.converse("haggle", "service:shop", "price", 100)
    assert (await conversation.receive()).value(int) == 100
    with pytest.raises(ConversationError):
        await conversation.send(Performative.CANCEL)
    await conversation.inform("less")
    assert (await conversation.receive()).value(int) == 90
    conversation.agree()
    assert conversation.outcome is Outcome.DONE
    await settle()
    assert shop.sold == [90]
    await nothing_left(container)


async def test_the_users_own_times_out_by_its_table(container: Container, shop: Shop) -> None:
    conversation = await container.edge.converse(HAGGLE, "service:shop", "hold", timeout=1000)
    begun = container.world.monotonic()
    with pytest.raises(DeadlineExceeded):
        await conversation.receive()
    assert container.world.monotonic() - begun == pytest.approx(10, abs=0.01)
    await asyncio.sleep(0.1)
    assert shop.cancelled == 1
    await nothing_left(container)


def test_an_unsound_protocol_fails_with_its_class() -> None:
    bad = Protocol("bad", initial="a", table=(Says("a", "initiator", Performative.REQUEST, "b"),), final={})
    with pytest.raises(InvalidInput, match="bad"):
        type("Bad", (Process,), {"protocols": (bad,)})


async def test_generic_talk_until_a_party_ends_it(container: Container, shop: Shop) -> None:
    conversation = await container.edge.converse("generic", "service:shop", "chat", "hi")
    await settle()
    await conversation.inform("how are you")
    assert (await conversation.receive()).value() == "re: how are you"
    await conversation.inform("bye")
    assert await conversation.result(str) == "bye bye"
    assert shop.heard == ["hi", "how are you", "bye"]
    silent = await container.edge.converse("generic", "service:shop", "chat", "hi", timeout=2)
    with pytest.raises(DeadlineExceeded):
        await silent.receive()
    await asyncio.sleep(0.1)
    await nothing_left(container)


async def test_no_conversation_in_an_rpc(container: Container, shop: Shop) -> None:
    with pytest.raises(Conflict):
        _ = shop.conversation
    assert await client(Shop, container.edge).buy(Order("bolt")) == "1 bolt"


# -- subscribe -------------------------------------------------------------------------------------------------


async def test_a_subscription_comes_in_order_and_ends(container: Container, shop: Shop) -> None:
    conversation = await container.edge.converse("subscribe", "service:shop", "numbers", 500)
    await conversation.agreed()
    assert [n async for n in conversation.values(int)] == list(range(500))
    assert conversation.outcome is Outcome.DONE
    pushed = await container.edge.converse("subscribe", "service:shop", "pushed")
    assert [text async for text in pushed.values(str)] == ["one", "two"]
    await nothing_left(container)


async def test_a_slow_subscriber_holds_the_sender_back(container: Container, shop: Shop) -> None:
    conversation = await container.edge.converse("subscribe", "service:shop", "numbers", 500)
    await asyncio.sleep(100)
    assert conversation.outcome is None, "its lease is renewed"
    assert shop.sent == 65, "a window of 64, and one in hand"
    assert [n async for n in conversation.values(int)] == list(range(500))


async def test_dropping_the_oldest_is_declared_and_counted(container: Container, shop: Shop) -> None:
    conversation = await container.edge.converse(
        "subscribe", "service:shop", "numbers", 500, buffer=10, drop_oldest=True
    )
    await asyncio.sleep(1)
    assert shop.sent == 500, "nobody was held back"
    assert [n async for n in conversation.values(int)] == list(range(490, 500))
    assert container.edge.conversations.snapshot().dropped == 490


async def test_a_buffer_that_overflows_without_a_lease_ends_the_conversation(container: Container, shop: Shop) -> None:
    conversation = await container.edge.converse("generic", "service:shop", "chat", "hi", buffer=1)
    await settle()
    for _ in range(3):
        await settle()
        if conversation.outcome is None:
            await conversation.inform("x")
    with pytest.raises(Unavailable, match="wait already"):
        await conversation.result()
    await settle()
    await nothing_left(container)


async def test_a_subscriber_leaves(container: Container, shop: Shop) -> None:
    async with await container.edge.converse("subscribe", "service:shop", "ticks") as ticks:
        assert (await ticks.receive()).value(float) == pytest.approx(7, abs=0.1)
        await asyncio.sleep(600)
        assert ticks.outcome is None
    await settle()
    assert shop.cancelled == 1
    assert ticks.outcome is Outcome.CANCELLED
    await nothing_left(container)


async def test_a_dead_subscriber_is_forgotten_by_its_lease(container: Container, shop: Shop) -> None:
    ticks = await container.edge.converse("subscribe", "service:shop", "ticks")
    await ticks.agreed()
    # It dies without a word, while its mailbox still takes messages, as that of a machine that has stopped would.
    edge = container.edge.conversations
    edge._initiated.clear()
    edge._renewals.close()
    edge._watch.close()
    container.edge._pelagos_mailbox.handler = lambda delivery: delivery.ack()  # type: ignore[attr-defined]
    await asyncio.sleep(29)
    assert shop.conversations.snapshot().taken == 1
    await asyncio.sleep(3)
    assert (shop.conversations.snapshot().taken, shop.cancelled) == (0, 1)
    assert shop.conversations.snapshot().ended == {Outcome.TIMED_OUT: 1}


async def test_a_dead_publisher_is_noticed_by_its_subscriber(container: Container, shop: Shop) -> None:
    ticks = await container.edge.converse("subscribe", "service:shop", "ticks")
    await ticks.agreed()
    for task in list(shop.conversations.handlers):
        shop.conversations.handlers.pop(task)
    shop._pelagos_mailbox.handler = lambda delivery: delivery.ack()  # type: ignore[attr-defined]
    shop.conversations._taken.clear()
    shop.conversations.transport = _Deaf()  # type: ignore[assignment]
    begun = container.world.monotonic()
    with pytest.raises(DeadlineExceeded):
        await ticks.receive()
    assert container.world.monotonic() - begun <= 31


class _Deaf:
    def post(self, envelope: Envelope) -> None:
        """Nothing goes out."""

    async def publish(self, envelope: Envelope) -> None:
        """Nothing goes out."""


# -- conformance -----------------------------------------------------------------------------------------------


async def test_real_traffic_conforms(container: Container, shop: Shop, transport: RecordingTransport) -> None:
    shop.gate.set()
    calls = client(Shop, container.edge)
    await calls.buy(Order("bolt"))
    with pytest.raises(NotFound):
        await calls.fail("family")
    with pytest.raises(Refused):
        await calls.fail("refused")
    for _ in range(3):
        await (await container.edge.converse("request", "service:shop", "hold")).result()
    async with await container.edge.converse("subscribe", "service:shop", "numbers", 300) as numbers:
        await numbers.receive()
    await settle()
    monitor = Monitor()
    assert monitor.watch(transport.sent) == []
    snapshot = monitor.snapshot()
    assert snapshot.open == 0
    assert snapshot.ended[Outcome.DONE] == 4
    assert (snapshot.ended[Outcome.FAILED], snapshot.ended[Outcome.REFUSED]) == (1, 1)


async def test_the_monitor_tells_a_second_reply_and_a_wrong_one(
    container: Container, shop: Shop, transport: RecordingTransport
) -> None:
    await client(Shop, container.edge).buy(Order("bolt"))
    request, reply = [e for e in transport.sent if e.protocol == "rpc"]
    replace = msgspec.structs.replace
    monitor = Monitor()
    first = replace(reply, conv_id="other")
    (breach,) = monitor.watch([first])
    assert breach.violation is not None and breach.violation.state == "start"
    assert monitor.watch([request, reply, reply]) == [], "the same again is no breach"
    (late,) = monitor.watch([replace(reply, conv_seq=9)])
    assert "after the end" in late.reason
    assert monitor.snapshot().duplicates == 1


def test_what_can_be_subscribed_to_is_an_async_generator() -> None:
    async def plain(self: Any) -> None: ...

    async def three(self: Any, a: int, b: int) -> AsyncIterator[int]:
        yield a + b

    for function in (plain, three):
        with pytest.raises(TypeError, match="a subscription"):
            subscription(function)  # type: ignore[type-var]


async def test_two_processes_ask_each_other_within_their_answers(container: Container) -> None:
    class Player(Process):
        other: str

        @operation
        async def play(self, left: int) -> list[str]:
            if not left:
                return [self.id]
            async with await self.converse("request", self.other, "play", left - 1) as deeper:
                return [self.id, *await deeper.result(list[str])]

    one, two = Player(), Player()
    await container.spawn(one)
    await container.spawn(two)
    one.other, two.other = two.address, one.address
    conversation = await container.edge.converse("request", one.address, "play", 5)
    assert await conversation.result(list[str]) == [one.id, two.id] * 3
    endless = await container.edge.converse("request", one.address, "play", 1000)
    with pytest.raises(Refused, match="calls nested 17 deep"):
        await endless.result()
    await nothing_left(container)


# -- limits, ends, and observers -------------------------------------------------------------------------------


async def test_only_a_process_or_service_is_talked_to(container: Container, shop: Shop) -> None:
    with pytest.raises(InvalidInput, match="not a process or service"):
        await container.edge.converse("request", "fanout:shops", "buy")


async def test_what_is_too_large_is_vetoed(container: Container, shop: Shop, transport: RecordingTransport) -> None:
    conversation = await container.edge.converse("generic", "service:shop", "chat", "hi")
    await settle()
    before = len(transport.sent)
    with pytest.raises(InvalidInput, match="a message carries at most"):
        await conversation.inform(b"x" * (container.max_message_bytes + 1))
    assert len(transport.sent) == before
    await conversation.inform("bye")
    assert await conversation.result(str) == "bye bye", "the conversation goes on"
    with pytest.raises(InvalidInput):
        await container.edge.converse("generic", "service:shop", "chat", "x" * (container.max_message_bytes + 1))
    await nothing_left(container)


async def test_a_message_that_was_not_taken_ends_the_conversation(
    container: Container, shop: Shop, transport: RecordingTransport
) -> None:
    conversation = await container.edge.converse("generic", "service:shop", "chat", "hi")
    await settle()
    conversation.peer = "process:nobody"
    with pytest.raises(Unavailable):
        await conversation.inform("are you there")
    assert conversation.outcome is Outcome.LOST
    with pytest.raises(Unavailable):
        await conversation.result()


async def test_the_other_side_is_told_when_its_conversation_is_unknown(
    container: Container, shop: Shop, transport: RecordingTransport
) -> None:
    conversation = await container.edge.converse("request", "service:shop", "hold")
    await conversation.agreed()
    edge = container.edge.conversations
    edge._initiated.clear()  # as after a restart under the same id
    (theirs,) = shop.conversations.open_ones()
    shop.gate.set()
    await settle()
    assert theirs.outcome is Outcome.DONE
    assert transport.sent[-1].op == "conversation.not_understood"
    conversation.lose(Unavailable("forgotten"))


async def test_a_process_that_is_deactivated_drains(container: Container, shop: Shop) -> None:
    conversation = await container.edge.converse("request", "service:shop", "hold")
    await conversation.agreed()
    stopping = asyncio.ensure_future(container.terminate(shop.id))
    await asyncio.sleep(1)
    assert conversation.outcome is None, "what has begun may finish"
    refused = await container.edge.converse("request", shop.address, "buy", Order("x"))
    with pytest.raises(Unavailable, match="not active"):
        await refused.result()
    shop.gate.set()
    assert await conversation.result(str) == "held"
    await stopping
    await nothing_left(container)


async def test_a_defect_ends_a_process_that_fails_fast(container: Container) -> None:
    class Brittle(Shop):
        fail_fast = True

    brittle = Brittle()
    await container.spawn(brittle, restart=Restart.TEMPORARY)
    conversation = await container.edge.converse("request", "service:shop", "fail", "defect")
    with pytest.raises(InternalError, match="ZeroDivisionError"):
        await conversation.result()
    await asyncio.sleep(1)
    assert isinstance(brittle.cause, ZeroDivisionError)


async def test_a_monitor_takes_what_a_tap_observes(
    container: Container, shop: Shop, transport: RecordingTransport
) -> None:
    await client(Shop, container.edge).buy(Order("bolt"))
    shop.gate.set()
    await (await container.edge.converse("request", "service:shop", "hold")).result()

    def seen(envelope: Envelope, number: int) -> Observation:
        return Observation(
            number,
            0.0,
            Direction.SENT,
            "c",
            envelope.sender,
            envelope.receiver,
            envelope.op,
            envelope.performative,
            envelope.conv_id,
            envelope.conv_seq,
            envelope.protocol,
            envelope.status,
        )

    observed = [seen(envelope, number) for number, envelope in enumerate(transport.sent)]
    monitor = Monitor()
    assert monitor.watch(observed) == []
    assert monitor.snapshot().ended == {Outcome.DONE: 2}
    without_agree = [one for one in observed if one.performative is not Performative.AGREE]
    (breach,) = Monitor().watch(without_agree)
    assert "inform_result/hold by participant in state 'requested'" in breach.reason
