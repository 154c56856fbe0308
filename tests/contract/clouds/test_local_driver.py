"""The local driver passes the suite of the driver port at every level that this machine and user allow."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

from contract.clouds.driver_suite import DriverHarness, DriverSuite, create, limit
from contract.clouds.update_suite import UpdateHarness, UpdateSuite
from pelagos.clouds import (
    CloudDriver,
    CloudRejected,
    DriverContext,
    ForeignReader,
    ListenerOracle,
    ServerAdopter,
    ServerNotFound,
    ServerSpec,
)
from pelagos.clouds.local import DRIVER
from pelagos.clouds.local.cgroups import PERIOD, ControlGroups
from pelagos.clouds.local.record import InstanceDirectory
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

    def forget_token(self, provider_id: str) -> None:
        directory = InstanceDirectory(self._home, "local")
        record = directory.record(provider_id)
        assert record is not None
        directory.save(msgspec.structs.replace(record, token=""))

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
    async def test_an_instance_without_a_token_is_foreign_and_can_be_adopted(
        self, driver: CloudDriver, harness: LocalHarness
    ) -> None:
        """As after a record was written by hand: no create call of this driver leaves one without a token."""
        assert isinstance(driver, ForeignReader)
        assert isinstance(driver, ServerAdopter)
        made = await create(driver, harness.spec("one"), "token-one")
        harness.forget_token(made.provider_id)
        assert list(await driver.list_servers(timeout=limit(driver))) == []
        foreign = await driver.list_foreign_servers(timeout=limit(driver))
        assert [(s.provider_id, s.token, s.image) for s in foreign] == [(made.provider_id, "", "host")]
        for _ in range(2):  # repeatable
            adopted = await driver.adopt_server(made.provider_id, token="token-two", timeout=limit(driver))
            assert (adopted.provider_id, adopted.token) == (made.provider_id, "token-two")
        with pytest.raises(CloudRejected):
            await driver.adopt_server(made.provider_id, token="token-three", timeout=limit(driver))
        with pytest.raises(ServerNotFound):
            await driver.adopt_server("no-such-server", token="token-two", timeout=limit(driver))
        found = await driver.find_by_token("token-two", timeout=limit(driver))
        assert found is not None and found.provider_id == made.provider_id

    @pytest.mark.anyio
    async def test_it_says_who_listens(self, driver: CloudDriver, harness: DriverHarness) -> None:
        assert isinstance(driver, ListenerOracle)
        made = await create(driver, harness.spec("one"), "token-one")
        assert not await driver.verify_listener(made.provider_id, "127.0.0.1", 1, timeout=limit(driver))
        with pytest.raises(ServerNotFound):
            await driver.verify_listener("no-such-server", "127.0.0.1", 1, timeout=limit(driver))


class UpdatingHarness(LocalHarness, UpdateHarness):
    """On this machine's own control groups."""

    updated: ClassVar = {"cpus": (0.5, 1.25), "memory_mb": (64, 48)}
    refused = ("image", "/another.tar")
    wrong: ClassVar = {"cpus": -1, "memory_mb": None}

    def spec(self, name: str) -> ServerSpec:
        first = {key: value for key, (value, _) in self.updated.items()}
        return ServerSpec(name=name, user_data="#!/bin/sh\necho hello\n", options=first)

    async def values(self, provider_id: str) -> dict[str, Any]:
        driver: Any = await self.open()
        life = await driver._life()
        found = {}
        for path in life.groups.joins(provider_id):
            place = Path(path).parent
            for name, key in (("memory.max", "memory_mb"), ("memory.limit_in_bytes", "memory_mb"), ("cpu.max", "cpus")):
                if (place / name).exists():
                    words = (place / name).read_text().split()
                    found[key] = int(words[0]) >> 20 if key == "memory_mb" else int(words[0]) / int(words[1])
            if (place / "cpu.cfs_quota_us").exists():
                found["cpus"] = int((place / "cpu.cfs_quota_us").read_text()) / PERIOD
        return found


@pytest.mark.skipif(not ControlGroups("").version, reason=ControlGroups("").reason)
class TestLocalDriverThatUpdates(UpdateSuite):
    driver = DriverSuite.driver

    @pytest.fixture
    def harness(self, tmp_path: Path) -> Iterator[UpdatingHarness]:
        harness = UpdatingHarness(tmp_path / "home", CHARACTERS["best"])
        yield harness
        harness.close()
