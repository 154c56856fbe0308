"""A system has one container of an id on a broker, wherever it runs and whatever keys it has."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pelagos.exchange import Delivery, Envelope, Performative, Receiver
from pelagos.model import SystemWorld
from pelagos.model.errors import Conflict
from support.brokers import skip_without_broker, throw_away_system

pytestmark = [pytest.mark.anyio, pytest.mark.amqp]

ANOTHER = """
import asyncio, sys
from pelagos.exchange.amqp import AmqpConfig, AmqpTransport
from pelagos.model import SystemWorld

async def main():
    transport = AmqpTransport(SystemWorld(), AmqpConfig(sys.argv[1], sys.argv[2], sys.argv[3]))
    await transport.start()
    print("up", flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def transport(url: str, system: str, container: str, **settings: Any) -> AsyncIterator[Any]:
    from pelagos.exchange.amqp import AmqpConfig, AmqpTransport

    world = SystemWorld()
    made = AmqpTransport(world, AmqpConfig(url, system, container, drain=0.0, retry_after=0.05, **settings))
    try:
        await made.start()
        yield made
    finally:
        await made.stop()
        world.close()


def received(here: asyncio.Queue[str]) -> Any:
    def take(delivery: Delivery) -> None:
        here.put_nowait(delivery.envelope.conv_id)
        delivery.ack()

    return take


async def test_a_second_one_is_refused_and_the_first_goes_on() -> None:
    url = skip_without_broker()
    came: asyncio.Queue[str] = asyncio.Queue()
    async with throw_away_system(url) as system, transport(url, system, "v") as first, transport(url, system, "w") as w:
        await first.subscribe(Receiver("process:v.1"), received(came))
        with pytest.raises(Conflict, match="container 'v' of the system") as caught:
            async with transport(url, system, "v", claim_timeout=0.3):
                pytest.fail("two containers of one id")
        assert "--id" in caught.value.advice
        for number in range(3):
            await w.publish(Envelope("process:v.1", "process:w.1", "x", Performative.INFORM, f"w#{number}"))
        async with asyncio.timeout(5):
            assert [await came.get() for _ in range(3)] == ["w#0", "w#1", "w#2"]
        assert first.snapshot().disconnects == 0


async def test_other_systems_and_successors_have_the_same_id() -> None:
    url = skip_without_broker()
    async with throw_away_system(url) as system, throw_away_system(url) as other:
        async with transport(url, system, "v") as one, transport(url, other, "v") as two:
            assert (one.snapshot().connected, two.snapshot().connected) == (True, True)
        async with transport(url, system, "v", claim_timeout=2.0) as successor:
            assert successor.snapshot().connected


async def test_the_successor_of_a_killed_one_starts_at_once() -> None:
    url = skip_without_broker()
    async with throw_away_system(url) as system:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", ANOTHER, url, system, "v", stdout=asyncio.subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"up\n"
            with pytest.raises(Conflict):
                async with transport(url, system, "v", claim_timeout=0.0):
                    pytest.fail("two containers of one id")
        finally:
            os.kill(process.pid, signal.SIGKILL)
            await process.wait()
        async with transport(url, system, "v") as successor:
            assert successor.snapshot().connected


async def test_a_lost_connection_comes_back_when_the_id_is_free_again() -> None:
    """As after a cut that the broker has not noticed: somebody has the name still."""
    from pelagos.exchange.amqp import AmqpConfig
    from pelagos.exchange.amqp.link import _claim
    from pelagos.exchange.amqp.topology import Topology
    from pelagos.exchange.amqp.wire import Wire

    url = skip_without_broker()
    came: asyncio.Queue[str] = asyncio.Queue()
    async with (
        throw_away_system(url) as system,
        transport(url, system, "w") as w,
        transport(url, system, "v", retry_at_most=0.2) as v,
    ):
        await v.subscribe(Receiver("process:v.1"), received(came))
        config = AmqpConfig(url, system, "v")
        ghost = await Wire.open(config, config.connection_url(), None)
        claim = asyncio.ensure_future(
            _claim(ghost, config, Topology(system, "v", 1).mailbox, asyncio.get_running_loop().time, 10.0)
        )
        refused = asyncio.Event()
        connect = v._connect

        async def held(patience: float) -> None:
            """Connects once the ghost has the name."""
            await asyncio.wait([claim])
            try:
                await connect(0.0)
            except Conflict:
                refused.set()
                raise

        v._connect = held
        (await v.wire()).abort()
        async with asyncio.timeout(10):
            await claim
            await refused.wait()
            assert not v.snapshot().connected
            await ghost.close()
            await v.wire()
            await w.publish(Envelope("process:v.1", "process:w.1", "x", Performative.INFORM, "w#9"))
            assert await came.get() == "w#9"
        assert v.snapshot().disconnects == 1
