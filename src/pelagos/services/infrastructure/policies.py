"""Policies of a node: how the service treats its instances beside making them. Values only.

They are no part of what an instance is made from, so a changed policy changes no instance.
"""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["ChangePolicy", "Choose", "NodePolicy", "OnFailure"]

ChangePolicy = Literal["replace", "keep"]
OnFailure = Literal["stop", "rollback", "keep"]
Choose = Literal["ordered", "random", "weighted", "cheapest", "least_used"]


class NodePolicy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a description says under a node's ``policy``."""

    change: ChangePolicy = "replace"
    """What becomes of instances that are described differently now: ``replace``, one after the other; or ``keep``, with
    a mark that they are not as described."""
    max_unavailable: int = 0
    """Most instances that a change may have down at once; 0: a new one is ready before an old one goes."""
    max_surge: int | None = None
    """Most instances beyond the target while they are replaced; None: one where none may be unavailable, else none."""
    on_failure: OnFailure = "rollback"
    """A change that fails because of this node: ``rollback`` to what was before; ``stop``: what is half-made goes, what
    is ready stays; ``keep``: all stays as it is."""

    choose: Choose | None = None
    """How an implementation is chosen where the node's type has several; None: as the configuration says."""
    weights: dict[str, float] = {}
    """For ``weighted``: cloud account, or else resource type -> its share of the instances; 1 for all others."""

    @property
    def surge(self) -> int:
        """How many instances there may be beyond the target while they are replaced; at least one where none may be
        unavailable, since nothing could move otherwise."""
        if self.max_surge is None:
            return 0 if self.max_unavailable else 1
        return self.max_surge if self.max_unavailable else max(1, self.max_surge)
