"""The ``cloudsigma`` cloud as a plug-in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from pelagos.clouds.cloudsigma.options import CloudSigmaAccount, CloudSigmaResource
from pelagos.clouds.libcloud.presence import LIBCLOUD, needs_libcloud
from pelagos.clouds.port import CloudDriver, DriverContext

if TYPE_CHECKING:
    from pelagos.clouds.cloudsigma.driver import CloudSigmaDriver

__all__ = ["DRIVER", "CloudSigmaPlugin"]


class CloudSigmaPlugin:
    """Opens accounts of CloudSigma; Libcloud is loaded only then."""

    name = "cloudsigma"
    resource: type[msgspec.Struct] = CloudSigmaResource
    account_options: type[msgspec.Struct] = CloudSigmaAccount
    account_keys: Mapping[str, str] = {"endpoint": "endpoint", "email": "email", "password": "password"}
    library = LIBCLOUD

    async def open(self, context: DriverContext) -> CloudDriver:
        """A driver for one account. Nothing is sent until it is needed."""
        account = msgspec.convert(dict(context.options), CloudSigmaAccount, strict=False)
        return (await context.world.run_blocking(self._load))(context, account)

    def _load(self) -> type[CloudSigmaDriver]:
        """Blocks: Libcloud and its HTTP library are large."""
        with needs_libcloud(self.name):
            import libcloud.compute.drivers.cloudsigma  # noqa: F401 - whether it is there

            from pelagos.clouds.cloudsigma.driver import CloudSigmaDriver

        return CloudSigmaDriver


DRIVER = CloudSigmaPlugin()
