"""The OpenStack driver passes the suite of the driver port on a real OpenStack, where one was started."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from contract.clouds.driver_suite import (
    SILENT,
    DriverFaultSuite,
    DriverSuite,
    PartsSuite,
    SharedAccountSuite,
    create,
    eventually,
    gone,
    limit,
    reach,
)
from contract.clouds.openstack_harness import OpenStackHarness
from pelagos.clouds import Catalogue, CloudBusy, CloudDriver, CloudPart, PartsDriver, ServerAdopter, ServerSpec
from pelagos.clouds.openstack import DRIVER
from pelagos.model.states import ServerState
from support.openstack_testbed import RealCloud, real_cloud


class TestbedHarness(OpenStackHarness):
    __test__ = False

    def __init__(self, cloud: RealCloud, home: Path, socket_timeout: float) -> None:
        self.cloud = cloud
        upstream, path = cloud.compute
        super().__init__(
            DRIVER,
            home,
            cloud.account,
            upstream=upstream,
            paths={"compute": path},
            resource=lambda flavor: {"image": cloud.image, "flavor": flavor, "networks": [cloud.network]},
            flavor="m1.tiny",
            socket_timeout=socket_timeout,
            patience=2.0,
        )

    async def open(self) -> CloudDriver:
        driver = await super().open()
        await driver.list_servers(timeout=60.0)  # logged in: the suite's shortest call has a second
        return driver

    def spec_with_parts(self, name: str) -> ServerSpec:
        port = {"network": "private", "security_groups": ["web"]}
        options = {"image": "tiny", "flavor": "m1.tiny", "networks": [port], "volume_size": 1, "floating_ip": True}
        return ServerSpec(name=name, options=options)

    async def make_foreign(self) -> str:
        return await self.world.run_blocking(self.cloud.boot, "somebody-elses")

    async def clean(self) -> None:
        await super().clean()
        await self.world.run_blocking(self.cloud.empty)


@pytest.fixture(scope="module")
def cloud() -> RealCloud:
    return real_cloud()


@pytest.mark.timeout(900)
class TestOpenStackTestbed(DriverSuite, DriverFaultSuite, SharedAccountSuite, PartsSuite):
    @pytest.fixture
    def harness(self, request: pytest.FixtureRequest, tmp_path: Path, cloud: RealCloud) -> Iterator[TestbedHarness]:  # type: ignore[override]
        callspec = getattr(request.node, "callspec", None)
        silent = callspec is not None and callspec.params.get("fault") in SILENT
        harness = TestbedHarness(cloud, tmp_path, 5.0 if silent else 40.0)
        yield harness
        harness.close()

    @pytest.mark.anyio
    async def test_a_server_of_several_steps(self, driver: CloudDriver, harness: TestbedHarness) -> None:
        assert isinstance(driver, PartsDriver)
        spec = harness.spec_with_parts("one")
        made: dict[str, CloudPart] = {}
        for part in driver.parts(spec):
            made[part.key] = await driver.create_part(part, token=f"token-{part.key}", timeout=limit(driver))
        assert list(made) == ["boot-volume", "port-0", "address"]

        async def ready() -> bool:
            listed = {part.token: part for part in await driver.list_parts(timeout=limit(driver))}
            assert set(listed) == {f"token-{key}" for key in made}
            assert not any(part.failed for part in listed.values()), listed
            return all(part.ready for part in listed.values())

        await eventually(harness, 60.0, 0.5, ready, lambda: "parts ready")
        spec = msgspec.structs.replace(spec, parts={key: part.provider_id for key, part in made.items()})
        server = await create(driver, spec, "token-server")
        await reach(driver, harness, "token-server", ServerState.ACTIVE)
        for _ in range(2):
            finished = await driver.finish_server(server.provider_id, spec, timeout=limit(driver))
            assert finished.addresses[0] == made["address"].address
            assert made["port-0"].address in finished.private_addresses
        shown = await driver.get_server(server.provider_id, timeout=limit(driver))
        assert shown.addresses[0] == made["address"].address
        for part in made.values():
            with pytest.raises(CloudBusy):
                await driver.delete_part(part, timeout=limit(driver))
        await driver.delete_server(server.provider_id, timeout=limit(driver))
        await gone(driver, harness, "token-server")
        for part in reversed(made.values()):

            async def deleted(part: CloudPart = part) -> bool:
                try:
                    await driver.delete_part(part, timeout=limit(driver))
                except CloudBusy:
                    return False
                return True

            await eventually(harness, 60.0, 0.5, deleted, lambda part=part: f"{part} deleted")

        async def none_left() -> bool:
            return not await driver.list_parts(timeout=limit(driver))

        await eventually(harness, 60.0, 0.5, none_left, lambda: "no part is left")
        assert await harness.world.run_blocking(harness.cloud.left) == {
            "servers": [],
            "volumes": [],
            "addresses": [],
            "ports": [],
        }

    @pytest.mark.anyio
    async def test_a_volume_that_the_cloud_makes_goes_with_its_server(
        self, driver: CloudDriver, harness: TestbedHarness
    ) -> None:
        spec = harness.spec("one")
        spec = msgspec.structs.replace(spec, options={**spec.options, "volume_size": 0})
        server = await create(driver, spec, "token-one")
        await reach(driver, harness, "token-one", ServerState.ACTIVE)
        assert len((await harness.world.run_blocking(harness.cloud.left))["volumes"]) == 1
        await driver.delete_server(server.provider_id, timeout=limit(driver))
        await gone(driver, harness, "token-one")

        async def none_left() -> bool:
            return not (await harness.world.run_blocking(harness.cloud.left))["volumes"]

        await eventually(harness, 60.0, 0.5, none_left, lambda: "its volume is gone")

    @pytest.mark.anyio
    async def test_the_catalogue_and_adoption(self, driver: CloudDriver, harness: TestbedHarness) -> None:
        assert isinstance(driver, Catalogue) and isinstance(driver, ServerAdopter)
        assert "tiny" in {image.name for image in await driver.list_images(timeout=limit(driver))}
        assert "m1.tiny" in {flavor.name for flavor in await driver.list_flavors(timeout=limit(driver))}
        theirs = await harness.make_foreign()

        async def built() -> bool:
            return (await driver.get_server(theirs, timeout=limit(driver))).state is ServerState.ACTIVE

        await eventually(harness, 60.0, 0.5, built, lambda: "built")
        assert (await driver.adopt_server(theirs, token="token-one", timeout=limit(driver))).token == "token-one"
        assert (await reach(driver, harness, "token-one", ServerState.ACTIVE)).provider_id == theirs
