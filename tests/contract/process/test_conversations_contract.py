"""The same conversations over each transport: in memory and through a real broker."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from pelagos.container import Container, ContainerConfig
from pelagos.exchange import MemoryTransport, Transport
from pelagos.model import SystemWorld
from pelagos.model.errors import Cancelled, DeadlineExceeded, NotFound, Refused, Unavailable
from pelagos.process import ServiceProcess, operation
from pelagos.process.conversations import Outcome, decides, subscription
from support.brokers import skip_without_broker, throw_away_system
from support.interceptors import intercepted

pytestmark = pytest.mark.anyio


class Worker(ServiceProcess):
    name = "test.work"

    def __init__(self) -> None:
        super().__init__()
        self.cancelled = asyncio.Event()

    @operation
    async def echo(self, text: str) -> str:
        return f"{text} by {self.id}"

    @operation
    async def hold(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()

    @operation
    @decides
    async def refuse_it(self) -> None:
        raise Refused("no")

    @operation
    async def fail(self) -> None:
        raise NotFound("nothing")

    @operation
    async def chat(self) -> str:
        heard = []
        async for message in self.conversation:
            heard.append(message.value(str))
            if len(heard) == 3:
                break
            await self.conversation.inform(heard[-1].upper())
        return " ".join(heard)

    @subscription
    async def numbers(self, count: int) -> AsyncIterator[int]:
        for n in range(count):
            yield n


@contextlib.asynccontextmanager
async def two_containers(kind: str) -> AsyncIterator[tuple[Container, Container]]:
    """Two containers of one system: as two programs on a broker, or sharing a transport in memory."""
    world = SystemWorld()
    async with contextlib.AsyncExitStack() as stack:
        transports: list[Transport]
        if kind != "amqp":
            shared: Transport = MemoryTransport(world)
            if kind != "memory":
                shared = intercepted(shared, world)
            await shared.start()
            stack.push_async_callback(shared.stop)
            transports, system = [shared, shared], "test"
        else:
            url = skip_without_broker()
            from pelagos.exchange.amqp import AmqpConfig, AmqpTransport

            system = await stack.enter_async_context(throw_away_system(url))
            transports = [AmqpTransport(world, AmqpConfig(url, system, name, drain=0.0)) for name in ("a", "b")]
        here, there = [
            await stack.enter_async_context(
                Container(world, ContainerConfig(id=name, system=system), transport, shared_transport=kind != "amqp")
            )
            for name, transport in zip(("a", "b"), transports, strict=True)
        ]
        yield here, there


@pytest.fixture(params=["memory", "memory behind interceptors", pytest.param("amqp", marks=pytest.mark.amqp)])
async def containers(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Container, Container]]:
    async with two_containers(request.param) as pair:
        yield pair


async def test_conversations_of_all_fates(containers: tuple[Container, Container]) -> None:
    here, there = containers
    workers = [Worker(), Worker()]
    pids = [await there.spawn(worker) for worker in workers]
    edge = here.edge
    ask = "service:test.work"
    async with asyncio.timeout(60):
        done = [await edge.converse("request", ask, "echo", str(n)) for n in range(20)]
        assert {(await conversation.result(str)).split(" by ")[0] for conversation in done} == {
            str(n) for n in range(20)
        }
        assert {conversation.peer for conversation in done} == {f"process:{pid}" for pid in pids}
        for op, error in (("refuse_it", Refused), ("fail", NotFound)):
            with pytest.raises(error):
                await (await edge.converse("request", ask, op)).result()
        held = await edge.converse("request", ask, "hold")
        await held.agreed()
        held.cancel()
        with pytest.raises(Cancelled):
            await held.result()
        (whose,) = [worker for worker in workers if worker.address == held.peer]
        await whose.cancelled.wait()
        late = await edge.converse("request", ask, "hold", timeout=0.3)
        with pytest.raises(DeadlineExceeded):
            await late.result()
        chat = await edge.converse("generic", ask, "chat")
        for text in ("a", "b", "c"):
            await chat.inform(text)
        assert await chat.result(str) == "a b c"
        numbers = await edge.converse("subscribe", ask, "numbers", 300)
        assert [n async for n in numbers.values(int)] == list(range(300))
        cut = await edge.converse("request", ask, "hold")
        await cut.agreed()
        assert cut.peer is not None
        await there.terminate(cut.peer.removeprefix("process:"))
        with pytest.raises(Unavailable):
            await cut.result()
        (left,) = [worker for worker in workers if worker.address != cut.peer]
        await there.terminate(left.id)
    snapshot = edge.conversations.snapshot()
    assert (snapshot.initiated, snapshot.duplicates, snapshot.gaps, snapshot.violations) == (0, 0, 0, 0)
    assert snapshot.ended[Outcome.DONE] == 22
    for worker in workers:
        theirs = worker.conversations.snapshot()
        assert (theirs.taken, theirs.handlers, theirs.violations) == (0, 0, 0)
