"""Children of processes, how they end, and processes that are set aside and come back. On virtual time."""

from __future__ import annotations

import asyncio

import pytest

from pelagos.container import Container
from pelagos.model.errors import NotFound, Retry, Unavailable, Unsupported
from pelagos.process import (
    ChildSpec,
    ExitKind,
    ExitReason,
    IllegalTransition,
    Process,
    Restart,
    ServiceProcess,
    State,
    Supervisor,
    client,
    operation,
)

pytestmark = pytest.mark.anyio


class Child(Process):
    def __init__(self, journal: list[str], key: str = "child") -> None:
        super().__init__()
        self.journal, self.key = journal, key

    async def on_activate(self) -> None:
        self.journal.append(f"+{self.key}")

    async def on_terminate(self) -> None:
        self.journal.append(f"-{self.key}")

    @operation
    async def crash(self) -> None:
        async def fail() -> None:
            raise OSError("crashed")

        self.start_task(fail())


class Parent(Process):
    max_child_restarts = 2

    def __init__(self) -> None:
        super().__init__()
        self.journal: list[str] = []
        self.exits: list[tuple[str, ExitReason]] = []

    def on_child_exit(self, name: str, reason: ExitReason) -> None:
        self.exits.append((name, reason))

    async def on_deactivate(self) -> None:
        self.journal.append("deactivate")

    async def on_terminate(self) -> None:
        self.journal.append("terminate")


async def settle(seconds: float = 0.01) -> None:
    await asyncio.sleep(seconds)


async def test_children_are_kept_and_end_before_their_parent(container: Container) -> None:
    parent = Parent()
    pid = await container.spawn(parent)
    assert parent.children() == ()
    await parent.spawn_child(lambda: Child(parent.journal, "a"), name="a")
    await parent.spawn_child(Child(parent.journal, "b"))
    a, b = parent.children()
    assert (a.name, b.name, a.last_exit) == ("a", "Child", None)
    await container.edge.call(f"process:{a.process_id}", "crash")
    await settle()
    again = parent.children()[0]
    assert again.process_id != a.process_id and again.state is State.ACTIVE and again.restarts == 1
    assert again.last_exit == ExitReason(ExitKind.FAILED, "OSError: crashed")
    by_id = {process.id: process.snapshot() for process in container.processes}
    keeper = by_id[by_id[b.process_id].supervisor]
    assert keeper.supervisor == pid and by_id[pid].supervisor == container.root.id
    await parent.stop_child("Child")
    with pytest.raises(NotFound):
        await parent.stop_child("Child")
    await container.terminate(pid)
    assert parent.journal == ["+a", "+b", "-a", "+a", "-b", "deactivate", "-a", "terminate"]
    assert [(name, reason.kind) for name, reason in parent.exits] == [
        ("a", ExitKind.FAILED), ("Child", ExitKind.SHUTDOWN), ("a", ExitKind.SHUTDOWN),
    ]  # fmt: skip
    assert set(by_id) - {process.id for process in container.processes} == {
        pid, keeper.id, b.process_id, again.process_id,
    }  # fmt: skip


async def test_children_that_fail_too_often_take_their_parent_with_them(container: Container) -> None:
    parents: list[Parent] = []

    def make() -> Parent:
        parents.append(Parent())
        return parents[-1]

    await container.spawn(make)
    first = parents[0]
    await first.spawn_child(lambda: Child(first.journal), name="c")
    for _ in range(3):
        await container.edge.call(f"process:{first.children()[0].process_id}", "crash")
        await settle(0.2)
    assert [parent.state for parent in parents] == [State.TERMINATED, State.ACTIVE]
    assert isinstance(first.cause, Unavailable) and "2 restarts" in str(first.cause)
    assert first.journal[-1] == "terminate" and first.journal.count("-child") == 3


async def test_a_child_that_does_not_start_is_the_spawners_error(container: Container) -> None:
    class Broken(Process):
        async def on_init(self) -> None:
            raise OSError("no")

    parent = Parent()
    await container.spawn(parent)
    with pytest.raises(OSError, match="no"):
        await parent.spawn_child(Broken)
    assert parent.children() == () and parent.state is State.ACTIVE
    assert parent.exits == [("Broken", ExitReason(ExitKind.FAILED, "OSError: no"))]


async def test_exit_reasons_that_a_supervisor_sees(container: Container) -> None:
    class Watching(Supervisor):
        def __init__(self) -> None:
            super().__init__(label="watching")
            self.seen: list[tuple[str, str]] = []

        def on_child_exit(self, name: str, reason: ExitReason) -> None:
            self.seen.append((name, str(reason)))
            raise ValueError("a hook of no consequence")

    class Stubborn(Child):
        async def on_deactivate(self) -> None:
            await asyncio.sleep(1000)

    watching = Watching()
    await container.spawn(watching)
    journal: list[str] = []
    for name in ("normal", "failed", "shutdown"):
        await watching.start_child(ChildSpec(name, lambda: Child(journal), Restart.TEMPORARY))
    await watching.start_child(ChildSpec("killed", lambda: Stubborn(journal), Restart.TEMPORARY, 2.0))
    by_name = {child.name: container.process(child.process_id) for child in watching.children()}
    by_name["normal"].stop()
    await container.edge.call(by_name["failed"].address, "crash")
    await watching.stop_child("shutdown")
    await watching.stop_child("killed")
    await settle()
    assert sorted(watching.seen) == [
        ("failed", "failed (OSError: crashed)"), ("killed", "killed"), ("normal", "normal"), ("shutdown", "shutdown"),
    ]  # fmt: skip
    assert watching.state is State.ACTIVE and watching.children() == ()
    with pytest.raises(Unsupported, match="supervisor"):
        await watching.deactivate()


# -- set aside and back -----------------------------------------------------------------------------------------


class Counter(ServiceProcess):
    name = "counter"

    def __init__(self) -> None:
        super().__init__()
        self.journal: list[str] = []
        self.news: list[int] = []
        self.gate = asyncio.Event()
        self.broken = False

    async def on_init(self) -> None:
        await self.listen("fanout:news", self.on_news, int)

    async def on_news(self, number: int) -> None:
        self.news.append(number)

    async def on_activate(self) -> None:
        self.journal.append("activate")

    async def on_deactivate(self) -> None:
        self.journal.append("deactivate")
        if self.broken:
            raise OSError("broken")

    @operation
    async def hold(self) -> str:
        await self.gate.wait()
        return "held"


async def test_a_process_is_set_aside_and_comes_back(container: Container) -> None:
    counter = Counter()
    pid = await container.spawn(counter)
    service, mailbox = client(Counter, container.edge), client(Counter, container.edge, address=f"process:{pid}")
    held = asyncio.ensure_future(service.hold())
    await settle()
    going = asyncio.ensure_future(counter.deactivate(drain=5.0))
    await settle()
    counter.gate.set()
    await going
    assert await held == "held"
    assert counter.state is State.READY
    with pytest.raises(Unavailable, match="nobody serves"):
        await service.ping()
    with pytest.raises(Unavailable, match="not active"):
        await mailbox.ping()
    with pytest.raises(IllegalTransition, match="ready; deactivate"):
        await counter.deactivate()
    container.edge.publish("fanout:news", 1)
    await counter.activate()
    container.edge.publish("fanout:news", 2)
    assert (await service.ping(), await mailbox.ping()) == ("pong", "pong")
    with pytest.raises(IllegalTransition):
        await counter.activate()
    await settle()
    assert counter.news == [2]
    await counter.deactivate()
    await container.terminate(pid)
    assert counter.state is State.TERMINATED
    assert counter.journal == ["activate", "deactivate"] * 2
    with pytest.raises(IllegalTransition):
        await counter.activate()


async def test_what_still_runs_after_the_drain_is_cancelled_and_told(container: Container) -> None:
    counter = Counter()
    pid = await container.spawn(counter)
    held = asyncio.ensure_future(client(Counter, container.edge).hold())
    await settle()
    begin = container.world.monotonic()
    await counter.deactivate(drain=2.0)
    assert container.world.monotonic() - begin == pytest.approx(2.0, abs=0.1)
    with pytest.raises(Unavailable, match="was deactivated") as told:
        await held
    assert told.value.retry is Retry.UNCERTAIN
    await counter.activate()
    assert await client(Counter, container.edge).ping() == "pong"
    assert container.process(pid) is counter


async def test_a_hook_that_fails_fails_the_process(container: Container) -> None:
    made: list[Counter] = []

    def make() -> Counter:
        made.append(Counter())
        return made[-1]

    await container.spawn(make)
    made[0].broken = True
    with pytest.raises(OSError, match="broken"):
        await made[0].deactivate()
    await settle()
    assert [each.state for each in made] == [State.TERMINATED, State.ACTIVE]
    assert await client(Counter, container.edge).ping() == "pong"
