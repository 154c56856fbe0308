"""``type: rackspace`` and ``type: dummy`` pass the suites of the driver port; Rackspace emulated over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from contract.clouds.driver_suite import DriverHarness, DriverSuite, SharedAccountSuite, create, limit
from pelagos.clouds import CloudAuthFailed, CloudDriver, CloudUncertain, DriverContext, DriverPlugin, ServerSpec
from pelagos.clouds.libcloud.plugin import DUMMY, RACKSPACE
from pelagos.model import SystemWorld
from pelagos.testing import FaultProxy, fault_proxy, request_where
from support.tiny_http import serving
from support.tiny_nova import API_KEY, TinyNova


class RackspaceHarness(DriverHarness):
    patience = 5.0

    def __init__(self, cloud: TinyNova, proxy: FaultProxy, home: Path) -> None:
        self.cloud = cloud
        self.proxy = proxy
        self.world = SystemWorld()
        self._home = home

    async def open(self, **options: Any) -> CloudDriver:
        given = {
            "username": "tester",
            "api_key": API_KEY,
            "endpoint": f"{self.proxy.url}/v2.0",
            "settle": 0.0,
            "poll_interval": 1.0,
            "create_timeout": 5.0,
            "call_timeout": 5.0,
            "build_timeout": 20.0,
            **options,
        }
        return await RACKSPACE.open(DriverContext(account="rax", world=self.world, home=self._home, options=given))

    def spec(self, name: str) -> ServerSpec:
        options = {"flavor": "512MB", "image": "Debian", "metadata": {"team": "blue"}}
        return ServerSpec(name=name, user_data="#!/bin/sh\n", options=options)

    def bad_spec(self, name: str) -> ServerSpec:
        return self.spec(f"bad-{name}")

    async def make_foreign(self) -> str:
        made: str = self.cloud.add(name="theirs")["id"]
        return made


class TestRackspace(DriverSuite, SharedAccountSuite):
    @pytest.fixture
    async def harness(self, tmp_path: Path) -> AsyncIterator[RackspaceHarness]:
        async with serving(TinyNova()) as cloud, fault_proxy(cloud.url) as proxy:
            harness = RackspaceHarness(cloud, proxy, tmp_path)
            yield harness
            harness.world.close()

    @pytest.mark.anyio
    async def test_the_create_carries_token_and_user_data(self, driver: CloudDriver, harness: RackspaceHarness) -> None:
        await create(driver, harness.spec("one"), "token-one")
        (server,) = harness.cloud.servers.values()
        assert server["metadata"] == {"team": "blue", "pelagos-token": "token-one"}
        assert server["user_data"]

    @pytest.mark.anyio
    async def test_a_lost_reply_is_uncertain(self, driver: CloudDriver, harness: RackspaceHarness) -> None:
        await driver.list_servers(timeout=limit(driver))
        harness.proxy.fail("connection_closed", request_where(method="POST", path="/servers$"))
        with pytest.raises(CloudUncertain):
            await create(driver, harness.spec("one"), "token-one")
        assert await driver.find_by_token("token-one", timeout=limit(driver)) is not None

    @pytest.mark.anyio
    async def test_wrong_credentials_are_told_without_them(self, harness: RackspaceHarness) -> None:
        driver = await harness.open(api_key="a-wrong-api-key")
        with pytest.raises(CloudAuthFailed) as caught:
            await driver.list_servers(timeout=limit(driver))
        assert "a-wrong-api-key" not in str(caught.value)
        await driver.close()


class DummyHarness(DriverHarness):
    patience = 5.0
    plugin: DriverPlugin = DUMMY

    def __init__(self, home: Path) -> None:
        self.world = SystemWorld()
        self._home = home

    async def open(self) -> CloudDriver:
        return await DUMMY.open(DriverContext(account="dummy", world=self.world, home=self._home))

    def spec(self, name: str) -> ServerSpec:
        return ServerSpec(name=name)

    def bad_spec(self, name: str) -> ServerSpec:
        return ServerSpec(name=name, options={"size": "9"})

    async def make_foreign(self) -> str:
        return "1"  # the dummy has two nodes of its own


class TestDummy(DriverSuite, SharedAccountSuite):
    @pytest.fixture
    async def harness(self, tmp_path: Path) -> AsyncIterator[DummyHarness]:
        harness = DummyHarness(tmp_path)
        yield harness
        harness.world.close()
