"""One-way messages, early replies, further receivers, workers, sizes and numbers; on virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pelagos.container import Container, ContainerConfig
from pelagos.exchange import Address, Envelope, MemoryTransport, Performative
from pelagos.model.errors import (
    Cancelled,
    Conflict,
    DeadlineExceeded,
    InternalError,
    InvalidInput,
    Refused,
    Retry,
    Unavailable,
)
from pelagos.model.scope import DEFAULT_SCOPE
from pelagos.process import Context, Process, ServiceProcess, State, WorkerProcess, client, operation, use_context
from pelagos.process.host import begin_of
from pelagos.simulation import SimulatedWorld

pytestmark = pytest.mark.anyio


class Desk(ServiceProcess):
    name = "desk"

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.gate = asyncio.Event()

    @operation
    async def note(self, text: str) -> str:
        self.seen.append(text)
        if text == "refuse":
            self.refuse("no", advice="Ask somebody else.", details={"why": "because"})
        if text == "defect":
            raise ZeroDivisionError("oops") from KeyError("first")
        if text == "large":
            return "x" * 2000
        return f"noted {text}"

    @operation
    async def early(self, mode: str) -> str:
        self.reply(f"early {mode}")
        await asyncio.sleep(1)
        self.seen.append(f"{mode} went on")
        if mode == "twice":
            self.reply("again")
        if mode == "fails":
            raise ValueError("after the reply")
        return "dropped"

    @operation
    async def hold(self) -> str:
        await self.gate.wait()
        return "held"


@pytest.fixture
def desk() -> Desk:
    return Desk()


async def settle() -> None:
    await asyncio.sleep(0.01)


async def test_a_one_way_message_reaches_an_operation(container: Container, desk: Desk) -> None:
    pid = await container.spawn(desk)
    await container.edge.send("service:desk", "note", "a")
    await container.edge.send(f"process:{pid}", "note", "b")
    for text in ("refuse", "defect"):
        await container.edge.send("service:desk", "note", text)
    await container.edge.send("service:desk", "nothing", None)
    await settle()
    assert desk.seen == ["a", "b", "refuse", "defect"]
    serving = desk.snapshot().serving
    assert (serving.done, serving.failed, serving.unanswerable) == (2, 3, 3)
    assert container.transport.snapshot().undeliverable == 0


class Stuck(MemoryTransport):
    """Takes nothing from ``stuck`` on."""

    stuck = False

    async def publish(self, envelope: Envelope) -> None:
        if self.stuck:
            await asyncio.Event().wait()
        await super().publish(envelope)


async def test_sending_ends_at_the_deadline_of_its_context(desk: Desk) -> None:
    world = SimulatedWorld()
    transport = Stuck(world)
    async with Container(world, transport=transport) as container:
        await container.spawn(desk)
        transport.stuck = True
        began = world.monotonic()
        with use_context(Context(DEFAULT_SCOPE, began + 2.0)):
            with pytest.raises(DeadlineExceeded) as late:
                await container.edge.send("service:desk", "note", "a")
            assert world.monotonic() - began == pytest.approx(2.0)
            assert late.value.retry is Retry.UNCERTAIN
            with pytest.raises(DeadlineExceeded, match="nothing was done"):
                await container.edge.send("service:desk", "note", "b")
        transport.stuck = False
        with use_context(Context(DEFAULT_SCOPE, world.monotonic() + 2.0)):
            await container.edge.send("service:desk", "note", "c")
        await settle()
        assert desk.seen == ["c"]


async def test_sending_to_nobody_and_to_the_wrong_kind(container: Container) -> None:
    with pytest.raises(Unavailable, match="nobody serves"):
        await container.edge.send("service:desk", "note", "a")
    with pytest.raises(InvalidInput, match="not a process or service"):
        await container.edge.send("fanout:news", "note", "a")


async def test_a_refusal_and_a_defect_say_all_they_know(container: Container, desk: Desk) -> None:
    pid = await container.spawn(desk)
    with pytest.raises(Refused, match="no") as refused:
        await client(Desk, container.edge).note("refuse")
    assert (refused.value.advice, refused.value.details) == ("Ask somebody else.", {"why": "because"})
    with use_context(Context(DEFAULT_SCOPE, trace="t-9")), pytest.raises(InternalError) as defect:
        await client(Desk, container.edge).note("defect")
    assert defect.value.details == {
        "trace": "t-9", "exception": "ZeroDivisionError", "process": pid, "cause": "KeyError: 'first'",
    }  # fmt: skip
    assert "trace t-9" in defect.value.__notes__[0] and f"desk (process:{pid})" in defect.value.__notes__[0]


@pytest.mark.parametrize("mode", ["plain", "twice", "fails"])
async def test_a_handler_may_reply_before_its_end(container: Container, desk: Desk, mode: str) -> None:
    await container.spawn(desk)
    begin = container.world.monotonic()
    assert await client(Desk, container.edge).early(mode) == f"early {mode}"
    assert container.world.monotonic() - begin < 0.5
    assert desk.seen == [] and desk.snapshot().serving.running == (1,)
    await asyncio.sleep(2)
    assert desk.seen == [f"{mode} went on"]
    serving = desk.snapshot().serving
    assert (serving.running, serving.done, serving.failed) == ((), int(mode == "plain"), int(mode != "plain"))
    assert container.edge.snapshot().late_replies == 0


async def test_no_reply_where_nobody_asked(container: Container, desk: Desk) -> None:
    await container.spawn(desk)
    await container.edge.send("service:desk", "early", "plain")
    await settle()
    [early] = desk.statistics()
    assert early.failed == 1 and "wants no reply" in early.last_error
    with pytest.raises(Conflict, match="no request"):
        desk.reply("what")


async def test_replies_that_nobody_waits_for_are_told_apart(container: Container, desk: Desk) -> None:
    await container.spawn(desk)
    assert await client(Desk, container.edge).note("a") == "noted a"
    address = container.edge.address
    began = begin_of(container.edge.id, container.world.now())
    for conversation in (f"{began}#1", f"{began}#77", "elsewhere#1"):
        container.transport.post(Envelope(address, "process:x", "result", Performative.INFORM_RESULT, conversation))
    await settle()
    snapshot = container.edge.snapshot()
    assert (snapshot.late_replies, snapshot.unknown_replies) == (1, 2)


async def test_what_is_too_large_is_refused_where_it_is_made() -> None:
    async with Container(SimulatedWorld(), ContainerConfig(id="c", max_message_bytes=1000)) as container:
        desk = Desk()
        await container.spawn(desk)
        edge = container.edge
        with pytest.raises(InvalidInput, match=r"content of note for .* at most 1000"):
            await client(Desk, edge).note("x" * 1000)
        with pytest.raises(InvalidInput):
            await edge.send("service:desk", "note", "x" * 1000)
        with pytest.raises(InvalidInput):
            edge.publish("fanout:news", "x" * 1000)
        assert desk.seen == []
        with pytest.raises(InvalidInput, match="the reply to note is 2003 bytes"):
            await client(Desk, edge).note("large")
        assert await client(Desk, edge).note("y" * 900) == "noted " + "y" * 900


async def test_statistics_by_operation(container: Container, desk: Desk) -> None:
    await container.spawn(desk)
    shop = client(Desk, container.edge)
    for text in ("a", "refuse", "defect"):
        await asyncio.gather(shop.note(text), return_exceptions=True)
    await shop.early("plain")
    await asyncio.sleep(2)
    with pytest.raises(Exception, match="no operation"):
        await container.edge.call("service:desk", "made up")
    async with asyncio.TaskGroup() as group:
        group.create_task(shop.hold())
        await settle()
        found = {each.op: each for each in desk.snapshot().operations}
        assert found["hold"].in_progress == 1 and found["hold"].count == 0
        desk.gate.set()
    note, early = found["note"], found["early"]
    assert (note.count, note.failed, note.refused, note.in_progress) == (3, 1, 1, 0)
    assert note.last_error.startswith("internal_error: desk.note failed unexpectedly: ZeroDivisionError")
    assert early.max_seconds == pytest.approx(1.0, abs=0.01) and early.total_seconds >= early.max_seconds
    assert found["(unknown)"].failed == 1 and "made up" not in found
    assert sum(each.count for each in desk.statistics()) == desk.snapshot().serving.done + 3


async def test_a_request_is_cancelled_by_its_id(container: Container, desk: Desk) -> None:
    await container.spawn(desk)
    with use_context(Context(DEFAULT_SCOPE, request_id="r-1")):
        call = asyncio.ensure_future(client(Desk, container.edge).hold())
        await settle()
    assert desk.cancel_request("r-2") == 0
    assert desk.cancel_request("r-1") == 1
    with pytest.raises(Cancelled, match="r-1"):
        await call
    assert await client(Desk, container.edge).note("a") == "noted a"


# -- further receivers -----------------------------------------------------------------------------------------


class Adder(WorkerProcess):
    """The ancestor's example."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.done: list[int] = []
        self.running = self.peak = 0

    @operation
    async def work(self, seconds: int) -> str:
        self.running += 1
        self.peak = max(self.peak, self.running)
        try:
            await asyncio.sleep(seconds)
        finally:
            self.running -= 1
        self.done.append(seconds)
        return self.id


async def test_workers_share_the_jobs_of_a_queue(container: Container) -> None:
    workers = [Adder(queue="jobs"), Adder(queue="jobs")]
    for worker in workers:
        await container.spawn(worker, name=f"w{id(worker)}")
    edge = container.edge
    calls = [edge.call("service:jobs", "work", 1, result=str) for _ in range(4)]
    assert sorted(await asyncio.gather(*calls)) == sorted([w.id for w in workers] * 2)
    assert [len(worker.done) for worker in workers] == [2, 2]
    assert [worker.peak for worker in workers] == [1, 1]


async def test_workers_each_get_all_announcements(container: Container) -> None:
    workers = [Adder(fanout="news"), Adder(fanout="news", max_concurrent=2)]
    for worker in workers:
        await container.spawn(worker, name=f"w{id(worker)}")
    for seconds in (1, 2):
        container.edge.publish("fanout:news", seconds, op="work")
    await asyncio.sleep(5)
    assert [worker.done for worker in workers] == [[1, 2], [1, 2]]
    assert [worker.peak for worker in workers] == [1, 2]
    with pytest.raises(InvalidInput, match="a queue, a fan-out or both"):
        Adder()


async def test_a_job_is_cancelled_at_whichever_worker_has_it(container: Container) -> None:
    workers = [Adder(queue="jobs", fanout="workers"), Adder(queue="jobs", fanout="workers")]
    for worker in workers:
        await container.spawn(worker, name=f"w{id(worker)}")
    with use_context(Context(DEFAULT_SCOPE, request_id="job-1")):
        call = asyncio.ensure_future(container.edge.call("service:jobs", "work", 9))
        await settle()
    container.edge.publish("fanout:workers", "job-1", op="cancel")
    with pytest.raises(Cancelled, match="job-1"):
        await call
    assert [worker.running for worker in workers] == [0, 0]


async def test_receivers_of_ones_own_choice(container: Container) -> None:
    class Clerk(Process):
        def __init__(self) -> None:
            super().__init__()
            self.peak = self.running = 0

        async def on_init(self) -> None:
            self.served = await self.serve("service:slow", self.slow, int, result=int, max_concurrent=2)

        async def slow(self, number: int) -> int:
            self.running += 1
            self.peak = max(self.peak, self.running)
            await asyncio.sleep(1)
            self.running -= 1
            return number + 1

    clerk = Clerk()
    await container.spawn(clerk)
    calls = [container.edge.call("service:slow", "whatever", n, result=int) for n in range(6)]
    assert await asyncio.gather(*calls) == [1, 2, 3, 4, 5, 6]
    assert clerk.peak == 2
    with pytest.raises(InvalidInput, match="handler of service:slow"):
        await container.edge.call("service:slow", "whatever", "no number")
    late = await clerk.serve(Address.parse("service:later"))
    assert await container.edge.call("service:later", "ping") == "pong"
    for served in (late, clerk.served):
        await served.cancel()
        await served.cancel()
    for address in ("service:later", "service:slow"):
        with pytest.raises(Unavailable, match="nobody serves"):
            await container.edge.call(address, "ping")
    with pytest.raises(InvalidInput, match="mailbox"):
        await clerk.serve("process:other")


# -- durable receivers -----------------------------------------------------------------------------------------


class Ledger(ServiceProcess):
    name = "ledger"
    durable = True
    delivery_limit = 3

    def __init__(self) -> None:
        super().__init__()
        self.tries: list[tuple[str, float]] = []
        self.hangs = False

    @operation
    async def enter(self, text: str) -> None:
        self.tries.append((text, self.world.monotonic()))
        match text:
            case "busy" if len(self.tries) < 2:
                raise Unavailable("not now", retry_after=2.0)
            case "never":
                raise Unavailable("not now")
            case "wrong":
                raise InvalidInput("unreadable")
            case "slow" if self.hangs:
                await asyncio.sleep(1000)


async def test_durable_work_is_tried_again_or_becomes_a_dead_letter(container: Container) -> None:
    ledger = Ledger()
    await container.spawn(ledger)
    await container.edge.send("service:ledger", "enter", "busy")
    await asyncio.sleep(5)
    (_, first), (_, second) = ledger.tries
    assert second - first == pytest.approx(2.0, abs=0.01)
    await container.edge.send("service:ledger", "enter", "wrong")
    await asyncio.sleep(1)
    [letter] = await container.transport.dead_letters.list()
    assert letter.reason == "invalid_input: unreadable"
    ledger.tries.clear()
    await container.edge.send("service:ledger", "enter", "never")
    await asyncio.sleep(5)
    assert len(ledger.tries) == 3
    [_, letter] = await container.transport.dead_letters.list()
    assert letter.reason.endswith("(tried 3 times)") and "unavailable: " in letter.reason
    serving = ledger.snapshot().serving
    assert (serving.rejected, serving.requeued) == (2, 3)


async def test_durable_work_in_hand_goes_to_the_next_process(container: Container) -> None:
    first, second = Ledger(), Ledger()
    first.hangs = True
    pid = await container.spawn(first)
    await container.edge.send("service:ledger", "enter", "slow")
    call = asyncio.ensure_future(container.edge.call("service:ledger", "enter", "slow", timeout=60))
    await settle()
    await container.terminate(pid)
    assert [text for text, _ in first.tries] == ["slow", "slow"]
    await container.edge.send("service:ledger", "enter", "kept while nobody is there")
    await container.spawn(second)
    assert await call is None
    assert sorted(text for text, _ in second.tries) == ["kept while nobody is there", "slow", "slow"]


async def test_a_process_that_fails_fast_is_started_anew(container: Container) -> None:
    class Brittle(Desk):
        fail_fast = True

    made: list[Brittle] = []

    def make() -> Brittle:
        made.append(Brittle())
        return made[-1]

    await container.spawn(make)
    with pytest.raises(InternalError, match="oops"):
        await client(Brittle, container.edge).note("defect")
    await settle()
    assert [each.state for each in made] == [State.TERMINATED, State.ACTIVE]
    assert isinstance(made[0].cause, ZeroDivisionError)
    with pytest.raises(Refused):
        await client(Brittle, container.edge).note("refuse")
    await settle()
    assert len(made) == 2


async def test_versions_of_dependencies_are_checked(container: Container) -> None:
    class Catalog(ServiceProcess):
        name = "catalog"
        version = "1.4"

    class Front(ServiceProcess):
        name = "front"
        version = "2.0"

    await container.spawn(Catalog)
    described = await client(Catalog, container.edge).describe()
    assert (described.name, described.version, described.kind) == ("catalog", "1.4", "Catalog")
    assert described.operations == ("describe", "ping")
    for fits in ("catalog", "catalog>=1.2,<2", "catalog ~=1.3", "service:catalog!=1.0"):
        Front.depends = (fits,)
        await container.terminate(await container.spawn(Front))
    Front.depends = ("catalog>=1.5",)
    with pytest.raises(Conflict, match=r"front 2.0 needs catalog>=1.5, but Catalog serves it in version 1.4"):
        await container.spawn(Front)
    Front.depends = ("catalog>=one",)
    with pytest.raises(InvalidInput, match="range of versions"):
        await container.spawn(Front)
