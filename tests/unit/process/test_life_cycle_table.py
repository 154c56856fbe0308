from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelagos.process import IllegalTransition, Input, LifeCycle, State
from pelagos.process.lifecycle import TABLE


def _reachable(start: State) -> set[State]:
    seen, todo = {start}, [start]
    while todo:
        here = todo.pop()
        for (state, _), row in TABLE.items():
            if state is here:
                for there in {row.to, row.on_failure if row.hook else row.to} - seen:
                    seen.add(there)
                    todo.append(there)
    return seen


@pytest.mark.parametrize("state", State)
def test_every_state_has_a_path_to_terminated(state: State) -> None:
    assert State.TERMINATED in _reachable(state)


@pytest.mark.parametrize("state", State)
def test_terminate_is_legal_everywhere_and_one_step(state: State) -> None:
    assert TABLE[state, Input.TERMINATE].to is State.TERMINATED


def test_nothing_leads_out_of_terminated() -> None:
    assert _reachable(State.TERMINATED) == {State.TERMINATED}
    assert _reachable(State.INIT) == set(State)


@given(st.lists(st.sampled_from(Input), max_size=12))
def test_any_inputs_follow_the_table_and_illegal_ones_change_nothing(inputs: list[Input]) -> None:
    async def feed() -> None:
        machine = LifeCycle({})
        for event in inputs:
            before = machine.state
            row = TABLE.get((before, event))
            if row is None:
                with pytest.raises(IllegalTransition) as raised:
                    await machine.feed(event)
                assert machine.state is before
                assert raised.value.details == {"state": str(before), "input": str(event)}
            else:
                assert await machine.feed(event) is row.to

    asyncio.run(feed())


@pytest.mark.anyio
async def test_a_failing_hook_leads_to_error_and_keeps_the_first_cause() -> None:
    async def fail() -> None:
        raise OSError("disk")

    machine = LifeCycle({"on_init": fail})
    with pytest.raises(OSError, match="disk"):
        await machine.feed(Input.INITIALIZE)
    assert machine.state is State.ERROR
    await machine.feed(Input.FAIL, ValueError("later"))
    assert isinstance(machine.cause, OSError)
    assert await machine.feed(Input.TERMINATE) is State.TERMINATED


@pytest.mark.anyio
async def test_a_failing_terminate_hook_still_ends_terminated() -> None:
    async def fail() -> None:
        raise OSError("socket")

    machine = LifeCycle({"on_terminate": fail})
    await machine.feed(Input.INITIALIZE)
    with pytest.raises(OSError, match="socket"):
        await machine.feed(Input.TERMINATE)
    assert machine.state is State.TERMINATED
    assert await machine.feed(Input.TERMINATE) is State.TERMINATED


@pytest.mark.anyio
async def test_events_are_serialized() -> None:
    gate = asyncio.Event()
    seen = []

    async def slow() -> None:
        seen.append(machine.state)
        await gate.wait()

    async def activate() -> None:
        seen.append(machine.state)

    machine = LifeCycle({"on_init": slow, "on_activate": activate})
    async with asyncio.TaskGroup() as group:
        group.create_task(machine.feed(Input.INITIALIZE))
        group.create_task(machine.feed(Input.ACTIVATE))
        await asyncio.sleep(0)
        gate.set()
    assert seen == [State.INIT, State.READY]
    assert machine.state is State.ACTIVE
