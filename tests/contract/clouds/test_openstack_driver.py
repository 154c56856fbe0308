"""The OpenStack driver passes the suite of the driver port on an emulation, in both of its dialects."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contract.clouds.driver_suite import DriverHarness, DriverSuite, SharedAccountSuite, eventually
from pelagos.clouds import CloudDriver, DriverContext, ServerSpec
from pelagos.clouds.openstack import DRIVER, NOVA
from pelagos.model.world import SystemWorld
from support.openstack_emulation import Emulation

PLUGINS = {"openstack": DRIVER, "nova": NOVA}


class EmulationHarness(DriverHarness):
    patience = 5.0

    def __init__(self, kind: str, home: Path) -> None:
        self.cloud = Emulation()
        self._kind = kind
        self._home = home
        self._world = SystemWorld(threads=8)
        self._drivers: list[CloudDriver] = []

    async def open(self) -> CloudDriver:
        context = DriverContext(account="os", world=self._world, home=self._home, options=self.cloud.account)
        driver = await PLUGINS[self._kind].open(context)
        self._drivers.append(driver)
        return driver

    def spec(self, name: str) -> ServerSpec:
        return self._spec(name, "m1.tiny")

    def bad_spec(self, name: str) -> ServerSpec:
        return self._spec(name, "none-such")

    def _spec(self, name: str, flavor: str) -> ServerSpec:
        image = self.cloud.id_of(self.cloud.images, "debian")
        options: dict[str, Any] = {"image": "debian", "flavor": flavor}
        if self._kind == "nova":
            options = {"project_id": "p-demo", "image_id": image, "flavor_name": flavor}
        return ServerSpec(name=name, user_data="#!/bin/sh\necho hello\n", options=options)

    async def make_foreign(self) -> str:
        return self.cloud.boot("somebody-elses")

    async def clean(self) -> None:
        await eventually(self, 30.0, 0.01, self._idle, lambda: "calls under way")

    async def _idle(self) -> bool:
        return not any(driver.snapshot()["threads"] for driver in self._drivers)

    def close(self) -> None:
        self.cloud.close()
        self._world.close()


@pytest.mark.parametrize("kind", sorted(PLUGINS))
class TestOpenStackDriver(DriverSuite, SharedAccountSuite):
    @pytest.fixture
    def harness(self, tmp_path: Path, kind: str) -> Iterator[EmulationHarness]:  # type: ignore[override]
        harness = EmulationHarness(kind, tmp_path)
        yield harness
        harness.close()
