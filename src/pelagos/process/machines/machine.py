"""A state machine at work: one state, one event at a time, actions that may wait, time-outs.

The ancestor took an event that came during an asynchronous action at once, against the old state, and knew nothing of
time (reference section 2.1). Here events wait for one another in the order they came, whoever feeds them; and a
time-out is an event like any other, which waits too, and is no more once its state is left.

The way rejected was a task a machine that takes events from a queue: it costs an idle machine a task, and an action
would run in the context of nobody instead of whoever fed the event. So an event is worked off by who feeds it, under a
lock, and only a state with a time-out has a task while it lasts.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import msgspec

from pelagos.model.errors import Conflict, InvalidInput, Unavailable
from pelagos.process.lifecycle import IllegalTransition
from pelagos.process.log import get_logger
from pelagos.process.machines.table import ERROR, On, StateTable

__all__ = ["Occurred", "StateMachine", "Step"]

log = get_logger(__name__)


class Occurred(msgspec.Struct, frozen=True):
    """What an action is called with: the event, the state it came in, and the state that it leads to."""

    input: str
    state: str
    to: str
    content: Any = None


class Step(msgspec.Struct, frozen=True):
    """An event that was taken. ``at`` is in seconds of the loop's clock."""

    input: str
    state: str
    to: str
    at: float
    result: Any = None
    """What the action returned; None in the history."""


Action = Callable[[Occurred], Any]
Start = Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]]


class StateMachine:
    """One object's state by a table.

    ``actions`` has the table's actions as attributes or, if it is a mapping, by name: functions of an
    :class:`Occurred`, asynchronous or not. ``start`` runs what nobody waits for (time-outs, :meth:`post`) in a task:
    a process's ``start_task``, which takes the process to ERROR if such an event fails, or a task group's
    ``create_task``. A table with time-outs needs it, and a running loop.

    **Failing actions.** If an action raises, the state is as it was before the event, or with ``post`` what it became.
    Then, if the table takes the input ``error`` in that state, it is fed with the exception as its content, before any
    other event; should that fail too, it is logged. The feeder gets the first exception in any case. Cancellation is no
    failure: it leaves the state likewise, and feeds nothing.
    """

    def __init__(
        self,
        table: StateTable,
        actions: object = None,
        *,
        start: Start | None = None,
        history: int = 64,
        capacity: int = 1024,
    ) -> None:
        """``history``: steps remembered; ``capacity``: events that may wait. Raises :class:`InvalidInput` if actions
        are missing, or ``start`` is and the table has time-outs."""
        self.table = table
        self.state = table.initial
        self.history: deque[Step] = deque(maxlen=history)
        """The last steps, the oldest first."""
        self.taken = 0
        self._actions = _bound(table, actions)
        self._start = start
        self._capacity = capacity
        self._waiting = 0
        self._lock = asyncio.Lock()
        self._working: asyncio.Task[Any] | None = None
        self._timers: set[asyncio.Task[Any]] = set()
        self._closed = False
        if table.timers and start is None:
            raise InvalidInput(
                f"{table.name} has time-outs, and nothing to run them",
                advice="Give start=self.start_task in a process.",
            )
        self._enter(table.initial)

    @property
    def ended(self) -> bool:
        """Whether the state is final."""
        return self.state in self.table.final

    async def feed(self, input: str, content: Any = None) -> Step:
        """Take one event, when those before it are done.

        Raises :class:`IllegalTransition` if the table has no row for it (nothing changes), what the action raises,
        :class:`Unavailable` if too many events wait, and :class:`Conflict` from inside the machine's own action, where
        it would wait for itself: use :meth:`post` there.
        """
        if self._working is not None and self._working is asyncio.current_task():
            raise Conflict(
                f"{self.table.name}: an action that waits for {input!r} waits for itself", advice="post() it."
            )
        if self._waiting >= self._capacity:
            raise Unavailable(f"{self.table.name}: {self._waiting} events wait already", details={"overloaded": True})
        self._waiting += 1
        try:
            await self._lock.acquire()
        finally:
            self._waiting -= 1
        self._working = asyncio.current_task()
        try:
            return await self._take(input, content)
        finally:
            self._working = None
            self._lock.release()

    def post(self, input: str, content: Any = None) -> None:
        """Feed an event in a task of its own, behind those that wait. For actions, and whoever cannot wait.

        Raises :class:`InvalidInput` for a machine without ``start``."""
        if self._start is None:
            raise InvalidInput(f"{self.table.name} has nothing to run events in", advice="Give start= to its machine.")
        self._start(self.feed(input, content))

    def close(self) -> None:
        """End the time-outs and take no more events. Idempotent. Where ``start`` is a process's, its end does that."""
        self._closed = True
        self._leave()

    async def _take(self, input: str, content: Any) -> Step:
        row = None if self._closed else self.table.lookup(self.state, input)
        if row is None:
            allowed = "" if self._closed else ", ".join(self.table.expected(self.state))
            raise IllegalTransition(
                f"{self.table.name} is {'closed' if self._closed else self.state}; {input} is not possible",
                advice=f"Possible is {allowed}." if allowed else "",
                details={"state": str(self.state), "input": str(input)},
            )
        try:
            return await self._go(row, input, content)
        except Exception as error:
            await self._feed_error(error)
            raise

    async def _go(self, row: On, input: str, content: Any) -> Step:
        before = self.state
        event = Occurred(input, before, before if row.to is None else row.to, content)
        result = None
        if row.action and not row.post:
            result = await self._act(row.action, event)
        if row.to is not None:
            self._leave()
            self.state = row.to
            self._enter(row.to)
        at = asyncio.get_running_loop().time()
        self.taken += 1
        self.history.append(Step(input, before, event.to, at))
        if row.action and row.post:
            result = await self._act(row.action, event)
        return Step(input, before, event.to, at, result)

    async def _act(self, action: str, event: Occurred) -> Any:
        result = self._actions[action](event)
        return await result if inspect.isawaitable(result) else result

    async def _feed_error(self, cause: Exception) -> None:
        row = self.table.lookup(self.state, ERROR)
        if row is None:
            return
        try:
            await self._go(row, ERROR, cause)
        except Exception as error:
            log.error("the action for an error failed", machine=self.table.name, state=self.state, exc_info=error)

    # -- time-outs ---------------------------------------------------------------------------------------------

    def _enter(self, state: str) -> None:
        if self._closed or self._start is None:
            return
        for timer in self.table.timers.get(state, ()):
            task = self._start(self._time_out(timer.seconds, timer.input))
            self._timers.add(task)
            task.add_done_callback(self._timers.discard)

    def _leave(self) -> None:
        current = asyncio.current_task()
        for task in tuple(self._timers):
            self._timers.discard(task)
            if task is not current:
                task.cancel()

    async def _time_out(self, seconds: float, input: str) -> None:
        await asyncio.sleep(seconds)
        await self.feed(input)


def _bound(table: StateTable, actions: object) -> dict[str, Action]:
    found: dict[str, Action] = {}
    for name in table.actions:
        action = actions.get(name) if isinstance(actions, Mapping) else getattr(actions, name, None)
        if callable(action):
            found[name] = action
    missing = [name for name in table.actions if name not in found]
    if missing:
        raise InvalidInput(f"{table.name}: no actions {', '.join(missing)}", details={"missing": missing})
    return found
