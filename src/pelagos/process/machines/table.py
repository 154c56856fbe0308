"""The table of a state machine as a value: what follows which input in which state.

Rows are looked for from the most to the least special, as in the ancestor (reference section 2.1): the input in the
state; the input in any state; any input in the state; any input in any state; else it is an error. A time-out is a row
too: it feeds an ordinary input, so what it leads to stands where everything else stands.

Differences to the ancestor: a table is checked when it is made (there, a row without a next state vanished in silence);
nothing leads out of a final state, so rows for any state do not hold there; and what an action is called is a name, not
a function, so that a table can be printed, drawn and shared by several owners.

Not shared with :mod:`pelagos.process.conversations`, whose rows are of two roles and their performatives and must be
proved to end, nor with :mod:`pelagos.process.lifecycle`, whose failed actions lead to a state of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import msgspec

from pelagos.model.errors import InvalidInput

__all__ = ["ANY", "ERROR", "After", "On", "StateTable"]

ANY = "*"
"""As a row's state: in every state that is not final. As its input: whatever it is."""
ERROR = "error"
"""The input that an action's failure feeds; see :class:`~pelagos.process.machines.machine.StateMachine`."""


class On(msgspec.Struct, frozen=True):
    """In ``state``, ``input`` leads to ``to``; None: the state stays, and its timers run on.

    ``action`` names what is called. It is called before the state changes, and if it fails the state stays; with
    ``post`` it is called after the change. A ``to`` that is the state itself enters it anew.
    """

    state: str
    input: str
    to: str | None = None
    action: str = ""
    post: bool = False


class After(msgspec.Struct, frozen=True):
    """When ``seconds`` passed since ``state`` was entered, ``input`` is fed. Leaving the state ends the wait."""

    state: str
    seconds: float
    input: str


class StateTable(msgspec.Struct, frozen=True, dict=True):
    """See the module's head. Making one that contradicts itself raises :class:`InvalidInput`, which names each mistake.

    ``states`` names those that have no rows of their own and are left by rows for any state alone.
    """

    name: str
    initial: str
    table: tuple[On | After, ...]
    final: tuple[str, ...] = ()
    states: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.check()

    @cached_property
    def all_states(self) -> tuple[str, ...]:
        """Each once, in the table's order."""
        named = [self.initial, *(row.state for row in self.table if row.state != ANY), *self.states, *self.final]
        return tuple(dict.fromkeys(named))

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Those that are named, in the table's order."""
        return tuple(dict.fromkeys(row.input for row in self.table if row.input != ANY))

    @cached_property
    def actions(self) -> tuple[str, ...]:
        """Their names, in the table's order."""
        return tuple(dict.fromkeys(row.action for row in self.table if isinstance(row, On) and row.action))

    @cached_property
    def timers(self) -> dict[str, tuple[After, ...]]:
        """By state."""
        found: dict[str, tuple[After, ...]] = {}
        for row in self.table:
            if isinstance(row, After):
                found[row.state] = (*found.get(row.state, ()), row)
        return found

    @cached_property
    def _rows(self) -> dict[tuple[str, str], On]:
        return {(row.state, row.input): row for row in self.table if isinstance(row, On)}

    def lookup(self, state: str, input: str) -> On | None:
        """The row that holds for an input in a state; None if there is none."""
        if state in self.final:
            return None
        rows = self._rows
        return rows.get((state, input)) or rows.get((ANY, input)) or rows.get((state, ANY)) or rows.get((ANY, ANY))

    def expected(self, state: str) -> tuple[str, ...]:
        """The inputs that have a row of their own in a state, for messages to people."""
        return tuple(input for input in self.inputs if self.lookup(state, input) is not None)

    def check(self) -> None:
        """Raise :class:`InvalidInput`, which names every mistake, unless all names are known, no row stands twice, no
        row leads out of a final state, every state can be reached, and every time-out feeds what its state takes."""
        problems = [*self._names(), *self._twice()]
        if not problems:
            problems = [*self._unreached(), *self._timeouts()]
        if problems:
            raise InvalidInput(
                f"state table {self.name!r}: " + "; ".join(problems),
                advice="Correct its rows; its mermaid() draws it.",
                details={"problems": problems},
            )

    def mermaid(self) -> str:
        """The text of a ``stateDiagram-v2``: one arrow a row; rows for any state start at a state of that name."""
        ids = {state: f"s{number}" for number, state in enumerate(self.all_states)}
        names = dict(ids)
        if any(row.state == ANY for row in self.table):
            names[ANY] = "any"
        lines = ["stateDiagram-v2", f"    %% {_text(self.name)}"]
        lines += [f'    state "{_text(state)}" as {id}' for state, id in ids.items()]
        lines += ['    state "any state" as any'] if ANY in names else []
        lines.append(f"    [*] --> {ids[self.initial]}")
        for row in self.table:
            if isinstance(row, After):
                to = self.lookup(row.state, row.input)
                there = row.state if to is None or to.to is None else to.to
                said = f"after {row.seconds:g} s: {row.input}"
            else:
                there = row.state if row.to is None else row.to
                said = ("any input" if row.input == ANY else row.input) + (f" / {row.action}" if row.action else "")
            lines.append(f"    {names[row.state]} --> {names[there]} : {_text(said)}")
        lines += [f"    {ids[state]} --> [*]" for state in self.final]
        return "\n".join(lines) + "\n"

    # -- what is wrong -----------------------------------------------------------------------------------------

    def _names(self) -> Iterable[str]:
        known = set(self.all_states)
        if not self.name:
            yield "it has no name"
        if ANY in known or "" in known:
            yield f"{ANY!r} and the empty text are no states"
        if self.initial in self.final:
            yield f"the initial state {self.initial!r} is final"
        for row in self.table:
            if row.state in self.final:
                yield f"{_show(row)}: {row.state!r} is final, nothing leads out of it"
            if not row.input:
                yield f"{_show(row)}: it has no input"
            if isinstance(row, On):
                if row.to is not None and row.to not in known:
                    yield f"{_show(row)}: {row.to!r} has no rows and is neither in final nor in states"
                if row.post and not row.action:
                    yield f"{_show(row)}: post, but no action"
                continue
            if row.state == ANY or row.input == ANY:
                yield f"{_show(row)}: a time-out is of one state and feeds one input"
            if not 0 < row.seconds < float("inf"):
                yield f"{_show(row)}: a time-out takes more than 0 seconds"

    def _twice(self) -> Iterable[str]:
        seen: set[tuple[object, ...]] = set()
        for row in self.table:
            key = (type(row), row.state, row.input)
            if key in seen:
                yield f"{_show(row)}: there is a row for that already"
            seen.add(key)

    def _unreached(self) -> Iterable[str]:
        reached = [self.initial]
        for state in reached:
            # An input that no row names stands for all of these: rows for any input may hold for it.
            for input in (*self.inputs, ""):
                row = self.lookup(state, input)
                if row is not None and row.to is not None and row.to not in reached:
                    reached.append(row.to)
        yield from (f"state {state!r} is never reached" for state in self.all_states if state not in reached)

    def _timeouts(self) -> Iterable[str]:
        for rows in self.timers.values():
            for row in rows:
                if self.lookup(row.state, row.input) is None:
                    yield f"{_show(row)}: {row.state!r} does not take {row.input!r}"


def _show(row: On | After) -> str:
    if isinstance(row, After):
        return f"After({row.state!r}, {row.seconds:g}, {row.input!r})"
    return f"On({row.state!r}, {row.input!r})"


def _text(said: str) -> str:
    return said.replace('"', "'").replace("\n", " ").replace(";", ",").replace("#", "").replace(":", " -")
