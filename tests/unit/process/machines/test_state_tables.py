"""Tables: the order of look-up, and what is found wrong with them before they are used."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelagos.model.errors import InvalidInput
from pelagos.process.machines import ANY, After, On, StateTable

_STATES = ("a", "b", "c", "end")
_INPUTS = ("x", "y", "z")
_rows = st.builds(
    On,
    st.sampled_from((*_STATES[:3], ANY)),
    st.sampled_from((*_INPUTS, ANY)),
    st.sampled_from((*_STATES, None)),
)
_timers = st.builds(After, st.sampled_from(_STATES[:3]), st.sampled_from((1.0, 2.0)), st.sampled_from(_INPUTS))


def _made(rows: list[On | After]) -> StateTable | None:
    try:
        return StateTable("t", "a", tuple(rows), final=("end",))
    except InvalidInput as error:
        assert error.details["problems"]
        return None


@given(st.lists(_rows, max_size=8), st.sampled_from(_STATES), st.sampled_from((*_INPUTS, "unheard")))
def test_the_most_special_row_holds(rows: list[On], state: str, input: str) -> None:
    table = _made([*rows, On("a", "out", "end"), On("b", "out", "end"), On("c", "out", "end")])
    if table is None:
        return
    order = ((state, input), (ANY, input), (state, ANY), (ANY, ANY))
    fitting = [row for wanted in order for row in rows if (row.state, row.input) == wanted]
    assert table.lookup(state, input) == (fitting[0] if fitting and state != "end" else None)


@given(st.lists(st.one_of(_rows, _timers), max_size=8))
def test_a_table_that_is_made_keeps_what_check_promises(rows: list[On | After]) -> None:
    table = _made(rows)
    if table is None:
        return
    reached = {"a"}
    while True:
        steps = {
            row.to
            for state in reached
            for input in (*_INPUTS, "unheard")
            if (row := table.lookup(state, input)) is not None and row.to is not None
        }
        if steps <= reached:
            break
        reached |= steps
    assert reached == set(table.all_states)
    keys = [(type(row), row.state, row.input) for row in rows]
    assert len(keys) == len(set(keys))
    for each in rows:
        assert each.state != "end"
        if isinstance(each, After):
            assert table.lookup(each.state, each.input) is not None
    assert table.mermaid().count(" --> ") == 1 + len(rows) + 1


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ((On("a", "go", "b"),), "'b' has no rows"),
        ((On("a", "go", "end"), On("b", "go", "end")), "'b' is never reached"),
        ((On("a", "go", "end"), On("a", "go", "a")), "there is a row for that already"),
        ((On("a", "go", "end"), On("end", "go", "a")), "is final, nothing leads out"),
        ((On("a", "go", "end"), After("a", 1, "gone")), "does not take 'gone'"),
        ((On("a", "go", "end"), After("a", 0, "go")), "more than 0 seconds"),
        ((On("a", "go", "end"), After(ANY, 1, "go")), "of one state and feeds one input"),
        ((On("a", "go", "end", post=True),), "post, but no action"),
    ],
)
def test_mistakes_are_named(rows: tuple[On | After, ...], problem: str) -> None:
    with pytest.raises(InvalidInput, match="state table 't'") as raised:
        StateTable("t", "a", rows, final=("end",))
    assert problem in raised.value.message
    assert raised.value.advice


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(InvalidInput) as raised:
        StateTable("", "a", (On("a", "", "nowhere"),))
    assert len(raised.value.details["problems"]) == 3


def test_it_is_drawn() -> None:
    table = StateTable(
        "door",
        "closed",
        (On("closed", "open", "opened", action="ring"), After("opened", 30, "close"), On(ANY, "close", "closed")),
    )
    assert table.mermaid() == (
        "stateDiagram-v2\n"
        "    %% door\n"
        '    state "closed" as s0\n'
        '    state "opened" as s1\n'
        '    state "any state" as any\n'
        "    [*] --> s0\n"
        "    s0 --> s1 : open / ring\n"
        "    s1 --> s0 : after 30 s - close\n"
        "    any --> s0 : close\n"
    )
