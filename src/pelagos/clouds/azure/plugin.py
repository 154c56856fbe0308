"""The ``azure_vm`` and ``azure_aci`` clouds as plug-ins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from pelagos.clouds.azure.options import AzureAccount, AzureAciResource, AzureVmResource
from pelagos.clouds.port import CloudDriver, DriverContext, Library
from pelagos.model.errors import Unsupported

if TYPE_CHECKING:
    from azure.core.credentials_async import AsyncTokenCredential

    from pelagos.clouds.azure.arm import Arm

__all__ = ["ACI", "VM", "AzurePlugin"]

_KEYS = ("endpoint", "tenant_id", "client_id", "client_secret", "subscription_id")


class AzurePlugin:
    """Opens accounts of Azure; its SDKs are loaded only then. ``name`` is that of the driver."""

    account_options: type[msgspec.Struct] = AzureAccount
    account_keys: Mapping[str, str] = {key: key for key in _KEYS}
    library = Library("azure.identity", "azure")

    def __init__(self, name: str, resource: type[msgspec.Struct]) -> None:
        self.name = name
        self.resource = resource

    async def open(self, context: DriverContext) -> CloudDriver:
        """A driver for one account. Nothing is sent until it is needed.

        Raises Unsupported if an SDK is not installed."""
        account = msgspec.convert(dict(context.options), AzureAccount, strict=False)
        driver, arm = await context.world.run_blocking(self._load)
        opened: CloudDriver = driver(context, account, arm(context, account, self.credential(account)))
        return opened

    def credential(self, account: AzureAccount) -> AsyncTokenCredential:
        """The service principal of an account."""
        from azure.identity.aio import ClientSecretCredential

        return ClientSecretCredential(
            account.tenant_id, account.client_id, account.client_secret, authority=account.authority
        )

    def _load(self) -> tuple[Callable[..., Any], type[Arm]]:
        """Blocks: the SDKs are large."""
        try:
            import azure.identity.aio  # noqa: F401 - whether it is there

            from pelagos.clouds.azure.aci_driver import AzureAciDriver
            from pelagos.clouds.azure.arm import Arm
            from pelagos.clouds.azure.vm_driver import AzureVmDriver
        except ImportError as error:
            if (error.name or "").startswith("pelagos"):
                raise
            raise Unsupported(
                f"the cloud driver {self.name!r} needs the Python package {error.name!r}, which is not installed",
                advice="pip install 'pelagos[azure]'",
                details={"package": error.name, "extra": "azure"},
            ) from error
        return (AzureVmDriver if self.resource is AzureVmResource else AzureAciDriver), Arm


VM = AzurePlugin("azure_vm", AzureVmResource)
ACI = AzurePlugin("azure_aci", AzureAciResource)
