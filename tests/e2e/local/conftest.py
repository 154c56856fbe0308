"""Local clouds at the levels that this machine and user allow; each is empty again at the end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from e2e.local.local_cloud import LEVELS, LocalCloud


@pytest.fixture(params=sorted(LEVELS))
async def cloud(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[LocalCloud]:
    """At each level that this machine and user allow."""
    async for one in _clouds(tmp_path / "home", LEVELS[request.param]):
        yield one


@pytest.fixture
async def isolated(tmp_path: Path) -> AsyncIterator[LocalCloud]:
    """At the best level."""
    async for one in _clouds(tmp_path / "home", {}):
        if await one.level() == "processes":
            pytest.skip("this machine allows this user no namespaces: " + (await one.driver.facts()).isolation.reason)
        yield one


async def _clouds(home: Path, options: dict[str, Any]) -> AsyncIterator[LocalCloud]:
    cloud = LocalCloud(home, options)
    try:
        yield cloud
    finally:
        await cloud.clear()
        cloud.world.close()
