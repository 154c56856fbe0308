"""Schedulers that die at any edge of a transaction, and are replaced: each firing is there exactly once, as a row."""

from __future__ import annotations

import asyncio
import random
from functools import partial

import msgspec
import pytest
from sqlalchemy import select

from pelagos.container import Container
from pelagos.model.scope import DEFAULT_SCOPE
from pelagos.services.events import ScheduledTrigger
from pelagos.services.scheduler import CreateSchedule, Missed, SchedulerService
from pelagos.services.scheduler.schedules import create_schedule
from pelagos.simulation import EPOCH, SimulatedWorld, VirtualLoop, run_virtual
from pelagos.store import LeaseKeeper, open_simulated_store
from pelagos.store.schema import events
from pelagos.store.simulated import SimulatedDatabase
from support.mortal_program import MortalProgram

PLANS = {"a": 3.0, "b": 7.0, "c": 1.1}
BEGIN = 10.0
END = 110.0


class Program(MortalProgram):
    """One scheduler."""

    async def serve(self, container: Container, keeper: LeaseKeeper) -> None:
        await container.spawn(partial(SchedulerService, self.store, keeper))


async def story(loop: VirtualLoop, edges: list[int], seed: int) -> int:
    """Three programs; who dies is replaced after a second. ``edges``: where the first ones die; later ones by seed."""
    world = SimulatedWorld(seed)
    database = SimulatedDatabase(world)
    store = open_simulated_store(world, database=database)
    await store.start()
    for name, seconds in PLANS.items():
        request = CreateSchedule(
            name=name, origin="o", interval=seconds, start=EPOCH + BEGIN, end=EPOCH + END, missed=Missed.ALL
        )
        await store.run(partial(create_schedule, scope=DEFAULT_SCOPE, id=name, request=request, now=world.now()))
    chance = random.Random(seed)
    programs = [Program(loop, world, database, f"p{n}", edge) for n, edge in enumerate(edges)]
    deaths = 0
    dead: list[Program] = []
    while loop.time() < END + 40:
        await asyncio.sleep(1)
        for index, program in enumerate(programs):
            if program.dead:
                deaths += 1
                dead.append(program)
                later = chance.randrange(2, 60) if loop.time() < END else 0
                programs[index] = Program(loop, world, database, f"p{index}.{deaths}", later)
    rows = database.connection.execute(
        select(events.c.data).where(events.c.kind == "scheduled_trigger").order_by(events.c.position)
    ).scalars()
    told = [msgspec.json.decode(row, type=ScheduledTrigger) for row in rows]
    for name, seconds in PLANS.items():
        mine = [one for one in told if one.name == name]
        count = int((END - BEGIN) / seconds + 1e-6) + 1
        assert [one.due_at for one in mine] == [EPOCH + BEGIN + n * seconds for n in range(count)]
        assert [one.number for one in mine] == list(range(1, count + 1))
        assert not any(one.missed for one in mine)
    for program in dead:
        program.process.bury()
    return deaths


@pytest.mark.parametrize("edge", range(1, 22))
def test_a_death_at_any_edge(edge: int) -> None:
    assert run_virtual(partial(story, edges=[edge, edge + 1, 0], seed=1)) >= 1


@pytest.mark.parametrize("seed", range(6))
def test_deaths_all_the_time(seed: int) -> None:
    assert run_virtual(partial(story, edges=[5 + seed, 9, 13], seed=seed)) >= 3
