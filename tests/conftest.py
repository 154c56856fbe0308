"""Fixtures that every test may use."""

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """Pelagos runs on asyncio alone."""
    return "asyncio"
