"""The harness on RabbitMQ: the same tests as in memory, and nothing left on the server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from pelagos.process import WorkerProcess, client, operation
from pelagos.testing import Broker, Harness, broker_problem, broker_url, stub, throw_away_broker
from support.testing_services import Book, Librarian, Library

pytestmark = [pytest.mark.anyio]

Maker = Callable[[], AbstractAsyncContextManager[Harness]]


@asynccontextmanager
async def on_a_broker() -> AsyncIterator[Harness]:
    async with throw_away_broker() as broker, broker.harness() as harness:
        yield harness


@pytest.fixture(params=["memory", pytest.param("broker", marks=pytest.mark.amqp)])
def make(request: pytest.FixtureRequest) -> Maker:
    if request.param == "memory":
        return Harness
    if problem := broker_problem(broker_url()):
        pytest.skip(problem)
    return on_a_broker


async def test_containers_recorder_and_stand_ins(make: Maker) -> None:
    async with make() as harness:
        recorder = harness.recorder
        one, two = await harness.container("one"), await harness.container("two")
        library = stub(Library, lend=lambda title: Book(title, len(title)))
        await one.spawn(library)
        await two.spawn(Librarian)
        with harness.user("ann"):
            assert await client(Librarian, one.edge).pages(["ab", "cde"]) == 5
        assert [(call.argument, call.scope.user_id) for call in library.calls] == [("ab", "ann"), ("cde", "ann")]
        assert [one.op for one in recorder.requests()] == ["pages", "lend", "lend"]
        recorder.check_conversations()


async def test_the_guards(make: Maker) -> None:
    with pytest.raises(AssertionError, match=r"process library .* failed: RuntimeError: fire"):
        async with make() as harness:
            container = await harness.container("c")
            await container.spawn(Library)
            await client(Library, container.edge).burn()
            await harness.failed("library")


class Adder(WorkerProcess):
    @operation
    async def add(self, number: int) -> int:
        return number + 1


@pytest.mark.amqp
async def test_durable_queues_are_gone_afterwards() -> None:
    from pelagos.exchange.amqp.topology import Topology
    from pelagos.exchange.amqp.wire import Wire

    if problem := broker_problem(broker_url()):
        pytest.skip(problem)
    queues: list[str] = []
    async with throw_away_broker() as broker:
        async with broker.harness() as harness:
            container = await harness.container("c")
            await container.spawn(lambda: Adder(queue="sums", durable=True))
            assert await container.edge.call("service:sums", "add", 1, result=int) == 2
        topology = Topology(broker.system, "c", 1)
        queues = [topology.work_queue(f"service:{broker.system}.sums"), *(name for name, _ in topology.shared_queues())]
        assert await missing(broker, queues[:1], Wire) == []
    assert await missing(broker, queues, Wire) == queues


@pytest.mark.amqp
async def test_so_are_those_noted_that_other_programs_received_from() -> None:
    from pelagos.exchange.amqp.topology import Topology
    from pelagos.exchange.amqp.wire import Wire

    if problem := broker_problem(broker_url()):
        pytest.skip(problem)
    async with throw_away_broker() as broker:
        another = Broker(broker.url, broker.system)  # as another program has it: what it declares is not seen here
        address = f"service:{broker.system}.sums"
        broker.also_delete(address)
        async with another.harness() as harness:
            container = await harness.container("c")
            await container.spawn(lambda: Adder(queue="sums", durable=True))
        queue = Topology(broker.system, "c", 1).work_queue(address)
        assert await missing(broker, [queue], Wire) == []
    assert await missing(broker, [queue], Wire) == [queue]


async def missing(broker: Broker, queues: list[str], wire_type: type) -> list[str]:
    from pamqp import commands

    from pelagos.exchange.amqp import AmqpConfig
    from pelagos.exchange.amqp.wire import ChannelClosed

    config = AmqpConfig(broker.url, broker.system, "looker")
    gone = []
    for queue in queues:
        wire = await wire_type.open(config, config.connection_url(), config.tls())
        channel = await wire.channel()
        try:
            await channel.call(commands.Queue.Declare(queue=queue, passive=True))
        except ChannelClosed as closed:
            assert "NOT_FOUND" in str(closed)
            gone.append(queue)
        await wire.close()
    return gone
