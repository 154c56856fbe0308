"""The ``docker`` cloud: servers as containers of an engine that speaks the Docker Engine API; also podman's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pelagos.clouds.docker.options import DockerAccount, DockerHealth, DockerResource, DockerTls, RegistryLogin
from pelagos.clouds.docker.plugin import DRIVER

if TYPE_CHECKING:
    from pelagos.clouds.docker.driver import DockerDriver

__all__ = ["DRIVER", "DockerAccount", "DockerDriver", "DockerHealth", "DockerResource", "DockerTls", "RegistryLogin"]


def __getattr__(name: str) -> Any:
    """Load the driver, and with it the SDK, when it is asked for."""
    if name == "DockerDriver":
        from pelagos.clouds.docker.driver import DockerDriver

        return DockerDriver
    raise AttributeError(name)
