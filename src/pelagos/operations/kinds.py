"""What kinds of operations there are, as a table: each kind is a list of steps, each step has one effect.

The machinery (journal, claims, settling, worker) knows effects and not kinds: a new kind of thing (volume, address, key
pair) is a row here, a call in `calls` and what its outcome writes in `settling`. A create of several steps is several
rows of `steps`, each journaled with a token of its own.
"""

from __future__ import annotations

import enum

import msgspec

from pelagos.model.states import ServerState

__all__ = ["KINDS", "Effect", "Kind", "Step", "step_of"]


class Effect(enum.StrEnum):
    """What sending a step's call (again) may do."""

    CREATES = "creates"
    """It makes something ours each time: it needs an attempt with a token, and a look-up by it."""
    REPEATABLE = "repeatable"
    """It names its target, and a repeat is harmless (delete, start, stop): the operation's row is journal enough."""
    ONCE = "once"
    """A repeat is felt (reboot): when its outcome is unknown it fails with that, and whoever asked decides."""
    AWAITS = "awaits"
    """No call of its own: it ends when a listing shows the target in one of ``until``."""


class Step(msgspec.Struct, frozen=True):
    verb: str
    effect: Effect
    until: frozenset[ServerState] = frozenset()


class Kind(msgspec.Struct, frozen=True):
    """``undo`` is the index of the step that takes back what a failed operation made; None: nothing to take back."""

    name: str
    steps: tuple[Step, ...]
    undo: int | None = None


_SETTLED = frozenset({ServerState.ACTIVE, ServerState.STOPPED})
_RUNNING = frozenset({ServerState.ACTIVE})
_THERE = _SETTLED | {ServerState.ERROR}
"""What is adopted is taken as it is, and never taken back."""
_GONE = Step("gone", Effect.AWAITS, frozenset({ServerState.DELETED}))
"""A cloud that took a delete has not carried it out: it is believed when the server is listed no more."""

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "server.create",
            (
                Step("create", Effect.CREATES),
                Step("boot", Effect.AWAITS, _SETTLED),
                Step("discard", Effect.REPEATABLE),
                _GONE,
            ),
            undo=2,
        ),
        Kind("server.adopt", (Step("adopt", Effect.CREATES), Step("boot", Effect.AWAITS, _THERE))),
        Kind("server.delete", (Step("delete", Effect.REPEATABLE), _GONE)),
        Kind("server.sweep", (Step("delete", Effect.REPEATABLE), _GONE)),
        Kind("server.start", (Step("start", Effect.REPEATABLE), Step("boot", Effect.AWAITS, _RUNNING))),
        Kind(
            "server.stop",
            (Step("stop", Effect.REPEATABLE), Step("halt", Effect.AWAITS, frozenset({ServerState.STOPPED}))),
        ),
        Kind("server.reboot", (Step("reboot", Effect.ONCE), Step("boot", Effect.AWAITS, _RUNNING))),
        Kind("account.refresh", (Step("refresh", Effect.REPEATABLE),)),
    )
}


def step_of(kind: str, index: int) -> Step:
    """The step an operation is at."""
    return KINDS[kind].steps[index]
