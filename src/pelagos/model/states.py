"""The states of things, as people and scripts see them."""

from __future__ import annotations

import enum

__all__ = ["InfrastructureState", "InstanceState", "OperationState", "PartState", "RunState", "ServerState"]


class InfrastructureState(enum.StrEnum):
    BUILDING = "building"
    """Its first build has not finished."""
    READY = "ready"
    """Every node has its target number of ready instances."""
    DEGRADED = "degraded"
    """It was ready, and some instance is missing or not healthy now."""
    CHANGING = "changing"
    """A run is bringing it to a newer description or scale."""
    DESTROYING = "destroying"
    SUSPENDED = "suspended"
    """Known, but not maintained: nothing is created, healed or scaled."""
    FAILED = "failed"
    """The last run ended without success and nothing works on it."""


class InstanceState(enum.StrEnum):
    PENDING = "pending"
    READY = "ready"
    SHUTDOWN = "shutdown"
    """Its server is stopped."""
    TEMP_FAILED = "temp_failed"
    """Unhealthy or unreachable for now; it is given time to recover."""
    FAILED = "failed"
    """To be replaced."""
    UNCERTAIN = "uncertain"
    """Its server may or may not exist; the cloud has not said."""
    DESTROYING = "destroying"


class ServerState(enum.StrEnum):
    """A server's state in terms all clouds share."""

    BUILD = "build"
    ACTIVE = "active"
    STOPPED = "stopped"
    REBOOT = "reboot"
    ERROR = "error"
    DELETING = "deleting"
    DELETED = "deleted"
    UNKNOWN = "unknown"
    """The cloud said something its driver cannot place; never treated as gone."""


class PartState(enum.StrEnum):
    """A part's state: of a volume, port, address or network that was made for a server."""

    PLANNED = "planned"
    """Counted into the quota; nothing of it is known to exist."""
    BUILD = "build"
    """The cloud has it, and no server can be made with it yet."""
    READY = "ready"
    DELETING = "deleting"
    DELETED = "deleted"


class OperationState(enum.StrEnum):
    PENDING = "pending"
    """Journaled; its call has not been sent."""
    RUNNING = "running"
    """An attempt is open: the call was sent, or may have been."""
    UNCERTAIN = "uncertain"
    """The call's outcome is unknown; it is looked for by its token."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return self in (OperationState.SUCCEEDED, OperationState.FAILED, OperationState.CANCELLED)


class RunState(enum.StrEnum):
    """A run is one request to change an infrastructure, followed to its end."""

    PENDING = "pending"
    RUNNING = "running"
    ROLLING_BACK = "rolling_back"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"
    """A newer change took its place before it had ended."""

    @property
    def final(self) -> bool:
        return self in (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED, RunState.SUPERSEDED)
