"""The OpenStack driver passes the suite of the driver port on a real OpenStack, where one was started."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.clouds.driver_suite import DriverFaultSuite, DriverSuite, SharedAccountSuite
from contract.clouds.openstack_harness import SILENT, OpenStackHarness
from pelagos.clouds import CloudDriver
from pelagos.clouds.openstack import DRIVER
from support.openstack_testbed import RealCloud, real_cloud


class TestbedHarness(OpenStackHarness):
    __test__ = False

    def __init__(self, cloud: RealCloud, home: Path, socket_timeout: float) -> None:
        self.cloud = cloud
        super().__init__(
            DRIVER,
            home,
            cloud.account,
            compute=cloud.compute,
            resource=lambda flavor: {"image": cloud.image, "flavor": flavor, "networks": [cloud.network]},
            flavor="m1.tiny",
            socket_timeout=socket_timeout,
        )

    async def open(self) -> CloudDriver:
        driver = await super().open()
        await driver.list_servers(timeout=60.0)  # logged in: the suite's shortest call has a second
        return driver

    async def make_foreign(self) -> str:
        return await self.world.run_blocking(self.cloud.boot, "somebody-elses")

    async def clean(self) -> None:
        await super().clean()
        await self.world.run_blocking(self.cloud.empty)


@pytest.fixture(scope="module")
def cloud() -> RealCloud:
    return real_cloud()


@pytest.mark.timeout(900)
class TestOpenStackTestbed(DriverSuite, DriverFaultSuite, SharedAccountSuite):
    @pytest.fixture
    def harness(self, request: pytest.FixtureRequest, tmp_path: Path, cloud: RealCloud) -> Iterator[TestbedHarness]:  # type: ignore[override]
        callspec = getattr(request.node, "callspec", None)
        silent = callspec is not None and callspec.params.get("fault") in SILENT
        harness = TestbedHarness(cloud, tmp_path, 5.0 if silent else 40.0)
        yield harness
        harness.close()
