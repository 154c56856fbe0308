"""The driver of Azure's machines passes the suites of the driver port on an emulated Resource Manager, with faults."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("azure.identity", reason="the Azure SDK is not installed")

from contract.clouds.azure_harness import SECRET, AzureHarness
from contract.clouds.driver_suite import DriverSuite, SharedAccountSuite, create, gone, limit, reach
from contract.clouds.proxy_injector import ProxiedFaultSuite
from pelagos.clouds import (
    CloudAuthFailed,
    CloudBusy,
    CloudCapacity,
    CloudDriver,
    CloudRejected,
    CloudUncertain,
    ForeignReader,
    PartsDriver,
    ServerSpec,
)
from pelagos.clouds.azure import VM
from pelagos.model.states import ServerState
from pelagos.testing import fault_proxy, request_where
from support.tiny_arm import GROUP, MACHINES, NETWORKS, SUBSCRIPTION, TinyArm
from support.tiny_http import serving

THERE = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/Microsoft.Network/virtualNetworks/there"


class VmHarness(AzureHarness):
    """With a network that is there already, so that most tests need no part."""

    def __init__(self, cloud: TinyArm, *args: Any) -> None:
        super().__init__(VM, "/Microsoft.Compute/virtualMachines", cloud, *args)
        cloud.resources[THERE.lower()] = {
            "id": THERE,
            "name": "there",
            "type": NETWORKS,
            "properties": {"provisioningState": "Succeeded"},
        }

    def spec(self, name: str, **resource: Any) -> ServerSpec:
        options = {
            "resource_group": GROUP,
            "location": "westeurope",
            "vm_size": "Standard_B1s",
            "publisher": "Debian",
            "offer": "debian-12",
            "sku": "12",
            "version": "latest",
            "username": "me",
            "ssh_key_data": "ssh-ed25519 AAAA me",
            "vnet_name": "there",
            "subnet_name": "default",
            **resource,
        }
        return ServerSpec(name=name, options={key: value for key, value in options.items() if value is not None})

    def bad_spec(self, name: str) -> ServerSpec:
        return self.spec(name, vm_size="Huge")

    async def make_foreign(self) -> str:
        id_ = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/{MACHINES}/theirs"
        self.cloud.resources[id_.lower()] = {
            "id": id_,
            "name": "theirs",
            "type": MACHINES,
            "properties": {"provisioningState": "Succeeded"},
        }
        return f"{GROUP.lower()}/theirs"


class VmScene:
    """Gives the harness to a class of tests."""

    deadline = 10.0

    @pytest.fixture
    async def harness(self, tmp_path: Path) -> AsyncIterator[VmHarness]:
        async with serving(TinyArm()) as cloud, fault_proxy(cloud.url) as proxy:
            harness = VmHarness(cloud, proxy, tmp_path)
            harness.deadline = self.deadline
            yield harness
            harness.world.close()


class TestAzureVmWithFaults(VmScene, ProxiedFaultSuite):
    """The suite of faults, unchanged."""

    deadline = 1.0


class TestAzureVm(VmScene, DriverSuite, SharedAccountSuite):
    """The suites, unchanged, and what is special here."""

    @pytest.mark.anyio
    async def test_a_machine_with_all_that_is_its_own_goes_without_a_trace(
        self, driver: CloudDriver, harness: VmHarness
    ) -> None:
        assert isinstance(driver, PartsDriver)
        bare = harness.spec("one", vnet_name=None, subnet_name=None, public_ip_needed=True, security_group="web")
        (part,) = driver.parts(bare)
        with pytest.raises(CloudRejected, match="network"):
            await create(driver, bare, "token-one")
        for _ in range(2):
            network = await driver.create_part(part, token="token-network", timeout=limit(driver))
        assert [(one.token, one.name, one.ready) for one in await driver.list_parts(timeout=limit(driver))] == [
            ("token-network", "one", True)
        ]
        spec = ServerSpec(
            name="one",
            hostname="web-1",
            options=bare.options,
            user_data="#cloud-config\n",
            parts={"network": network.provider_id},
        )
        before = set(harness.cloud.resources)
        made = await create(driver, spec, "token-one")
        server = await reach(driver, harness, "token-one", ServerState.ACTIVE)
        assert (len(server.addresses), len(server.private_addresses)) == (1, 1)
        assert await driver.get_server(made.provider_id, timeout=limit(driver)) == server
        properties = harness.cloud.asked[-1]["properties"]
        assert properties["osProfile"] == {
            "computerName": "web-1",
            "adminUsername": "me",
            "customData": base64.b64encode(b"#cloud-config\n").decode(),
            "linuxConfiguration": {
                "disablePasswordAuthentication": True,
                "ssh": {"publicKeys": [{"path": "/home/me/.ssh/authorized_keys", "keyData": "ssh-ed25519 AAAA me"}]},
            },
        }
        (interface,) = properties["networkProfile"]["networkInterfaceConfigurations"]
        assert interface["properties"]["networkSecurityGroup"]["id"].endswith("/networkSecurityGroups/web")
        with pytest.raises(CloudBusy):
            await driver.delete_part(network, timeout=limit(driver))
        await driver.delete_server(made.provider_id, timeout=limit(driver))
        await gone(driver, harness, "token-one")
        assert set(harness.cloud.resources) == before, "interface, address and disk went with it"
        for _ in range(2):
            await driver.delete_part(network, timeout=limit(driver))
        assert network.provider_id.partition("/")[2] not in str(harness.cloud.resources)
        assert THERE.lower() in harness.cloud.resources
        assert GROUP.lower() in harness.cloud.groups, "groups stay"

    @pytest.mark.anyio
    async def test_a_group_that_is_there_keeps_its_tags(self, driver: CloudDriver, harness: VmHarness) -> None:
        harness.cloud.groups[GROUP.lower()] = {"location": "northeurope", "tags": {"owner": "somebody"}}
        await create(driver, harness.spec("one"), "token-one")
        assert harness.cloud.groups[GROUP.lower()]["tags"] == {"owner": "somebody"}
        assert harness.proxy.seen(method="PUT", path="/resourcegroups/[^/]+$") == []

    @pytest.mark.anyio
    async def test_a_group_that_is_deleted_meanwhile_is_made_again(
        self, driver: CloudDriver, harness: VmHarness
    ) -> None:
        await create(driver, harness.spec("one"), "token-one")
        harness.cloud.groups.clear()
        with pytest.raises(CloudBusy, match="ResourceGroupNotFound"):
            await create(driver, harness.spec("two"), "token-two")
        await create(driver, harness.spec("two"), "token-two")
        assert list(harness.cloud.groups) == [GROUP.lower()]

    @pytest.mark.anyio
    async def test_listings_of_several_pages(self, driver: CloudDriver, harness: VmHarness) -> None:
        for number in range(5):
            await create(driver, harness.spec(f"m{number}"), f"token-{number}")
            await reach(driver, harness, f"token-{number}", ServerState.ACTIVE)
        listed = await driver.list_servers(timeout=10)
        assert {(one.token, one.state) for one in listed} == {(f"token-{n}", ServerState.ACTIVE) for n in range(5)}

    @pytest.mark.anyio
    async def test_no_room_and_a_quota_are_no_refusals_for_good(self, driver: CloudDriver, harness: VmHarness) -> None:
        with pytest.raises(CloudCapacity, match="SkuNotAvailable"):
            await create(driver, harness.spec("one", vm_size="Standard_Full"), "token-one")
        quota = b'{"error": {"code": "OperationNotAllowed", "message": "exceeding approved Total Cores Quota"}}'
        harness.proxy.fail("error_before", request_where(method="PUT"), status=409, body=quota)
        with pytest.raises(CloudCapacity, match="Quota"):
            await create(driver, harness.spec("two"), "token-two")

    @pytest.mark.anyio
    async def test_a_network_whose_reply_is_lost_is_found_by_its_token(
        self, driver: CloudDriver, harness: VmHarness
    ) -> None:
        assert isinstance(driver, PartsDriver)
        (part,) = driver.parts(harness.spec("one", vnet_name=None, subnet_name=None))
        harness.proxy.fail("connection_closed", request_where(method="PUT", path="/virtualNetworks/"))
        with pytest.raises(CloudUncertain):
            await driver.create_part(part, token="token-network", timeout=limit(driver))
        assert [one.token for one in await driver.list_parts(timeout=limit(driver))] == ["token-network"]

    @pytest.mark.anyio
    async def test_a_machine_that_could_not_be_provisioned_says_why(
        self, driver: CloudDriver, harness: VmHarness
    ) -> None:
        await create(driver, harness.spec("one"), "token-one")
        (machine,) = harness.cloud.of(MACHINES)
        machine["properties"] |= {
            "provisioningState": "Failed",
            "instanceView": {"statuses": [{"code": "ProvisioningState/failed", "message": "no room in the zone"}]},
        }
        found = await driver.find_by_token("token-one", timeout=limit(driver))
        assert found is not None
        assert (found.state, found.reason) == (ServerState.ERROR, "no room in the zone")

    @pytest.mark.anyio
    async def test_foreign_machines_are_shown_apart(self, driver: CloudDriver, harness: VmHarness) -> None:
        assert isinstance(driver, ForeignReader)
        foreign = await harness.make_foreign()
        (shown,) = await driver.list_foreign_servers(timeout=limit(driver))
        assert (shown.provider_id, shown.state) == (foreign, ServerState.UNKNOWN), "never taken for gone"

    @pytest.mark.anyio
    async def test_a_token_that_is_not_taken_is_told_without_secrets(self, harness: VmHarness) -> None:
        harness.plugin.token = "expired"
        driver = await harness.open()
        with pytest.raises(CloudAuthFailed) as caught:
            await driver.list_servers(timeout=limit(driver))
        assert SECRET not in str(caught.value) + str(driver.snapshot())
        await driver.close()
