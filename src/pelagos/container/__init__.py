"""Hosts processes: configuration, ordered start and stop, logging. See README.md."""

from pelagos.container.config import ContainerConfig
from pelagos.container.container import Container, ContainerSnapshot
from pelagos.container.logging import configure_logging

__all__ = ["Container", "ContainerConfig", "ContainerSnapshot", "configure_logging"]
