"""Machines at work, on virtual time: order of events, actions before and after, failures, time-outs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelagos.container import Container
from pelagos.model.errors import Conflict, InvalidInput, Unavailable
from pelagos.process import IllegalTransition, Process, ServiceProcess, State, client, operation
from pelagos.process.machines import ANY, After, Occurred, On, StateMachine, StateTable
from pelagos.simulation import VirtualLoop

pytestmark = pytest.mark.anyio

DOOR = StateTable(
    "door",
    "closed",
    (
        On("closed", "open", "opened", action="ring"),
        On("opened", "close", "closed", action="click", post=True),
        On("opened", "push", "opened"),
        On("opened", "look"),
        On(ANY, "break", "broken"),
        After("opened", 30, "close"),
        After("opened", 100, "break"),
    ),
    final=("broken",),
)


class Actions:
    """Notes who was called in which state of the machine; may fail, or wait at a gate."""

    def __init__(self) -> None:
        self.called: list[tuple[str, str]] = []
        self.machine: StateMachine | None = None
        self.gate: asyncio.Event | None = None
        self.fails: BaseException | None = None

    async def ring(self, event: Occurred) -> str:
        return await self._do("ring", event)

    async def click(self, event: Occurred) -> str:
        return await self._do("click", event)

    async def _do(self, name: str, event: Occurred) -> str:
        assert self.machine is not None
        self.called.append((name, self.machine.state))
        if self.gate is not None:
            await self.gate.wait()
        if self.fails is not None:
            raise self.fails
        return f"{name} {event.content}"


def made(group: asyncio.TaskGroup, table: StateTable = DOOR, **options: Any) -> tuple[StateMachine, Actions]:
    actions = Actions()
    actions.machine = StateMachine(table, actions, start=group.create_task, **options)
    return actions.machine, actions


async def test_actions_before_and_after_the_change(container: Container) -> None:
    async with asyncio.TaskGroup() as group:
        machine, actions = made(group)
        step = await machine.feed("open", 1)
        assert (step.state, step.to, step.result) == ("closed", "opened", "ring 1")
        await machine.feed("close", 2)
        assert actions.called == [("ring", "closed"), ("click", "closed")]
        assert [(one.input, one.to) for one in machine.history] == [("open", "opened"), ("close", "closed")]
        with pytest.raises(IllegalTransition) as raised:
            await machine.feed("close")
        assert raised.value.details == {"state": "closed", "input": "close"}
        assert machine.state == "closed"
        await machine.feed("break")
        assert machine.ended
        with pytest.raises(IllegalTransition):
            await machine.feed("break")


async def test_an_event_during_an_action_waits_for_it(container: Container) -> None:
    async with asyncio.TaskGroup() as group:
        machine, actions = made(group)
        actions.gate = asyncio.Event()
        feeders = [group.create_task(machine.feed(one)) for one in ("open", "close", "break")]
        await asyncio.sleep(5)
        assert machine.state == "closed"
        actions.gate.set()
        assert [(await one).state for one in feeders] == ["closed", "opened", "closed"]
        assert machine.state == "broken"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["open", "close", "push", "look", "break"]), st.integers(0, 3)), max_size=12))
def test_fed_at_once_or_one_by_one_is_the_same(events: list[tuple[str, int]]) -> None:
    """Against a model without time: a dictionary of states."""

    async def run() -> tuple[list[str], str]:
        async with asyncio.TaskGroup() as group:
            machine, _ = made(group)

            async def slow(event: Occurred) -> None:
                await asyncio.sleep(event.content * 0.1)

            machine._actions = {"ring": slow, "click": slow}
            tasks = [group.create_task(_outcome(machine, name, pause)) for name, pause in events]
            ends = [await task for task in tasks]
            machine.close()
        return ends, machine.state

    state, expected = "closed", []
    for name, _ in events:
        row = DOOR.lookup(state, name)
        state = state if row is None or row.to is None else row.to
        expected.append("illegal" if row is None else state)
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        assert runner.run(run()) == (expected, state)


async def _outcome(machine: StateMachine, name: str, pause: int) -> str:
    try:
        return (await machine.feed(name, pause)).to
    except IllegalTransition:
        return "illegal"


async def test_time_outs_are_events_and_end_with_their_state(container: Container) -> None:
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as group:
        machine, _ = made(group)
        began = loop.time()
        await machine.feed("open")
        await asyncio.sleep(29)
        await machine.feed("look")  # it stays: the time runs on
        await asyncio.sleep(2)
        assert (machine.state, machine.history[-1].at - began) == ("closed", 30)
        await asyncio.sleep(1000)  # the other time-out of the state is gone with it
        assert machine.state == "closed"
        await machine.feed("open")
        await asyncio.sleep(29)
        await machine.feed("push")  # entered anew: so is its time
        await asyncio.sleep(29)
        assert machine.state == "opened"
        await asyncio.sleep(2)
        assert machine.state == "closed"


async def test_a_time_out_that_waits_for_an_action_which_leaves_is_no_more(container: Container) -> None:
    table = StateTable(
        "t", "a", (On("a", "go", "b", action="ring"), After("a", 10, "late"), On("a", "late", "c")), states=("b", "c")
    )
    async with asyncio.TaskGroup() as group:
        machine, actions = made(group, table)
        actions.gate = asyncio.Event()
        going = group.create_task(machine.feed("go"))
        await asyncio.sleep(20)
        actions.gate.set()
        await going
    assert machine.state == "b"
    assert machine.taken == 1


ERRORS = StateTable(
    "e",
    "a",
    (
        On("a", "go", "b", action="ring"),
        On("b", "on", "a", action="ring", post=True),
        On(ANY, "error", "lost", action="click"),
        On("lost", "again", "a"),
    ),
)


async def test_a_failing_action_feeds_an_error_and_is_raised(container: Container) -> None:
    async with asyncio.TaskGroup() as group:
        machine, actions = made(group, ERRORS)
        seen: list[Any] = []
        machine._actions["click"] = lambda event: seen.append((event.state, event.content))
        actions.fails = OSError("disk")
        with pytest.raises(OSError, match="disk"):
            await machine.feed("go")
        assert (machine.state, seen) == ("lost", [("a", actions.fails)])
        actions.fails = None
        await machine.feed("again")
        await machine.feed("go")
        actions.fails = OSError("net")
        with pytest.raises(OSError, match="net"):
            await machine.feed("on")
        assert seen[1] == ("a", actions.fails)  # post: it was there already


async def test_a_failing_action_without_a_row_for_errors_changes_nothing(container: Container) -> None:
    async with asyncio.TaskGroup() as group:
        machine, actions = made(group)
        actions.fails = OSError("bell")
        with pytest.raises(OSError, match="bell"):
            await machine.feed("open")
        assert (machine.state, machine.taken) == ("closed", 0)
        actions.fails = None
        await machine.feed("open")
        machine.close()


async def test_the_first_error_is_told_when_the_errors_action_fails_too(container: Container) -> None:
    async with asyncio.TaskGroup() as group:
        machine, actions = made(group, ERRORS)
        actions.fails = first = OSError("first")

        def click(event: Occurred) -> None:
            raise ValueError("second")

        machine._actions["click"] = click
        with pytest.raises(OSError) as raised:
            await machine.feed("go")
        assert raised.value is first
        assert machine.state == "a"


async def test_cancelling_an_action_leaves_state_and_machine_usable(container: Container) -> None:
    async with asyncio.TaskGroup() as group:
        machine, actions = made(group, ERRORS)
        actions.gate = asyncio.Event()
        going = group.create_task(machine.feed("go"))
        await asyncio.sleep(1)
        going.cancel()
        await asyncio.wait([going])
        assert machine.state == "a"
        actions.gate = None
        assert (await machine.feed("go")).to == "b"


async def test_an_action_posts_but_cannot_wait_for_its_own_machine(container: Container) -> None:
    async with asyncio.TaskGroup() as group:
        machine, _ = made(group)

        async def ring(event: Occurred) -> None:
            with pytest.raises(Conflict, match="waits for itself"):
                await machine.feed("close")
            machine.post("close")
            machine.post("break")

        machine._actions["ring"] = ring
        assert (await machine.feed("open")).to == "opened"
    assert [one.input for one in machine.history] == ["open", "close", "break"]


async def test_history_and_waiting_events_are_bounded(container: Container) -> None:
    async with asyncio.TaskGroup() as group:
        machine, actions = made(group, history=3, capacity=2)
        for _ in range(10):
            await machine.feed("open")
            await machine.feed("close")
        assert (len(machine.history), machine.taken) == (3, 20)
        actions.gate = asyncio.Event()
        waiting = [group.create_task(machine.feed("open"))]
        await asyncio.sleep(0)
        waiting += [group.create_task(machine.feed("look")) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Unavailable):
            await machine.feed("look")
        actions.gate.set()
        assert [(await one).to for one in waiting] == ["opened"] * 3
        machine.close()


def test_missing_actions_and_a_missing_start_are_told() -> None:
    with pytest.raises(InvalidInput, match="no actions ring"):
        StateMachine(StateTable("t", "a", (On("a", "x", action="ring"),)), {"click": print})
    with pytest.raises(InvalidInput, match="nothing to run them"):
        StateMachine(DOOR, Actions())


class Lamp(ServiceProcess):
    name = "lamp"
    table = StateTable(
        "lamp",
        "off",
        (On("off", "press", "on"), On("on", "press", "off"), After("on", 60, "expire"), On("on", "expire", "off")),
    )

    async def on_activate(self) -> None:
        self.machine = StateMachine(self.table, self, start=self.start_task)

    @operation
    async def press(self) -> str:
        return (await self.machine.feed("press")).to


class Fuse(Process):
    async def on_activate(self) -> None:
        self.machine = StateMachine(
            StateTable("fuse", "lit", (After("lit", 5, "blow"), On("lit", "blow", "blown", action="bang")), ("blown",)),
            self,
            start=self.start_task,
        )

    def bang(self, event: Occurred) -> None:
        raise OSError("bang")


async def test_in_a_process(container: Container) -> None:
    lamp = Lamp()
    await container.spawn(lamp)
    asked = client(Lamp, container.edge)
    assert await asked.press() == "on"
    await asyncio.sleep(61)
    assert lamp.machine.state == "off"
    assert await asked.press() == "on"
    await container.terminate(lamp.id)
    assert lamp.machine._timers == set()


async def test_a_time_out_that_fails_takes_its_process_to_error(container: Container) -> None:
    made: list[Fuse] = []

    def make() -> Fuse:
        made.append(Fuse())
        return made[-1]

    await container.spawn(make)
    await asyncio.sleep(5.001)
    assert made[0].state in (State.ERROR, State.TERMINATED)
    assert isinstance(made[0].cause, OSError)
