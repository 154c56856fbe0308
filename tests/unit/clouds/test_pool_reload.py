"""A pool that becomes another one while it is used."""

from __future__ import annotations

from pathlib import Path

import pytest

from pelagos.clouds import AccountConfig, CloudCapacity, Plugins, Pool, Provenance, ServerSpec
from pelagos.clouds.simulated import SimulatedPlugin
from pelagos.model import SystemWorld
from pelagos.model.errors import InvalidInput, NotFound

pytestmark = pytest.mark.anyio


@pytest.fixture
def world():
    world = SystemWorld(threads=1)
    yield world
    world.close()


@pytest.fixture
def pool(world):
    plugins = Plugins({"simulated": SimulatedPlugin()}, source=lambda *, group: ())
    return Pool([account("east"), account("west")], plugins, world, Path("/nowhere"))


def account(name: str, **more) -> AccountConfig:
    return AccountConfig(name=name, driver="simulated", **more)


async def test_what_is_written_as_before_keeps_its_driver(pool):
    east, west = await pool.driver("east"), await pool.driver("west")
    told = []
    leave = pool.follow(lambda: told.append(pool.generation))
    moved = account("east", provenance=Provenance("another file"))
    change = pool.reload([moved, account("west", parallel_calls=2), account("north")])
    assert change.kept == ("east", "local")
    assert (change.added, change.changed, change.removed) == (("north",), ("west",), ())
    assert await pool.driver("east") is east
    assert await pool.driver("west") is not west
    assert [one.name for one in pool.retired()] == ["west"]
    assert len(told) == 1
    leave()
    pool.reload([account("east")])
    assert len(told) == 1


async def test_a_simulated_cloud_goes_on_with_its_servers_and_other_options(pool):
    west = await pool.driver("west")
    made = await west.create_server(ServerSpec(name="one"), token="a", timeout=5.0)
    pool.reload([account("east"), account("west", options={"max_servers": 1})])
    again = await pool.driver("west")
    with pytest.raises(CloudCapacity):
        await again.create_server(ServerSpec(name="two"), token="b", timeout=5.0)
    assert [one.provider_id for one in await again.list_servers(timeout=5.0)] == [made.provider_id]


async def test_what_went_is_retired_and_closed_by_who_lets_its_calls_end(pool):
    west = pool.account("west")
    await west.driver()
    assert pool.reload([account("east")]).removed == ("west",)
    with pytest.raises(NotFound):
        pool.account("west")
    assert west.opened, "its calls may be under way"
    await pool.retire(west)
    assert not west.opened
    assert pool.retired() == []


async def test_a_pool_with_a_mistake_changes_nothing(pool):
    before = pool.accounts()
    for accounts in (
        [account("east"), account("east")],
        [account("ea_st")],
        [account("a", default=True), account("b", default=True)],
    ):
        with pytest.raises(InvalidInput):
            pool.reload(accounts)
    assert pool.accounts() == before
    assert pool.retired() == []


async def test_closing_the_pool_closes_what_was_retired(pool):
    west = pool.account("west")
    await west.driver()
    pool.reload([account("east")])
    await pool.close()
    assert not west.opened
