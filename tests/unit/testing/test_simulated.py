"""The simulated world for users' services: nodes are slow, stand still and die; what was acknowledged stays done."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

from pelagos.model.errors import DeadlineExceeded, InvalidInput, PelagosError
from pelagos.model.scope import DEFAULT_SCOPE
from pelagos.process import Context, ServiceProcess, WorkerProcess, client, operation, use_context
from pelagos.simulation import Deadlock, Forbidden
from pelagos.store import Store, once
from pelagos.testing import Simulation, simulated
from support.testing_services import Librarian, Library


class Adder(WorkerProcess):
    done: list[int]

    @operation
    async def add(self, number: int) -> int:
        await asyncio.sleep(0.05)
        self.done.append(number)
        return number


def worker(done: list[int]) -> Adder:
    made = Adder(queue="numbers", durable=True)
    made.done = done
    return made


async def loans(simulation: Simulation) -> tuple[float, list[str]]:
    one, two = await simulation.node("one"), await simulation.node("two")
    await one.spawn(Library)
    await two.spawn(Librarian)
    recorder = simulation.harness.recorder
    assert await simulation.client(Librarian).pages(["a", "b", "c"]) == 600
    return simulation.world.monotonic(), [f"{one.seen.at:.9f} {one}" for one in recorder.messages]


def test_messages_take_their_time_and_one_seed_is_one_run() -> None:
    runs = []
    for seed in (1, 1, 2):
        with simulated(seed, delay=(0.1, 0.2)) as simulation:
            runs.append(simulation.run(loans))
    assert runs[0] == runs[1] != runs[2]
    assert 0.8 <= runs[0][0] <= 1.6  # eight messages


def test_the_seed_is_told() -> None:
    async def story(simulation: Simulation) -> None:
        raise KeyError

    with pytest.raises(KeyError) as raised, simulated(41) as simulation:
        simulation.run(story)
    assert raised.value.__notes__ == ["in the simulated world of seed 41"]


def test_work_of_a_killed_node_goes_to_another_at_every_edge() -> None:
    async def story(simulation: Simulation) -> bool:
        done: list[int] = []
        one = await simulation.node("one")
        await one.spawn(lambda: worker(done))
        one.edges.arm(edge)
        for number in range(4):
            await simulation.edge.send("service:numbers", "add", number)
        await simulation.advance(0.1)
        two = await simulation.node("two")
        await two.spawn(lambda: worker(done))
        await simulation.until(lambda: set(done) == {0, 1, 2, 3})
        assert two.alive
        return not one.alive

    deaths = 0
    for edge in range(40):
        with simulated(edge, delay=(0.0, 0.01)) as simulation:
            if not simulation.run(story):
                break
            deaths += 1
    assert deaths == 6  # before and after each of the three messages that the worker got in its time


class Ledger(ServiceProcess):
    name = "ledger"

    def __init__(self, store: Store, *, careful: bool) -> None:
        super().__init__()
        self.store = store
        self.careful = careful

    @operation
    async def deposit(self, amount: int) -> int:
        context, now = self.context, self.world.now()

        def add(connection: Any) -> int:
            connection.exec_driver_sql("insert into deposits values (?)", (amount,))
            return amount

        def once_only(connection: Any) -> int:
            assert context.request_id is not None
            return once(connection, context.scope, context.request_id, "deposit", now, add, int)

        return await self.store.run(once_only if self.careful else add)


@pytest.mark.parametrize("careful", [True, False])
def test_an_effect_happens_once_wherever_a_node_dies(careful: bool) -> None:
    """With the request's id in the effect's transaction; without it some crash is found that makes it happen twice."""

    async def story(simulation: Simulation) -> tuple[bool, int]:
        store = await simulation.harness.store()
        await store.run(lambda connection: connection.exec_driver_sql("create table deposits (amount integer)"))
        one = await simulation.node("one")
        own = await one.store()
        await one.spawn(lambda: Ledger(own, careful=careful))
        one.edges.arm(edge)
        ledger = simulation.client(Ledger, timeout=5)
        for number in range(3):
            with use_context(Context(DEFAULT_SCOPE, request_id=f"r{number}")):
                while True:
                    try:
                        assert await ledger.deposit(number) == number
                        break
                    except PelagosError:
                        if not one.alive and len(simulation.nodes) < 3:
                            two = await simulation.node("two")
                            other = await two.store()
                            await two.spawn(partial(Ledger, other, careful=careful))
        count = await store.read(
            lambda connection: connection.exec_driver_sql("select count(*) from deposits").scalar()
        )
        return one.alive, count

    counts = []
    for edge in range(100):
        with simulated(edge, delay=(0.0, 0.05)) as simulation:
            alive, count = simulation.run(story)
            counts.append(count)
            if alive:
                break
    assert len(counts) > 12  # messages in and out, and commits, each with two edges
    assert (set(counts) == {3}) is careful


def test_no_clean_up_runs_in_a_killed_node() -> None:
    ran: list[str] = []

    class Careful(ServiceProcess):
        name = "careful"

        @operation
        async def work(self) -> None:
            try:
                await asyncio.sleep(10)
            finally:
                ran.append("finally")

        async def on_terminate(self) -> None:
            ran.append("on_terminate")

    async def story(simulation: Simulation) -> list[str]:
        node = await simulation.node("one")
        await node.spawn(Careful)
        call = asyncio.get_running_loop().create_task(simulation.client(Careful).work())
        await simulation.advance(1)
        node.kill()
        with pytest.raises(PelagosError) as raised:
            await call
        assert raised.value.retry == "uncertain"
        return list(ran)

    with simulated() as simulation:
        assert simulation.run(story) == []


def test_a_node_that_stands_still_answers_when_it_goes_on() -> None:
    async def story(simulation: Simulation) -> None:
        node = await simulation.node("one")
        await node.spawn(Library)
        library = simulation.client(Library, timeout=5)
        node.pause()
        with pytest.raises(DeadlineExceeded):
            await library.lend("early")
        call = asyncio.get_running_loop().create_task(library.lend("late"))
        await simulation.advance(1)
        assert not call.done()
        node.resume()
        assert (await call).title == "late"

    with simulated() as simulation:
        simulation.run(story)


def test_a_node_that_is_left_standing_is_stopped_all_the_same() -> None:
    async def story(simulation: Simulation) -> None:
        node = await simulation.node("one")
        await node.spawn(Library)
        node.pause()
        with pytest.raises(InvalidInput):
            await simulation.node("one")

    with simulated() as simulation:
        simulation.run(story)


def test_what_does_not_come_to_pass() -> None:
    async def story(simulation: Simulation) -> None:
        await simulation.until(lambda: False, 3)

    with pytest.raises(AssertionError, match="within 3 virtual seconds"), simulated() as simulation:
        simulation.run(story)


def test_waiting_for_ever_and_threads_are_errors() -> None:
    async def for_ever(simulation: Simulation) -> None:
        for container in list(simulation.harness.containers):
            await container.stop()
        await asyncio.Event().wait()

    with pytest.raises(Deadlock), simulated() as simulation:
        simulation.run(for_ever)

    async def threads(simulation: Simulation) -> None:
        await asyncio.to_thread(len, "")

    with pytest.raises(Forbidden), simulated() as simulation:
        simulation.run(threads)


def test_clients_inside_of_nodes() -> None:
    async def story(simulation: Simulation) -> int:
        one, two = await simulation.node("one"), await simulation.node("two")
        await one.spawn(Library)
        return (await two.run(client(Library, two.container.edge).lend("x"))).pages

    with simulated(delay=(0.5, 0.5)) as simulation:
        assert simulation.run(story) == 200
