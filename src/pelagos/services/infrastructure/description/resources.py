"""Which keys the ``resource`` and ``config_management`` sections of the ancestor's plug-ins have (reference 4.7, 4.10).

A driver of the pool checks its own options, values included. These tables serve the types that no driver of this
installation knows, so that definitions can be checked where their cloud is not: presence of keys only. They also know
which extra brings the library that a type's driver needs.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import NamedTuple

__all__ = ["CONFIG_MANAGEMENT", "RESOURCES", "Keys", "missing_extra"]


class Keys(NamedTuple):
    """Keys of a section besides the common ones; of each group in ``one_of`` one must be there."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    one_of: tuple[tuple[str, ...], ...] = ()

    @property
    def known(self) -> tuple[str, ...]:
        return (*self.required, *self.optional, *(key for group in self.one_of for key in group))


RESOURCES: dict[str, Keys] = {
    "ec2": Keys(
        ("endpoint", "regionname", "image_id", "instance_type"),
        ("name", "key_name", "subnet_id", "security_group_ids", "tags"),
    ),
    "nova": Keys(
        ("endpoint", "project_id", "image_id", "flavor_name"),
        (
            *("name", "user_domain_name", "region_name", "network_id", "key_name", "security_groups", "server_name"),
            *("floating_ip", "floating_ip_pool", "volume_size", "volume_persist", "tenant_name"),
        ),
    ),
    "azure_vm": Keys(
        (
            *("endpoint", "resource_group", "location", "vm_size", "publisher", "offer", "sku", "version"),
            "username",
        ),
        ("name", "public_ip_needed", "vnet_name", "subnet_name", "server_name", "customdata"),
        (("password", "ssh_key_data"),),
    ),
    "azure_aci": Keys(
        ("endpoint", "resource_group", "location", "cpu_cores", "memory", "image", "os_type", "network_type"),
        ("name", "gpu_type", "gpu_count", "ports", "vnet_name", "subnet_name"),
    ),
    "cloudbroker": Keys(("endpoint", "description"), ("name", "start_in_vpc")),
    "cloudsigma": Keys(("endpoint", "libdrive_id", "description"), ("name",)),
    "docker": Keys(("endpoint", "origin", "image", "tag"), ("name",)),
}

INNER: dict[str, tuple[str, ...]] = {
    "cloudbroker": ("deployment_id", "instance_type_id"),
    "cloudsigma": ("cpu", "mem", "vnc_password"),
}
"""Keys that the ``description`` inside a resource must have at least."""

CONFIG_MANAGEMENT: dict[str, Keys] = {
    "chef": Keys(("endpoint", "run_list"), ("name",)),
    "puppet_solo": Keys(("manifests",), ("endpoint", "name", "modules", "attributes")),
    "dummy": Keys((), ("endpoint", "name")),
}

_LIBRARIES = {
    "ec2": ("libcloud", "libcloud"),
    "eucalyptus": ("libcloud", "libcloud"),
    "dummy": ("libcloud", "libcloud"),
    "rackspace": ("libcloud", "libcloud"),
    "libcloud": ("libcloud", "libcloud"),
    "cloudsigma": ("libcloud", "libcloud"),
    "nova": ("openstack", "openstack"),
    "openstack": ("openstack", "openstack"),
    "docker": ("docker", "docker"),
    "azure_vm": ("azure", "azure.identity"),
    "azure_aci": ("azure", "azure.identity"),
}
"""Type -> (the extra of Pelagos that brings its library, the package to import)."""


def missing_extra(type: str) -> str:
    """The extra without which no cloud of a type can be used here; empty if nothing is missing. Imports nothing but
    the package around the library."""
    extra, package = _LIBRARIES.get(type, ("", ""))
    if not extra:
        return ""
    try:
        return "" if find_spec(package) is not None else extra
    except ModuleNotFoundError:
        return extra
