"""Any provider of Libcloud's as a plug-in, and thin configurations of it for some of them.

A thin configuration has a type, account options and resource keys of its own, and says them in those of ``libcloud``.
Nothing else is its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from pelagos.clouds.libcloud.options import (
    AccountTimes,
    DummyAccount,
    DummyResource,
    LibcloudAccount,
    LibcloudResource,
    RackspaceAccount,
    RackspaceResource,
)
from pelagos.clouds.libcloud.presence import LIBCLOUD, needs_libcloud
from pelagos.clouds.port import CloudDriver, DriverContext

if TYPE_CHECKING:
    from pelagos.clouds.libcloud.driver import LibcloudDriver

__all__ = ["DRIVER", "DUMMY", "RACKSPACE", "DummyPlugin", "LibcloudPlugin", "RackspacePlugin"]


class LibcloudPlugin:
    """Opens accounts of any provider; Libcloud is loaded only then."""

    name = "libcloud"
    resource: type[msgspec.Struct] = LibcloudResource
    account_options: type[msgspec.Struct] = LibcloudAccount
    library = LIBCLOUD

    def account_of(self, context: DriverContext) -> LibcloudAccount:
        """The account's options as those of ``libcloud``."""
        return msgspec.convert(dict(context.options), LibcloudAccount, strict=False)

    def resource_of(self, options: Mapping[str, Any]) -> LibcloudResource:
        """A resource's keys as those of ``libcloud``. Raises msgspec.ValidationError."""
        return msgspec.convert(dict(options), LibcloudResource, strict=False)

    async def open(self, context: DriverContext) -> CloudDriver:
        """A driver for one account. Raises NotFound for an unknown provider, InvalidInput for options that it does
        not take, and, where the provider's driver logs in when it is made, what that comes to."""
        driver_class = await context.world.run_blocking(self._load)
        driver = driver_class(context, self.account_of(context), resource=self.resource_of)
        try:
            await driver.begin()
        except BaseException:
            await driver.close()
            raise
        return driver

    def _load(self) -> type[LibcloudDriver]:
        """Blocks: Libcloud and its HTTP library are large."""
        with needs_libcloud(self.name):
            import libcloud.compute.base  # noqa: F401 - whether it is there

            from pelagos.clouds.libcloud.driver import LibcloudDriver

        return LibcloudDriver


class DummyPlugin(LibcloudPlugin):
    """Libcloud's dummy provider, for trying out and for tests: servers in memory, running at once."""

    name = "dummy"
    resource: type[msgspec.Struct] = DummyResource
    account_options: type[msgspec.Struct] = DummyAccount

    def account_of(self, context: DriverContext) -> LibcloudAccount:
        options = msgspec.convert(dict(context.options), DummyAccount, strict=False)
        world = options.world or f"{context.home}/{context.account}"
        return LibcloudAccount(provider="dummy", key=world, **_times(options))

    def resource_of(self, options: Mapping[str, Any]) -> LibcloudResource:
        resource = msgspec.convert(dict(options), DummyResource, strict=False)
        return LibcloudResource(size=resource.size, image=resource.image)


class RackspacePlugin(LibcloudPlugin):
    """Rackspace's public cloud of the second generation."""

    name = "rackspace"
    resource: type[msgspec.Struct] = RackspaceResource
    account_options: type[msgspec.Struct] = RackspaceAccount

    def account_of(self, context: DriverContext) -> LibcloudAccount:
        options = msgspec.convert(dict(context.options), RackspaceAccount, strict=False)
        arguments: dict[str, Any] = dict(options.arguments)
        if options.endpoint:
            arguments["ex_force_auth_url"] = options.endpoint.rstrip("/").removesuffix("/v2.0")
        if options.tenant_name:
            arguments["ex_tenant_name"] = options.tenant_name
        return LibcloudAccount(
            provider="rackspace",
            key=options.username,
            secret=options.api_key,
            region=options.region,
            arguments=arguments,
            **_times(options),
        )

    def resource_of(self, options: Mapping[str, Any]) -> LibcloudResource:
        resource = msgspec.convert(dict(options), RackspaceResource, strict=False)
        extra: dict[str, Any] = dict(resource.extra)
        if resource.config_drive:
            extra["ex_config_drive"] = True
        return LibcloudResource(
            size=resource.flavor,
            image=resource.image,
            key_name=resource.key_name,
            metadata=resource.metadata,
            extra=extra,
        )


def _times(options: AccountTimes) -> dict[str, Any]:
    return {name: getattr(options, name) for name in AccountTimes.__struct_fields__}


DRIVER = LibcloudPlugin()
DUMMY = DummyPlugin()
RACKSPACE = RackspacePlugin()
