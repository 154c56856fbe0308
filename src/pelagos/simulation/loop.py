"""An event loop on virtual time: it never waits, and it can stop the processes that live on it as the kernel would.

The problem: a program's behaviour over minutes, with its crashes, is to be tried thousands of times and repeated
exactly. The way chosen: when nothing is ready, the clock jumps to the next timer's very own time (adding up
differences would make times depend on the stops between, in the last bit); no socket, thread or child process exists,
so nothing outside can decide an order; and tasks and futures hash by serial number, because `asyncio` keeps them in
sets and walks these.

A :class:`VirtualProcess` is whatever it has started, however deep. It can be paused (SIGSTOP), resumed and killed
(SIGKILL): the loop knows whose each callback is and looks before it runs it. So after a kill no `finally`, no `except`
and no clean-up of the dead runs, which cancelling its tasks could never promise. Whose: the task's that it steps, else
that of the context in which it was asked for, else (a context without variables) that of the callback running now.

The way rejected, a selector loop whose `select` jumps, leaves sockets and threads within reach and cannot tell whose
a callback is.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import threading
from asyncio import base_events, events, futures, tasks
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextvars import Context, ContextVar, copy_context
from typing import Any, NoReturn, TypeVar

__all__ = ["Deadlock", "Forbidden", "Livelock", "SimulationError", "VirtualLoop", "VirtualProcess", "run_virtual"]

T = TypeVar("T")

_MOST_AT_ONCE = 20_000
"""Callbacks without any progress of the clock, before that counts as a loop which never ends."""


class SimulationError(Exception):
    """The simulation itself cannot go on."""


class Deadlock(SimulationError):
    """Nothing is ready and no timer is set, and the main task is not done: it waits for what can never happen."""


class Livelock(SimulationError):
    """The clock stands still while callbacks run on and on."""


_CLOSINGS = 1000
"""How often a coroutine is told to end, each time that its clean-up waits for something."""


class Forbidden(SimulationError, RuntimeError):
    """Something asked for a socket, a thread or a child process."""


class VirtualProcess:
    """A process on the loop: what :meth:`start` starts, and all that this starts in its turn."""

    def __init__(self, loop: VirtualLoop, name: str) -> None:
        self.name = name
        self.state = "running"
        """running, paused or dead."""
        self._loop = loop
        self._parked: list[events.Handle] = []
        self._remains: list[_Task] = []
        self._context: Context = copy_context()
        self._context.run(_PROCESS.set, self)

    def start(self, coroutine: Coroutine[Any, Any, T], name: str = "") -> asyncio.Task[T]:
        """A task of this process."""
        return self._context.run(self._loop.create_task, coroutine, name=f"{self.name}: {name or 'main'}")

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any) -> asyncio.TimerHandle:
        """A callback of this process, by the loop's time, whoever asks for it."""
        return self._loop.call_at(when, callback, *args, context=self._context)

    def pause(self) -> None:
        """Nothing of it runs until :meth:`resume`; time goes on."""
        if self.state == "running":
            self.state = "paused"

    def resume(self) -> None:
        """It goes on where it stood; what was to happen meanwhile happens now, in its order."""
        if self.state == "paused":
            self.state = "running"
            parked, self._parked = self._parked, []
            self._loop._ready.extend(parked)

    def kill(self) -> None:
        """Nothing of it ever runs again. What it sent to others is on its way all the same."""
        if self.state == "dead":
            return
        self.state = "dead"
        self._parked.clear()
        mine = [task for task in asyncio.all_tasks(self._loop) if getattr(task, "process", None) is self]
        # Kept, so that no garbage collector closes their coroutines, which would run their clean-up.
        self._remains = sorted((task for task in mine if isinstance(task, _Task)), key=hash)

    def bury(self) -> None:
        """Let go of a dead process's tasks, when the world around them is over: their clean-up may then run."""
        remains, self._remains = self._remains, []
        for task in remains:
            _close(task)


class _Outside:
    """Whoever is of no process: the scenario."""

    state = "running"


_OUTSIDE = _Outside()
_PROCESS: ContextVar[VirtualProcess | _Outside | None] = ContextVar("pelagos_virtual_process", default=None)


class _Future(futures.Future):  # type: ignore[type-arg]
    """Hashes by serial number: sets of futures are walked in an order that no memory address decides."""

    def __init__(self, *, loop: VirtualLoop) -> None:
        super().__init__(loop=loop)
        self._serial: int = next(loop.serials)

    def __hash__(self) -> int:
        return self._serial

    def __eq__(self, other: object) -> bool:
        return self is other


class _Task(tasks.Task):  # type: ignore[type-arg]
    """As :class:`_Future`; knows its process."""

    def __init__(self, coroutine: Any, **options: Any) -> None:
        self._serial: int = next(options["loop"].serials)
        context = options.get("context")
        mine = _PROCESS.get() if context is None else context.get(_PROCESS)
        self.process = mine or options["loop"].current
        super().__init__(coroutine, **options)

    def __hash__(self) -> int:
        return self._serial

    def __eq__(self, other: object) -> bool:
        return self is other


class _Handle(events.Handle):
    __slots__ = ("process",)

    process: VirtualProcess | _Outside


class _Timer(events.TimerHandle):
    __slots__ = ("process",)

    process: VirtualProcess | _Outside
    _scheduled: bool


class VirtualLoop(base_events.BaseEventLoop):
    """Give it to :class:`asyncio.Runner` as the ``loop_factory``. Its time begins at 0."""

    # What BaseEventLoop has and its stub does not tell.
    _ready: Any
    _scheduled: Any
    _stopping: bool
    _timer_cancelled_count: int

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self.current: VirtualProcess | _Outside = _OUTSIDE
        """Whose callback runs now."""
        self.serials = itertools.count(1)
        """Of tasks and futures."""
        self._steps = 0
        self._busy: Counter[str] = Counter()
        self.callbacks = 0
        """Callbacks run so far."""
        self.set_task_factory(_make_task)

    def time(self) -> float:
        """Virtual seconds."""
        return self._now

    def process(self, name: str) -> VirtualProcess:
        """A new process on this loop."""
        return VirtualProcess(self, name)

    def create_future(self) -> asyncio.Future[Any]:
        return _Future(loop=self)

    def describe(self) -> str:
        """What every task that is not done waits for."""
        lines = []
        for task in sorted(asyncio.all_tasks(self), key=hash):
            process = getattr(task, "process", None)
            state = "" if process is None or process.state == "running" else f" ({process.state})"
            lines.append(f"{task.get_name()}{state}: {' > '.join(_where(task)) or 'not begun'}")
        return "\n".join(lines)

    def close_down(self) -> None:
        """Kill what is left, and let it go. Call it when the loop has stopped, before ``close``."""
        # Nobody is left to be told of what clean-up says now.
        self.set_exception_handler(lambda loop, context: None)
        for task in sorted(asyncio.all_tasks(self), key=hash):
            _close(task)
        self._ready.clear()
        self._scheduled.clear()

    def _owner(self, callback: Any, context: Context | None) -> VirtualProcess | _Outside:
        task = getattr(callback, "__self__", None)
        if isinstance(task, _Task):
            return task.process
        named = _PROCESS.get() if context is None else context.get(_PROCESS)
        return named or self.current

    def _call_soon(self, callback: Any, args: Any, context: Context | None) -> events.Handle:
        handle = _Handle(callback, args, self, context)
        handle.process = self._owner(callback, context)
        self._ready.append(handle)
        return handle

    def call_at(  # type: ignore[override]  # the stub's variadic types say no more
        self, when: float, callback: Any, *args: Any, context: Context | None = None
    ) -> events.TimerHandle:
        if self.is_closed():
            raise RuntimeError("the virtual loop is closed")
        timer = _Timer(when, callback, args, self, context)
        timer.process = self._owner(callback, context)
        heapq.heappush(self._scheduled, timer)
        timer._scheduled = True
        return timer

    # -- one turn --------------------------------------------------------------------------------------------------

    def _run_once(self) -> None:
        ready, scheduled = self._ready, self._scheduled
        while scheduled and scheduled[0]._cancelled:
            self._forget_cancelled(heapq.heappop(scheduled))
        if not ready and not self._stopping:
            if not scheduled:
                raise Deadlock(f"at {self._now:.6f} s nothing is left to happen:\n{self.describe()}")
            if scheduled[0]._when > self._now:
                self._now = scheduled[0]._when
                self._steps = 0
                self._busy.clear()
        while scheduled and scheduled[0]._when <= self._now:
            handle = heapq.heappop(scheduled)
            handle._scheduled = False
            if handle._cancelled:
                self._forget_cancelled(handle)
            else:
                ready.append(handle)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            process = handle.process
            if process.state != "running":
                if process.state == "paused":
                    process._parked.append(handle)
                continue
            self.current = process
            self.callbacks += 1
            self._steps += 1
            if self._steps > _MOST_AT_ONCE - 1000:
                self._busy[_whose(handle)] += 1
            handle._run()
        self.current = _OUTSIDE
        if self._steps > _MOST_AT_ONCE:
            busiest = ", ".join(f"{name} ({count})" for name, count in self._busy.most_common(5))
            raise Livelock(f"the clock stands at {self._now:.6f} s; busy are {busiest}\n{self.describe()}")

    def _forget_cancelled(self, handle: Any) -> None:
        handle._scheduled = False
        self._timer_cancelled_count = max(0, self._timer_cancelled_count - 1)

    # -- what there is not -----------------------------------------------------------------------------------------

    def _write_to_self(self) -> None:
        # call_soon_threadsafe: fine from our own thread (asyncio.Runner's SIGINT handler uses it).
        thread = getattr(self, "_thread_id", None)
        if thread is not None and thread != threading.get_ident():
            raise Forbidden("another thread called into the virtual loop; none may exist")

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> NoReturn:
        _forbid("a thread", "world.run_blocking()")

    async def getaddrinfo(self, *args: Any, **kwargs: Any) -> NoReturn:
        _forbid("a name look-up", "world.resolve()")

    def add_reader(self, fd: Any, callback: Any, *args: Any) -> NoReturn:  # type: ignore[override]
        _forbid("a file descriptor", "what the simulation offers")

    def add_writer(self, fd: Any, callback: Any, *args: Any) -> NoReturn:  # type: ignore[override]
        _forbid("a file descriptor", "what the simulation offers")

    async def create_connection(self, *args: Any, **kwargs: Any) -> NoReturn:
        _forbid("a socket", "what the simulation offers")

    async def create_server(self, *args: Any, **kwargs: Any) -> NoReturn:
        _forbid("a socket", "what the simulation offers")

    async def subprocess_exec(self, *args: Any, **kwargs: Any) -> NoReturn:
        _forbid("a child process", "world.spawn()")

    async def subprocess_shell(self, *args: Any, **kwargs: Any) -> NoReturn:
        _forbid("a child process", "world.spawn()")


def run_virtual(main: Callable[[VirtualLoop], Coroutine[Any, Any, T]]) -> T:
    """Run ``main(loop)`` on a loop of its own to its end, then end whatever it left and bury its dead."""
    loop = VirtualLoop()
    try:
        events.set_event_loop(loop)
        context = copy_context()
        context.run(_PROCESS.set, _OUTSIDE)
        return loop.run_until_complete(loop.create_task(main(loop), name="main", context=context))
    finally:
        try:
            loop.close_down()
        finally:
            events.set_event_loop(None)
            loop.close()


def _make_task(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> _Task:
    return _Task(coroutine, loop=loop, **options)


def _close(task: Any) -> None:
    task._log_destroy_pending = False
    coroutine = task.get_coro()
    # Its clean-up may say what it likes, most of all that it would wait for something: then it stands there, and is
    # told again. One left standing would be told by the garbage collector, in the middle of somebody else's work.
    for _ in range(_CLOSINGS):
        if getattr(coroutine, "cr_frame", None) is None:
            break
        with contextlib.suppress(BaseException):
            coroutine.close()


def _whose(handle: Any) -> str:
    """The task that a callback steps, or the callback itself."""
    owner = getattr(handle._callback, "__self__", None)
    return owner.get_name() if isinstance(owner, asyncio.Task) else str(getattr(handle._callback, "__qualname__", "?"))


def _forbid(what: str, instead: str) -> NoReturn:
    raise Forbidden(f"the simulation has no {what.removeprefix('a ')}: use {instead}")


def _where(task: asyncio.Task[Any]) -> Iterator[str]:
    """The places of a task's await chain, outermost first, the last three."""
    places: list[str] = []
    frame: Any = task.get_coro()
    while frame is not None and len(places) < 40:
        code = getattr(frame, "cr_frame", None) or getattr(frame, "gi_frame", None) or getattr(frame, "ag_frame", None)
        if code is not None:
            file = code.f_code.co_filename.rpartition("/")[2]
            places.append(f"{file}:{code.f_lineno} {code.f_code.co_name}")
        frame = getattr(frame, "cr_await", None) or getattr(frame, "gi_yieldfrom", None)
    yield from places[-3:]
