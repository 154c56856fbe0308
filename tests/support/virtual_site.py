"""Sites on a virtual clock, where an hour costs nothing: fixtures to import."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pelagos.services.infrastructure import MaintainerSettings
from pelagos.simulation import VirtualLoop
from pelagos.simulation.world import SimulatedWorld
from pelagos.store import open_simulated_store
from pelagos.store.simulated import SimulatedDatabase
from support.infrastructure_world import Site

__all__ = ["anyio_backend", "make_site", "site"]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return ("asyncio", {"loop_factory": VirtualLoop})


@pytest.fixture
async def make_site():
    loop = asyncio.get_running_loop()
    world = SimulatedWorld(7, loop)
    database = SimulatedDatabase(world)
    made = []

    async def open_store():
        store = open_simulated_store(world, database=database, before=(0.0, 0.002), after=(0.0, 0.002))
        await store.start()
        return store

    async def make(clouds=None, **options):
        slow = {"boot_seconds": 1.0, "poll_interval": 0.5, "settle": 5.0}
        named = {name: {**slow, **fields} for name, fields in (clouds or {"east": {}}).items()}
        options.setdefault("settings", MaintainerSettings(interval=5.0, health_interval=2.0))
        site = Site(world, open_store, named, patience=600.0, look=1.0, **options)
        made.append(site)
        return await site.__aenter__()

    yield make
    for site in made:
        await site.__aexit__()
    database.close()


@pytest.fixture
async def site(make_site):
    return await make_site()
