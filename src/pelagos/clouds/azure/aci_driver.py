"""The ``azure_aci`` driver: a server is a container group with one container.

Its name and its tag hold the token. Azure takes a PUT on a group that is there for an update, and starts its
containers anew; so a create looks first, and one that is sent again finds the first one's group.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from pelagos.clouds.azure.arm import Arm
from pelagos.clouds.azure.containers import CONTAINER, document, needs_view, resource_of, server
from pelagos.clouds.azure.names import group_and_name, provider_id, resource_name, token_of
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

__all__ = ["AzureAciDriver"]

_KIND = "Microsoft.ContainerInstance/containerGroups"
_VERSION = "2023-05-01"
_CALLS = 8
_CONSOLE_LINES = 10_000


class AzureAciDriver(OwnNetworks, ForeignReader):
    """Opened for one subscription."""

    def __init__(self, context: DriverContext, account: AzureAccount, arm: Arm) -> None:
        self._name = context.account
        self._world = context.world
        self._arm = arm
        self._networks = Networks(arm, context.world, delegation=_KIND)
        self._looks = asyncio.Semaphore(_CALLS)
        self._capabilities = Capabilities(
            token_lookup=TokenLookup.IDEMPOTENT,
            settle=account.settle,
            create_timeout=account.create_timeout,
            call_timeout=account.call_timeout,
            build_timeout=account.build_timeout,
            poll_interval=account.poll_interval,
            parallel_calls=_CALLS,
            power=True,
            console=True,
            user_data_limit=0,
        )

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    # -- reads -----------------------------------------------------------------------------------------------------

    async def list_servers(self, *, timeout: float) -> Sequence[CloudServer]:
        """A listing lacks the states of what is provisioned: each of those is looked at by itself, some at once."""
        return await self._servers(timeout, lambda group: bool(token_of(group)))

    async def list_foreign_servers(self, *, timeout: float) -> Sequence[CloudServer]:
        return await self._servers(timeout, lambda group: not token_of(group))

    async def get_server(self, provider_id: str, *, timeout: float) -> CloudServer:
        return server(await self._arm.get("get server", _path(provider_id), _VERSION, timeout))

    async def find_by_token(self, token: str, *, timeout: float) -> CloudServer | None:
        carrying = await self._servers(timeout, lambda group: token_of(group) == token)
        return min(carrying, key=lambda one: one.provider_id, default=None)

    async def console(self, provider_id: str, *, max_bytes: int, timeout: float) -> str:
        if max_bytes <= 0:
            await self.get_server(provider_id, timeout=timeout)
            return ""
        path = f"{_path(provider_id)}/containers/{CONTAINER}/logs"
        lines = str(min(max_bytes, _CONSOLE_LINES))
        told = await self._arm.get("console", path, _VERSION, timeout, tail=lines)
        text = str(told.get("content") or "").encode()
        return text[max(0, len(text) - max_bytes) :].decode("utf-8", "ignore")

    # -- writes ----------------------------------------------------------------------------------------------------

    async def create_server(self, spec: ServerSpec, *, token: str, timeout: float) -> CloudServer:
        end = self._world.monotonic() + timeout
        resource = resource_of(spec)
        group, vnet = resource.resource_group, resource.vnet_name
        subnet = ""
        if not resource.public:
            subnet = subnet_of(self._arm, group, vnet, resource.subnet_name, spec.parts.get(NETWORK, ""))
        body = document(spec, resource, token, subnet)
        made = f"{group.lower()}/{resource_name(spec.name, token)}"
        what = "create server"
        await self._arm.ensure_group(group, resource.location, timeout)
        try:
            there = await self._arm.get(what, _path(made), _VERSION, end - self._world.monotonic())
        except ServerNotFound:
            try:
                await self._arm.send(
                    "PUT",
                    _path(made),
                    _VERSION,
                    what=what,
                    timeout=end - self._world.monotonic(),
                    effect=True,
                    not_found=CloudRejected,
                    body=body,
                )
            except (CloudBusy, CloudRejected):
                self._arm.forget_group(group)
                raise
        else:
            if token_of(there) != token:
                raise CloudBusy(f"Azure has a container group {made} that is not this one", advice="Delete it.")
        return CloudServer(provider_id=made, name=spec.name, state=ServerState.BUILD, token=token)

    async def delete_server(self, provider_id: str, *, timeout: float) -> None:
        try:
            await self._arm.send(
                "DELETE", _path(provider_id), _VERSION, what="delete server", timeout=timeout, effect=True
            )
        except ServerNotFound:
            return

    async def start_server(self, provider_id: str, *, timeout: float) -> None:
        end = self._world.monotonic() + timeout
        # To Azure the start of a group that runs is a conflict.
        if (await self.get_server(provider_id, timeout=timeout)).state is not ServerState.ACTIVE:
            await self._switch(provider_id, "start", end - self._world.monotonic())

    async def stop_server(self, provider_id: str, *, timeout: float) -> None:
        await self._switch(provider_id, "stop", timeout)

    async def reboot_server(self, provider_id: str, *, timeout: float) -> None:
        await self._switch(provider_id, "restart", timeout)

    async def execute(self, provider_id: str, argv: Sequence[str], *, timeout: float) -> CommandResult:
        raise Unsupported(
            f"the account {self._name} cannot execute", advice="Azure gives a terminal and no exit code; look at logs."
        )

    # -- parts -----------------------------------------------------------------------------------------------------

    def parts(self, spec: ServerSpec) -> Sequence[PartSpec]:
        """A network, for a private container whose description names none."""
        try:
            resource = resource_of(spec)
        except CloudRejected:
            return ()
        if resource.public or resource.vnet_name:
            return ()
        return [self._networks.spec(spec.name, resource.resource_group, resource.location)]

    # -- the rest --------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        await self._arm.close()

    def snapshot(self) -> dict[str, Any]:
        """Counters and facts for people; no secrets."""
        return self._arm.snapshot()

    async def _servers(self, timeout: float, wanted: Callable[[dict[str, Any]], bool]) -> list[CloudServer]:
        end = self._world.monotonic() + timeout
        listed = await self._arm.collect("list servers", f"/providers/{_KIND}", _VERSION, timeout)

        async def whole(group: dict[str, Any]) -> dict[str, Any] | None:
            if not needs_view(group):
                return group
            async with self._looks:
                left = end - self._world.monotonic()
                try:
                    return await self._arm.get("list servers", _path(provider_id(group)), _VERSION, left)
                except ServerNotFound:
                    return None

        looks = await asyncio.gather(*(whole(one) for one in listed if wanted(one)), return_exceptions=True)
        found: list[CloudServer] = []
        for one in looks:
            if isinstance(one, BaseException):
                raise one
            if one is not None:
                found.append(server(one))
        return found

    async def _switch(self, provider_id: str, verb: str, timeout: float) -> None:
        path = f"{_path(provider_id)}/{verb}"
        await self._arm.send("POST", path, _VERSION, what=f"{verb} server", timeout=timeout, effect=True)


def _path(provider_id: str) -> str:
    group, name = group_and_name(provider_id)
    return f"/resourceGroups/{group}/providers/{_KIND}/{name}"
