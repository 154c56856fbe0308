"""The ``docker`` cloud as a plug-in."""

from __future__ import annotations

import msgspec

from pelagos.clouds.docker.options import DockerAccount, DockerResource
from pelagos.clouds.port import CloudDriver, DriverContext, Library
from pelagos.model.errors import Unsupported

__all__ = ["DRIVER", "DockerPlugin"]


class DockerPlugin:
    """Opens accounts on engines that speak the Docker Engine API; the SDK is loaded only then."""

    name = "docker"
    resource: type[msgspec.Struct] = DockerResource
    account_options: type[msgspec.Struct] = DockerAccount
    library = Library("docker", "docker")

    async def open(self, context: DriverContext) -> CloudDriver:
        """A driver for one account. The engine is not asked before the first call.

        Raises Unsupported if the SDK is not installed."""
        try:
            from pelagos.clouds.docker.driver import DockerDriver
        except ImportError as error:
            if (error.name or "").startswith("pelagos"):
                raise
            raise Unsupported(
                f"the cloud driver 'docker' needs the Python package {error.name!r}, which is not installed",
                advice="pip install 'pelagos[docker]'",
                details={"package": error.name, "extra": "docker"},
            ) from error
        return DockerDriver(context)


DRIVER = DockerPlugin()
