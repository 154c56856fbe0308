"""A protocol as a value: who may say what in which state, what follows, and what happens when nobody says anything.

    HAGGLE = Protocol(
        "haggle",
        roles=("buyer", "seller"),
        initial="start",
        table=(
            Says("start", "buyer", Performative.REQUEST, "asked"),
            Says("asked", "seller", Performative.INFORM, "offered"),
            Says("offered", "buyer", Performative.INFORM, "asked", op="bid"),
            Says("offered", "buyer", Performative.AGREE, "sold"),
            After("asked", 10, "gone"),
            After("offered", None, "gone"),
        ),
        final={"sold": Outcome.DONE, "gone": Outcome.TIMED_OUT},
    )

The ancestor's protocols were classes with an FSM each; the time-out was a timer beside it which the FSM was not told
of, ``refused`` was not final, and ``generic`` never ended: all of them leaked (reference section 5). Here a time-out is
a row of the table, and :meth:`Protocol.check` proves of each table, before it is used, that its conversations end.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from functools import cached_property

import msgspec

from pelagos.exchange import Performative
from pelagos.model.errors import InvalidInput

__all__ = ["After", "Lease", "Outcome", "Protocol", "Says"]

_OPENS = (Performative.REQUEST, Performative.INFORM, Performative.CANCEL)


class Outcome(enum.StrEnum):
    """How a conversation ended."""

    DONE = "done"
    FAILED = "failed"
    REFUSED = "refused"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    LOST = "lost"
    """The other side, the transport or this process went away."""


class Says(msgspec.Struct, frozen=True):
    """In ``state``, ``role`` may send ``performative``, only with the operation ``op`` if one is named; then ``to``."""

    state: str
    role: str
    performative: Performative
    to: str
    op: str = ""


class After(msgspec.Struct, frozen=True):
    """When ``seconds`` passed in ``state``, ``to`` follows; None: when the conversation's own deadline has passed.

    The seconds begin anew with each message *received* in the state: what others say keeps it alive, not what one says
    oneself. If the conversation has a deadline, it too takes this way out of the state.
    """

    state: str
    seconds: float | None
    to: str


class Lease(msgspec.Struct, frozen=True):
    """The initiator's INFORM with the operation ``op`` is sent and taken by the machinery, not by application code.

    They come every ``every`` seconds, which renews the participant's time-outs; the participant answers each by AGREE
    with the same operation, which renews the initiator's. Their content is a number: how many more INFORM messages the
    participant may send; ``window`` of them are granted from the beginning.
    """

    op: str
    every: float
    window: int


class Protocol(msgspec.Struct, frozen=True, dict=True):
    """See the module's head. The first role is the initiator's, who speaks first."""

    name: str
    initial: str
    table: tuple[Says | After, ...]
    final: Mapping[str, Outcome]
    roles: tuple[str, ...] = ("initiator", "participant")
    unbounded: tuple[str, ...] = ()
    """States that may last for ever."""
    auto_agree: bool = False
    """AGREE is sent when the participant's operation begins, unless that decides by itself. It says which process of a
    service has taken the conversation, and is no message for the initiator's application code."""
    lease: Lease | None = None

    @property
    def initiator(self) -> str:
        return self.roles[0]

    @cached_property
    def says(self) -> dict[tuple[str, str, Performative], dict[str, str]]:
        """By state, role and performative: by operation ("" for any) the next state."""
        found: dict[tuple[str, str, Performative], dict[str, str]] = {}
        for row in self.table:
            if isinstance(row, Says):
                found.setdefault((row.state, row.role, row.performative), {})[row.op] = row.to
        return found

    @cached_property
    def after(self) -> dict[str, After]:
        """By state."""
        return {row.state: row for row in self.table if isinstance(row, After)}

    @cached_property
    def states(self) -> tuple[str, ...]:
        """All that are named, in the table's order."""
        named = [self.initial]
        for row in self.table:
            named += [row.state, row.to]
        return tuple(dict.fromkeys([*named, *self.final]))

    @cached_property
    def needs_deadline(self) -> bool:
        """Some state ends only by the conversation's own deadline."""
        return any(row.seconds is None for row in self.after.values() if row.state != self.initial)

    def expected(self, state: str) -> tuple[str, ...]:
        """What may be said in a state, for messages to people."""
        return tuple(
            f"{row.performative}{f'/{row.op}' if row.op else ''} by {row.role}"
            for row in self.table
            if isinstance(row, Says) and row.state == state
        )

    def check(self) -> None:
        """Raise :class:`InvalidInput`, which names every mistake, unless all conversations by this table have to end.

        All names are known; the initiator speaks first, and not with an answer; nothing leads back to the beginning; no
        row contradicts another; every state can be reached, and a final one from it; no row leads out of a final state;
        every other state has a time-out or is declared ``unbounded``; and who says nothing comes to an end: time-outs
        do not go in a circle.
        """
        problems = [*self._names(), *self._rows()]
        if not problems:
            problems = [*self._ends(), *self._timeouts()]
        if problems:
            raise InvalidInput(
                f"protocol {self.name!r}: " + "; ".join(problems),
                advice="Correct its table; pelagos.process.conversations.mermaid() draws it.",
                details={"problems": problems},
            )

    def _names(self) -> Iterable[str]:
        if not self.name or self.name == "none":
            yield f"the name {self.name!r} is not possible"
        if len(self.roles) < 2 or len(set(self.roles)) < len(self.roles):
            yield "it needs at least two roles with different names"
        sources = {row.state for row in self.table} | {self.initial}
        for row in self.table:
            if isinstance(row, Says) and row.role not in self.roles:
                yield f"{_show(row)}: unknown role {row.role!r}"
            if row.to not in sources and row.to not in self.final:
                yield f"{_show(row)}: {row.to!r} is neither final nor has rows of its own"
        yield from (f"unbounded names {state!r}, which is no state" for state in self.unbounded if state not in sources)
        if not self.final:
            yield "it has no final state"
        if self.lease is not None and (self.lease.every <= 0 or self.lease.window < 1):
            yield "its lease needs a period above 0 and a window of at least 1"

    def _rows(self) -> Iterable[str]:
        seen: dict[object, Says | After] = {}
        for row in self.table:
            if row.state in self.final:
                yield f"{_show(row)}: {row.state!r} is final, nothing leads out of it"
            if row.to == self.initial:
                yield f"{_show(row)}: nothing leads back to the initial state, which has no time-out"
            if isinstance(row, After):
                if row.seconds is not None and not row.seconds > 0:
                    yield f"{_show(row)}: a time-out is above 0 seconds"
            elif row.state == self.initial and row.role != self.initiator:
                yield f"{_show(row)}: the initiator, {self.initiator!r}, speaks first"
            elif row.state == self.initial and len(self.roles) == 2 and row.performative not in _OPENS:
                # In a mailbox, answers pass no policy: whoever sends one could have any operation done.
                yield f"{_show(row)}: a conversation begins with request, inform or cancel, not with an answer"
            key = (row.state, row.role, row.performative, row.op) if isinstance(row, Says) else row.state
            if key in seen:
                yield f"{_show(row)}: there is already {_show(seen[key])}"
            seen[key] = row
        if self.initial in self.final:
            yield f"the initial state {self.initial!r} is final"

    def _ends(self) -> Iterable[str]:
        forward = _closure({self.initial}, ((row.state, row.to) for row in self.table))
        yield from (f"state {state!r} is never reached" for state in self.states if state not in forward)
        backward = _closure(set(self.final), ((row.to, row.state) for row in self.table))
        yield from (f"no final state is reached from {state!r}" for state in self.states if state not in backward)

    def _timeouts(self) -> Iterable[str]:
        for state in self.states:
            if state in self.final or state == self.initial:
                continue  # the initial one takes no time: the first message leads out of it
            if state in self.unbounded:
                if state in self.after:
                    yield f"state {state!r} has a time-out and is declared unbounded"
            elif state not in self.after:
                yield f"state {state!r} has no time-out: add After({state!r}, ...) or declare it unbounded"
        for start in self.after:
            state, seen = start, {start}
            while (row := self.after.get(state)) is not None:
                state = row.to
                if state in seen:
                    yield f"from {start!r}, time-outs go in a circle"
                    break
                seen.add(state)


def _show(row: Says | After) -> str:
    if isinstance(row, After):
        return f"After({row.state!r}, {row.seconds}, {row.to!r})"
    return (
        f"Says({row.state!r}, {row.role!r}, {row.performative.name}, {row.to!r}{f', op={row.op!r}' if row.op else ''})"
    )


def _closure(start: set[str], edges: Iterable[tuple[str, str]]) -> set[str]:
    following: dict[str, list[str]] = {}
    for source, target in edges:
        following.setdefault(source, []).append(target)
    reached, todo = set(start), list(start)
    while todo:
        for state in following.get(todo.pop(), ()):
            if state not in reached:
                reached.add(state)
                todo.append(state)
    return reached
