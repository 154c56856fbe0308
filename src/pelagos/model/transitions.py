"""Which state may follow which: the one place that knows, for records whose states several rooms write.

The simulation fails on any change of state that is not here, and a test holds that from every state paths lead to the
good end and to being gone; so no state can be a trap. ``None`` stands for "no record yet", :data:`GONE` for a tombstone
or a record at its end.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["GONE", "TRANSITIONS", "reachable"]

GONE = "gone"

TRANSITIONS: Mapping[str, Mapping[str | None, frozenset[str]]] = {
    "operation": {
        None: frozenset({"pending", "succeeded"}),
        "pending": frozenset({"pending", "running", "uncertain", "succeeded", "failed", "cancelled"}),
        "running": frozenset({"pending", "running", "uncertain", "succeeded", "failed", "cancelled"}),
        "uncertain": frozenset({"pending", "running", "uncertain", "succeeded", "failed", "cancelled"}),
        "succeeded": frozenset(),
        "failed": frozenset(),
        "cancelled": frozenset(),
    },
    "attempt": {
        None: frozenset({"open"}),
        "open": frozenset({"open", "done", "refused", "absent", "released"}),
        "released": frozenset({"open", "done", "released"}),
        # An adoption takes up what its server carries already.
        "done": frozenset({"open"}),
        "refused": frozenset(),
        "absent": frozenset(),
    },
    "server": {
        None: frozenset({"build"}),
        # A cloud may show any state of what exists.
        **{
            state: frozenset(
                {"build", "active", "stopped", "reboot", "error", "deleting", "deleted", "unknown", GONE} - {state}
            )
            for state in ("build", "active", "stopped", "reboot", "error", "deleting", "unknown")
        },
        # Said by the cloud, before the record has become a tombstone.
        "deleted": frozenset({"build", "active", "error", "deleting", GONE}),
        GONE: frozenset(),
    },
    "part": {
        None: frozenset({"planned"}),
        "planned": frozenset({"build", "ready", GONE}),
        "build": frozenset({"ready", "deleting", GONE}),
        "ready": frozenset({"deleting", GONE}),
        "deleting": frozenset({GONE}),
        # Never without a tombstone.
        "deleted": frozenset({GONE}),
        GONE: frozenset(),
    },
    "instance": {
        None: frozenset({"pending"}),
        "pending": frozenset({"ready", "uncertain", "shutdown", "failed", "destroying", GONE}),
        "uncertain": frozenset({"pending", "ready", "shutdown", "failed", "destroying", GONE}),
        "ready": frozenset({"pending", "temp_failed", "shutdown", "failed", "destroying", GONE}),
        "temp_failed": frozenset({"ready", "pending", "shutdown", "failed", "destroying", GONE}),
        "shutdown": frozenset({"pending", "ready", "failed", "destroying", GONE}),
        # One that stays may be stopped later.
        "failed": frozenset({"pending", "ready", "shutdown", "destroying", GONE}),
        "destroying": frozenset({GONE}),
        GONE: frozenset(),
    },
    "run": {
        None: frozenset({"pending"}),
        "pending": frozenset({"running", "succeeded", "failed", "cancelled"}),
        "running": frozenset({"rolling_back", "succeeded", "failed", "cancelled", "superseded"}),
        "rolling_back": frozenset({"failed", "cancelled"}),
        "succeeded": frozenset(),
        "failed": frozenset(),
        "cancelled": frozenset(),
        "superseded": frozenset(),
    },
    "infrastructure": {
        None: frozenset({"building"}),
        "building": frozenset({"ready", "degraded", "failed", "suspended", "destroying", GONE}),
        "ready": frozenset({"degraded", "changing", "suspended", "failed", "destroying", GONE}),
        "degraded": frozenset({"ready", "changing", "suspended", "failed", "destroying", GONE}),
        "changing": frozenset({"ready", "degraded", "suspended", "failed", "destroying", GONE}),
        "destroying": frozenset({"degraded", "changing", GONE}),
        "suspended": frozenset({"ready", "degraded", "changing", "destroying", GONE}),
        "failed": frozenset({"ready", "degraded", "changing", "suspended", "destroying", GONE}),
        GONE: frozenset(),
    },
}
"""Table -> state -> the states that may follow it."""


def reachable(table: str, state: str | None) -> frozenset[str]:
    """All states to which some path leads from ``state``."""
    found: set[str] = set()
    ahead = [state]
    while ahead:
        for following in TRANSITIONS[table][ahead.pop()]:
            if following not in found:
                found.add(following)
                ahead.append(following)
    return frozenset(found)
