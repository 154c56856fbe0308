"""These tests run on virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from pelagos.simulation import SimulatedWorld, VirtualLoop
from support.services_world import System, running_system


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return ("asyncio", {"loop_factory": VirtualLoop})


@pytest.fixture
async def system() -> AsyncIterator[System]:
    async with running_system(SimulatedWorld()) as running:
        yield running
