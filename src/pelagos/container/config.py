"""A container's configuration as plain values."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["ContainerConfig"]


class ContainerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Times are in seconds."""

    system: str = "pelagos"
    """Containers of one system share its services."""
    id: str | None = None
    """Unique in the world, also over restarts; made up if None."""
    call_timeout: float = 15.0
    """How long a call waits that names no time-out and has no deadline."""
    dependency_timeout: float = 15.0
    """How long a process waits for the services it depends on."""
    shutdown: float = 5.0
    """How long a process may take to stop before it is cancelled, unless its spawning says otherwise."""
    max_restarts: int = 3
    """The root supervisor gives up above so many restarts in ``restart_period``."""
    restart_period: float = 5.0
    max_message_bytes: int = 16 << 20
    """The size of the content of a message at the most; larger ones are refused where they are made."""
    settings: dict[str, Any] = {}
    """For the processes: ``self.container.settings``."""
