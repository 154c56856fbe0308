"""These tests run on virtual time: minutes pass at once, and the same way each time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from pelagos.container import Container, ContainerConfig
from pelagos.simulation import SimulatedWorld, VirtualLoop


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return ("asyncio", {"loop_factory": VirtualLoop})


@pytest.fixture
async def container() -> AsyncIterator[Container]:
    async with Container(SimulatedWorld(), ContainerConfig(id="c", system="test")) as running:
        yield running
