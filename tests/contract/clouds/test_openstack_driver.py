"""The OpenStack driver passes the suite of the driver port on an emulation. The testbed has the same for a real one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.clouds.driver_suite import (
    SILENT,
    DriverFaultSuite,
    DriverSuite,
    PartsFaultSuite,
    PartsSuite,
    SharedAccountSuite,
    appear,
    create,
    limit,
)
from contract.clouds.openstack_harness import REQUESTS, OpenStackHarness
from pelagos.clouds import CloudDriver, CloudUncertain, CloudUnreachable, PartsDriver, ServerSpec
from pelagos.clouds.openstack import DRIVER
from pelagos.testing import ProxyFault
from support.openstack_emulation import Emulation


class EmulationHarness(OpenStackHarness):
    def __init__(self, home: Path, socket_timeout: float) -> None:
        self.cloud = Emulation()
        super().__init__(
            DRIVER,
            home,
            self.cloud.account,
            upstream=self.cloud.url,
            paths={"compute": "/compute/v2.1", "network": "/network", "block_storage": "/volume/v3"},
            resource=lambda flavor: {"image": "debian", "flavor": flavor, "networks": ["private"]},
            flavor="m1.tiny",
            socket_timeout=socket_timeout,
        )

    def spec_with_parts(self, name: str) -> ServerSpec:
        port = {"network": "private", "security_groups": ["web"]}
        options = {"image": "debian", "flavor": "m1.tiny", "networks": [port], "volume_size": 1, "floating_ip": True}
        return ServerSpec(name=name, options=options)

    async def make_foreign(self) -> str:
        return self.cloud.boot("somebody-elses")

    def close(self) -> None:
        self.cloud.close()
        super().close()


class TestOpenStackDriver(DriverSuite, DriverFaultSuite, SharedAccountSuite, PartsSuite, PartsFaultSuite):
    @pytest.fixture
    def harness(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EmulationHarness]:  # type: ignore[override]
        callspec = getattr(request.node, "callspec", None)
        silent = callspec is not None and callspec.params.get("fault") in SILENT
        harness = EmulationHarness(tmp_path, 1.0 if silent else 10.0)
        yield harness
        harness.close()

    @pytest.mark.anyio
    @pytest.mark.parametrize("fault", [ProxyFault.HALF_CLOSED, ProxyFault.TRUNCATED, ProxyFault.RESET_BEFORE])
    async def test_answers_that_are_cut(
        self, driver: CloudDriver, harness: EmulationHarness, fault: ProxyFault
    ) -> None:
        harness.proxy.fail(fault, REQUESTS["create"])
        with pytest.raises(CloudUncertain):
            await create(driver, harness.spec("one"), "token-one")
        if fault is not ProxyFault.RESET_BEFORE:
            await appear(driver, harness, "token-one")
        harness.proxy.fail(fault, REQUESTS["list"])
        with pytest.raises(CloudUnreachable):
            await driver.list_servers(timeout=limit(driver))

    @pytest.mark.anyio
    async def test_a_success_that_cannot_be_read(self, driver: CloudDriver, harness: EmulationHarness) -> None:
        """The server is there, so nobody may think that nothing was done."""
        harness.proxy.fail(ProxyFault.ERROR_AFTER, REQUESTS["create"], status=202, body="<html>thank you</html>")
        with pytest.raises(CloudUncertain):
            await create(driver, harness.spec("one"), "token-one")
        await appear(driver, harness, "token-one")
        assert isinstance(driver, PartsDriver)
        for part in driver.parts(harness.spec_with_parts("two")):
            harness.proxy.fail(ProxyFault.ERROR_AFTER, REQUESTS["part"], status=202, body="<html>thank you</html>")
            with pytest.raises(CloudUncertain):
                await driver.create_part(part, token=f"token-{part.key}", timeout=limit(driver))
        assert len(await driver.list_parts(timeout=limit(driver))) == 3
