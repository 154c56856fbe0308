"""The ``ec2`` cloud as a plug-in."""

from __future__ import annotations

import msgspec

from pelagos.clouds.ec2.options import Ec2Account, Ec2Resource
from pelagos.clouds.libcloud.presence import needs_libcloud
from pelagos.clouds.port import CloudDriver, DriverContext

__all__ = ["DRIVER", "Ec2Plugin"]


class Ec2Plugin:
    """Opens accounts of services that speak EC2; Libcloud is loaded only then."""

    name = "ec2"
    resource: type[msgspec.Struct] = Ec2Resource
    account_options: type[msgspec.Struct] = Ec2Account

    async def open(self, context: DriverContext) -> CloudDriver:
        """A driver for one account. Nothing is sent until it is needed."""
        with needs_libcloud(self.name):
            from pelagos.clouds.ec2.driver import Ec2Driver

        return Ec2Driver(context, msgspec.convert(dict(context.options), Ec2Account, strict=False))


DRIVER = Ec2Plugin()
