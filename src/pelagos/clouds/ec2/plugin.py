"""The ``ec2`` cloud as a plug-in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from pelagos.clouds.ec2.options import Ec2Account, Ec2Resource
from pelagos.clouds.libcloud.presence import LIBCLOUD, needs_libcloud
from pelagos.clouds.port import CloudDriver, DriverContext

if TYPE_CHECKING:
    from pelagos.clouds.ec2.driver import Ec2Driver

__all__ = ["DRIVER", "Ec2Plugin"]

ACCOUNT_KEYS = {
    "endpoint": "endpoint",
    "regionname": "region",
    "accesskey": "access_key",
    "secretkey": "secret_key",
    "access_key": "access_key",
    "secret_key": "secret_key",
    "session_token": "session_token",
}
"""Keys of a resource section, or of the ancestor's authentication file, that say which account is meant."""


class Ec2Plugin:
    """Opens accounts of services that speak EC2; Libcloud is loaded only then."""

    name = "ec2"
    resource: type[msgspec.Struct] = Ec2Resource
    account_options: type[Ec2Account] = Ec2Account
    account_keys: Mapping[str, str] = ACCOUNT_KEYS
    library = LIBCLOUD

    async def open(self, context: DriverContext) -> CloudDriver:
        """A driver for one account. Nothing is sent until it is needed."""
        account = msgspec.convert(dict(context.options), self.account_options, strict=False)
        return (await context.world.run_blocking(self._load))(context, account)

    def _load(self) -> type[Ec2Driver]:
        """Blocks: Libcloud and its HTTP library are large."""
        with needs_libcloud(self.name):
            from pelagos.clouds.ec2.driver import Ec2Driver

        return Ec2Driver


DRIVER = Ec2Plugin()
