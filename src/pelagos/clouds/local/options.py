"""What a person may say about local instances: the ``resource`` section of a node, the options of an account."""

from __future__ import annotations

import enum
from typing import Annotated

import msgspec

__all__ = ["LIMITS", "Isolation", "LocalAccount", "LocalResource", "NetworkChoice"]

LIMITS = frozenset({"cpus", "memory_mb"})
"""Keys that can be changed on an instance that is there, where it has control groups."""


class Isolation(enum.StrEnum):
    """How much an account asks for."""

    AUTO = "auto"
    """The best that this machine allows."""
    NAMESPACES = "namespaces"
    """Namespaces or nothing."""
    PROCESSES = "processes"
    """Plain processes in a private directory."""


class NetworkChoice(enum.StrEnum):
    """Which network instances have."""

    AUTO = "auto"
    BRIDGE = "bridge"
    LOOPBACK = "loopback"


class LocalResource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The ``resource`` section of a node on the ``local`` cloud."""

    image: str = "host"
    """``host``: this machine's own files, copied on write; or the path of a tarball of a root file system."""
    cpus: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """Most processors' worth of time, for example 0.5."""
    memory_mb: Annotated[int, msgspec.Meta(ge=8)] | None = None
    """Most memory in MiB."""
    mask: tuple[str, ...] = ()
    """More absolute paths of directories of this machine that the instance must not see."""
    env: dict[str, str] = {}
    """Environment of the user data's commands and of ``execute``."""
    description: str = ""


class LocalAccount(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The options of a ``local`` account."""

    isolation: Isolation = Isolation.AUTO
    network: NetworkChoice = NetworkChoice.AUTO
    subnet: str = ""
    """Network of the bridge, for example ``10.99.0.0/24``; empty: a free /22 out of 100.64.0.0/10."""
    mask: tuple[str, ...] = ()
    """Directories hidden from all instances, besides /root, /home, /tmp, /var/tmp, /run, /mnt and PELAGOS_HOME."""
    console_mb: Annotated[float, msgspec.Meta(gt=0, le=1024)] = 4.0
    """Most MiB that an instance's console log takes; older output is dropped."""
    stop_grace: Annotated[float, msgspec.Meta(ge=0, le=600)] = 5.0
    """Seconds between SIGTERM and SIGKILL when a server is stopped."""
