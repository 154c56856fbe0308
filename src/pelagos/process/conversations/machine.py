"""The machine: what follows an event in a state. Pure: no clock, no I/O, no memory.

Both sides of a conversation run it on their own view, and so does whoever watches. A step out of the table is a value,
not an exception: the side that wants to send makes it a veto, the side that receives a reply, a watcher a report.
"""

from __future__ import annotations

from typing import assert_never

import msgspec

from pelagos.exchange import Performative
from pelagos.process.conversations.protocol import Protocol

__all__ = ["Event", "Said", "TimedOut", "Violation", "step"]


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


def step(protocol: Protocol, state: str, event: Event) -> str | Violation:
    """The next state. A row that names the operation comes before one for any operation."""
    match event:
        case Said(role, performative, op):
            rows = protocol.says.get((state, role, performative))
            if rows is not None:
                to = rows.get(op)
                if to is None:
                    to = rows.get("")
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
