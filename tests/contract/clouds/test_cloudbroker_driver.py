"""The CloudBroker driver passes the suites of the driver port on emulated HTTP, with a fault proxy before it."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from contract.clouds.driver_suite import DriverSuite, SharedAccountSuite, create, limit
from contract.clouds.proxy_injector import ProxiedFaultSuite, ProxiedHarness
from pelagos.clouds import (
    Catalogue,
    CloudAuthFailed,
    CloudDriver,
    CloudRejected,
    CloudUnreachable,
    DriverContext,
    ForeignReader,
    ServerNotFound,
    ServerSpec,
)
from pelagos.clouds.cloudbroker import DRIVER
from pelagos.model import SystemWorld
from pelagos.model.states import ServerState
from pelagos.testing import FaultProxy, fault_proxy, request_where
from support.tiny_broker import DEPLOYMENT, PASSWORD, TYPE, TinyBroker
from support.tiny_http import serving

LISTING = request_where(method="GET", path=r"/instances\.xml$")
REQUESTS = {
    "create": request_where(method="POST", path=r"/instances\.xml$"),
    "delete": request_where(method="PUT", path=r"/stop\.xml$"),
    "list": LISTING,
    "find": LISTING,
}


class BrokerHarness(ProxiedHarness):
    patience = 5.0
    deadline = 10.0
    """Of one call, in seconds."""

    def __init__(self, cloud: TinyBroker, proxy: FaultProxy, home: Path) -> None:
        self.cloud = cloud
        super().__init__(proxy, REQUESTS, late_by=1.2)
        self.world = SystemWorld()
        self._home = home

    async def open(self, **options: Any) -> CloudDriver:
        given = {
            "email": "me@example.org",
            "password": PASSWORD,
            "endpoint": self.proxy.url,
            "create_timeout": self.deadline,
            "call_timeout": self.deadline,
            "build_timeout": 20.0,
            "poll_interval": 1.0,
            "settle": 0.3,
            **options,
        }
        return await DRIVER.open(DriverContext(account="broker", world=self.world, home=self._home, options=given))

    def spec(self, name: str, **description: Any) -> ServerSpec:
        given = {"deployment_id": DEPLOYMENT, "instance_type_id": TYPE, **description}
        return ServerSpec(name=name, options={"description": given})

    def bad_spec(self, name: str) -> ServerSpec:
        return self.spec(name, deployment_id="none-such")

    async def make_foreign(self) -> str:
        return self.cloud.add(name="theirs")


class BrokerScene:
    """Gives the harness to a class of tests."""

    deadline = 10.0

    @pytest.fixture
    async def harness(self, tmp_path: Path) -> AsyncIterator[BrokerHarness]:
        async with serving(TinyBroker()) as cloud, fault_proxy(cloud.url) as proxy:
            harness = BrokerHarness(cloud, proxy, tmp_path)
            harness.deadline = self.deadline
            yield harness
            harness.world.close()


class TestCloudBrokerWithFaults(BrokerScene, ProxiedFaultSuite):
    """The suite of faults, unchanged."""

    deadline = 1.0


class TestCloudBroker(BrokerScene, DriverSuite, SharedAccountSuite):
    """The suites, unchanged, and what is special here."""

    @pytest.mark.anyio
    async def test_what_is_asked_for(self, driver: CloudDriver, harness: BrokerHarness) -> None:
        plain = harness.spec("one", isolated=False, opened_port={"number": 80, "public": True})
        options = {**plain.options, "start_in_vpc": True}
        await create(driver, ServerSpec(name="one", options=options, user_data="#cloud-config\n"), "token-one")
        (asked,) = harness.cloud.asked
        assert {child.tag: child.text for child in asked} == {
            "name": "one-pt-token-one",
            "deployment-id": DEPLOYMENT,
            "instance-type-id": TYPE,
            "disable-autostop": "true",
            "isolated": "false",
            "opened-port": None,
            "start-in-vpc": "true",
            "cloud-init": base64.b64encode(b"#cloud-config\n").decode(),
        }
        assert [(child.tag, child.text) for child in asked.iter() if child.tag in ("number", "public")] == [
            ("number", "80"),
            ("public", "true"),
        ]

    @pytest.mark.anyio
    async def test_a_halted_instance_is_gone_and_an_unknown_state_is_not(
        self, driver: CloudDriver, harness: BrokerHarness
    ) -> None:
        made = await create(driver, harness.spec("one"), "token-one")
        instance = harness.cloud.instances[made.provider_id]
        instance["status"] = "repairing"
        shown = await driver.get_server(made.provider_id, timeout=limit(driver))
        assert (shown.state, "repairing" in shown.reason) == (ServerState.UNKNOWN, True)
        assert shown.addresses == (instance["external-ip-address"],)
        assert shown.private_addresses == (instance["internal-ip-address"],)
        instance["status"] = "halted"
        assert list(await driver.list_servers(timeout=limit(driver))) == []
        with pytest.raises(ServerNotFound):
            await driver.get_server(made.provider_id, timeout=limit(driver))

    @pytest.mark.anyio
    async def test_a_stop_that_is_refused_is_no_delete(self, driver: CloudDriver, harness: BrokerHarness) -> None:
        """The ancestor's drop did not look at the answer."""
        made = await create(driver, harness.spec("one"), "token-one")
        refusal = b"<errors><error>You may not stop it</error><type>missing rights</type></errors>"
        harness.proxy.fail("error_before", REQUESTS["delete"], status=200, body=refusal)
        with pytest.raises(CloudAuthFailed, match="may not stop"):
            await driver.delete_server(made.provider_id, timeout=limit(driver))
        assert harness.cloud.instances[made.provider_id]["status"] == "running"

    @pytest.mark.anyio
    async def test_an_answer_of_somebody_else_is_no_empty_listing(
        self, driver: CloudDriver, harness: BrokerHarness
    ) -> None:
        harness.proxy.fail("error_before", LISTING, status=200, body=b"a page")
        with pytest.raises(CloudUnreachable, match="no CloudBroker"):
            await driver.list_servers(timeout=limit(driver))

    @pytest.mark.anyio
    async def test_what_instances_are_made_of(self, driver: CloudDriver, harness: BrokerHarness) -> None:
        assert isinstance(driver, Catalogue) and isinstance(driver, ForeignReader)
        assert [(one.id, one.name) for one in await driver.list_images(timeout=limit(driver))] == [
            (DEPLOYMENT, "Debian")
        ]
        assert [(one.id, one.name) for one in await driver.list_flavors(timeout=limit(driver))] == [(TYPE, "Small")]
        foreign = await harness.make_foreign()
        assert [one.provider_id for one in await driver.list_foreign_servers(timeout=limit(driver))] == [foreign]

    @pytest.mark.anyio
    async def test_wrong_credentials_are_told_without_them(self, harness: BrokerHarness) -> None:
        driver = await harness.open(password="a-wrong-password")
        with pytest.raises(CloudAuthFailed) as caught:
            await driver.list_servers(timeout=limit(driver))
        assert "a-wrong-password" not in str(caught.value) + str(driver.snapshot())
        await driver.close()

    @pytest.mark.anyio
    async def test_options_that_are_none_of_this_cloud_are_rejected(
        self, driver: CloudDriver, harness: BrokerHarness
    ) -> None:
        with pytest.raises(CloudRejected, match="deployment_id"):
            await create(driver, ServerSpec(name="one", options={"description": {}}), "token-one")
        assert harness.cloud.asked == []
