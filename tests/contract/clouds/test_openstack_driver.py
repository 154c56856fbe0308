"""The OpenStack driver passes the suite of the driver port on an emulation. The testbed has the same for a real one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.clouds.driver_suite import DriverFaultSuite, DriverSuite, SharedAccountSuite
from contract.clouds.openstack_harness import SILENT, OpenStackHarness
from pelagos.clouds import ServerSpec
from pelagos.clouds.openstack import DRIVER
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


class TestOpenStackDriver(DriverSuite, DriverFaultSuite, SharedAccountSuite):
    @pytest.fixture
    def harness(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EmulationHarness]:  # type: ignore[override]
        callspec = getattr(request.node, "callspec", None)
        silent = callspec is not None and callspec.params.get("fault") in SILENT
        harness = EmulationHarness(tmp_path, 1.0 if silent else 10.0)
        yield harness
        harness.close()
