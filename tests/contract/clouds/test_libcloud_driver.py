"""The generic Libcloud driver passes the suites of the driver port on providers over HTTP and on the dummy one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from contract.clouds.driver_suite import DriverFaultSuite, DriverHarness, DriverSuite, SharedAccountSuite
from contract.clouds.proxy_injector import ProxiedHarness
from pelagos.clouds import CloudDriver, DriverContext, ServerSpec
from pelagos.clouds.libcloud import DRIVER
from pelagos.model import SystemWorld
from pelagos.testing import FaultProxy, fault_proxy, request_where
from support.tiny_cloud import GOOD_KEY, TinyCloud, register
from support.tiny_http import serving

register()

LISTING = request_where(method="GET", path="^/servers$")
REQUESTS = {
    "create": request_where(method="POST", path="^/servers$"),
    "delete": request_where(method="DELETE"),
    "list": LISTING,
    "find": LISTING,
}
TIMES: dict[str, Any] = {"create_timeout": 2.5, "call_timeout": 2.5, "build_timeout": 20.0, "settle": 0.1}


class TinyHarness(ProxiedHarness):
    patience = 5.0

    def __init__(self, cloud: TinyCloud, proxy: FaultProxy, provider: str, home: Path) -> None:
        self.cloud = cloud
        super().__init__(proxy, REQUESTS, late_by=1.2)
        self.provider = provider
        self.world = SystemWorld()
        self._home = home

    async def open(self, **options: Any) -> CloudDriver:
        given = {
            "provider": self.provider,
            "key": GOOD_KEY,
            "endpoint": self.proxy.url,
            "poll_interval": 1.0,
            **TIMES,
            **options,
        }
        return await DRIVER.open(DriverContext(account="tiny", world=self.world, home=self._home, options=given))

    def spec(self, name: str, **options: Any) -> ServerSpec:
        return ServerSpec(name=name, options={"size": "1", "image": "plain", **options})

    def bad_spec(self, name: str) -> ServerSpec:
        return self.spec(name, image="cursed")

    async def make_foreign(self) -> str:
        return self.cloud.add(name="somebody-elses")


class TinyScene:
    """Gives the harness to a class of tests."""

    @pytest.fixture
    def provider(self) -> str:
        return "tiny-meta"

    @pytest.fixture
    async def harness(self, provider: str, tmp_path: Path) -> AsyncIterator[TinyHarness]:
        async with serving(TinyCloud()) as cloud, fault_proxy(cloud.url) as proxy:
            harness = TinyHarness(cloud, proxy, provider, tmp_path)
            yield harness
            harness.world.close()


@pytest.mark.parametrize("provider", ["tiny-meta", "tiny-name"])
class TestLibcloudDriver(TinyScene, DriverSuite, SharedAccountSuite):
    """On a provider that takes metadata, and on one that takes a name alone."""


class TestLibcloudFaults(TinyScene, DriverFaultSuite):
    @pytest.fixture
    async def driver(self, harness: TinyHarness) -> AsyncIterator[CloudDriver]:
        driver = await harness.open(settle=0.4)
        yield driver
        await driver.close()


class DummyHarness(DriverHarness):
    patience = 5.0

    def __init__(self, home: Path) -> None:
        self.world = SystemWorld()
        self._home = home

    async def open(self) -> CloudDriver:
        options = {"provider": "dummy", "key": str(self._home), "threads": 2, "poll_interval": 1.0, **TIMES}
        return await DRIVER.open(DriverContext(account="dummy", world=self.world, home=self._home, options=options))

    def spec(self, name: str) -> ServerSpec:
        return ServerSpec(name=name, options={"size": "1", "image": "1"})

    def bad_spec(self, name: str) -> ServerSpec:
        return ServerSpec(name=name, options={"size": "1", "image": "none such"})

    async def make_foreign(self) -> str:
        return "1"  # the dummy has two nodes of its own


class TestLibcloudDummy(DriverSuite, SharedAccountSuite):
    @pytest.fixture
    async def harness(self, tmp_path: Path) -> AsyncIterator[DummyHarness]:
        harness = DummyHarness(tmp_path)
        yield harness
        harness.world.close()
