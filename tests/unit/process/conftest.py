"""These tests run on virtual time: minutes pass at once, and the same way each time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from pelagos.container import Container, ContainerConfig
from support.virtual_time import VirtualWorld, virtual_backend


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return virtual_backend()


@pytest.fixture
async def container() -> AsyncIterator[Container]:
    async with Container(VirtualWorld(), ContainerConfig(id="c", system="test")) as running:
        yield running
