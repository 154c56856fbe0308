"""What the maintainer is about, and what it can decide to do about a node or an instance. Values only."""

from __future__ import annotations

import enum

import msgspec

__all__ = ["Create", "Decision", "Destroy", "Mode", "Restart", "Update"]


class Mode(enum.Enum):
    """What the maintainer is about."""

    BUILD = "build"
    """Towards the targets: create, replace, remove what is too many."""
    ROLLBACK = "rollback"
    """Remove what one run made."""
    DOWN = "down"
    """Remove everything."""
    HOLD = "hold"
    """Only look."""


class Create(msgspec.Struct, frozen=True):
    node: str
    count: int


class Destroy(msgspec.Struct, frozen=True):
    """``surplus``: nothing is wrong with it; it is only no longer wanted."""

    instance_id: str
    reason: str
    surplus: bool = False


class Restart(msgspec.Struct, frozen=True):
    """``verb``: ``start`` a stopped server, or ``reboot`` one that runs."""

    instance_id: str
    verb: str
    reason: str


class Update(msgspec.Struct, frozen=True):
    """Change it in place."""

    instance_id: str


Decision = Create | Destroy | Restart | Update
