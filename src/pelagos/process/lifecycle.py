"""The life cycle of a process as a table.

The table is data: a property test walks it, and nothing else decides what may follow what. Differences to the ancestor
(reference section 2.3), where every unforeseen input led to ERROR and nothing led out of it: an illegal input raises
and changes nothing, ``terminate`` is legal everywhere and idempotent, and events of one object are serialized by a lock
instead of meeting a half-done transition.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType

import msgspec

from pelagos.model.errors import Conflict

__all__ = ["TABLE", "IllegalTransition", "Input", "LifeCycle", "State", "Transition"]


class State(enum.StrEnum):
    INIT = "init"
    READY = "ready"
    ACTIVE = "active"
    TERMINATED = "terminated"
    ERROR = "error"


class Input(enum.StrEnum):
    INITIALIZE = "initialize"
    ACTIVATE = "activate"
    DEACTIVATE = "deactivate"
    TERMINATE = "terminate"
    FAIL = "fail"


class Transition(msgspec.Struct, frozen=True):
    """``hook`` runs in the old state; then the object is in ``to``, or in ``on_failure`` if the hook raised."""

    to: State
    hook: str | None = None
    on_failure: State = State.ERROR


class IllegalTransition(Conflict):
    """The input means nothing in this state; the state has not changed."""

    code = "illegal_transition"


_END = Transition(State.TERMINATED, "on_terminate", on_failure=State.TERMINATED)

TABLE: Mapping[tuple[State, Input], Transition] = MappingProxyType(
    {
        (State.INIT, Input.INITIALIZE): Transition(State.READY, "on_init"),
        (State.READY, Input.ACTIVATE): Transition(State.ACTIVE, "on_activate"),
        (State.ACTIVE, Input.DEACTIVATE): Transition(State.READY, "on_deactivate"),
        (State.INIT, Input.TERMINATE): Transition(State.TERMINATED),
        (State.READY, Input.TERMINATE): _END,
        (State.ACTIVE, Input.TERMINATE): _END,
        (State.ERROR, Input.TERMINATE): _END,
        (State.TERMINATED, Input.TERMINATE): Transition(State.TERMINATED),
        (State.INIT, Input.FAIL): Transition(State.ERROR),
        (State.READY, Input.FAIL): Transition(State.ERROR),
        (State.ACTIVE, Input.FAIL): Transition(State.ERROR),
        (State.ERROR, Input.FAIL): Transition(State.ERROR),
    }
)


class LifeCycle:
    """One object's state. ``hooks`` maps the table's hook names to what they do; a missing one does nothing."""

    def __init__(
        self,
        hooks: Mapping[str, Callable[[], Awaitable[None]]],
        *,
        table: Mapping[tuple[State, Input], Transition] = TABLE,
        name: str = "",
    ) -> None:
        self.state = State.INIT
        self.cause: BaseException | None = None
        """Why it is, or was, in ERROR: the first cause."""
        self._hooks = hooks
        self._table = table
        self._name = name
        self._lock = asyncio.Lock()

    async def feed(self, event: Input, cause: BaseException | None = None) -> State:
        """Take one input; returns the new state.

        Waits for the input before it to be done. Raises :class:`IllegalTransition` if the table has no such row, and
        whatever the hook raises, after the state became the row's ``on_failure``.
        """
        async with self._lock:
            transition = self._table.get((self.state, event))
            if transition is None:
                raise IllegalTransition(
                    f"{self._name or 'the object'} is {self.state}; {event} is not possible",
                    details={"state": str(self.state), "input": str(event)},
                )
            if cause is not None and self.cause is None:
                self.cause = cause
            hook = self._hooks.get(transition.hook) if transition.hook is not None else None
            if hook is not None:
                try:
                    await hook()
                except BaseException as error:
                    self.state = transition.on_failure
                    if self.cause is None:
                        self.cause = error
                    raise
            self.state = transition.to
            return self.state
