"""The ``pelagos`` cloud as a plug-in."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from pelagos.clouds.pelagos.options import PelagosAccount, PelagosResource
from pelagos.clouds.port import CloudDriver, DriverContext

__all__ = ["DRIVER", "PelagosPlugin"]


class PelagosPlugin:
    """Opens accounts on daemons of other installations."""

    name = "pelagos"
    resource: type[msgspec.Struct] = PelagosResource
    account_options: type[msgspec.Struct] = PelagosAccount
    account_keys: Mapping[str, str] = {"endpoint": "endpoint", "token": "token"}

    async def open(self, context: DriverContext) -> CloudDriver:
        """A driver for one account. Nothing is sent until it is needed."""
        from pelagos.clouds.pelagos.driver import PelagosDriver

        return PelagosDriver(context, msgspec.convert(dict(context.options), PelagosAccount, strict=False))


DRIVER = PelagosPlugin()
