"""What is known of an instance, and what that means for its node's target: the rules that plan and maintainer share."""

from __future__ import annotations

import enum
from collections.abc import Collection, Sequence
from typing import assert_never

import msgspec

from pelagos.model.states import InstanceState, ServerState
from pelagos.services.infrastructure.asking import Asked
from pelagos.services.infrastructure.policies import ScaleDown

__all__ = ["ObservedInstance", "Verdict", "choose_surplus", "verdict"]


class Verdict(enum.Enum):
    """What an instance is to the node's target."""

    KEEP = "keep"
    REPLACE = "replace"
    LEAVING = "leaving"


class ObservedInstance(msgspec.Struct, frozen=True, kw_only=True):
    """An instance as the store knows it. ``server`` is None while no server was asked for."""

    id: str
    node: str
    state: InstanceState
    created_at: float
    server: ServerState | None = None
    reason: str = ""
    since: float = 0.0
    """When its state changed last."""
    was_ready: bool = True
    protected: bool = False
    restarts: int = 0
    restarting: bool = False
    adopted: bool = False
    """It was not made, but taken as it was."""
    ordinal: int = 0
    account: str = ""
    implementation: int = 0
    fingerprint: str = ""
    source: str = ""
    """Digest of what it was made from; empty: not known."""
    updating: str = ""
    """Digest of what it may be made from as well: a change in place has not come to its end, or failed."""
    asked: tuple[Asked, ...] = ()
    addresses: tuple[str, ...] = ()
    private_addresses: tuple[str, ...] = ()


def verdict(state: InstanceState, server: ServerState | None) -> tuple[Verdict, str]:
    """Keep, replace (and why), or on its way out already."""
    match state:
        case InstanceState.DESTROYING:
            return Verdict.LEAVING, ""
        case InstanceState.FAILED:
            return Verdict.REPLACE, "it failed"
        case InstanceState.SHUTDOWN:
            return Verdict.REPLACE, "its server is stopped"
        case _:
            pass
    match server:
        case ServerState.DELETED:
            return Verdict.REPLACE, "its server is gone"
        case ServerState.STOPPED:
            return Verdict.REPLACE, "its server is stopped"
        case ServerState.ERROR:
            return Verdict.REPLACE, "its server is in error"
        case ServerState.DELETING:
            return Verdict.REPLACE, "its server is being deleted"
        case _:
            return Verdict.KEEP, ""


_LEAST_READY_FIRST = {
    InstanceState.FAILED: 0,
    InstanceState.SHUTDOWN: 1,
    InstanceState.UNCERTAIN: 2,
    InstanceState.TEMP_FAILED: 3,
    InstanceState.PENDING: 4,
    InstanceState.READY: 5,
}

_NEVER_READY = frozenset({InstanceState.FAILED, InstanceState.SHUTDOWN})
"""By themselves."""


def choose_surplus(
    instances: Sequence[ObservedInstance],
    count: int,
    choice: ScaleDown = "unhealthy",
    doomed: Collection[str] = frozenset(),
) -> list[str]:
    """Which ``count`` instances go when there are too many: those that are ``doomed`` anyway first, then by ``choice``
    those not ready and then the youngest, the youngest, or the oldest; of these two, such that failed and were kept go
    before any other. Protected ones never; so there may be fewer."""
    free = [instance for instance in instances if not instance.protected]
    match choice:
        case "unhealthy":
            free.sort(key=lambda i: (i.id not in doomed, _LEAST_READY_FIRST.get(i.state, 9), -i.created_at, i.id))
        case "youngest":
            free.sort(key=lambda i: (i.id not in doomed, i.state not in _NEVER_READY, -i.created_at, i.id))
        case "oldest":
            free.sort(key=lambda i: (i.id not in doomed, i.state not in _NEVER_READY, i.created_at, i.id))
        case _:
            assert_never(choice)
    return [instance.id for instance in free[:count]]
