"""The ``cloudbroker`` cloud as a plug-in."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from pelagos.clouds.cloudbroker.options import CloudBrokerAccount, CloudBrokerResource
from pelagos.clouds.port import CloudDriver, DriverContext

__all__ = ["DRIVER", "CloudBrokerPlugin"]


class CloudBrokerPlugin:
    """Opens accounts of a CloudBroker platform."""

    name = "cloudbroker"
    resource: type[msgspec.Struct] = CloudBrokerResource
    account_options: type[msgspec.Struct] = CloudBrokerAccount
    account_keys: Mapping[str, str] = {"endpoint": "endpoint", "email": "email", "password": "password"}

    async def open(self, context: DriverContext) -> CloudDriver:
        """A driver for one account. Nothing is sent until it is needed."""
        from pelagos.clouds.cloudbroker.driver import CloudBrokerDriver

        return CloudBrokerDriver(context, msgspec.convert(dict(context.options), CloudBrokerAccount, strict=False))


DRIVER = CloudBrokerPlugin()
