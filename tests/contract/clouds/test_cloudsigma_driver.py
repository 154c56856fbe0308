"""The CloudSigma driver passes the suites of the driver port on emulated HTTP, with a fault proxy before it."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from contract.clouds.driver_suite import DriverFaultSuite, DriverSuite, SharedAccountSuite, create, limit
from contract.clouds.proxy_injector import ProxiedHarness
from pelagos.clouds import (
    CloudAuthFailed,
    CloudBusy,
    CloudDriver,
    CloudRejected,
    CloudUncertain,
    DriverContext,
    PartsDriver,
    ServerSpec,
)
from pelagos.clouds.cloudsigma import DRIVER
from pelagos.model import SystemWorld
from pelagos.testing import FaultProxy, fault_proxy, request_where
from support.tiny_http import serving
from support.tiny_sigma import LIBRARY, PASSWORD, TinySigma

LISTING = request_where(method="GET", path="/servers/detail/$")
REQUESTS = {
    "create": request_where(method="POST", path="/servers/$"),
    "delete": request_where(method="DELETE", path="/servers/"),
    "list": LISTING,
    "find": LISTING,
}
DESCRIPTION = {"cpu": 2000, "mem": 1 << 30, "vnc_password": "not shown"}


class SigmaHarness(ProxiedHarness):
    patience = 5.0

    def __init__(self, cloud: TinySigma, proxy: FaultProxy, home: Path) -> None:
        self.cloud = cloud
        super().__init__(proxy, REQUESTS, late_by=1.2)
        self.world = SystemWorld()
        self._home = home

    async def open(self, **options: Any) -> CloudDriver:
        given = {
            "email": "me@example.org",
            "password": PASSWORD,
            "endpoint": f"{self.proxy.url}/api/2.0",
            "create_timeout": 2.5,
            "call_timeout": 2.5,
            "build_timeout": 20.0,
            "poll_interval": 1.0,
            "settle": 0.5,
            **options,
        }
        return await DRIVER.open(DriverContext(account="zrh", world=self.world, home=self._home, options=given))

    def spec(self, name: str, **description: Any) -> ServerSpec:
        """With a drive that is there already, as operations would have made it."""
        options = {"libdrive_id": LIBRARY, "description": {**DESCRIPTION, **description}}
        return ServerSpec(name=name, options=options, parts={"drive": self.cloud.add_drive(name)["uuid"]})

    def bad_spec(self, name: str) -> ServerSpec:
        return ServerSpec(name=name, options=self.spec(name).options, parts={"drive": "none-such"})

    async def make_foreign(self) -> str:
        made: str = self.cloud.add_server(name="theirs")["uuid"]
        return made


class SigmaScene:
    """Gives the harness to a class of tests."""

    @pytest.fixture
    async def harness(self, tmp_path: Path) -> AsyncIterator[SigmaHarness]:
        async with serving(TinySigma()) as cloud, fault_proxy(cloud.url) as proxy:
            harness = SigmaHarness(cloud, proxy, tmp_path)
            yield harness
            harness.world.close()


class TestCloudSigma(SigmaScene, DriverSuite, DriverFaultSuite, SharedAccountSuite):
    """All of the suites, unchanged."""

    @pytest.mark.anyio
    async def test_a_server_with_the_drive_that_is_its_part(self, driver: CloudDriver, harness: SigmaHarness) -> None:
        assert isinstance(driver, PartsDriver)
        extra = {"drive": harness.cloud.add_drive("data")["uuid"], "boot_order": None, "dev_channel": "0:1"}
        whole = harness.spec("one", drives=[extra], smp=2)
        bare = ServerSpec(name="one", options=whole.options, user_data="#cloud-config\n")
        (part,) = driver.parts(bare)
        with pytest.raises(CloudRejected, match="drive"):
            await create(driver, bare, "token-one")
        drive = await driver.create_part(part, token="token-drive", timeout=limit(driver))
        assert [(one.token, one.name, one.ready) for one in await driver.list_parts(timeout=limit(driver))] == [
            ("token-drive", "one", True)
        ]
        spec = ServerSpec(
            name="one", options=whole.options, user_data="#cloud-config\n", parts={"drive": drive.provider_id}
        )
        made = await create(driver, spec, "token-one")
        server = harness.cloud.servers[made.provider_id]
        assert [one["drive"] for one in server["drives"]] == [drive.provider_id, extra["drive"]]
        assert (server["cpu"], server["smp"], server["status"]) == (2000, 2, "running")
        assert server["meta"]["pelagos-token"] == "token-one"
        assert base64.b64decode(server["meta"]["cloudinit-user-data"]) == b"#cloud-config\n"
        with pytest.raises(CloudBusy):
            await driver.delete_part(drive, timeout=limit(driver))
        await driver.delete_server(made.provider_id, timeout=limit(driver))
        for _ in range(2):
            await driver.delete_part(drive, timeout=limit(driver))
        assert drive.provider_id not in harness.cloud.drives
        assert extra["drive"] in harness.cloud.drives, "the user's own"

    @pytest.mark.anyio
    async def test_a_start_that_fails_leaves_no_doubt_that_the_server_is_there(
        self, driver: CloudDriver, harness: SigmaHarness
    ) -> None:
        harness.proxy.fail("rate_limited", request_where(method="POST", path="/servers/.+/action/"))
        with pytest.raises(CloudUncertain):
            await create(driver, harness.spec("one"), "token-one")
        assert await driver.find_by_token("token-one", timeout=limit(driver)) is not None

    @pytest.mark.anyio
    async def test_a_clone_whose_reply_is_lost_is_found_by_its_token(
        self, driver: CloudDriver, harness: SigmaHarness
    ) -> None:
        assert isinstance(driver, PartsDriver)
        (part,) = driver.parts(harness.spec("one"))
        harness.proxy.fail("connection_closed", request_where(path="/libdrives/"))
        with pytest.raises(CloudUncertain):
            await driver.create_part(part, token="token-drive", timeout=limit(driver))
        assert [one.token for one in await driver.list_parts(timeout=limit(driver))] == ["token-drive"]

    @pytest.mark.anyio
    async def test_wrong_credentials_are_told_without_them(self, harness: SigmaHarness) -> None:
        driver = await harness.open(password="a-wrong-password")
        with pytest.raises(CloudAuthFailed) as caught:
            await driver.list_servers(timeout=limit(driver))
        assert "a-wrong-password" not in str(caught.value) + str(driver.snapshot())
        await driver.close()
