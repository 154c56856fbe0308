"""A repeat gets the reply to the first; and the first alone has the effect. On virtual time."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from pelagos.container import Container, ContainerConfig
from pelagos.exchange import Delivery, Envelope, MemoryTransport, Performative, Receiver, Status
from pelagos.model import Scope
from pelagos.model.errors import Unavailable
from pelagos.process import Context, ServiceProcess, client, operation, use_context
from pelagos.process.duplicates import Repeats, by_request_id
from pelagos.simulation import SimulatedWorld

pytestmark = pytest.mark.anyio


class Till(ServiceProcess):
    name = "till"

    def __init__(self) -> None:
        super().__init__()
        self.paid: list[int] = []
        self.gate = asyncio.Event()
        self.closed = False

    @operation
    async def pay(self, amount: int) -> int:
        if self.closed:
            raise Unavailable("closed")
        self.paid.append(amount)
        await self.gate.wait()
        return sum(self.paid)


class Hand:
    """Sends by hand, as no caller of ours would."""

    def __init__(self, container: Container, pid: str, address: str = "process:hand") -> None:
        self.container, self.pid, self.address = container, pid, address
        self.replies: list[Envelope] = []

    async def start(self) -> Hand:
        await self.container.transport.subscribe(Receiver(self.address), self._keep)
        return self

    def _keep(self, delivery: Delivery) -> None:
        self.replies.append(delivery.envelope)
        delivery.ack()

    async def send(self, amount: int, conversation: str = "x#1", sequence: int = 1) -> None:
        content = msgspec.msgpack.encode(amount)
        await self.container.transport.publish(
            Envelope(
                f"process:{self.pid}", self.address, "pay", Performative.REQUEST, conversation, content, sequence,
                reply_to=self.address,
            )
        )  # fmt: skip

    def answers(self) -> list[object]:
        return [msgspec.msgpack.decode(reply.content) for reply in self.replies]


@pytest.fixture
def till() -> Till:
    return Till()


async def settle() -> None:
    await asyncio.sleep(0.01)


async def test_a_repeat_in_progress_and_one_after_it(container: Container, till: Till) -> None:
    hand = await Hand(container, await container.spawn(till)).start()
    await hand.send(5)
    await hand.send(5)
    await settle()
    assert till.paid == [5] and hand.replies == []
    till.gate.set()
    await settle()
    await hand.send(5)
    await settle()
    assert till.paid == [5]
    assert hand.answers() == [5, 5, 5]
    assert {(reply.conv_id, reply.conv_seq, reply.status) for reply in hand.replies} == {("x#1", 2, Status.OK)}
    assert till.snapshot().serving.repeated == 2


async def test_others_and_further_requests_are_no_repeats(container: Container, till: Till) -> None:
    till.gate.set()
    pid = await container.spawn(till)
    one = await Hand(container, pid).start()
    two = await Hand(container, pid, "process:another").start()
    for _ in range(2):
        await one.send(1)
        await two.send(2)
        await one.send(4, sequence=3)
        await one.send(8, conversation="x#2")
        await settle()
    assert sorted(till.paid) == [1, 2, 4, 8]
    assert sorted(map(str, one.answers())) == sorted(map(str, one.answers()[:3] * 2))
    assert two.answers()[0] == two.answers()[1]


async def test_an_error_is_the_answer_to_a_message_that_comes_again(container: Container, till: Till) -> None:
    till.closed = True
    hand = await Hand(container, await container.spawn(till)).start()
    await hand.send(5)
    await settle()
    till.closed = False
    await hand.send(5)
    await settle()
    assert [reply.status for reply in hand.replies] == [Status.ERROR, Status.ERROR]
    assert till.paid == []


async def test_a_call_made_again_under_its_request_id_gets_the_first_ones_result(
    container: Container, till: Till
) -> None:
    await container.spawn(till)
    proxy = client(Till, container.edge)
    ann, bob = Scope("p", "ann"), Scope("p", "bob")
    with use_context(Context(ann, request_id="r-1")):
        first, second = asyncio.ensure_future(proxy.pay(5)), asyncio.ensure_future(proxy.pay(5))
        await settle()
        assert till.paid == [5]
        till.gate.set()
        assert await first == await second == 5
        assert await proxy.pay(5) == 5
        assert await proxy.pay(6) == 11  # another request, if under the same id
    with use_context(Context(bob, request_id="r-1")):
        assert await proxy.pay(5) == 16
    assert await proxy.pay(5) == 21
    assert till.paid == [5, 6, 5, 5]


async def test_a_call_made_again_after_an_error_is_carried_out(container: Container, till: Till) -> None:
    await container.spawn(till)
    till.gate.set()
    proxy = client(Till, container.edge)
    with use_context(Context(Scope("p", "ann"), request_id="r-1")):
        till.closed = True
        with pytest.raises(Unavailable, match="closed"):
            await proxy.pay(5)
        till.closed = False
        assert await proxy.pay(5) == 5
        assert await proxy.pay(5) == 5
    assert till.paid == [5]


async def test_a_repeat_that_waited_for_a_failure_is_carried_out(container: Container, till: Till) -> None:
    """The first reaches its deadline; the repeat has a later one."""
    await container.spawn(till)
    with use_context(Context(Scope("p", "ann"), request_id="r-1")):
        first = asyncio.ensure_future(client(Till, container.edge, timeout=1.0).pay(5))
        second = asyncio.ensure_future(client(Till, container.edge, timeout=9.0).pay(5))
    with pytest.raises(Exception, match=r"deadline|did not answer"):
        await first
    till.gate.set()
    assert await second == 10
    assert till.paid == [5, 5]


async def test_a_one_way_message_that_comes_again(container: Container, till: Till) -> None:
    pid = await container.spawn(till)
    till.gate.set()
    message = Envelope(
        f"process:{pid}", "process:x", "pay", Performative.INFORM, "x#1", msgspec.msgpack.encode(5), protocol="none"
    )
    for _ in range(3):
        await container.transport.publish(message)
    await settle()
    assert till.paid == [5]


async def test_thousands_of_requests_leave_a_bounded_window(container: Container, till: Till) -> None:
    await container.spawn(till)
    till.gate.set()
    proxy = client(Till, container.edge)
    for _ in range(3_000):
        await proxy.pay(0)
    repeats = till._pelagos_server._repeats
    assert 900 < len(repeats.entries) <= 1024


def test_the_window_does_not_keep_what_was_sent() -> None:
    envelope = Envelope(
        "process:a",
        "process:b",
        "put",
        Performative.REQUEST,
        "x#1",
        b"x" * 500_000,
        request_id="r",
        reply_to="process:b",
    )
    key = by_request_id(envelope)
    assert len(repr(key)) < 1000
    assert key == by_request_id(msgspec.structs.replace(envelope, conv_id="x#2"))
    assert key != by_request_id(msgspec.structs.replace(envelope, content=b"x" * 499_999 + b"y"))


def test_the_window_is_bounded_by_bytes() -> None:
    repeats = Repeats(most=1000, most_bytes=10_000)
    for number in range(100):
        reply = Envelope("process:a", "process:b", "result", Performative.INFORM_RESULT, f"x#{number}", b"x" * 1000)
        repeats.end(f"x#{number}", reply)
        assert sum(len(e.content) for e in repeats.entries.values() if isinstance(e, Envelope)) <= 10_000
    assert "x#99" in repeats.entries and "x#0" not in repeats.entries
    repeats.end("huge", Envelope("process:a", "b", "result", Performative.INFORM_RESULT, "huge", b"x" * 20_000))
    assert repeats.entries == {}


async def test_a_container_that_comes_back_under_its_id_asks_nothing_that_it_asked_before() -> None:
    world = SimulatedWorld()
    shared = MemoryTransport(world)
    await shared.start()
    async with Container(world, ContainerConfig(id="till"), shared, shared_transport=True) as till:
        service = Till()
        service.gate.set()
        await till.spawn(service)
        for amount in (5, 7):
            async with Container(world, ContainerConfig(id="front"), shared, shared_transport=True) as front:
                await client(Till, front.edge).pay(amount)
            await settle()
        assert service.paid == [5, 7]
    await shared.stop()
