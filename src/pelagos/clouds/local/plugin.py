"""The ``local`` cloud as a plug-in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from pelagos.clouds.local.options import LocalAccount, LocalResource
from pelagos.clouds.port import CloudDriver, DriverContext

__all__ = ["DRIVER", "LocalPlugin"]


class LocalPlugin:
    """Opens accounts of the local cloud; the driver's own modules are loaded only then."""

    name = "local"
    resource: type[msgspec.Struct] = LocalResource
    account_options: type[msgspec.Struct] = LocalAccount

    stand_in_check: Sequence[str] = ()

    def stand_in(self, type: str, keys: Mapping[str, Any]) -> Mapping[str, Any]:
        """This machine's own files, whatever image was described."""
        return {}

    async def open(self, context: DriverContext) -> CloudDriver:
        """A driver for one account. Nothing is tried and nothing written until it is needed."""
        from pelagos.clouds.local.cgroups import ControlGroups
        from pelagos.clouds.local.driver import LocalDriver

        limits = await context.world.run_blocking(lambda: ControlGroups("").version > 0)
        return LocalDriver(context, limits=limits)


DRIVER = LocalPlugin()
