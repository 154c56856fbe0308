"""A virtual machine in Azure's words, and what its documents say. Pure.

The interface, its public address and the disk are part of the machine's own document and go with it (``deleteOption``),
so a machine is made by one request and leaves nothing.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import msgspec

from pelagos.clouds.azure.names import NAME, provider_id, resource_name, tags, token_of
from pelagos.clouds.azure.options import AzureVmResource
from pelagos.clouds.errors import CloudRejected
from pelagos.clouds.values import CloudServer, ServerSpec
from pelagos.model.states import ServerState

__all__ = ["USER_DATA_LIMIT", "Addresses", "document", "resource_of", "server"]

USER_DATA_LIMIT = 65_535
_NIC_VERSION = "2022-05-01"
_HOSTNAME_LIMIT = 64
_POWER = {
    "running": ServerState.ACTIVE,
    "stopping": ServerState.ACTIVE,
    "deallocating": ServerState.ACTIVE,
    "starting": ServerState.BUILD,
    "creating": ServerState.BUILD,
    "stopped": ServerState.STOPPED,
    "deallocated": ServerState.STOPPED,
}
"""By the power state of the instance view. One that stops still is what it was."""


class Addresses(msgspec.Struct, frozen=True):
    """The interfaces and public addresses of an account, by their ids in lower case."""

    interfaces: dict[str, dict[str, Any]]
    public: dict[str, dict[str, Any]]

    @classmethod
    def of(cls, interfaces: Iterable[dict[str, Any]], public: Iterable[dict[str, Any]]) -> Addresses:
        return cls(_by_id(interfaces), _by_id(public))

    def __call__(self, machine: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(public, private) addresses of a machine, without those that Azure has not given yet."""
        outer: list[str] = []
        inner: list[str] = []
        for reference in _properties(machine).get("networkProfile", {}).get("networkInterfaces", ()):
            interface = self.interfaces.get(str(reference.get("id", "")).lower(), {})
            for configuration in _properties(interface).get("ipConfigurations", ()):
                given = _properties(configuration)
                inner.append(str(given.get("privateIPAddress") or ""))
                address = self.public.get(str((given.get("publicIPAddress") or {}).get("id", "")).lower(), {})
                outer.append(str(_properties(address).get("ipAddress") or ""))
        return tuple(filter(None, outer)), tuple(filter(None, inner))


def resource_of(spec: ServerSpec) -> AzureVmResource:
    """Raises CloudRejected if the options are none of this cloud's."""
    try:
        return msgspec.convert(dict(spec.options), AzureVmResource, strict=False)
    except msgspec.ValidationError as error:
        raise CloudRejected(f"the resource is wrong: {error}", advice="See the keys of `type: azure_vm`.") from error


def document(
    spec: ServerSpec, resource: AzureVmResource, token: str, subnet: str, security_group: str
) -> dict[str, Any]:
    """What makes the machine; ``subnet`` and ``security_group`` are ids. Raises CloudRejected."""
    name = resource_name(spec.name, token)
    user_data = (spec.user_data or resource.customdata).encode()
    if len(user_data) > USER_DATA_LIMIT:
        raise CloudRejected(
            f"the user data has {len(user_data)} bytes, and Azure takes {USER_DATA_LIMIT}",
            advice="Shorten the context, or let it fetch the rest from somewhere.",
        )
    address: dict[str, Any] = {"primary": True, "subnet": {"id": subnet}}
    if resource.public_ip_needed:
        address["publicIPAddressConfiguration"] = {
            "name": f"{name}-ip",
            "sku": {"name": "Standard"},
            "properties": {"deleteOption": "Delete", "publicIPAllocationMethod": "Static"},
        }
    interface: dict[str, Any] = {
        "primary": True,
        "deleteOption": "Delete",
        "ipConfigurations": [{"name": "primary", "properties": address}],
    }
    if security_group:
        interface["networkSecurityGroup"] = {"id": security_group}
    hostname = (resource.server_name or spec.hostname or name)[:_HOSTNAME_LIMIT].rstrip("-.")
    system: dict[str, Any] = {"computerName": hostname, "adminUsername": resource.username}
    if user_data:
        system["customData"] = base64.b64encode(user_data).decode()
    if resource.password:
        system["adminPassword"] = resource.password
    else:
        key = {"path": f"/home/{resource.username}/.ssh/authorized_keys", "keyData": resource.ssh_key_data}
        system["linuxConfiguration"] = {"disablePasswordAuthentication": True, "ssh": {"publicKeys": [key]}}
    image = {key: getattr(resource, key) for key in ("publisher", "offer", "sku", "version")}
    return {
        "location": resource.location,
        "tags": tags(spec.name, token),
        "properties": {
            "hardwareProfile": {"vmSize": resource.vm_size},
            "storageProfile": {
                "imageReference": image,
                "osDisk": {"name": f"{name}-disk", "createOption": "FromImage", "deleteOption": "Delete"},
            },
            "osProfile": system,
            "networkProfile": {
                "networkApiVersion": _NIC_VERSION,
                "networkInterfaceConfigurations": [{"name": f"{name}-nic", "properties": interface}],
            },
        },
    }


def server(machine: Mapping[str, Any], view: Mapping[str, Any], addresses: Addresses) -> CloudServer:
    """A machine with its instance view, which may be empty."""
    properties = _properties(machine)
    state, reason = _state(str(properties.get("provisioningState") or ""), view)
    outer, inner = addresses(machine)
    image = properties.get("storageProfile", {}).get("imageReference") or {}
    return CloudServer(
        provider_id=provider_id(machine),
        name=str((machine.get("tags") or {}).get(NAME) or machine.get("name") or ""),
        state=state,
        token=token_of(machine),
        addresses=outer,
        private_addresses=inner,
        reason=reason,
        created_at=_time(str(properties.get("timeCreated") or "")),
        flavor=str(properties.get("hardwareProfile", {}).get("vmSize") or ""),
        image=str(image.get("sku") or ""),
    )


def _state(provisioning: str, view: Mapping[str, Any]) -> tuple[ServerState, str]:
    """The ancestor looked at the first alone, so a machine that was stopped looked ready."""
    statuses = [one for one in view.get("statuses") or () if isinstance(one, Mapping)]
    codes = [str(one.get("code") or "").lower() for one in statuses]
    power = next((code.partition("/")[2] for code in codes if code.startswith("powerstate/")), "")
    match provisioning.lower():
        case "deleting":
            return ServerState.DELETING, ""
        case "creating":
            return ServerState.BUILD, ""
        case "failed" if power != "running":
            told = (str(one.get("message") or one.get("displayStatus") or "") for one in statuses)
            return ServerState.ERROR, "; ".join(filter(None, told)) or "Azure could not provision it"
        case _ if power in _POWER:
            return _POWER[power], ""
        case _:
            return (
                ServerState.UNKNOWN,
                f"Azure calls it {provisioning or 'nothing'}, and its power {power or 'nothing'}",
            )


def _by_id(resources: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {str(one.get("id", "")).lower(): one for one in resources}


def _properties(resource: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = resource.get("properties") or {}
    return found


def _time(text: str) -> float | None:
    """Azure has seven digits behind the point, one more than Python reads."""
    head, point, tail = text.partition(".")
    digits = tail[:6].rstrip("Z") if point else ""
    try:
        return datetime.fromisoformat(
            f"{head.removesuffix('Z')}{'.' + digits if digits.isdigit() else ''}+00:00"
        ).timestamp()
    except ValueError:
        return None
