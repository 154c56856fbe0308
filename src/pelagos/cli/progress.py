"""Progress of a run on stderr: live, a line a node, on a terminal; a log of what happened anywhere else.

Both are fed by the one who follows the run. The live form draws from a tick of that task's loop: rich's own refreshing
thread would race with services that run in this very process, and with the last words on Ctrl+C.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Protocol

from pelagos.cli.texts import count, duration
from pelagos.cli.trail import Trail
from pelagos.cli.wording import sentence, subject
from pelagos.wire.infrastructures import EventView

if TYPE_CHECKING:
    from pelagos.cli.invocation import Invocation

__all__ = ["LogProgress", "Progress", "choose", "outcome"]


class Progress(Protocol):
    """What shows a run. ``open`` before the first and ``close`` after the last call; ``close`` may come twice."""

    trail: Trail

    def open(self) -> None: ...

    def event(self, event: EventView) -> None: ...

    def message(self, text: str) -> None:
        """A line of the command itself, kept on the screen."""
        ...

    def tick(self) -> None:
        """Time has passed."""
        ...

    def close(self) -> None: ...


class LogProgress:
    """A line an event, with the seconds since the start. ``prefix`` tells infrastructures apart; with it the run itself
    is told only where it waits or goes wrong, since it is one of many passes."""

    def __init__(self, invocation: Invocation, trail: Trail, *, prefix: str = "") -> None:
        self.trail = trail
        self._invocation = invocation
        self._prefix = f"{prefix}: " if prefix else ""
        self._start = invocation.world.monotonic()
        self._last: dict[str, str] = {}
        self._broken = False

    def open(self) -> None:
        self._start = self._invocation.world.monotonic()

    def event(self, event: EventView) -> None:
        if not self.trail.feed(event) or event.kind.startswith(("operation.", "server.")):
            return
        if self._prefix and event.kind in ("run.accepted", "run.started", "run.succeeded"):
            return
        of, told = subject(event), sentence(event)
        if self._last.get(of) == told:
            return
        self._last[of] = told
        self._write(f"{of:<20}  {told}" if of else told)

    def message(self, text: str) -> None:
        self._write(text)

    def tick(self) -> None:
        """A log has nothing to redraw."""

    def close(self) -> None:
        """A log has nothing to put back."""

    def _write(self, text: str) -> None:
        if self._broken:
            return
        seconds = self._invocation.world.monotonic() - self._start
        try:
            self._invocation.note(f"{seconds:7.1f}s  {self._prefix}{text}")
        except BrokenPipeError:
            # Whoever read the progress has gone. The run itself must not die of that: it goes on unseen, and the
            # result on stdout (or its broken pipe) ends the command.
            self._broken = True


def choose(invocation: Invocation, trail: Trail) -> Progress:
    """The live form where stderr is a terminal that can be redrawn, else the log."""
    if sys.stderr.isatty() and os.environ.get("TERM", "") not in ("", "dumb"):
        from pelagos.cli.live import LiveProgress

        return LiveProgress(invocation, trail)
    return LogProgress(invocation, trail)


def outcome(trail: Trail, seconds: float) -> str:
    """``4 instances made, 1 destroyed in 12 s``, for the last line of a run."""
    parts = []
    if trail.created:
        parts.append(f"{count(trail.created, 'instance')} made")
    if trail.adopted:
        parts.append(f"{count(trail.adopted, 'instance')} adopted" if not parts else f"{trail.adopted} adopted")
    if trail.destroyed:
        parts.append(f"{count(trail.destroyed, 'instance')} destroyed" if not parts else f"{trail.destroyed} destroyed")
    return f"{', '.join(parts) or 'nothing changed'} in {duration(seconds)}"
