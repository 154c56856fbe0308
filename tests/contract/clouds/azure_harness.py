"""What both Azure drivers are tried with: an emulated Azure Resource Manager, a fault proxy before it, and a token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from azure.core.credentials import AccessToken

from contract.clouds.proxy_injector import ProxiedHarness
from pelagos.clouds import CloudDriver, DriverContext
from pelagos.clouds.azure import AzureAccount, AzurePlugin
from pelagos.model import SystemWorld
from pelagos.testing import FaultProxy, request_where
from support.tiny_arm import SUBSCRIPTION, TOKEN, TinyArm

__all__ = ["SECRET", "AzureHarness"]

SECRET = "a-client-secret"


class _Given:
    """A credential that has its token: Azure's own sign in by TLS only."""

    def __init__(self, token: str) -> None:
        self._token = token

    async def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        return AccessToken(self._token, 4_102_444_800)

    async def close(self) -> None:
        return

    async def __aenter__(self) -> _Given:
        return self

    async def __aexit__(self, *_: object) -> None:
        return


class SignedIn(AzurePlugin):
    """The plug-in, but for the sign-in."""

    token = TOKEN

    def credential(self, account: AzureAccount) -> Any:
        return _Given(self.token)


class AzureHarness(ProxiedHarness):
    patience = 5.0
    deadline = 10.0
    """Of one call, in seconds."""

    def __init__(self, plugin: AzurePlugin, listing: str, cloud: TinyArm, proxy: FaultProxy, home: Path) -> None:
        one = f"{listing}/[^/]+$"
        found = request_where(method="GET", path=f"{listing}$")
        super().__init__(
            proxy,
            {
                "create": request_where(method="PUT", path=one),
                "delete": request_where(method="DELETE", path=one),
                "list": found,
                "find": found,
            },
            late_by=1.2,
        )
        self.cloud = cloud
        self.plugin = SignedIn(plugin.name, plugin.resource)
        self.world = SystemWorld()
        self._home = home

    async def open(self, **options: Any) -> CloudDriver:
        given = {
            "tenant_id": "tenant",
            "client_id": "client",
            "client_secret": SECRET,
            "subscription_id": SUBSCRIPTION,
            "endpoint": self.proxy.url,
            "create_timeout": self.deadline,
            "call_timeout": self.deadline,
            "build_timeout": 20.0,
            "poll_interval": 1.0,
            "settle": 0.3,
            **options,
        }
        return await self.plugin.open(DriverContext(account="azure", world=self.world, home=self._home, options=given))
