"""The plug-ins ``openstack`` and ``nova``: one driver, two ways to describe a server."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from pelagos.clouds.openstack.options import NovaResource, OpenStackAccount, OpenStackResource
from pelagos.clouds.port import CloudDriver, DriverContext, Library
from pelagos.model.errors import Unsupported

__all__ = ["DRIVER", "NOVA", "OpenStackPlugin"]


class OpenStackPlugin:
    """Opens accounts of OpenStack clouds; openstacksdk is imported only then."""

    account_options: type[msgspec.Struct] = OpenStackAccount
    library = Library("openstack", "openstack")

    def __init__(
        self, name: str, resource: type[OpenStackResource] | type[NovaResource], account_keys: Mapping[str, str]
    ) -> None:
        self.name = name
        self.resource: type[msgspec.Struct] = resource
        self.account_keys = account_keys
        """Keys of a resource section that say which account it is -> the account's options that they are."""
        self._resource = resource

    async def open(self, context: DriverContext) -> CloudDriver:
        """A driver for one account. Reads ``clouds.yaml``, if it is used; nothing is asked of the cloud until it is
        needed. Raises Unsupported without openstacksdk, InvalidInput if the file has no such cloud."""
        try:
            from pelagos.clouds.openstack.driver import OpenStackDriver
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] == "pelagos":
                raise
            raise Unsupported(
                f"the cloud driver {self.name!r} needs the Python package {error.name!r}, which is not installed",
                advice="pip install 'pelagos[openstack]'",
                details={"package": error.name, "extra": "openstack"},
            ) from error
        return await OpenStackDriver.open(context, self._resource)


_KEYS = {"endpoint": "endpoint", "auth_url": "endpoint", "region": "region", "region_name": "region"}

DRIVER = OpenStackPlugin("openstack", OpenStackResource, _KEYS)
NOVA = OpenStackPlugin(
    "nova", NovaResource, {**_KEYS, "project_id": "project_id", "user_domain_name": "user_domain_name"}
)
