"""From every state of every table a path leads to the good end and to being gone. The tables are what the simulation
holds the program to."""

from __future__ import annotations

import enum

import pytest

from pelagos.model.states import InfrastructureState, InstanceState, OperationState, PartState, RunState, ServerState
from pelagos.model.transitions import GONE, TRANSITIONS, reachable
from pelagos.operations.kinds import KINDS, Effect
from pelagos.process.lifecycle import TABLE, State

STATES: dict[str, type[enum.StrEnum]] = {
    "operation": OperationState,
    "server": ServerState,
    "part": PartState,
    "instance": InstanceState,
    "run": RunState,
    "infrastructure": InfrastructureState,
}
GOOD = {
    # table: states from which nothing more is wanted
    "operation": {"succeeded"},
    "attempt": {"done"},
    "server": {"active"},
    "part": {"ready"},
    "instance": {"ready"},
    "run": {"succeeded"},
    "infrastructure": {"ready"},
}
FINAL = {
    "operation": {"succeeded", "failed", "cancelled"},
    "attempt": {"refused", "absent"},
    "server": {GONE},
    "part": {GONE},
    "instance": {GONE},
    "run": {"succeeded", "failed", "cancelled", "superseded"},
    "infrastructure": {GONE},
}
# From here a good end is another record's: an instance that leaves is replaced by one in its slot, a run that is rolled
# back by a newer run, a part by its server's successor's. The test below follows these.
REPLACED = {
    "instance": {"failed", "destroying"},
    "run": {"rolling_back"},
    "part": {"deleting", "deleted"},
}


@pytest.mark.parametrize("table", STATES)
def test_a_table_knows_exactly_the_states_there_are(table: str) -> None:
    named = {state.value for state in STATES[table]}
    assert {state for state in TRANSITIONS[table] if state is not None} - {GONE} == named
    assert {s for following in TRANSITIONS[table].values() for s in following} <= named | {GONE}


@pytest.mark.parametrize("table", TRANSITIONS)
def test_from_every_state_paths_lead_to_the_good_end_and_to_gone(table: str) -> None:
    for state in TRANSITIONS[table]:
        ends = reachable(table, state) | {state}
        assert ends & FINAL[table], f"{table} cannot end from {state}"
        if state not in FINAL[table] | REPLACED.get(table, set()):
            assert ends & GOOD[table], f"{table} cannot come to {GOOD[table]} from {state}"
    for state in FINAL[table]:
        assert not TRANSITIONS[table][state], f"{table} goes on after its end {state}"


def test_every_kind_of_operation_ends_its_steps_in_order() -> None:
    for kind in KINDS.values():
        assert kind.steps, kind.name
        assert kind.steps[0].effect is not Effect.AWAITS, f"{kind.name} waits for what it has not asked for"
        if kind.name == "server.adopt":
            assert kind.undo is None, "what was there before is never taken back"
        elif any(step.effect is Effect.CREATES for step in kind.steps):
            assert kind.undo is not None, f"{kind.name} makes something and cannot take it back"
            assert kind.steps[kind.undo].effect is Effect.REPEATABLE, "what is taken back is taken back again and again"


def test_a_process_comes_to_its_end_from_every_state() -> None:
    for state in State:
        seen, ahead = {state}, [state]
        while ahead:
            here = ahead.pop()
            for (before, _), transition in TABLE.items():
                for following in {transition.to, transition.on_failure} - seen:
                    if before is here:
                        seen.add(following)
                        ahead.append(following)
        assert State.TERMINATED in seen, state
        if state not in (State.TERMINATED, State.ERROR):
            assert State.ACTIVE in seen, state
