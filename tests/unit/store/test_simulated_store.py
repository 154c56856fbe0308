"""The simulated store: crashes at a transaction's edges, incarnations on one database, the same from the same seed."""

import asyncio
import random

import pytest
from sqlalchemy import insert, select

from pelagos.model import SystemWorld
from pelagos.store import SimulatedDatabase, open_simulated_store
from pelagos.store.schema import quota_limits

pytestmark = pytest.mark.anyio


class Crash(BaseException):
    """The power went."""


class Hooks:
    def __init__(self, where: str, batch: int = 1) -> None:
        self.where, self.left = where, batch

    def _reached(self, where: str) -> None:
        if where == self.where:
            self.left -= 1
            if self.left == 0:
                raise Crash(where)

    def before_commit(self) -> None:
        self._reached("before")

    def after_commit(self) -> None:
        self._reached("after")


class Seeded(SystemWorld):
    def __init__(self, seed: int) -> None:
        super().__init__(threads=1)
        self._seed = seed

    def rng(self, name: str) -> random.Random:
        return self._rngs.setdefault(name, random.Random(f"{self._seed}/{name}"))


@pytest.fixture
def world():
    made = Seeded(1)
    yield made
    made.close()


@pytest.fixture
def database(world):
    made = SimulatedDatabase(world)
    yield made
    made.close()


def limit(resource):
    def transaction(connection):
        connection.execute(insert(quota_limits).values(project_id="p", resource=resource, limit=1))
        return resource

    return transaction


def resources(connection):
    return sorted(connection.execute(select(quota_limits.c.resource)).scalars())


async def outcome(awaitable):
    try:
        return await awaitable
    except BaseException as error:
        return error


@pytest.mark.parametrize(("where", "written"), [("before", ["a"]), ("after", ["a", "b", "c"])])
async def test_a_crash_at_a_commits_edge(world, database, where, written):
    dying = open_simulated_store(world, database=database, hooks=Hooks(where, 2))
    witness = open_simulated_store(world, database=database)
    await dying.start()
    await witness.start()
    bell = witness.watch()
    assert await dying.run(limit("a")) == "a"
    assert await bell.changed(5)
    own_bell, idle_bell = dying.watch(), dying.watch()
    outcomes = await asyncio.gather(
        outcome(own_bell.changed()), outcome(dying.run(limit("b"))), outcome(dying.run(limit("c")))
    )
    assert all(isinstance(error, Crash) for error in outcomes)
    # The dead write, read and wait no more.
    for dead in (dying.run(limit("d")), dying.read(resources), idle_bell.changed()):
        assert isinstance(await outcome(dead), Crash)
    with pytest.raises(Crash):
        dying.watch()
    await dying.stop()
    assert dying.snapshot()["crashed"]
    # Its next incarnation and its neighbour find what was committed, and nothing else.
    reborn = open_simulated_store(world, database=database)
    await reborn.start()
    assert await reborn.read(resources) == await witness.read(resources) == written
    assert await reborn.run(limit("e")) == "e"
    await reborn.stop()
    await witness.stop()


async def test_a_kill_from_outside_takes_what_has_not_begun_with_it(world, database):
    dying = open_simulated_store(world, database=database, before=(0.001, 0.002))
    await dying.start()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(outcome(dying.run(limit("a"))))
        await asyncio.sleep(0)
        dying.kill(Crash("now"))
    assert isinstance(task.result(), Crash)
    assert database.connection.execute(select(quota_limits.c.resource)).all() == []


async def test_delays_are_drawn_from_the_worlds_generator():
    async def draw(seed):
        world = Seeded(seed)
        store = open_simulated_store(world, before=(0.0, 0.001), after=(0.0, 0.001), batch=2)
        await store.start()
        await asyncio.gather(*[store.run(limit(f"r{i}")) for i in range(6)])
        state = world.rng("store").getstate()
        await store.stop()
        world.close()
        return state

    assert await draw(1) == await draw(1)
    assert await draw(1) != await draw(2)


async def test_a_database_file_outlives_its_stores(world, tmp_path):
    path = tmp_path / "simulated.db"
    for expected in (["a"], ["a", "b"]):
        store = open_simulated_store(world, path=path)
        await store.start()
        await store.run(limit(expected[-1]))
        assert await store.read(resources) == expected
        await store.stop()
