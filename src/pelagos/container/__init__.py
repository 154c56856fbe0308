"""Hosts processes: configuration, ordered start and stop, apps and releases, agents. See README.md.

Names are imported at first use: whoever reads settings needs one of them, and not the processes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pelagos._lazy import lazy

if TYPE_CHECKING:
    from pelagos.container.agent import AgentProcess
    from pelagos.container.config import ContainerConfig
    from pelagos.container.container import Container, ContainerSnapshot
    from pelagos.container.inventory import AgentSettings

_HOME = {
    "AgentProcess": "agent",
    "AgentSettings": "inventory",
    "Container": "container",
    "ContainerConfig": "config",
    "ContainerSnapshot": "container",
}

__all__ = ["AgentProcess", "AgentSettings", "Container", "ContainerConfig", "ContainerSnapshot"]

__getattr__ = lazy(__name__, _HOME)
