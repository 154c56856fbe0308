"""Hosts processes: configuration, ordered start and stop, apps and releases, agents. See README.md."""

from pelagos.container.agent import AgentProcess
from pelagos.container.config import ContainerConfig
from pelagos.container.container import Container, ContainerSnapshot
from pelagos.container.inventory import AgentSettings

__all__ = ["AgentProcess", "AgentSettings", "Container", "ContainerConfig", "ContainerSnapshot"]
