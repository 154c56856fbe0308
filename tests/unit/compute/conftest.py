"""These tests run on virtual time."""

from __future__ import annotations

from typing import Any

import pytest

from support.virtual_time import virtual_backend


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return virtual_backend()
