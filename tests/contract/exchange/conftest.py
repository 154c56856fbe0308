"""The transports that the contract is checked against: add a factory here, change nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from pelagos.exchange import MemoryTransport, Transport
from pelagos.model import SystemWorld

FACTORIES: dict[str, Callable[[], Transport]] = {
    "memory": lambda: MemoryTransport(SystemWorld()),
}


@pytest.fixture(params=FACTORIES)
async def transport(request: pytest.FixtureRequest) -> AsyncIterator[Transport]:
    made = FACTORIES[request.param]()
    await made.start()
    yield made
    await made.stop()
