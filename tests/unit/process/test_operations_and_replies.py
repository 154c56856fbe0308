"""Exactly one reply to each request, whatever happens to it."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

import msgspec
import pytest

from pelagos.container import Container
from pelagos.exchange import Delivery, Envelope, Performative, Receiver, Status, decode_error
from pelagos.model import Scope
from pelagos.model.errors import (
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
from pelagos.process import (
    Context,
    Process,
    ServiceProcess,
    Supervisor,
    client,
    current_context,
    operation,
    use_context,
)
from pelagos.process.failures import advice_on

pytestmark = pytest.mark.anyio

LEAK: contextvars.ContextVar[str] = contextvars.ContextVar("leak", default="clean")


class Order(msgspec.Struct, frozen=True):
    item: str
    count: int = 1


class Receipt(msgspec.Struct, frozen=True):
    text: str
    seen: Context


class Shop(ServiceProcess):
    name = "shop"
    max_concurrent = 2

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.running = 0
        self.peak = 0
        self.cancelled: list[str] = []

    @operation
    async def buy(self, order: Order) -> Receipt:
        return Receipt(f"{order.count} {order.item}", current_context())

    @operation
    async def raise_error(self, kind: str) -> None:
        match kind:
            case "not_found":
                raise NotFound("no such item", details={"item": "x"})
            case "refused":
                raise Refused("we are closed")
            case "defect":
                raise ZeroDivisionError("oops")
            case "group":
                async with asyncio.TaskGroup() as group:
                    group.create_task(self.raise_error("not_found"))
            case "foreign cancel":
                future = asyncio.get_running_loop().create_future()
                future.cancel()
                await future

    @operation
    async def hold(self, name: str) -> str:
        self.running += 1
        self.peak = max(self.peak, self.running)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.append(name)
            raise
        finally:
            self.running -= 1
        return name

    @operation
    async def stubborn(self) -> str:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            await asyncio.sleep(1)
        return "done all the same"

    @operation
    async def wrong(self) -> int:
        return "not a number"  # type: ignore[return-value]

    @operation
    async def unencodable(self) -> Any:
        return object()

    @operation
    async def leak(self) -> str:
        before = LEAK.get()
        LEAK.set("dirty")
        return before

    @operation
    async def failing_task(self) -> None:
        async def fail() -> None:
            raise OSError("background")

        self.start_task(fail(), name="fail")


async def test_a_typed_call(container: Container) -> None:
    pid = await container.spawn(Shop)
    receipt = await client(Shop, container.edge).buy(Order("bolt", 3))
    assert receipt.text == "3 bolt"
    assert receipt.seen.process == pid
    assert await client(Shop, container.edge, address=f"process:{pid}").ping() == "pong"
    answer = await container.edge.call("service:shop", "buy", {"item": "nut"}, result=Receipt)
    assert answer.text == "1 nut"


async def test_identity_trace_and_deadline_travel(container: Container) -> None:
    await container.spawn(Shop)
    now = container.world.monotonic()
    with use_context(Context(Scope("p1", "ann"), deadline=now + 3, trace="t-1", request_id="r-1")):
        seen = (await client(Shop, container.edge).buy(Order("bolt"))).seen
    assert seen.scope == Scope("p1", "ann")
    assert (seen.trace, seen.request_id, seen.depth) == ("t-1", "r-1", 1)
    assert seen.deadline == pytest.approx(now + 3, abs=0.01)
    other = Context(Scope("p2", "bob"))
    seen = (await client(Shop, container.edge, context=other).buy(Order("bolt"))).seen
    assert seen.scope == Scope("p2", "bob")
    assert seen.trace
    assert seen.request_id == seen.conversation


async def test_request_ids_are_not_passed_on_to_nested_calls(container: Container) -> None:
    class Front(ServiceProcess):
        name = "front"

        @operation
        async def buy(self, order: Order) -> Receipt:
            return await client(Shop, self).buy(order)

    await container.spawn(Shop)
    await container.spawn(Front)
    with use_context(Context(Scope("p1", "ann"), request_id="r-1", trace="t")):
        seen = (await client(Front, container.edge).buy(Order("bolt"))).seen
    assert (seen.scope.user_id, seen.trace, seen.depth) == ("ann", "t", 2)
    assert seen.request_id not in (None, "r-1")


async def test_errors_come_back_as_themselves(container: Container) -> None:
    await container.spawn(Shop)
    shop = client(Shop, container.edge)
    for kind in ("not_found", "group"):
        with pytest.raises(NotFound) as missing:
            await shop.raise_error(kind)
        assert (missing.value.message, missing.value.details) == ("no such item", {"item": "x"})
    with pytest.raises(Refused, match="closed"):
        await shop.raise_error("refused")


async def test_defects_come_back_as_internal_errors_and_are_logged(
    container: Container, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = await container.spawn(Shop)
    with (
        use_context(Context(Scope("p", "u"), trace="trace-7")),
        pytest.raises(InternalError, match="trace-7") as raised,
    ):
        await client(Shop, container.edge).raise_error("defect")
    assert raised.value.details == {"trace": "trace-7", "exception": "ZeroDivisionError", "process": shop}
    assert raised.value.advice.startswith(f"Correct {__name__}:Shop.raise_error: the error is its own")
    assert f"answered by shop (process:{shop}) to raise_error" in raised.value.__notes__[0]
    log = capsys.readouterr().err
    assert "ZeroDivisionError: oops" in log
    assert "trace=trace-7" in log


def test_a_defect_in_what_comes_with_pelagos_is_ours() -> None:
    assert advice_on(Supervisor.start_child, "t") is None
    assert advice_on(None, "t") is None


async def test_a_cancelled_future_inside_a_handler_ends_neither_worker_nor_caller(container: Container) -> None:
    await container.spawn(Shop)
    shop = client(Shop, container.edge)
    with pytest.raises(InternalError, match="CancelledError"):
        await shop.raise_error("foreign cancel")
    assert (await shop.buy(Order("bolt"))).text == "1 bolt"


async def test_results_that_do_not_fit(container: Container) -> None:
    await container.spawn(Shop)
    with pytest.raises(InternalError, match="something else than it declares"):
        await client(Shop, container.edge).wrong()
    with pytest.raises(InternalError, match="unexpectedly"):
        await client(Shop, container.edge).unencodable()


async def test_unknown_operation_and_undecodable_content_are_answered(container: Container) -> None:
    await container.spawn(Shop)
    with pytest.raises(Unsupported, match="no operation 'sell'") as raised:
        await container.edge.call("service:shop", "sell")
    assert "buy" in raised.value.advice
    with pytest.raises(InvalidInput, match=r"Shop.buy: .*count"):
        await container.edge.call("service:shop", "buy", {"item": "x", "count": "many"})


async def test_private_methods_and_hooks_are_no_operations(container: Container) -> None:
    await container.spawn(Shop)
    for op in ("on_terminate", "_close", "stop", "__init__"):
        with pytest.raises(Unsupported):
            await container.edge.call("service:shop", op)
    with pytest.raises(AttributeError, match="not an operation"):
        client(Shop, container.edge).start_task  # noqa: B018


async def test_nobody_there(container: Container) -> None:
    with pytest.raises(Unavailable, match=r"nobody serves service:test.shop"):
        await client(Shop, container.edge).ping()


async def test_the_handler_is_cancelled_at_the_deadline(container: Container) -> None:
    shop = Shop()
    await container.spawn(shop)
    begin = container.world.monotonic()
    with pytest.raises(DeadlineExceeded) as raised:
        await client(Shop, container.edge, timeout=2.0).hold("a")
    assert raised.value.retry is Retry.UNCERTAIN
    assert container.world.monotonic() - begin == pytest.approx(2.0, abs=0.01)
    await asyncio.sleep(0.01)
    assert shop.cancelled == ["a"]
    assert (await client(Shop, container.edge).buy(Order("bolt"))).text == "1 bolt"


async def test_default_timeout_and_the_shorter_of_two(container: Container) -> None:
    await container.spawn(Shop)
    begin = container.world.monotonic()
    with pytest.raises(DeadlineExceeded):
        await client(Shop, container.edge).hold("a")
    assert container.world.monotonic() - begin == pytest.approx(15.0, abs=0.01)
    with use_context(Context(Scope("p", "u"), deadline=begin + 16.0)), pytest.raises(DeadlineExceeded):
        await client(Shop, container.edge, timeout=30.0).hold("b")
    assert container.world.monotonic() - begin == pytest.approx(16.0, abs=0.01)
    with (
        use_context(Context(Scope("p", "u"), deadline=begin)),
        pytest.raises(DeadlineExceeded, match="nothing was done") as raised,
    ):
        await client(Shop, container.edge).hold("c")
    assert raised.value.retry is Retry.TRANSIENT


async def test_a_handler_that_swallows_its_cancellation_gives_a_late_reply(container: Container) -> None:
    await container.spawn(Shop)
    shop = client(Shop, container.edge, timeout=1.0)
    with pytest.raises(DeadlineExceeded):
        await shop.stubborn()
    await asyncio.sleep(2)
    assert container.edge.snapshot().late_replies == 1
    assert (await shop.buy(Order("bolt"))).text == "1 bolt"


async def test_a_request_that_arrives_late_is_answered_unbegun(container: Container) -> None:
    """Sent by hand, since a caller of ours would not wait for the answer."""
    shop = Shop()
    pid = await container.spawn(shop)
    replies: list[Envelope] = []

    def keep(delivery: Delivery) -> None:
        replies.append(delivery.envelope)
        delivery.ack()

    await container.transport.subscribe(Receiver("process:hand"), keep)
    await container.transport.publish(
        Envelope(
            f"process:{pid}",
            "process:hand",
            "hold",
            Performative.REQUEST,
            "hand#1",
            msgspec.msgpack.encode("a"),
            reply_to="process:hand",
            remaining_ms=0,
        )
    )
    await asyncio.sleep(0.01)
    [reply] = replies
    assert (reply.conv_id, reply.status) == ("hand#1", Status.ERROR)
    assert decode_error(reply.content).code == "deadline_exceeded"
    assert shop.peak == 0


async def test_concurrency_is_bounded_and_what_waits_is_served(container: Container) -> None:
    shop = Shop()
    await container.spawn(shop)
    proxy = client(Shop, container.edge)
    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(proxy.hold(str(n))) for n in range(20)]
        await asyncio.sleep(0.1)
        assert shop.running == 2
        shop.gate.set()
    assert [call.result() for call in calls] == [str(n) for n in range(20)]
    assert shop.peak == 2
    assert shop.snapshot().serving.done == 20


async def test_context_variables_do_not_leak_between_requests(container: Container) -> None:
    await container.spawn(Shop)
    shop = client(Shop, container.edge)
    LEAK.set("of the caller")
    assert [await shop.leak() for _ in range(5)] == ["clean"] * 5


async def test_subclasses_override_operations_without_marking_them(container: Container) -> None:
    class Sale(Shop):
        async def buy(self, order: Order) -> Receipt:
            return Receipt("half price", current_context())

    await container.spawn(Sale)
    assert (await client(Shop, container.edge).buy(Order("bolt"))).text == "half price"


async def test_shapes_of_operations_are_checked() -> None:
    with pytest.raises(TypeError, match="async method"):

        @operation
        def plain(self: object) -> None: ...  # type: ignore[type-var]

    with pytest.raises(TypeError, match="at most one argument"):

        @operation
        async def two(self: object, a: int, b: int) -> None: ...

    class Sloppy(Process):
        @operation
        async def no_result(self, a: int):  # type: ignore[no-untyped-def]
            return a

    with pytest.raises(TypeError, match="annotate the result"):
        client(Sloppy, Sloppy(), address="process:x")


async def test_a_process_that_is_no_more_answers_nothing_silently(container: Container) -> None:
    shop = Shop()
    pid = await container.spawn(shop)
    async with asyncio.TaskGroup() as group:
        call = group.create_task(_outcome(client(Shop, container.edge).hold("a")))
        await asyncio.sleep(0.1)
        await container.terminate(pid)
    assert isinstance(call.result(), Unavailable)
    assert shop.cancelled == ["a"]


async def _outcome(awaitable: Any) -> Any:
    try:
        return await awaitable
    except Exception as error:
        return error


async def test_a_process_cannot_be_used_before_it_is_hosted() -> None:
    shop = Shop()
    proxy = client(Shop, shop)
    with pytest.raises(Conflict, match="not hosted"):
        await proxy.ping()

    async def nothing() -> None: ...

    with pytest.raises(Conflict):
        shop.start_task(nothing())


async def test_events(container: Container) -> None:
    class Watcher(Process):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[Order] = []

        async def on_init(self) -> None:
            await self.listen("topic:orders.*", self.on_order, Order)

        async def on_order(self, order: Order) -> None:
            if order.item == "bad":
                raise ValueError("bad order")
            self.seen.append(order)

    watcher = Watcher()
    await container.spawn(watcher)
    for item in ("bolt", "bad", "nut"):
        container.edge.publish("topic:orders.new", Order(item))
    container.edge.publish("topic:orders.new", {"item": 7})
    container.edge.publish("topic:other.new", Order("screw"))
    await asyncio.sleep(0.01)
    assert watcher.seen == [Order("bolt"), Order("nut")]
    serving = watcher.snapshot().serving
    assert (serving.done, serving.failed) == (2, 2)
    with pytest.raises(InvalidInput):
        container.edge.publish("service:shop", None)
