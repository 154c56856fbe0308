"""What kinds of operations there are, as a table: each kind is a list of steps, each step has one effect.

The machinery (journal, claims, settling, worker) knows effects and not kinds: a new kind of thing (volume, address, key
pair) is a row here, a call in `calls` and what its outcome writes in `settling`. A create of several steps is several
rows of `steps`, each journaled with a token of its own.

A server that needs parts (volumes, ports, addresses) walks another stretch of its kind's steps than one that needs
none: which one is decided when the operation is journaled (:func:`first_step`), so a server without parts pays for none
of it. The steps of the stretch that make or delete a part are walked once for each of them.
"""

from __future__ import annotations

import enum

import msgspec

from pelagos.model.states import ServerState

__all__ = [
    "ASSEMBLY",
    "CREATE_WITH_PARTS",
    "DELETE_WITH_PARTS",
    "KINDS",
    "PLAN",
    "Effect",
    "Kind",
    "Step",
    "step_of",
    "undo_of",
]


class Effect(enum.StrEnum):
    """What sending a step's call (again) may do."""

    CREATES = "creates"
    """It makes something ours each time: it needs an attempt with a token, and a look-up by it."""
    REPEATABLE = "repeatable"
    """It names its target, and a repeat is harmless (delete, start, stop): the operation's row is journal enough."""
    ONCE = "once"
    """A repeat is felt (reboot): when its outcome is unknown it fails with that, and whoever asked decides."""
    AWAITS = "awaits"
    """No call of its own: it ends when a listing shows the target in one of ``until``; of a part: ready, or gone."""
    PLANS = "plans"
    """No call: what comes next is decided when it is claimed."""


class Step(msgspec.Struct, frozen=True):
    """``part``: its target is one part of the server, in turn, and not the server."""

    verb: str
    effect: Effect
    until: frozenset[ServerState] = frozenset()
    part: bool = False


class Kind(msgspec.Struct, frozen=True):
    """``undo`` is the index of the step that takes back what a failed operation made; None: nothing to take back."""

    name: str
    steps: tuple[Step, ...]
    undo: int | None = None

    def index(self, verb: str, start: int = 0) -> int:
        """The first step from ``start`` on with this verb."""
        return next(i for i in range(start, len(self.steps)) if self.steps[i].verb == verb)


_SETTLED = frozenset({ServerState.ACTIVE, ServerState.STOPPED})
_RUNNING = frozenset({ServerState.ACTIVE})
_THERE = _SETTLED | {ServerState.ERROR}
"""What is adopted is taken as it is, and never taken back."""
_GONE = Step("gone", Effect.AWAITS, frozenset({ServerState.DELETED}))
"""A cloud that took a delete has not carried it out: it is believed when the server is listed no more."""
_UNMAKE = (Step("unpart", Effect.REPEATABLE, part=True), Step("unparted", Effect.AWAITS, part=True))
"""The last part first, until none is left."""

PLAN = 4
"""``server.create``: nobody could say yet whether it needs parts; its account's worker will."""
CREATE_WITH_PARTS = 5
"""``server.create``: here it begins where the server needs parts, and all later steps are of such a one."""
DELETE_WITH_PARTS = 2
"""``server.delete``: the same."""

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
                Step("plan", Effect.PLANS),
                Step("part", Effect.CREATES, part=True),
                Step("ready", Effect.AWAITS, part=True),
                Step("create", Effect.CREATES),
                Step("boot", Effect.AWAITS, _SETTLED),
                Step("finish", Effect.REPEATABLE),
                Step("discard", Effect.REPEATABLE),
                _GONE,
                *_UNMAKE,
            ),
            undo=2,
        ),
        Kind("server.adopt", (Step("adopt", Effect.CREATES), Step("boot", Effect.AWAITS, _THERE))),
        Kind(
            "server.delete",
            (
                Step("delete", Effect.REPEATABLE),
                _GONE,
                Step("delete", Effect.REPEATABLE),
                _GONE,
                *_UNMAKE,
            ),
        ),
        Kind("server.sweep", (Step("delete", Effect.REPEATABLE), _GONE)),
        Kind("parts.delete", _UNMAKE),
        Kind("part.sweep", _UNMAKE),
        Kind("server.start", (Step("start", Effect.REPEATABLE), Step("boot", Effect.AWAITS, _RUNNING))),
        Kind(
            "server.stop",
            (Step("stop", Effect.REPEATABLE), Step("halt", Effect.AWAITS, frozenset({ServerState.STOPPED}))),
        ),
        Kind("server.reboot", (Step("reboot", Effect.ONCE), Step("boot", Effect.AWAITS, _RUNNING))),
        Kind("server.update", (Step("update", Effect.REPEATABLE),)),
        Kind("account.refresh", (Step("refresh", Effect.REPEATABLE),)),
    )
}


ASSEMBLY = {"server.create": CREATE_WITH_PARTS, "server.delete": DELETE_WITH_PARTS, "parts.delete": 0}
"""Kind -> the step from which on its server has parts."""


def step_of(kind: str, index: int) -> Step:
    """The step an operation is at."""
    return KINDS[kind].steps[index]


def undo_of(kind: str, index: int) -> int | None:
    """The step that takes back what an operation has made that fails at step ``index``; None: there is nothing."""
    undo = KINDS[kind].undo
    if undo is not None and kind == "server.create" and index >= CREATE_WITH_PARTS:
        return KINDS[kind].index("discard", CREATE_WITH_PARTS)
    return undo
