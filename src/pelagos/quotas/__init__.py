"""Quotas: limits, holdings and reservations of a project, as arithmetic and as functions on a connection."""

from __future__ import annotations

from pelagos.quotas.arithmetic import UNLIMITED, Holding, exceeded
from pelagos.quotas.holdings import (
    cancel,
    cancel_many,
    commit,
    commit_many,
    holdings,
    release,
    reserve,
    reserve_many,
    set_limit,
)

__all__ = [
    "UNLIMITED",
    "Holding",
    "cancel",
    "cancel_many",
    "commit",
    "commit_many",
    "exceeded",
    "holdings",
    "release",
    "reserve",
    "reserve_many",
    "set_limit",
]
