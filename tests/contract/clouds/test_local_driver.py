"""The local driver passes the suite of the driver port at every level that this machine and user allow."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contract.clouds.driver_suite import DriverHarness, DriverSuite, create, limit
from pelagos.clouds import CloudDriver, DriverContext, ListenerOracle, ServerNotFound, ServerSpec
from pelagos.clouds.local import DRIVER
from pelagos.model.world import SystemWorld

ROOT = os.geteuid() == 0
CHARACTERS: dict[str, dict[str, Any]] = {
    "best": {"stop_grace": 1.0},
    "processes": {"isolation": "processes", "stop_grace": 1.0},
}
if ROOT:
    CHARACTERS["loopback"] = {"network": "loopback", "stop_grace": 1.0}


class LocalHarness(DriverHarness):
    echo = (("sh", "-c", "echo hello"), "hello")
    failing = ("sh", "-c", "exit 3")
    patience = 3.0

    def __init__(self, home: Path, options: dict[str, Any]) -> None:
        self._home = home
        self._options = options
        self._world = SystemWorld(threads=8)

    async def open(self) -> CloudDriver:
        return await DRIVER.open(
            DriverContext(account="local", world=self._world, home=self._home, options=self._options)
        )

    def spec(self, name: str) -> ServerSpec:
        return ServerSpec(name=name, user_data="#!/bin/sh\necho hello\n")

    def bad_spec(self, name: str) -> ServerSpec:
        return ServerSpec(name=name, options={"image": "/no/such/image.tar"})

    async def clean(self) -> None:
        driver = await self.open()
        for server in await driver.list_servers(timeout=10):
            await driver.delete_server(server.provider_id, timeout=30)
        assert list((self._home / "clouds" / "local" / "instances").glob("*")) == []
        assert list((self._home / "clouds" / "local" / "trash").glob("*")) == []

    def close(self) -> None:
        self._world.close()


@pytest.mark.parametrize("character", sorted(CHARACTERS))
class TestLocalDriver(DriverSuite):
    @pytest.fixture
    def harness(self, tmp_path: Path, character: str) -> Iterator[LocalHarness]:  # type: ignore[override]
        harness = LocalHarness(tmp_path / "home", CHARACTERS[character])
        yield harness
        harness.close()

    @pytest.mark.anyio
    async def test_it_says_who_listens(self, driver: CloudDriver, harness: DriverHarness) -> None:
        assert isinstance(driver, ListenerOracle)
        made = await create(driver, harness.spec("one"), "token-one")
        assert not await driver.verify_listener(made.provider_id, "127.0.0.1", 1, timeout=limit(driver))
        with pytest.raises(ServerNotFound):
            await driver.verify_listener("no-such-server", "127.0.0.1", 1, timeout=limit(driver))
