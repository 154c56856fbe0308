"""The machine: what follows an event in a state. Pure: no clock, no I/O, no memory.

Both sides of a conversation run it on their own view, and so does whoever watches. A step out of the table is a value,
not an exception: the side that wants to send makes it a veto, the side that receives a reply, a watcher a report.
"""

from __future__ import annotations

from typing import assert_never

import msgspec

from pelagos.exchange import Performative
from pelagos.process.conversations.protocol import Protocol

__all__ = ["Event", "Said", "TimedOut", "Violation", "after_saying", "step"]


class Said(msgspec.Struct, frozen=True, gc=False):
    """A message was sent or received."""

    role: str
    performative: Performative
    op: str = ""


class TimedOut(msgspec.Struct, frozen=True, gc=False):
    """The state's time-out, or the conversation's deadline, has passed."""


Event = Said | TimedOut


class Violation(msgspec.Struct, frozen=True):
    """The table has no row for this; the state stays."""

    protocol: str
    state: str
    event: str
    expected: tuple[str, ...]

    def __str__(self) -> str:
        allowed = ", ".join(self.expected) or "nothing any more"
        return f"{self.protocol}: {self.event} in state {self.state!r}; possible is {allowed}"


def after_saying(protocol: Protocol, state: str, role: str, performative: Performative, op: str) -> str | None:
    """The next state, None if there is none. A row that names the operation comes before one for any operation.

    :func:`step` for each message of every conversation, where making the event would cost as much as the step."""
    rows = protocol.says.get((state, role, performative))
    if rows is None:
        return None
    return rows.get(op) or rows.get("")


def step(protocol: Protocol, state: str, event: Event) -> str | Violation:
    """The next state, or the violation: then the state stays."""
    match event:
        case Said(role, performative, op):
            to = after_saying(protocol, state, role, performative, op)
            if to is not None:
                return to
            told = f"{performative}{f'/{op}' if op else ''} by {role}"
        case TimedOut():
            row = protocol.after.get(state)
            if row is not None:
                return row.to
            told = "time-out"
        case _:
            assert_never(event)
    return Violation(protocol.name, state, told, protocol.expected(state))
