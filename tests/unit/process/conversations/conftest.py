"""A transport that records what is sent, beside the container of the tests above."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from pelagos.container import Container, ContainerConfig
from pelagos.exchange import Envelope, MemoryTransport
from pelagos.simulation import SimulatedWorld


class RecordingTransport(MemoryTransport):
    def __init__(self, world: SimulatedWorld) -> None:
        super().__init__(world)
        self.sent: list[Envelope] = []

    async def publish(self, envelope: Envelope) -> None:
        self.sent.append(envelope)
        await super().publish(envelope)

    def post(self, envelope: Envelope) -> None:
        self.sent.append(envelope)
        super().post(envelope)


@pytest.fixture
def world() -> SimulatedWorld:
    return SimulatedWorld()


@pytest.fixture
def transport(world: SimulatedWorld) -> RecordingTransport:
    return RecordingTransport(world)


@pytest.fixture
async def container(world: SimulatedWorld, transport: RecordingTransport) -> AsyncIterator[Container]:
    async with Container(world, ContainerConfig(id="c", system="test"), transport) as running:
        yield running
