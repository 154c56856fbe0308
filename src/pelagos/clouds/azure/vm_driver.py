"""The ``azure_vm`` driver: virtual machines.

A machine is made by one PUT on a name that its token gives, with ``If-None-Match``: sent again, it finds the first
one's machine. The token is a tag that goes with it. Interface, public address and disk are made and deleted with the
machine by Azure itself; a network of its own is a part, since it can be deleted only after the machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pelagos.clouds.azure.arm import Arm, Exists
from pelagos.clouds.azure.machines import USER_DATA_LIMIT, Addresses, document, resource_of, server
from pelagos.clouds.azure.names import group_and_name, resource_name, token_of
from pelagos.clouds.azure.networks import NETWORK, Networks, OwnNetworks, subnet_of
from pelagos.clouds.azure.options import AzureAccount
from pelagos.clouds.errors import CloudBusy, CloudRejected, ServerNotFound
from pelagos.clouds.port import DriverContext, ForeignReader
from pelagos.clouds.values import (
    Capabilities,
    CloudServer,
    CommandResult,
    PartSpec,
    ServerSpec,
    TokenLookup,
)
from pelagos.model.errors import Unsupported
from pelagos.model.states import ServerState

__all__ = ["AzureVmDriver"]

_KIND = "Microsoft.Compute/virtualMachines"
_SECURITY = "Microsoft.Network/networkSecurityGroups"
_COMPUTE = "2024-07-01"
_NETWORK = "2023-09-01"
_CALLS = 8


class AzureVmDriver(OwnNetworks, ForeignReader):
    """Opened for one subscription."""

    def __init__(self, context: DriverContext, account: AzureAccount, arm: Arm) -> None:
        self._name = context.account
        self._world = context.world
        self._arm = arm
        self._networks = Networks(arm, context.world)
        self._capabilities = Capabilities(
            token_lookup=TokenLookup.IDEMPOTENT,
            settle=account.settle,
            create_timeout=account.create_timeout,
            call_timeout=account.call_timeout,
            build_timeout=account.build_timeout,
            poll_interval=account.poll_interval,
            parallel_calls=_CALLS,
            power=True,
            user_data_limit=USER_DATA_LIMIT,
        )

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    # -- reads -----------------------------------------------------------------------------------------------------

    async def list_servers(self, *, timeout: float) -> Sequence[CloudServer]:
        """Four requests, and one more a page, however many machines there are."""
        return await self._servers(timeout, ours=True)

    async def list_foreign_servers(self, *, timeout: float) -> Sequence[CloudServer]:
        return await self._servers(timeout, ours=False)

    async def get_server(self, provider_id: str, *, timeout: float) -> CloudServer:
        end = self._world.monotonic() + timeout
        what = "get server"
        machine = await self._arm.get(what, _path(provider_id), _COMPUTE, timeout, **{"$expand": "instanceView"})
        interfaces, public = [], []
        for reference in machine.get("properties", {}).get("networkProfile", {}).get("networkInterfaces", ()):
            interface = await self._related(what, str(reference["id"]), end)
            interfaces.append(interface)
            for configuration in interface.get("properties", {}).get("ipConfigurations", ()):
                address = (configuration.get("properties") or {}).get("publicIPAddress")
                if address:
                    public.append(await self._related(what, str(address["id"]), end))
        view = machine.get("properties", {}).get("instanceView") or {}
        return server(machine, view, Addresses.of(interfaces, public))

    async def find_by_token(self, token: str, *, timeout: float) -> CloudServer | None:
        carrying = [one for one in await self._servers(timeout, ours=True) if one.token == token]
        return min(carrying, key=lambda one: (one.created_at or 0.0, one.provider_id), default=None)

    async def console(self, provider_id: str, *, max_bytes: int, timeout: float) -> str:
        raise Unsupported(f"the account {self._name} cannot console", advice="Azure keeps it in a storage account.")

    # -- writes ----------------------------------------------------------------------------------------------------

    async def create_server(self, spec: ServerSpec, *, token: str, timeout: float) -> CloudServer:
        end = self._world.monotonic() + timeout
        resource = resource_of(spec)
        group = resource.resource_group
        subnet = subnet_of(self._arm, group, resource.vnet_name, resource.subnet_name, spec.parts.get(NETWORK, ""))
        security = self._arm.id_of(group, _SECURITY, resource.security_group) if resource.security_group else ""
        body = document(spec, resource, token, subnet, security)
        await self._arm.ensure_group(group, resource.location, timeout)
        made = f"{group.lower()}/{resource_name(spec.name, token)}"
        what = "create server"
        try:
            await self._arm.send(
                "PUT",
                _path(made),
                _COMPUTE,
                what=what,
                timeout=end - self._world.monotonic(),
                effect=True,
                not_found=CloudRejected,
                body=body,
                headers={"If-None-Match": "*"},
            )
        except Exists:
            there = await self._arm.get(what, _path(made), _COMPUTE, end - self._world.monotonic())
            if token_of(there) != token:
                raise CloudBusy(f"Azure has a machine {made} that is not this one", advice="Delete it.") from None
        except (CloudBusy, CloudRejected):
            self._arm.forget_group(group)
            raise
        return CloudServer(provider_id=made, name=spec.name, state=ServerState.BUILD, token=token)

    async def delete_server(self, provider_id: str, *, timeout: float) -> None:
        try:
            await self._arm.send(
                "DELETE", _path(provider_id), _COMPUTE, what="delete server", timeout=timeout, effect=True
            )
        except ServerNotFound:
            return

    async def start_server(self, provider_id: str, *, timeout: float) -> None:
        await self._switch(provider_id, "start", timeout)

    async def stop_server(self, provider_id: str, *, timeout: float) -> None:
        """Deallocate it: a machine that only stops is still paid for. A static address stays."""
        await self._switch(provider_id, "deallocate", timeout)

    async def reboot_server(self, provider_id: str, *, timeout: float) -> None:
        await self._switch(provider_id, "restart", timeout)

    async def execute(self, provider_id: str, argv: Sequence[str], *, timeout: float) -> CommandResult:
        raise Unsupported(f"the account {self._name} cannot execute", advice="Use SSH.")

    # -- parts -----------------------------------------------------------------------------------------------------

    def parts(self, spec: ServerSpec) -> Sequence[PartSpec]:
        """A network, where the description names none. What cannot be read has none: the create call says why."""
        try:
            resource = resource_of(spec)
        except CloudRejected:
            return ()
        if resource.vnet_name:
            return ()
        return [self._networks.spec(spec.name, resource.resource_group, resource.location)]

    # -- the rest --------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        await self._arm.close()

    def snapshot(self) -> dict[str, Any]:
        """Counters and facts for people; no secrets."""
        return self._arm.snapshot()

    async def _servers(self, timeout: float, *, ours: bool) -> list[CloudServer]:
        end = self._world.monotonic() + timeout

        async def collect(kind: str, version: str, **params: str) -> list[dict[str, Any]]:
            left = end - self._world.monotonic()
            return await self._arm.collect("list servers", f"/providers/{kind}", version, left, **params)

        found = [one for one in await collect(_KIND, _COMPUTE) if bool(token_of(one)) is ours]
        if not found:
            return []
        # This listing has the power states, and nothing that is sure to be there but the ids.
        views = {
            str(one.get("id", "")).lower(): one.get("properties", {}).get("instanceView") or {}
            for one in await collect(_KIND, _COMPUTE, statusOnly="true")
        }
        interfaces = await collect("Microsoft.Network/networkInterfaces", _NETWORK)
        addresses = Addresses.of(interfaces, await collect("Microsoft.Network/publicIPAddresses", _NETWORK))
        return [server(one, views.get(str(one["id"]).lower(), {}), addresses) for one in found]

    async def _related(self, what: str, id_: str, end: float) -> dict[str, Any]:
        """A resource by its whole id; empty where it is gone meanwhile."""
        path = "/" + id_.strip("/").split("/", 2)[2]
        try:
            return await self._arm.get(what, path, _NETWORK, end - self._world.monotonic())
        except ServerNotFound:
            return {}

    async def _switch(self, provider_id: str, verb: str, timeout: float) -> None:
        path = f"{_path(provider_id)}/{verb}"
        await self._arm.send("POST", path, _COMPUTE, what=f"{verb} server", timeout=timeout, effect=True)


def _path(provider_id: str) -> str:
    group, name = group_and_name(provider_id)
    return f"/resourceGroups/{group}/providers/{_KIND}/{name}"
