"""Networks that servers have to themselves: made before them as a part, and deleted after them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from pelagos.clouds.azure.arm import Arm
from pelagos.clouds.azure.names import NAME, group_and_name, provider_id, resource_name, tags, token_of
from pelagos.clouds.errors import CloudBusy, CloudRejected, ServerNotFound
from pelagos.clouds.values import CloudPart, CloudServer, PartKind, PartSpec, ServerSpec
from pelagos.model.world import World

__all__ = ["NETWORK", "Networks", "OwnNetworks", "subnet_of"]

NETWORK = "network"
"""The key of the part."""
_KIND = "Microsoft.Network/virtualNetworks"
_VERSION = "2023-09-01"
_SUBNET = "default"
_RANGE = "10.0.0.0/16"
_SUBNET_RANGE = "10.0.0.0/24"


class Networks:
    """The virtual networks of one account that carry a token.

    ``delegation`` is the service that a subnet belongs to; only networks with the same are this driver's."""

    def __init__(self, arm: Arm, world: World, delegation: str = "") -> None:
        self._arm = arm
        self._world = world
        self._delegation = delegation

    def spec(self, name: str, group: str, location: str) -> PartSpec:
        """The part that a server of that name needs."""
        return PartSpec(key=NETWORK, kind=PartKind.NETWORK, name=name, options={"group": group, "location": location})

    async def create(self, part: PartSpec, *, token: str, timeout: float) -> CloudPart:
        """One PUT; sent again it changes nothing."""
        end = self._world.monotonic() + timeout
        group, location = str(part.options["group"]), str(part.options["location"])
        await self._arm.ensure_group(group, location, timeout)
        subnet: dict[str, Any] = {"addressPrefix": _SUBNET_RANGE}
        if self._delegation:
            service = {"name": "pelagos", "properties": {"serviceName": self._delegation}}
            subnet["delegations"] = [service]
        try:
            made = await self._arm.send(
                "PUT",
                f"/resourceGroups/{group}/providers/{_KIND}/{resource_name(part.name, token)}",
                _VERSION,
                what="create network",
                timeout=end - self._world.monotonic(),
                effect=True,
                not_found=CloudRejected,
                body={
                    "location": location,
                    "tags": tags(part.name, token),
                    "properties": {
                        "addressSpace": {"addressPrefixes": [_RANGE]},
                        "subnets": [{"name": _SUBNET, "properties": subnet}],
                    },
                },
            )
        except (CloudBusy, CloudRejected):
            self._arm.forget_group(group)
            raise
        return self._part(made)

    async def list(self, *, timeout: float) -> Sequence[CloudPart]:
        """All that carry a token."""
        found = await self._arm.collect("list networks", f"/providers/{_KIND}", _VERSION, timeout)
        return [self._part(one) for one in found if token_of(one) and self._is_ours(one)]

    async def delete(self, part: CloudPart, *, timeout: float) -> None:
        """Raises CloudBusy while the server's interface is still in it."""
        group, name = group_and_name(part.provider_id)
        path = f"/resourceGroups/{group}/providers/{_KIND}/{name}"
        try:
            await self._arm.send("DELETE", path, _VERSION, what="delete network", timeout=timeout, effect=True)
        except ServerNotFound:
            return

    def _is_ours(self, network: dict[str, Any]) -> bool:
        subnets = (network.get("properties") or {}).get("subnets") or [{}]
        found = (subnets[0].get("properties") or {}).get("delegations") or [{}]
        return str((found[0].get("properties") or {}).get("serviceName") or "") == self._delegation

    def _part(self, network: dict[str, Any]) -> CloudPart:
        state = str((network.get("properties") or {}).get("provisioningState") or "")
        return CloudPart(
            provider_id=provider_id(network),
            kind=PartKind.NETWORK,
            name=str((network.get("tags") or {}).get(NAME) or ""),
            token=token_of(network),
            ready=state == "Succeeded",
            failed="Azure could not make the network" if state == "Failed" else "",
        )


class OwnNetworks(Protocol):
    """Of a driver: its servers' networks as parts, and nothing to finish, since all else comes with the server."""

    _networks: Networks

    async def create_part(self, part: PartSpec, *, token: str, timeout: float) -> CloudPart:
        return await self._networks.create(part, token=token, timeout=timeout)

    async def list_parts(self, *, timeout: float) -> Sequence[CloudPart]:
        return await self._networks.list(timeout=timeout)

    async def delete_part(self, part: CloudPart, *, timeout: float) -> None:
        await self._networks.delete(part, timeout=timeout)

    async def finish_server(self, provider_id: str, spec: ServerSpec, *, timeout: float) -> CloudServer:
        return await self.get_server(provider_id, timeout=timeout)

    async def get_server(self, provider_id: str, *, timeout: float) -> CloudServer: ...


def subnet_of(arm: Arm, group: str, vnet: str, subnet: str, part: str) -> str:
    """The id of the subnet that a server is in: of a network that is there, or of the part that was made for it.

    Raises CloudRejected where there is neither."""
    if vnet:
        return f"{arm.id_of(group, _KIND, vnet)}/subnets/{subnet}"
    if not part:
        raise CloudRejected("the network of the server was not made before it")
    return f"{arm.id_of(*_in(part))}/subnets/{_SUBNET}"


def _in(part: str) -> tuple[str, str, str]:
    group, name = group_and_name(part)
    return group, _KIND, name
