"""OpenStack clouds, by openstacksdk."""

from pelagos.clouds.openstack.plugin import DRIVER, NOVA, OpenStackPlugin

__all__ = ["DRIVER", "NOVA", "OpenStackPlugin"]
