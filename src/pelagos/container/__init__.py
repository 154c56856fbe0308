"""Hosts processes: configuration, ordered start and stop. See README.md."""

from pelagos.container.config import ContainerConfig
from pelagos.container.container import Container, ContainerSnapshot

__all__ = ["Container", "ContainerConfig", "ContainerSnapshot"]
