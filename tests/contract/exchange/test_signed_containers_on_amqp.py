"""Containers on RabbitMQ that require signatures: they meet over the broker, and what it carries is checked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from pelagos.container import Container, ContainerConfig
from pelagos.container.keys import KeyExchangeProcess
from pelagos.exchange import Envelope, Performative, Receiver
from pelagos.exchange.interceptors import InterceptedTransport, KeyRing
from pelagos.model import SystemWorld
from pelagos.model.errors import Unavailable
from pelagos.process import ServiceProcess, client, operation
from support.brokers import skip_without_broker, throw_away_system
from support.interceptors import ring, stack

pytestmark = [pytest.mark.anyio, pytest.mark.amqp]


class Greeter(ServiceProcess):
    name = "store"
    served = 0

    @operation
    async def greet(self, name: str) -> str:
        Greeter.served += 1
        return f"hello {name}"


@asynccontextmanager
async def member(system: str, name: str, keys: KeyRing) -> AsyncIterator[tuple[Container, InterceptedTransport]]:
    from pelagos.exchange.amqp import AmqpConfig, AmqpTransport

    world = SystemWorld()
    made = stack(world, container=name, system=system, keys=keys)
    amqp = AmqpTransport(world, AmqpConfig(skip_without_broker(), system, name, drain=0.0))
    transport = InterceptedTransport(amqp, made.interceptors, world)
    async with Container(world, ContainerConfig(id=name, system=system), transport) as container:
        assert made.sessions is not None
        await container.spawn(KeyExchangeProcess(made.sessions))
        yield container, transport
    world.close()


async def test_two_containers_meet_on_the_broker_and_a_forger_does_nothing() -> None:
    url = skip_without_broker()
    from pelagos.exchange.amqp import AmqpConfig, AmqpTransport

    a_keys, b_keys = ring(), ring()
    a_keys.believe(b_keys.public_key)
    b_keys.believe(a_keys.public_key)
    Greeter.served = 0
    async with (
        throw_away_system(url) as system,
        member(system, "a", a_keys) as (a, a_transport),
        member(system, "b", b_keys) as (b, b_transport),
    ):
        await b.spawn(Greeter)
        greeter = client(Greeter, a.edge)
        for number in range(20):
            assert await greeter.greet(str(number)) == f"hello {number}"
        assert (a_transport.snapshot().refused, b_transport.snapshot().refused) == (0, 0)
        assert b_transport.interceptors()["signature"]["verified"] >= 20

        forger_world = SystemWorld()
        forger = AmqpTransport(forger_world, AmqpConfig(url, system, "forger", drain=0.0))
        await forger.start()
        answers: asyncio.Queue[Envelope] = asyncio.Queue()
        await forger.subscribe(
            Receiver("process:forger.1"), lambda delivery: (answers.put_nowait(delivery.envelope), delivery.ack())[1]
        )
        await forger.publish(
            Envelope(
                f"service:{system}.store",
                "process:forger.1",
                "greet",
                Performative.REQUEST,
                "forger#1",
                msgspec.msgpack.encode("me"),
                reply_to="process:forger.1",
                remaining_ms=5000,
            )
        )
        async with asyncio.timeout(5):
            answer = await answers.get()
        assert msgspec.msgpack.decode(answer.content)["code"] == "unauthenticated"
        assert Greeter.served == 20
        await forger.stop()
        forger_world.close()


async def test_an_error_that_the_transport_itself_answers_is_believed() -> None:
    a_keys, b_keys = ring(), ring()
    a_keys.believe(b_keys.public_key)
    b_keys.believe(a_keys.public_key)
    async with (
        throw_away_system(skip_without_broker()) as system,
        member(system, "a", a_keys) as (a, a_transport),
        member(system, "b", b_keys) as (_, b_transport),
    ):
        await b_transport.subscribe(
            Receiver(f"service:{system}.store"), lambda delivery: delivery.reject("no such tenant")
        )
        with pytest.raises(Unavailable, match="no such tenant"):
            await client(Greeter, a.edge).greet("you")
        assert a_transport.snapshot().refused == 0
