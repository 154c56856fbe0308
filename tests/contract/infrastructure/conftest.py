"""The infrastructure service on real stores, with simulated clouds and the real clock (its times made short)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from support.databases import database, make_store, sqlite_path, world
from support.infrastructure_world import Site

__all__ = ["database", "engine", "make_site", "make_store", "site", "sqlite_path", "world"]


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def make_site(make_store: Any, world: Any) -> AsyncIterator[Any]:
    """``await make_site(clouds, ...)``: a site on the test's database."""
    made: list[Site] = []

    async def make(clouds: Any = None, **options: Any) -> Site:
        site = Site(world, make_store, clouds, **options)
        made.append(site)
        return await site.__aenter__()

    yield make
    for site in made:
        await site.__aexit__()


@pytest.fixture
async def site(make_site: Any) -> Site:
    return await make_site()
