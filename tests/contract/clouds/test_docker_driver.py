"""The docker driver passes the suite of the driver port against an engine, with faults on the way to it."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from contract.clouds.driver_suite import DriverFaultSuite, DriverHarness, DriverSuite, SharedAccountSuite
from contract.clouds.proxy_injector import ProxyInjector
from contract.clouds.update_suite import UpdateFaultSuite, UpdateHarness, UpdateSuite
from pelagos.clouds import CloudDriver, DriverContext, ServerSpec
from pelagos.clouds.docker import DRIVER
from pelagos.model.world import SystemWorld
from pelagos.testing import FaultProxy, fault_proxy
from pelagos.testing.http_requests import request_where
from support.engines import engine_url, leavings, limits_in_force, resource, sdk

pytestmark = pytest.mark.docker

CONTAINERS = r"/containers/json$"
REQUESTS = {
    "create": request_where(method="POST", path=r"/containers/create$"),
    "delete": request_where(method="DELETE", path=r"/containers/"),
    "update": request_where(method="POST", path=r"/containers/[0-9a-f]+/update$"),
    "list": request_where(method="GET", path=CONTAINERS),
    "find": request_where(method="GET", path=CONTAINERS),
}


@pytest.fixture(scope="module")
def engine() -> str:
    return engine_url()


class DockerHarness(DriverHarness):
    echo = (("sh", "-c", "echo hello"), "hello")
    failing = ("sh", "-c", "exit 3")
    keeps_addresses = False
    patience = 10.0
    silence = 2.5
    """An engine that makes containers all the time takes a while to begin with one more."""

    def __init__(self, engine: str, home: Path, **options: Any) -> None:
        self.engine = engine
        self.scope = f"test-{uuid.uuid4().hex[:12]}"
        self.world = SystemWorld(threads=12)
        self._home = home
        self._options = {"endpoint": engine, "scope": self.scope, "settle": 0.4, "stop_grace": 0, **options}
        self._foreign: list[str] = []

    async def open(self) -> CloudDriver:
        return await DRIVER.open(
            DriverContext(account="docker", world=self.world, home=self._home, options=self._options)
        )

    def spec(self, name: str) -> ServerSpec:
        command = ("sh", "-c", "echo hello; exec sleep 600")
        return ServerSpec(name=name, hostname=name, command=command, options=resource())

    def bad_spec(self, name: str) -> ServerSpec:
        return ServerSpec(name=name, options=resource(image="no-such-image"))

    async def make_foreign(self) -> str:
        def make() -> str:
            with sdk(self.engine) as client:
                made = client.create_container(
                    f"{resource()['image']}:{resource()['tag']}", command=["sleep", "600"], name=f"foreign-{self.scope}"
                )
                return str(made["Id"])

        self._foreign.append(await self.world.run_blocking(make))
        return self._foreign[-1]

    async def clean(self) -> None:
        """Delete all by a driver of its own, which no fault is between; and ask the engine what is left."""
        direct = DockerHarness(self.engine, self._home)
        direct._options["scope"] = self.scope
        driver = await direct.open()
        for server in await driver.list_servers(timeout=30):
            await driver.delete_server(server.provider_id, timeout=30)
        await driver.close()

        def look() -> list[str]:
            with sdk(self.engine) as client:
                for foreign in self._foreign:
                    client.remove_container(foreign, force=True, v=True)
                self._foreign.clear()
                return leavings(client, self.scope)

        left = await self.world.run_blocking(look)
        direct.world.close()
        assert left == []

    def close(self) -> None:
        self.world.close()


class TestDockerDriver(DriverSuite, SharedAccountSuite):
    @pytest.fixture
    def harness(self, engine: str, tmp_path: Path) -> Iterator[DockerHarness]:
        harness = DockerHarness(engine, tmp_path)
        yield harness
        harness.close()


class TestDockerDriverWithFaults(DriverFaultSuite):
    """Short deadlines: a lost reply is noticed only then."""

    @pytest.fixture
    async def proxy(self, engine: str, tmp_path: Path) -> AsyncIterator[FaultProxy]:
        async with fault_proxy(engine, listen=tmp_path / "engine.sock") as proxy:
            yield proxy

    @pytest.fixture
    def harness(self, engine: str, proxy: FaultProxy, tmp_path: Path) -> Iterator[DockerHarness]:
        harness = DockerHarness(engine, tmp_path, endpoint=proxy.url, create_timeout=4.0, call_timeout=4.0)
        harness.injector = ProxyInjector(proxy, REQUESTS, late_by=1.2)
        yield harness
        harness.close()

    @pytest.fixture
    async def driver(self, harness: DockerHarness) -> AsyncIterator[CloudDriver]:  # type: ignore[override]
        """Connected already: the deadlines of these tests are short."""
        driver = await harness.open()
        try:
            await driver.list_servers(timeout=30)
            yield driver
        finally:
            await driver.close()
            await harness.clean()


class UpdatingHarness(DockerHarness, UpdateHarness):
    updated: ClassVar = {"memory_mb": (64, 128), "cpus": (0.5, 0.75), "pids": (50, 70)}
    refused = ("user", "nobody")
    wrong: ClassVar = {"memory_mb": 1, "cpus": None, "pids": "many"}

    def __init__(self, engine: str, home: Path, **options: Any) -> None:
        super().__init__(engine, home, updates=["memory_mb", "cpus", "pids"], **options)
        with sdk(engine) as client:
            self.takes_while_stopped = "podman" not in str(client.version()).lower()

    def spec(self, name: str) -> ServerSpec:
        first = {key: value for key, (value, _) in self.updated.items()}
        return ServerSpec(name=name, command=("sleep", "600"), options=resource(**first))

    async def values(self, provider_id: str) -> dict[str, Any]:
        def look() -> dict[str, Any]:
            with sdk(self.engine) as client:
                return limits_in_force(client, provider_id)

        return await self.world.run_blocking(look)


class TestDockerDriverThatUpdates(UpdateSuite, UpdateFaultSuite):
    driver = TestDockerDriverWithFaults.driver
    proxy = TestDockerDriverWithFaults.proxy

    @pytest.fixture
    def harness(self, engine: str, proxy: FaultProxy, tmp_path: Path) -> Iterator[UpdatingHarness]:
        harness = UpdatingHarness(engine, tmp_path, endpoint=proxy.url, create_timeout=20.0, call_timeout=10.0)
        harness.injector = ProxyInjector(proxy, REQUESTS, late_by=1.2)
        yield harness
        harness.close()
