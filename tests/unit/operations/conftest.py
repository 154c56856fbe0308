"""These tests run on virtual time: settling times and back-offs cost nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from pelagos.simulation import SimulatedWorld, VirtualLoop
from support.operations_world import Universe


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return ("asyncio", {"loop_factory": VirtualLoop})


@pytest.fixture
async def make_universe() -> AsyncIterator[Callable[..., Any]]:
    async with AsyncExitStack() as stack:

        async def make(**options: Any) -> Universe:
            return await stack.enter_async_context(Universe(SimulatedWorld(), options=options))

        yield make
