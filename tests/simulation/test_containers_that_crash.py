"""Three containers on one exchange, each of which dies at some edge with requests in flight; then another comes.

Each call has exactly one end, in time; what the exchange took over is done, its effect exactly once, or is a dead
letter with its reason; and in the end nothing is left in anybody's hands.
"""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest
from sqlalchemy import text

from pelagos.process import client
from pelagos.testing import simulated
from pelagos.testing.simulated import Node, Simulation
from support.chaos_service import Entry, Ledger, Load, LoadRequest, Report, Work

TIMEOUT = 3.0
CALLS, ENTRIES = 4 * 15, 3 * 12


async def story(simulation: Simulation) -> int:
    rng = simulation.world.rng("story")
    database = simulation.harness.database().connection
    database.execute(text("CREATE TABLE chaos_ledger (name TEXT)"))
    front = await simulation.node("front")
    await front.spawn(Load)

    async def server(number: int, dies: bool) -> Node:
        node = await simulation.node(f"s{number}")
        store = await node.store()
        await node.spawn(Work)
        await node.spawn(lambda: Ledger(store))
        if dies:
            node.edges.arm(rng.randint(1, 60))
        return node

    servers = [await server(number, dies=True) for number in range(3)]
    started = 3
    load = client(Load, simulation.edge, timeout=600.0)
    await load.begin(LoadRequest("calls", workers=4, most=15, timeout=TIMEOUT, pause=0.3, seconds=0.05))
    await load.begin(LoadRequest("entries", workers=3, most=12, timeout=TIMEOUT, pause=0.3, seconds=0.05))
    for _ in range(60):
        await simulation.advance(0.25)
        for place, node in enumerate(servers):
            if not node.alive and rng.random() < 0.5:
                servers[place] = await server(started, dies=started < 9)
                started += 1
    deaths = started - 3
    while not all(node.alive for node in servers):
        servers = [node if node.alive else await server(started + place, False) for place, node in enumerate(servers)]
        started += 3
    for node in servers:
        node.edges.arm(10**9)
    report: Report = await load.finish(False)
    await simulation.advance(30.0)

    assert report.calls == CALLS
    assert set(report.ends) <= {"ok", "unavailable", "overloaded", "deadline_exceeded"}, report
    assert (report.wrong, report.overdue) == (0, 0)
    assert report.slowest <= TIMEOUT + 0.2
    assert len(report.accepted) + len(report.open) == ENTRIES

    entered = Counter(database.execute(text("SELECT name FROM chaos_ledger")).scalars())
    assert set(entered.values()) <= {1}, "an effect happened more than once"
    letters = await front.container.transport.dead_letters.list(1000)
    assert all("3 times" in letter.reason for letter in letters)
    buried = {name_in(letter.envelope.content) for letter in letters if letter.envelope is not None}
    lost = set(report.accepted) - set(entered) - buried
    assert not lost, f"accepted, and neither done nor a dead letter: {lost}"
    held = [queue for queue in front.container.transport.snapshot().queues if queue.waiting or queue.unsettled]
    assert not held, held
    return deaths


def name_in(content: bytes) -> str:
    return msgspec.msgpack.decode(content, type=Entry).name


@pytest.mark.parametrize("first", range(0, 40, 10))
def test_every_call_ends_and_every_effect_happens_once(first: int) -> None:
    deaths = 0
    for seed in range(first, first + 10):
        with simulated(seed, delay=(0.0, 0.1)) as simulation:
            deaths += simulation.run(story)
    assert deaths > 10
