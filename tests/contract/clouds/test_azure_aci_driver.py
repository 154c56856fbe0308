"""The driver of Azure's container groups passes the suites of the driver port on an emulated Resource Manager."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("azure.identity", reason="the Azure SDK is not installed")

from contract.clouds.azure_harness import AzureHarness
from contract.clouds.driver_suite import DriverSuite, SharedAccountSuite, create, limit, reach
from contract.clouds.proxy_injector import ProxiedFaultSuite
from pelagos.clouds import CloudDriver, CloudRejected, PartsDriver, ServerSpec
from pelagos.clouds.azure import ACI
from pelagos.model.states import ServerState
from pelagos.testing import fault_proxy
from support.tiny_arm import CONTAINERS, GROUP, SUBSCRIPTION, TinyArm
from support.tiny_http import serving


class AciHarness(AzureHarness):
    def __init__(self, cloud: TinyArm, *args: Any) -> None:
        super().__init__(ACI, "/Microsoft.ContainerInstance/containerGroups", cloud, *args)

    def spec(self, name: str, **resource: Any) -> ServerSpec:
        options = {
            "resource_group": GROUP,
            "location": "westeurope",
            "cpu_cores": 1,
            "memory": 1.5,
            "image": "nginx:1",
            "os_type": "linux",
            "network_type": "Public",
            "ports": [80, "53/udp"],
            **resource,
        }
        return ServerSpec(name=name, options=options)

    def bad_spec(self, name: str) -> ServerSpec:
        return self.spec(name, image="cursed:1")

    async def make_foreign(self) -> str:
        id_ = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/{CONTAINERS}/theirs"
        properties = {"provisioningState": "Succeeded", "containers": []}
        self.cloud.resources[id_.lower()] = {
            "id": id_,
            "name": "theirs",
            "type": CONTAINERS,
            "properties": properties,
        }
        return f"{GROUP.lower()}/theirs"


class AciScene:
    """Gives the harness to a class of tests."""

    deadline = 10.0

    @pytest.fixture
    async def harness(self, tmp_path: Path) -> AsyncIterator[AciHarness]:
        async with serving(TinyArm()) as cloud, fault_proxy(cloud.url) as proxy:
            harness = AciHarness(cloud, proxy, tmp_path)
            harness.deadline = self.deadline
            yield harness
            harness.world.close()


class TestAzureAciWithFaults(AciScene, ProxiedFaultSuite):
    """The suite of faults, unchanged."""

    deadline = 1.0


class TestAzureAci(AciScene, DriverSuite, SharedAccountSuite):
    """The suites, unchanged, and what is special here."""

    @pytest.mark.anyio
    async def test_a_public_container(self, driver: CloudDriver, harness: AciHarness) -> None:
        plain = harness.spec("one", gpu_type="V100")
        spec = ServerSpec(name="one", options=plain.options, env={"A": "b"}, command=("nginx", "-g", "x"))
        await create(driver, spec, "token-one")
        body = harness.cloud.asked[-1]["properties"]
        (container,) = body["containers"]
        label = body["ipAddress"]["dnsNameLabel"]
        assert body["ipAddress"]["ports"] == [{"port": 80, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]
        assert container["properties"] == {
            "image": "nginx:1",
            "resources": {"requests": {"cpu": 1.0, "memoryInGB": 1.5, "gpu": {"count": 1, "sku": "V100"}}},
            "ports": body["ipAddress"]["ports"],
            "command": ["nginx", "-g", "x"],
            "environmentVariables": [
                {"name": "A", "value": "b"},
                {"name": "_OCCOPUS_ALLOCATED_FQDN", "value": f"{label}.westeurope.azurecontainer.io"},
            ],
        }
        server = await reach(driver, harness, "token-one", ServerState.ACTIVE)
        assert len(server.addresses) == 1 and server.private_addresses == ()

    @pytest.mark.anyio
    async def test_a_private_container_in_a_network_of_its_own(self, driver: CloudDriver, harness: AciHarness) -> None:
        assert isinstance(driver, PartsDriver)
        bare = harness.spec("one", network_type="private")
        (part,) = driver.parts(bare)
        network = await driver.create_part(part, token="token-network", timeout=limit(driver))
        assert [one.token for one in await driver.list_parts(timeout=limit(driver))] == ["token-network"]
        (subnet,) = harness.cloud.asked[-1]["properties"]["subnets"]
        service = subnet["properties"]["delegations"][0]["properties"]["serviceName"]
        assert service == "Microsoft.ContainerInstance/containerGroups"
        spec = ServerSpec(name="one", options=bare.options, parts={"network": network.provider_id})
        made = await create(driver, spec, "token-one")
        assert harness.cloud.asked[-1]["properties"]["subnetIds"][0]["id"].endswith("/subnets/default")
        server = await reach(driver, harness, "token-one", ServerState.ACTIVE)
        assert server.addresses == () and len(server.private_addresses) == 1
        await driver.delete_server(made.provider_id, timeout=limit(driver))
        for _ in range(2):
            await driver.delete_part(network, timeout=limit(driver))
        assert list(await driver.list_parts(timeout=limit(driver))) == []

    @pytest.mark.anyio
    async def test_a_create_that_is_sent_again_does_not_start_the_container_anew(
        self, driver: CloudDriver, harness: AciHarness
    ) -> None:
        for _ in range(2):
            await create(driver, harness.spec("one"), "token-one")
        assert len(harness.cloud.asked) == 1

    @pytest.mark.anyio
    async def test_user_data_has_no_place_in_a_container(self, driver: CloudDriver, harness: AciHarness) -> None:
        spec = ServerSpec(name="one", options=harness.spec("one").options, user_data="#cloud-config\n")
        with pytest.raises(CloudRejected, match="user data"):
            await create(driver, spec, "token-one")
        assert harness.cloud.asked == []
