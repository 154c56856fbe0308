"""Which tables are protocols, and what the machine makes of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelagos.exchange import Performative
from pelagos.model.errors import Conflict, InvalidInput, NotFound
from pelagos.process.conversations import (
    BUILT_IN,
    REQUEST,
    After,
    Lease,
    Outcome,
    Protocol,
    Protocols,
    Said,
    Says,
    TimedOut,
    Violation,
    mermaid,
    step,
)

ASK, OK = Performative.REQUEST, Performative.INFORM_RESULT

SOUND = Protocol(
    "sound",
    initial="start",
    table=(
        Says("start", "initiator", ASK, "asked"),
        Says("asked", "participant", OK, "done"),
        After("asked", 1, "late"),
    ),
    final={"done": Outcome.DONE, "late": Outcome.TIMED_OUT},
)


def table(*rows: Says | After, **changes: object) -> Protocol:
    fields: dict[str, object] = {"name": "t", "initial": "start", "table": rows, "final": {"done": Outcome.DONE}}
    return Protocol(**{**fields, **changes})  # type: ignore[arg-type]


START = Says("start", "initiator", ASK, "asked")
END = Says("asked", "participant", OK, "done")
LATE = After("asked", 1, "done")


@pytest.mark.parametrize("protocol", [*BUILT_IN, SOUND], ids=lambda protocol: protocol.name)
def test_sound_tables_pass(protocol: Protocol) -> None:
    protocol.check()


@pytest.mark.parametrize(
    ("protocol", "problem"),
    [
        (table(START, END), "state 'asked' has no time-out"),
        (table(START, END, LATE, unbounded=("asked",)), "has a time-out and is declared unbounded"),
        (table(START, END, LATE, unbounded=("nowhere",)), "unbounded names 'nowhere'"),
        (table(START, Says("asked", "judge", OK, "done"), LATE), "unknown role 'judge'"),
        (table(START, Says("asked", "participant", OK, "dome"), LATE), "'dome' is neither final nor has rows"),
        (table(START, END, LATE, Says("done", "initiator", ASK, "asked")), "'done' is final, nothing leads out"),
        (table(START, END, LATE, Says("start", "participant", OK, "done")), "speaks first"),
        (table(START, END, LATE, Says("start", "initiator", Performative.AGREE, "asked")), "not with an answer"),
        (table(START, END, After("asked", 1, "start")), "nothing leads back to the initial state"),
        (table(START, END, LATE, Says("asked", "participant", OK, "asked")), "there is already Says('asked'"),
        (table(START, END, LATE, After("asked", 2, "done")), "there is already After('asked', 1, 'done')"),
        (table(START, END, After("asked", 0, "done")), "a time-out is above 0 seconds"),
        (table(START, END, LATE, Says("alone", "initiator", ASK, "done")), "state 'alone' is never reached"),
        (
            table(
                START,
                END,
                LATE,
                Says("asked", "initiator", ASK, "loop"),
                Says("loop", "initiator", ASK, "loop"),
                unbounded=("loop",),
            ),
            "no final state is reached from 'loop'",
        ),
        (
            table(
                START,
                Says("asked", "participant", OK, "two"),
                After("asked", 1, "two"),
                After("two", 1, "asked"),
                Says("two", "participant", OK, "done"),
            ),
            "time-outs go in a circle",
        ),
        (table(START, END, LATE, final={}), "it has no final state"),
        (table(START, END, LATE, roles=("initiator",)), "at least two roles"),
        (table(START, END, LATE, name="none"), "the name 'none' is not possible"),
        (table(START, END, LATE, lease=Lease("renew", 0, 1)), "its lease needs"),
    ],
)
def test_each_mistake_is_named(protocol: Protocol, problem: str) -> None:
    with pytest.raises(InvalidInput) as told:
        protocol.check()
    assert problem in str(told.value)


def test_several_mistakes_are_told_at_once() -> None:
    with pytest.raises(InvalidInput) as told:
        table(START, Says("asked", "judge", OK, "dome"), LATE).check()
    assert len(told.value.details["problems"]) == 2


def test_registering() -> None:
    protocols = Protocols([SOUND])
    assert protocols.get("sound") is SOUND
    protocols.register(SOUND)  # again: nothing changes
    with pytest.raises(Conflict):
        protocols.register(table(START, END, LATE, name="request"))
    with pytest.raises(InvalidInput):
        protocols.register(table(START, END))
    with pytest.raises(NotFound):
        protocols.get("t")
    assert "sound" not in Protocols(), "another registry has its own"


def test_a_row_for_an_operation_comes_first() -> None:
    protocol = table(
        START, Says("asked", "participant", OK, "asked"), Says("asked", "participant", OK, "done", op="last"), LATE
    )
    protocol.check()
    assert step(protocol, "asked", Said("participant", OK, "any")) == "asked"
    assert step(protocol, "asked", Said("participant", OK, "last")) == "done"


def test_a_violation_says_what_is_possible() -> None:
    told = step(REQUEST, "requested", Said("participant", OK))
    assert isinstance(told, Violation)
    assert "inform_result by participant in state 'requested'" in str(told)
    assert "agree by participant" in str(told)


def test_the_diagram_has_an_arrow_for_each_row_and_end() -> None:
    for protocol in BUILT_IN:
        text = mermaid(protocol)
        assert text.startswith("stateDiagram-v2\n")
        assert text.count("-->") == len(protocol.table) + len(protocol.final) + 1
    assert "s1 --> s2 : participant: agree" in mermaid(REQUEST)


# -- random tables ---------------------------------------------------------------------------------------------

STATES = [f"s{n}" for n in range(5)]
FINAL = {"f0": Outcome.DONE, "f1": Outcome.FAILED}
ROLES = ("initiator", "participant")
EVENTS = st.one_of(
    st.just(TimedOut()),
    st.builds(Said, st.sampled_from(ROLES), st.sampled_from(Performative), st.sampled_from(["", "x"])),
)


@st.composite
def tables(draw: st.DrawFn) -> Protocol:
    """Most are unsound."""
    anywhere = st.sampled_from([*STATES, *FINAL])
    says = st.builds(
        Says,
        st.sampled_from(STATES),
        st.sampled_from(ROLES),
        st.sampled_from([ASK, OK, Performative.INFORM]),
        anywhere,
        st.sampled_from(["", "x"]),
    )
    rows = draw(st.lists(says, min_size=1, max_size=10, unique_by=lambda r: (r.state, r.role, r.performative, r.op)))
    first = Says("s0", "initiator", ASK, draw(anywhere))
    after = [After(state, 1, draw(anywhere)) for state in STATES if draw(st.integers(0, 4))]
    return Protocol("random", initial="s0", table=(first, *rows, *after), final=FINAL)


@st.composite
def sound_tables(draw: st.DrawFn) -> Protocol:
    """Sound by the way they are made: time-outs lead upwards, the first message reaches everything in steps."""
    count = draw(st.integers(1, 5))
    states = ["s0", *(f"t{n}" for n in range(count))]
    rows: list[Says | After] = [Says("s0", "initiator", ASK, "t0")]
    for n in range(count):
        above = st.sampled_from([f"t{m}" for m in range(n + 1, count)] + list(FINAL))
        rows.append(After(f"t{n}", draw(st.floats(0.1, 9)), draw(above)))
        rows.append(Says(f"t{n}", "participant", Performative.AGREE, f"t{n + 1}" if n + 1 < count else "f0"))
    rows.append(Says("t0", "initiator", Performative.CANCEL, "f1"))
    for _ in range(draw(st.integers(0, 5))):
        extra = Says(
            draw(st.sampled_from(states[1:])),
            draw(st.sampled_from(ROLES)),
            Performative.INFORM,
            draw(st.sampled_from(states[1:])),
        )
        if not any(
            isinstance(r, Says)
            and (r.state, r.role) == (extra.state, extra.role)
            and r.performative is Performative.INFORM
            for r in rows
        ):
            rows.append(extra)
    return Protocol("sound", initial="s0", table=tuple(rows), final=FINAL)


def walk(protocol: Protocol, events: list[Said | TimedOut]) -> None:
    state = protocol.initial
    for event in events:
        to = step(protocol, state, event)
        if isinstance(to, Violation):
            assert to.state == state
            continue
        assert any(
            row.state == state and row.to == to and (isinstance(row, After) == isinstance(event, TimedOut))
            for row in protocol.table
        ), "a step is a row of the table"
        state = to
        assert state in protocol.states
    silent = 0
    if state == protocol.initial:
        return
    while state not in protocol.final:
        to = step(protocol, state, TimedOut())
        assert isinstance(to, str), "who says nothing goes on to the end"
        state = to
        silent += 1
        assert silent <= len(protocol.states)


@given(sound_tables(), st.lists(EVENTS, max_size=30))
def test_sound_tables_are_never_left_and_end(protocol: Protocol, events: list[Said | TimedOut]) -> None:
    protocol.check()
    walk(protocol, events)


@given(tables(), st.lists(EVENTS, max_size=30))
def test_what_passes_the_check_ends(protocol: Protocol, events: list[Said | TimedOut]) -> None:
    try:
        protocol.check()
    except InvalidInput as error:
        assert error.details["problems"]
        return
    walk(protocol, events)


@given(st.sampled_from(BUILT_IN), st.lists(EVENTS, max_size=30))
def test_the_built_in_ones_end(protocol: Protocol, events: list[Said | TimedOut]) -> None:
    walk(protocol, events)
