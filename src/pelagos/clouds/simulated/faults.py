"""Faults of a simulated cloud: which there are, which verbs they fit, and which call gets which.

A fault comes by chance (the probabilities in :class:`Faults`, changed at any time) or by script
(:meth:`FaultPlan.inject`); a scripted one goes first. One call gets at most one fault of the call and one fate of the
server that it makes or deletes. A call draws a number only if some probability for its verb is above 0, so a cloud
without faults draws none.
"""

from __future__ import annotations

import enum
import random
from typing import Annotated

import msgspec

from pelagos.model.errors import InvalidInput

__all__ = ["Fault", "FaultPlan", "Faults", "Injection", "Verb"]

Probability = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Verb(enum.StrEnum):
    """The calls that a cloud takes."""

    LIST = "list"
    GET = "get"
    FIND = "find"
    CONSOLE = "console"
    CREATE = "create"
    DELETE = "delete"
    START = "start"
    STOP = "stop"
    REBOOT = "reboot"
    EXECUTE = "execute"
    PART = "part"
    """Make a part."""
    PARTS = "parts"
    """List the parts."""
    UNPART = "unpart"
    """Delete a part."""
    FINISH = "finish"
    ADOPT = "adopt"
    UPDATE = "update"

    @property
    def reads(self) -> bool:
        """Whether it changes nothing: its lost replies are then CloudUnreachable, not CloudUncertain."""
        return self in _READS


_READS = frozenset({Verb.LIST, Verb.GET, Verb.FIND, Verb.CONSOLE, Verb.PARTS})


class Fault(enum.StrEnum):
    """What can go wrong with one call, or with the server that it makes or deletes.

    The names are also the fields of :class:`Faults`. Where a fault does not fit a verb (no capacity for a listing), it
    never happens to it by chance, and injecting it is refused.
    """

    UNREACHABLE = "unreachable"
    """Refused before any effect, as a 503 or a refused connection: CloudUnreachable."""
    RATE_LIMITED = "rate_limited"
    """429, no effect: CloudRateLimited with ``retry_after``."""
    AUTH_FAILED = "auth_failed"
    """401, no effect: CloudAuthFailed."""
    REJECTED = "rejected"
    """400 to a create or an update: CloudRejected."""
    NO_CAPACITY = "no_capacity"
    """No room for a create: CloudCapacity."""
    BUSY = "busy"
    """The server, or the part, refuses this verb (delete, power, update) for ``refuse_for`` seconds: CloudBusy."""
    ERROR_BEFORE = "error_before"
    """500 without an effect, which the caller cannot know: CloudUncertain (reads: CloudUnreachable)."""
    ERROR_AFTER = "error_after"
    """500 after the effect: the same to the caller."""
    REQUEST_LOST = "request_lost"
    """The request never arrives; the caller hears nothing until its timeout."""
    REPLY_LOST = "reply_lost"
    """The effect happens; the caller hears nothing until its timeout."""
    CONNECTION_CLOSED = "connection_closed"
    """The effect happens; the connection closes in place of a reply: the same error, at once."""
    LATE = "late"
    """The effect happens ``late_by`` seconds later than it would; the caller hears nothing until its timeout."""
    SLOW = "slow"
    """The call takes ``slow_by`` seconds longer, half before its effect and half after."""
    STUCK_BUILD = "stuck_build"
    """A create's server stays in BUILD; a part never becomes ready."""
    FAILED_BUILD = "failed_build"
    """A create's server ends in ERROR in place of ACTIVE; a part fails in place of becoming ready."""
    SPOT_KILL = "spot_kill"
    """A create's server is taken away ``spot_after`` seconds after its boot: it becomes ``spot_state``."""
    STUCK_DELETE = "stuck_delete"
    """A deleted server stays in DELETING, and a deleted part is there, until it is deleted again."""


class Faults(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Probability of each fault, a call. At most one call fault happens to a call; fates of servers add to it."""

    unreachable: Probability = 0.0
    rate_limited: Probability = 0.0
    auth_failed: Probability = 0.0
    rejected: Probability = 0.0
    no_capacity: Probability = 0.0
    busy: Probability = 0.0
    error_before: Probability = 0.0
    error_after: Probability = 0.0
    request_lost: Probability = 0.0
    reply_lost: Probability = 0.0
    connection_closed: Probability = 0.0
    late: Probability = 0.0
    slow: Probability = 0.0
    stuck_build: Probability = 0.0
    failed_build: Probability = 0.0
    spot_kill: Probability = 0.0
    stuck_delete: Probability = 0.0


_POWER = frozenset({Verb.START, Verb.STOP, Verb.REBOOT})
_CREATES = frozenset({Verb.CREATE, Verb.PART})
_DELETES = frozenset({Verb.DELETE, Verb.UNPART})
_FITS: dict[Fault, frozenset[Verb]] = {
    Fault.REJECTED: _CREATES | {Verb.UPDATE},
    Fault.NO_CAPACITY: _CREATES,
    Fault.BUSY: _POWER | _DELETES | {Verb.UPDATE},
    Fault.LATE: _POWER | _CREATES | _DELETES | {Verb.FINISH, Verb.UPDATE},
    Fault.STUCK_BUILD: _CREATES,
    Fault.FAILED_BUILD: _CREATES,
    Fault.SPOT_KILL: frozenset({Verb.CREATE}),
    Fault.STUCK_DELETE: _DELETES,
}
_ALL = frozenset(Verb)
_FATES = (Fault.STUCK_BUILD, Fault.FAILED_BUILD, Fault.SPOT_KILL, Fault.STUCK_DELETE)


class Injection(msgspec.Struct):
    """A scripted fault that has calls left."""

    verb: Verb
    fault: Fault
    times: int
    delay: float | None = None
    """Seconds: in place of ``late_by``, ``slow_by``, ``refuse_for`` or ``spot_after``."""
    retry_after: float | None = None


class FaultPlan:
    """Decides which faults a call gets."""

    def __init__(self, faults: Faults, rng: random.Random) -> None:  # noqa: TID251 - its type; it is the world's
        self._rng = rng
        self._scripted: list[Injection] = []
        self.faults = faults

    @property
    def faults(self) -> Faults:
        """The probabilities; assign to change them."""
        return self._faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._faults = faults
        self._by_chance: dict[Verb, tuple[list[tuple[float, Fault]], list[tuple[float, Fault]]]] = {}
        for verb in Verb:
            calls: list[tuple[float, Fault]] = []
            fates: list[tuple[float, Fault]] = []
            for fault in Fault:
                probability = getattr(faults, fault.value)
                if probability and verb in _FITS.get(fault, _ALL):
                    table = fates if fault in _FATES else calls
                    table.append((probability + (table[-1][0] if table else 0.0), fault))
            if calls or fates:
                self._by_chance[verb] = (calls, fates)

    @property
    def scripted(self) -> tuple[Injection, ...]:
        """The injections that have not happened yet."""
        return tuple(self._scripted)

    def inject(
        self, verb: str, fault: Fault | str, times: int, *, delay: float | None, retry_after: float | None
    ) -> None:
        """The next ``times`` calls of ``verb`` get ``fault``. Raises InvalidInput if it does not fit the verb."""
        injection = Injection(Verb(verb), Fault(fault), times, delay, retry_after)
        if injection.verb not in _FITS.get(injection.fault, _ALL):
            raise InvalidInput(f"the fault {injection.fault.value} does not fit the verb {injection.verb.value}")
        self._scripted.append(injection)

    def clear(self) -> None:
        """No scripted fault is left."""
        self._scripted.clear()

    def choose(self, verb: Verb) -> tuple[Injection | None, Injection | None]:
        """The fault of this call, and the fate of its server."""
        if not self._scripted and verb not in self._by_chance:
            return None, None
        calls, fates = self._by_chance.get(verb, ([], []))
        fault = self._from_script(verb, fate=False) or self._draw(verb, calls)
        fate = self._from_script(verb, fate=True) or self._draw(verb, fates)
        return fault, fate

    def _from_script(self, verb: Verb, *, fate: bool) -> Injection | None:
        for index, injection in enumerate(self._scripted):
            if injection.verb is verb and (injection.fault in _FATES) is fate:
                injection.times -= 1
                if injection.times <= 0:
                    del self._scripted[index]
                return injection
        return None

    def _draw(self, verb: Verb, table: list[tuple[float, Fault]]) -> Injection | None:
        if not table:
            return None
        drawn = self._rng.random() * max(1.0, table[-1][0])
        for limit, fault in table:
            if drawn < limit:
                return Injection(verb, fault, 0)
        return None
