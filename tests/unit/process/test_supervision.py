"""OTP's rules, on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from pelagos.container import Container
from pelagos.model.errors import Conflict, NotFound, Unavailable
from pelagos.process import ChildSpec, Process, Restart, RestartStrategy, State, Supervisor

pytestmark = pytest.mark.anyio


class Journal(list[str]):
    """What happened, in order; and the living children by name."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[str, Worker] = {}
        self.times: list[float] = []


class Worker(Process):
    def __init__(self, journal: Journal, name: str, *, starts: bool = True) -> None:
        super().__init__()
        self.journal, self.key, self.starts = journal, name, starts

    async def on_init(self) -> None:
        if not self.starts:
            raise OSError(f"{self.key} cannot start")
        self.start_task(self._work(), name="work")
        self.journal.append(f"+{self.key}")
        self.journal.alive[self.key] = self
        self.journal.times.append(self.world.monotonic())
        self.order = asyncio.Event()
        self.outcome: BaseException | None = None

    async def on_terminate(self) -> None:
        if self.starts:
            self.journal.append(f"-{self.key}")
            self.journal.alive.pop(self.key, None)

    async def _work(self) -> None:
        await self.order.wait()
        if self.outcome is not None:
            raise self.outcome
        self.stop()

    def crash(self) -> None:
        self.outcome = OSError(f"{self.key} crashed")
        self.order.set()

    def finish(self) -> None:
        self.order.set()


def specs(journal: Journal, names: str, **options: Restart) -> list[ChildSpec]:
    def factory(name: str) -> Callable[[], Process]:
        return lambda: Worker(journal, name)

    return [ChildSpec(name, factory(name), options.get(name, Restart.PERMANENT)) for name in names]


async def settle() -> None:
    await asyncio.sleep(0.001)


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (RestartStrategy.ONE_FOR_ONE, ["-b", "+b"]),
        (RestartStrategy.ONE_FOR_ALL, ["-b", "-c", "-a", "+a", "+b", "+c"]),
        (RestartStrategy.REST_FOR_ONE, ["-b", "-c", "+b", "+c"]),
    ],
)
async def test_strategies(container: Container, strategy: RestartStrategy, expected: list[str]) -> None:
    journal = Journal()
    await container.spawn(Supervisor(specs(journal, "abc"), strategy=strategy))
    assert journal == ["+a", "+b", "+c"]
    del journal[:]
    journal.alive["b"].crash()
    await settle()
    assert journal == expected
    assert sorted(journal.alive) == ["a", "b", "c"]


@pytest.mark.parametrize("strategy", RestartStrategy)
async def test_start_in_order_and_stop_in_reverse(container: Container, strategy: RestartStrategy) -> None:
    journal = Journal()
    pid = await container.spawn(Supervisor(specs(journal, "abcd"), strategy=strategy))
    await container.terminate(pid)
    assert journal == ["+a", "+b", "+c", "+d", "-d", "-c", "-b", "-a"]


@pytest.mark.parametrize(
    ("restart", "crashes", "ends"),
    [
        (Restart.PERMANENT, True, True),
        (Restart.TRANSIENT, True, False),
        (Restart.TEMPORARY, False, False),
    ],
)
async def test_which_children_are_restarted(container: Container, restart: Restart, crashes: bool, ends: bool) -> None:
    for act, again in ((Worker.crash, crashes), (Worker.finish, ends)):
        journal = Journal()
        supervisor = Supervisor(specs(journal, "a", a=restart))
        pid = await container.spawn(supervisor)
        act(journal.alive["a"])
        await settle()
        assert journal == (["+a", "-a", "+a"] if again else ["+a", "-a"])
        assert len(supervisor.children()) == (1 if again else 0)
        await container.terminate(pid)


async def test_temporary_siblings_of_a_failed_child_are_not_restarted(container: Container) -> None:
    journal = Journal()
    tree = Supervisor(specs(journal, "ab", a=Restart.TEMPORARY), strategy=RestartStrategy.ONE_FOR_ALL)
    await container.spawn(tree)
    journal.alive["b"].crash()
    await settle()
    assert journal == ["+a", "+b", "-b", "-a", "+b"]
    assert [child.name for child in tree.children()] == ["b"]


async def test_too_many_restarts_fail_the_supervisor_and_its_own_supervisor_acts(container: Container) -> None:
    journal = Journal()
    inner_made: list[Supervisor] = []

    def inner() -> Supervisor:
        made = Supervisor(specs(journal, "ab"), label="inner", max_restarts=2, period=10)
        inner_made.append(made)
        return made

    outer = Supervisor([ChildSpec("inner", inner, shutdown=None)], label="outer")
    await container.spawn(outer)
    for _ in range(3):
        journal.alive["b"].crash()
        await asyncio.sleep(1)
    assert len(inner_made) == 2
    assert inner_made[0].state is State.TERMINATED
    assert isinstance(inner_made[0].cause, Unavailable)
    assert "2 restarts in 10 s" in str(inner_made[0].cause)
    assert inner_made[1].state is State.ACTIVE
    assert journal[-4:] == ["-b", "-a", "+a", "+b"]
    assert outer.children()[0].restarts == 1


async def test_restarts_spread_over_time_are_no_reason_to_give_up(container: Container) -> None:
    journal = Journal()
    tree = Supervisor(specs(journal, "a"), max_restarts=2, period=10)
    await container.spawn(tree)
    for _ in range(20):
        journal.alive["a"].crash()
        await asyncio.sleep(6)
    assert tree.state is State.ACTIVE
    assert tree.children()[0].restarts == 20


async def test_restarts_back_off(container: Container) -> None:
    journal = Journal()
    await container.spawn(Supervisor(specs(journal, "a"), max_restarts=10, period=1000, backoff=1.0, max_backoff=3.0))
    waits = []
    for _ in range(5):
        begin = container.world.monotonic()
        journal.alive["a"].crash()
        await asyncio.sleep(10)
        waits.append(round(journal.times[-1] - begin))
    assert waits == [0, 1, 2, 3, 3]


async def test_a_child_that_does_not_come_back_counts_as_failures(container: Container) -> None:
    journal = Journal()
    broken = False
    tree = Supervisor(
        [ChildSpec("a", lambda: Worker(journal, "a", starts=not broken))], label="tree", max_restarts=3, period=100
    )
    await container.spawn(tree, restart=Restart.TEMPORARY)
    broken = True
    journal.alive["a"].crash()
    await asyncio.sleep(10)
    assert tree.state is State.TERMINATED
    assert "a cannot start" in str(tree.cause)


async def test_a_failing_start_unwinds_what_it_started(container: Container) -> None:
    journal = Journal()
    children = [*specs(journal, "ab"), ChildSpec("c", lambda: Worker(journal, "c", starts=False))]
    with pytest.raises(OSError, match="c cannot start"):
        await container.spawn(Supervisor(children))
    assert journal == ["+a", "+b", "-b", "-a"]
    assert [child.name for child in container.root.children()] == ["edge"]


async def test_a_child_that_will_not_stop_is_cancelled(container: Container) -> None:
    class Stuck(Worker):
        async def on_deactivate(self) -> None:
            await asyncio.sleep(3600)

    journal = Journal()
    pid = await container.spawn(
        Supervisor([ChildSpec("a", lambda: Stuck(journal, "a"), shutdown=7.0), *specs(journal, "b")])
    )
    begin = container.world.monotonic()
    await container.terminate(pid)
    assert container.world.monotonic() - begin == pytest.approx(7.0, abs=0.1)
    assert journal == ["+a", "+b", "-b", "-a"]


async def test_children_come_and_go(container: Container) -> None:
    journal = Journal()
    tree = Supervisor()
    await container.spawn(tree)
    [spec] = specs(journal, "a")
    await tree.start_child(spec)
    with pytest.raises(Conflict, match="already"):
        await tree.start_child(spec)
    await tree.stop_child("a")
    with pytest.raises(NotFound):
        await tree.stop_child("a")
    assert journal == ["+a", "-a"]
    await container.stop()
    with pytest.raises(Conflict):
        await tree.start_child(spec)


async def test_two_children_that_fail_together_are_both_restarted(container: Container) -> None:
    journal = Journal()
    await container.spawn(Supervisor(specs(journal, "ab")))
    journal.alive["a"].crash()
    journal.alive["b"].crash()
    await asyncio.sleep(1)
    assert sorted(journal.alive) == ["a", "b"]
    assert sorted(journal) == ["+a", "+a", "+b", "+b", "-a", "-b"]


async def test_the_end_of_a_supervisor_that_waits_to_restart(container: Container) -> None:
    journal = Journal()
    tree = Supervisor(specs(journal, "ab"), max_restarts=10, period=1000, backoff=100.0, max_backoff=100.0)
    pid = await container.spawn(tree)
    journal.alive["a"].crash()
    await settle()
    journal.alive["a"].crash()
    await settle()
    assert tree.children()[0].state is None
    begin = container.world.monotonic()
    await container.terminate(pid)
    assert container.world.monotonic() - begin < 1
    assert journal == ["+a", "+b", "-a", "+a", "-a", "-b"]


async def test_a_crash_is_seen_as_the_cause(container: Container) -> None:
    journal = Journal()
    worker = Worker(journal, "w")
    await container.spawn(worker, restart=Restart.TEMPORARY)
    worker.crash()
    await settle()
    assert worker.state is State.TERMINATED
    assert isinstance(worker.cause, OSError)
    assert worker.snapshot().cause == "OSError: w crashed"
    assert worker not in container.processes


async def test_a_child_stopped_for_good_is_not_restarted_by_a_restart_that_waits(container: Container) -> None:
    journal = Journal()
    tree = Supervisor(specs(journal, "ab"), max_restarts=10, period=1000, backoff=5.0, max_backoff=5.0)
    await container.spawn(tree)
    for _ in range(2):
        journal.alive["a"].crash()
        await settle()
    await tree.stop_child("a")
    await asyncio.sleep(20)
    assert list(journal.alive) == ["b"]
    assert [child.name for child in tree.children()] == ["b"]
    journal.alive["b"].crash()
    await asyncio.sleep(20)
    assert list(journal.alive) == ["b"]


async def test_children_start_side_by_side(container: Container) -> None:
    class Slow(Worker):
        async def on_activate(self) -> None:
            await asyncio.sleep(5)

    journal = Journal()
    tree = Supervisor(strategy=RestartStrategy.ONE_FOR_ALL)
    await container.spawn(tree)
    async with asyncio.TaskGroup() as group:
        group.create_task(tree.start_child(ChildSpec("slow", lambda: Slow(journal, "slow"))))
        await asyncio.sleep(1)
        await tree.start_child(*specs(journal, "a"))
        journal.alive["a"].crash()  # no reason to disturb one that somebody is starting
    assert journal == ["+slow", "+a", "-a", "+a"]
    assert sorted(journal.alive) == ["a", "slow"]
