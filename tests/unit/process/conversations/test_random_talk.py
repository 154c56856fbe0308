"""Two sides that say whatever comes to mind, over a transport that repeats and loses: all of it ends."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import msgspec
import pytest

from pelagos.container import Container, ContainerConfig
from pelagos.exchange import Envelope, MemoryTransport, Performative
from pelagos.model.errors import InternalError, PelagosError
from pelagos.process import ServiceProcess, State, operation
from pelagos.process.conversations import BUILT_IN, Conversation, Protocol, decides
from pelagos.simulation import SimulatedWorld

pytestmark = pytest.mark.anyio


class Careless(MemoryTransport):
    """Now and then a message of a conversation comes twice, comes again later, is lost, or is another one."""

    def __init__(self, world: SimulatedWorld, rng: random.Random) -> None:
        super().__init__(world)
        self.rng = rng
        self.past: list[Envelope] = []

    def _also(self, envelope: Envelope) -> None:
        if envelope.protocol == "rpc":
            return
        self.past.append(envelope)
        if self.rng.random() < 0.2:
            again = self.rng.choice(self.past)
            if self.rng.random() < 0.5:
                again = msgspec.structs.replace(
                    again,
                    performative=self.rng.choice(list(Performative)),
                    conv_seq=again.conv_seq + 1,
                    content=b"\x01",
                )
            super().post(again)

    async def publish(self, envelope: Envelope) -> None:
        await super().publish(envelope)
        self._also(envelope)

    def post(self, envelope: Envelope) -> None:
        if envelope.protocol == "rpc" or self.rng.random() > 0.1:
            super().post(envelope)
        self._also(envelope)


async def ramble(rng: random.Random, conversation: Conversation) -> Any:
    """Say and do anything, mostly what is forbidden."""
    for _ in range(rng.randrange(8)):
        try:
            match rng.randrange(7):
                case 0:
                    await asyncio.sleep(rng.choice([0, 0.1, 3, 40]))
                case 1:
                    conversation.cancel()
                case 2:
                    async with asyncio.timeout(1):
                        await conversation.receive()
                case 3:
                    conversation.post(rng.choice(list(Performative)), 1)
                case _:
                    async with asyncio.timeout(5):
                        await conversation.send(rng.choice(list(Performative)), 1)
        except (PelagosError, TimeoutError):
            pass
    if rng.random() < 0.2:
        raise InternalError("rambled too far")


class Rambler(ServiceProcess):
    name = "rambler"
    max_conversations = 40

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.rng = rng

    @operation
    async def talk(self) -> None:
        await ramble(self.rng, self.conversation)

    @operation
    @decides
    async def decide(self) -> None:
        await ramble(self.rng, self.conversation)

    async def ask(self, protocol: Protocol) -> None:
        """Now and then of itself."""
        op = self.rng.choice(["talk", "decide", "nothing"])
        try:
            conversation = await self.converse(
                protocol, "service:rambler", op, timeout=self.rng.choice([None, 0.5, 50]), buffer=2
            )
            await ramble(self.rng, conversation)
        except PelagosError:
            pass


@pytest.mark.parametrize("seed", [*range(12), 27, 32])
async def test_whatever_is_said_ends(seed: int) -> None:
    rng = random.Random(seed)
    world = SimulatedWorld()
    transport = Careless(world, rng)
    spoken = [protocol for protocol in BUILT_IN if protocol.name != "rpc"]
    async with Container(world, ContainerConfig(id="c", system="test"), transport) as container:
        both = [Rambler(rng), Rambler(rng)]
        for process in both:
            await container.spawn(process)
        for _ in range(60):
            process = rng.choice(both)
            process.start_task(process.ask(rng.choice(spoken)), name="ask")
            if rng.random() < 0.3:
                await asyncio.sleep(rng.choice([0, 1, 10]))
        # Past every deadline, and past two leases: who forgot a subscription leaves it now.
        await asyncio.sleep(400)
        for process in both:
            for conversation in list(process.conversations.open_ones()):
                assert conversation.protocol.lease is not None, f"{conversation!r} has not ended"
                conversation.cancel()
        await asyncio.sleep(60)
        for process in both:
            snapshot = process.conversations.snapshot()
            assert (snapshot.open, snapshot.handlers) == ((), 0)
            assert sum(snapshot.ended.values()) == snapshot.begun
        assert all(process.state is State.ACTIVE for process in both), "no task of theirs has failed"
        assert not [queue for queue in transport.snapshot().queues if queue.waiting or queue.unsettled]
