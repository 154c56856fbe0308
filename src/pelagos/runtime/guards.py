"""What watches over a program from beside its loop: a loop that hangs, a start or stop without end, SIGQUIT.

All of a container lives on one event loop. If something blocks it (a long computation, a call into the operating system
that should have been awaited), nothing in the program can say so, least of all a task. So these are threads and signal
handlers, the only ones in Pelagos that are not the world's, and they only look, write a line, or end the program:

* :class:`LoopWatch`: if the loop has not turned for a second, a critical line with the stack of where it hangs.
* SIGQUIT: all tasks and all threads' stacks, and the program goes on. The interpreter itself writes the stacks to the
  standard error, also when the loop hangs in C; the loop writes the tasks to the log, once it turns.
* :class:`ForcedEnd`: a start or stop that takes longer than it may ends by force, with exit code 75. That loses nothing
  that a crash would keep; and a service manager can start it anew, which it cannot while it hangs.

The ancestor counted the turns of a patched reactor under SIGALRM, and had an interactive interpreter for SIGQUIT
(reference section 1.5). An alarm interrupts system calls of everything else; an interpreter needs a terminal.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from types import FrameType, TracebackType
from typing import Any, Self

from pelagos.model.world import World
from pelagos.process import get_logger
from pelagos.runtime.settings import GuardSettings

__all__ = ["FORCED_END", "ForcedEnd", "Guards", "LoopWatch", "dump_tasks"]

log = get_logger(__name__)

FORCED_END = 75
"""EX_TEMPFAIL of sysexits(3): no answer in time; try again."""
_DEEPEST = 50
_NAMES = 5


class LoopWatch:
    """Watches the loop it is entered in, from a thread. ``stall``: seconds."""

    def __init__(self, monotonic: Callable[[], float], stall: float = 1.0) -> None:
        self._monotonic = monotonic
        self._stall = stall
        self._end = threading.Event()
        self._turned = threading.Event()
        self._thread: threading.Thread | None = None
        self.stalls = 0

    def __enter__(self) -> Self:
        loop, watched = asyncio.get_running_loop(), threading.get_ident()
        self._thread = threading.Thread(target=self._watch, args=(loop, watched), name="loop watch", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._turned.set()
        if self._thread is not None:
            self._thread.join(1.0)

    def _watch(self, loop: asyncio.AbstractEventLoop, watched: int) -> None:
        while not self._end.wait(self._stall / 2):
            self._turned.clear()
            asked = self._monotonic()
            try:
                loop.call_soon_threadsafe(self._turned.set)
            except RuntimeError:
                return  # the loop is closed
            if self._turned.wait(self._stall):
                continue
            waited = self._monotonic() - asked
            frame = sys._current_frames().get(watched)
            if waited > 3 * self._stall or frame is None:
                continue  # this thread stood still as well: it was the whole program, or the machine
            self.stalls += 1
            where = "".join(traceback.format_stack(frame))
            del frame
            log.critical("the event loop hangs", seconds=round(waited, 1), where=where)
            self._turned.wait()
            if not self._end.is_set():
                log.warning("the event loop turns again", seconds=round(self._monotonic() - asked, 1))


class ForcedEnd:
    """Ends the program ``seconds`` after :meth:`arm`, unless disarmed. ``leave`` is called with the exit code."""

    def __init__(self, leave: Callable[[int], Any] = os._exit) -> None:
        self._leave = leave
        self._timer: threading.Timer | None = None

    def arm(self, seconds: float, what: str) -> None:
        """In place of what was armed before. ``what`` takes too long then, for the log."""
        self.disarm()
        self._timer = threading.Timer(seconds, self._force, (seconds, what, threading.get_ident()))
        self._timer.name = f"limit of the {what}"
        self._timer.daemon = True
        self._timer.start()

    def disarm(self) -> None:
        """Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _force(self, seconds: float, what: str, watched: int) -> None:
        frame = sys._current_frames().get(watched)
        where = "" if frame is None else "".join(traceback.format_stack(frame))
        del frame
        log.critical(f"the {what} takes too long: leaving by force", seconds=seconds, code=FORCED_END, where=where)
        self._leave(FORCED_END)


class Guards:
    """All of them for one program, as a context manager in its loop: nothing of them is left after it.

    ``leave`` is for tests."""

    def __init__(self, settings: GuardSettings, world: World, *, leave: Callable[[int], Any] = os._exit) -> None:
        self._settings = settings
        self._world = world
        self._limit = ForcedEnd(leave)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            if self._settings.stall > 0:
                stack.enter_context(LoopWatch(self._world.monotonic, self._settings.stall))
            stack.callback(_dump_at_quit())
            stack.callback(self._limit.disarm)
            self._stack = stack.pop_all()
        if self._settings.start > 0:
            self._limit.arm(self._settings.start, "start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def started(self) -> None:
        """The start is over: its limit is."""
        self._limit.disarm()

    def stopping(self, orderly: float) -> None:
        """The stop begins; in good order it takes ``orderly`` seconds at the most."""
        if self._settings.stop > 0:
            self._limit.arm(orderly + self._settings.stop, "stop")


def _dump_at_quit() -> Callable[[], None]:
    """Have SIGQUIT tell what everything does; returns what undoes that."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGQUIT, dump_tasks)
    try:
        # After the loop's, which is called next: this one works also when the loop does not turn.
        faulthandler.register(signal.SIGQUIT, all_threads=True, chain=True)
        registered = True
    except (AttributeError, OSError, ValueError, RuntimeError):
        registered = False  # there is no standard error to write to: the log has the tasks

    def undo() -> None:
        if registered:
            faulthandler.unregister(signal.SIGQUIT)
        loop.remove_signal_handler(signal.SIGQUIT)

    return undo


def dump_tasks() -> None:
    """Write what every task of the running loop waits for to the log. Tasks that wait at the same place are one line:
    ten thousand idle processes are."""
    groups: dict[str, list[str]] = {}
    tasks = sorted(asyncio.all_tasks(), key=lambda task: task.get_name())
    for task in tasks:
        groups.setdefault(_waits_at(task), []).append(task.get_name())
    log.critical("told to show the tasks", tasks=len(tasks), places=len(groups))
    for where, names in sorted(groups.items(), key=lambda item: len(item[1])):
        more = ["…"] if len(names) > _NAMES else []
        log.critical("tasks", count=len(names), names=[*names[:_NAMES], *more], where=where)


def _waits_at(task: asyncio.Task[Any]) -> str:
    """From the task's own function down to what it awaits, a line each."""
    lines: list[str] = []
    awaited: Any = task.get_coro()
    while awaited is not None and len(lines) < _DEEPEST:
        frame: FrameType | None = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        frame = frame or getattr(awaited, "ag_frame", None)
        if frame is None:
            break
        lines.append(f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_qualname}")
        awaited = (
            getattr(awaited, "cr_await", None)
            or getattr(awaited, "gi_yieldfrom", None)
            or getattr(awaited, "ag_await", None)
        )
    return "\n".join(lines)
