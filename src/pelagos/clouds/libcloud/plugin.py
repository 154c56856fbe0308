"""Any provider of Libcloud's as a plug-in, and thin configurations of it for some of them."""

from __future__ import annotations

import msgspec

from pelagos.clouds.libcloud.options import LibcloudAccount, LibcloudResource
from pelagos.clouds.libcloud.presence import needs_libcloud
from pelagos.clouds.port import CloudDriver, DriverContext

__all__ = ["DRIVER", "LibcloudPlugin"]


class LibcloudPlugin:
    """Opens accounts of any provider; Libcloud is loaded only then."""

    name = "libcloud"
    resource: type[msgspec.Struct] = LibcloudResource
    account_options: type[msgspec.Struct] = LibcloudAccount

    async def open(self, context: DriverContext) -> CloudDriver:
        """A driver for one account. Raises NotFound for an unknown provider, InvalidInput for options that it does
        not take, and, where the provider's driver logs in when it is made, what that comes to."""
        return await open_account(self.name, context, msgspec.convert(dict(context.options), LibcloudAccount))


async def open_account(name: str, context: DriverContext, account: LibcloudAccount) -> CloudDriver:
    """The generic driver, begun; it is closed again if it cannot begin."""
    with needs_libcloud(name):
        from pelagos.clouds.libcloud.driver import LibcloudDriver

    driver = LibcloudDriver(context, account)
    try:
        await driver.begin()
    except BaseException:
        await driver.close()
        raise
    return driver


DRIVER = LibcloudPlugin()
