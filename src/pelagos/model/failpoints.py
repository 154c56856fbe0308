"""Failpoints: the places of the journal at which a process can be made to die, so that what then holds can be tested.

``PELAGOS_FAILPOINT=cloud.create.after`` kills the process, as ``kill -9`` does, the first time that a create call has
ended and nothing of it is journaled; ``cloud.create.after:3`` the third time. Each :class:`Step` has two such places,
``.before`` and ``.after``. What the simulation does with virtual processes at every transaction and call, this does
with real ones, on real clouds.

Where the variable is not set, a step costs one comparison.
"""

from __future__ import annotations

import difflib
import enum
import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from typing import NoReturn, TypeVar

from pelagos.model.errors import InvalidInput

__all__ = ["VARIABLE", "Step", "arm", "armed", "names", "through"]

T = TypeVar("T")

VARIABLE = "PELAGOS_FAILPOINT"


class Step(enum.StrEnum):
    """A step that the journal is made of: a transaction, or a call to a cloud."""

    ACCEPT = "infrastructure.accept"
    """A run is written, for which a command waits."""
    CANCEL = "infrastructure.cancel"
    """A run's end is asked for."""
    CHANGES = "infrastructure.changes"
    """A maintainer writes what it decided and saw."""
    LEASE_ACQUIRE = "lease.acquire"
    LEASE_RELEASE = "lease.release"
    SUBMIT = "operations.submit"
    """Creates, deletes or power verbs are journaled, with their quota."""
    TAKE_OVER = "operations.take-over"
    """An account's worker begins with what the last one had in hand."""
    CLAIM = "operations.claim"
    """Calls are marked as sent, before they are."""
    SETTLE = "operations.settle"
    """What calls came to is written."""
    OBSERVE = "operations.observe"
    """What a listing changes is written."""
    SWEEP = "operations.sweep"
    """The deletion of servers that are one too many is journaled."""
    OBSERVE_PARTS = "operations.observe-parts"
    """What a listing of parts changes is written, and their deletion journaled."""
    CREATE = "cloud.create"
    """A call that creates a server; the following are calls, too."""
    LOOKUP = "cloud.lookup"
    """What an earlier create made is looked for by its token."""
    LIST = "cloud.list"
    GET = "cloud.get"
    DELETE = "cloud.delete"
    DISCARD = "cloud.discard"
    """A server that is not as it was asked for is deleted again."""
    START = "cloud.start"
    STOP = "cloud.stop"
    REBOOT = "cloud.reboot"
    UPDATE = "cloud.update"
    """Keys of a server that runs are given other values."""
    PART = "cloud.part"
    """A volume, an address, a port or a network is made for a server."""
    FINISH = "cloud.finish"
    """A server is given what could only be given when it ran."""
    UNPART = "cloud.unpart"
    """A part is deleted."""
    LIST_PARTS = "cloud.list-parts"


class _Armed:
    """Counts how often the chosen place is reached."""

    def __init__(self, name: str, nth: int, die: Callable[[], None]) -> None:
        self.name = name
        self.nth = nth
        self._left = nth
        self._die = die

    def reached(self, name: str) -> None:
        if name == self.name:
            self._left -= 1
            if self._left == 0:
                self._die()


_armed: _Armed | None = None


def names() -> tuple[str, ...]:
    """All failpoints."""
    return tuple(f"{step.value}.{edge}" for step in Step for edge in ("before", "after"))


def arm(environ: Mapping[str, str], die: Callable[[], None] | None = None) -> None:
    """Make the process die at the failpoint that ``environ`` names, if any; ``die`` is for tests, in place of that.

    Raises InvalidInput for a name that is none, or a number below 1."""
    global _armed
    chosen = environ.get(VARIABLE, "")
    if not chosen:
        _armed = None
        return
    name, _, number = chosen.partition(":")
    if name not in names():
        close = difflib.get_close_matches(name, names(), 1, cutoff=0.5)
        raise InvalidInput(
            f"{VARIABLE}: there is no failpoint {name!r}",
            advice=f"Did you mean {close[0]}?" if close else "The reference of failpoints lists them all.",
        )
    if number and not (number.isascii() and number.isdigit() and int(number) > 0):
        raise InvalidInput(
            f"{VARIABLE}: {number!r} is no number of times", advice=f"Write {name}:3 for the third time, for example."
        )
    _armed = _Armed(name, int(number or 1), die or _killed)


def armed() -> str | None:
    """The failpoint at which this process will die, as it was named."""
    return None if _armed is None else f"{_armed.name}:{_armed.nth}"


async def through(step: Step, work: Awaitable[T]) -> T:
    """Do a step's work, past its two failpoints; the second also if it raised."""
    if _armed is None:
        return await work
    chosen = _armed
    chosen.reached(f"{step.value}.before")
    try:
        return await work
    finally:
        chosen.reached(f"{step.value}.after")


def _killed() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("nobody outlives that")
