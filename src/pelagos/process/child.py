"""What a supervisor and its children say of each other, as values: how a child is kept, and how it ended."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from pelagos.model.errors import InternalError
from pelagos.process.lifecycle import State

if TYPE_CHECKING:
    from pelagos.process.process import Process

__all__ = ["ChildSnapshot", "ChildSpec", "ExitKind", "ExitReason", "Restart", "RestartStrategy"]


class RestartStrategy(enum.StrEnum):
    """Who is restarted when a child fails."""

    ONE_FOR_ONE = "one_for_one"
    """That child."""
    ONE_FOR_ALL = "one_for_all"
    """All children."""
    REST_FOR_ONE = "rest_for_one"
    """That child and those started after it."""


class Restart(enum.StrEnum):
    """Whether a child that ended is restarted."""

    PERMANENT = "permanent"
    """Always."""
    TRANSIENT = "transient"
    """Only if it failed."""
    TEMPORARY = "temporary"
    """Never; it is forgotten."""


class ExitKind(enum.StrEnum):
    """How a child ended; OTP's exit reasons."""

    NORMAL = "normal"
    """It stopped by itself, in good order."""
    SHUTDOWN = "shutdown"
    """Its supervisor asked it to stop, and it did."""
    FAILED = "failed"
    """It raised."""
    KILLED = "killed"
    """It was cancelled: it had not stopped in its shutdown time, or everything had to end at once."""


class ExitReason(msgspec.Struct, frozen=True):
    """``cause`` is the error's class and text; empty unless it failed."""

    kind: ExitKind
    cause: str = ""

    @classmethod
    def of(cls, cause: BaseException | None, *, asked: bool) -> ExitReason:
        """From what the child's ``run`` raised; ``asked``: its supervisor had told it to stop."""
        if cause is None:
            return cls(ExitKind.SHUTDOWN if asked else ExitKind.NORMAL)
        if isinstance(cause, asyncio.CancelledError):
            return cls(ExitKind.KILLED)
        return cls(ExitKind.FAILED, f"{type(cause).__name__}: {cause}")

    def __str__(self) -> str:
        return f"{self.kind} ({self.cause})" if self.cause else str(self.kind)


class ChildSpec(msgspec.Struct, frozen=True):
    """How to start, restart and stop one child.

    ``factory`` makes a new object each time. ``shutdown`` is the time in seconds from asking the child to stop until it
    is cancelled; None waits without end, which is right for supervisors alone: their children have limits of their own.
    """

    name: str
    factory: Callable[[], Process]
    restart: Restart = Restart.PERMANENT
    shutdown: float | None = 5.0

    @classmethod
    def of(
        cls, process: Process, name: str = "", *, restart: Restart = Restart.PERMANENT, shutdown: float | None = 5.0
    ) -> ChildSpec:
        """A spec for an object that exists. It lives once: if it should have to be restarted, its supervisor fails
        instead.
        """
        used = False

        def once() -> Process:
            nonlocal used
            if used:
                raise InternalError(
                    f"{process.label} was given as an object and cannot be made again",
                    advice="Spawn it by a factory, or as temporary.",
                )
            used = True
            return process

        return cls(name or process.label, once, restart, shutdown)


class ChildSnapshot(msgspec.Struct, frozen=True):
    name: str
    process_id: str
    state: State | None
    """None while it waits to be restarted."""
    restarts: int
    last_exit: ExitReason | None = None
    """How its incarnation before this one ended; None if this is the first."""
