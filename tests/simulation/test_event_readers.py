"""Readers of one durable subscription that die at any edge: an effect in their transaction happens exactly once, a
handler's at least once and in order."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest
from sqlalchemy import Connection, insert, select

from pelagos.container import Container
from pelagos.model.scope import DEFAULT_SCOPE
from pelagos.services.events import BusinessState, PublishedEvent, append_event, follow
from pelagos.simulation import SimulatedWorld, VirtualLoop, run_virtual
from pelagos.store import LeaseKeeper, Store, open_simulated_store
from pelagos.store.container_schema import attributes
from pelagos.store.simulated import SimulatedDatabase
from support.mortal_program import MortalProgram
from support.services_world import Follower

EVENTS = 40


def count(connection: Connection, event: PublishedEvent) -> None:
    """A second time would be a conflict of keys."""
    row = {"project_id": "default", "name": event.data["state"], "user_id": "u", "updated_at": 0.0, "value_blob": b""}
    connection.execute(insert(attributes).values(**row))


class Program(MortalProgram):
    """A reader, in two ways."""

    def __init__(
        self,
        loop: VirtualLoop,
        world: SimulatedWorld,
        database: SimulatedDatabase,
        name: str,
        edge: int,
        seen: list[str],
    ):
        self._seen = seen
        super().__init__(loop, world, database, name, edge)

    async def serve(self, container: Container, keeper: LeaseKeeper) -> None:
        async def handle(event: PublishedEvent) -> None:
            await asyncio.sleep(0.05)
            self._seen.append(event.data["state"])

        for name, options in (("once", {"apply": count}), ("least", {"handler": handle})):
            await container.spawn(
                Follower(
                    partial(
                        follow,
                        store=self.store,
                        keeper=keeper,
                        name=name,
                        patterns="business_state",
                        position=0,
                        **options,
                    )
                )
            )


async def story(loop: VirtualLoop, edges: list[int]) -> None:
    world = SimulatedWorld(edges[0])
    database = SimulatedDatabase(world)
    store: Store = open_simulated_store(world, database=database)
    await store.start()
    seen: list[str] = []
    programs = [Program(loop, world, database, f"p{n}", edge, seen) for n, edge in enumerate(edges)]
    dead: list[Program] = []
    for number in range(EVENTS):
        event = partial(
            append_event,
            scope=DEFAULT_SCOPE,
            event_type="business_state",
            origin="a",
            payload=BusinessState(f"{number:03}"),
            at=world.now(),
        )
        await store.run(event)
        await asyncio.sleep(1)
        for index, program in enumerate(programs):
            if program.dead:
                dead.append(program)
                programs[index] = Program(loop, world, database, f"{program.name}+", 0, seen)
    await asyncio.sleep(60)
    expected = [f"{number:03}" for number in range(EVENTS)]
    names = database.connection.execute(select(attributes.c.name).order_by(attributes.c.name)).scalars().all()
    assert names == expected
    assert list(dict.fromkeys(seen)) == expected, "in order, but for repeats"
    assert len(seen) <= EVENTS + len(dead)
    assert dead
    for program in dead:
        program.process.bury()


@pytest.mark.parametrize("edge", range(1, 26, 3))
def test_a_death_at_any_edge(edge: int) -> None:
    run_virtual(partial(story, edges=[edge, edge + 7]))
