"""The driver for another Pelagos passes the suites of the driver port on a real daemon, with a proxy before it."""

from __future__ import annotations

import asyncio
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from contract.clouds.driver_suite import DriverSuite, SharedAccountSuite, create, limit, reach
from contract.clouds.proxy_injector import ProxiedFaultSuite, ProxiedHarness
from pelagos.clients import connect
from pelagos.clouds import CloudDriver, CloudRejected, DriverContext, ServerSpec
from pelagos.clouds.pelagos import DRIVER
from pelagos.model import SystemWorld
from pelagos.model.states import ServerState
from pelagos.testing import FaultProxy, fault_proxy, request_where
from pelagos.wire.infrastructures import RunRequest
from support.other_pelagos import other_pelagos

LISTING = request_where(method="GET", path="^/infrastructures$")
REQUESTS = {
    "create": request_where(method="POST", path="^/runs$"),
    "delete": request_where(method="DELETE", path="^/infrastructures/"),
    "list": LISTING,
    "find": LISTING,
}
THEIRS = {
    "i.yaml": "infra_name: theirs\nuser_id: somebody\nnodes: [{name: web, type: theirs}]\n",
    "n.yaml": "'node_def:theirs': [{resource: {type: simulated}, health_check: {ping: false}}]\n",
}


@pytest.fixture(scope="module")
def daemon() -> Iterator[str]:
    with other_pelagos() as endpoint:
        yield endpoint


class PelagosHarness(ProxiedHarness):
    patience = 20.0
    deadline = 10.0
    """Of one call, in seconds."""

    def __init__(self, daemon: str, proxy: FaultProxy, home: Path) -> None:
        super().__init__(proxy, REQUESTS, late_by=1.2)
        self.daemon = daemon
        self.scope = uuid.uuid4().hex[:12]
        self.world = SystemWorld()
        self._home = home

    async def open(self, **options: Any) -> CloudDriver:
        given = {
            "endpoint": self.proxy.url,
            "scope": self.scope,
            "create_timeout": self.deadline,
            "call_timeout": self.deadline,
            "build_timeout": 20.0,
            "poll_interval": 1.0,
            "settle": 0.3,
            **options,
        }
        return await DRIVER.open(DriverContext(account="other", world=self.world, home=self._home, options=given))

    def spec(self, name: str, **resource: Any) -> ServerSpec:
        return ServerSpec(name=name, options={"resource": {"type": "simulated", **resource}})

    def bad_spec(self, name: str) -> ServerSpec:
        return self.spec(name, flavour="small")

    async def make_foreign(self) -> str:
        async with connect(self.daemon) as other:
            request = RunRequest(kind="up", sources=THEIRS, entries=tuple(THEIRS))
            return (await other.runs.start(request)).infrastructure_id

    async def clean(self) -> None:
        """Take down all that is there, past the proxy, and wait until the daemon knows of nothing more."""
        transport = httpx2.AsyncHTTPTransport(uds=self.daemon.removeprefix("unix://"))
        async with httpx2.AsyncClient(transport=transport, base_url="http://pelagos") as http, asyncio.timeout(60):
            asked: set[str] = set()
            while left := (await http.get("/infrastructures")).json()["infrastructures"]:
                for id_ in left:
                    if id_ not in asked:
                        asked.add(id_)
                        await http.delete(f"/infrastructures/{id_}")
                await asyncio.sleep(0.05)


class PelagosScene:
    """Gives the harness to a class of tests."""

    deadline = 10.0

    @pytest.fixture
    async def harness(self, daemon: str, tmp_path: Path) -> AsyncIterator[PelagosHarness]:
        with tempfile.TemporaryDirectory(prefix="proxy-") as short:
            async with fault_proxy(daemon, listen=Path(short) / "p.sock") as proxy:
                harness = PelagosHarness(daemon, proxy, tmp_path)
                harness.deadline = self.deadline
                yield harness
                harness.world.close()


class TestPelagosWithFaults(PelagosScene, ProxiedFaultSuite):
    """The suite of faults, unchanged."""

    deadline = 1.0


class TestPelagos(PelagosScene, DriverSuite, SharedAccountSuite):
    """The suites, unchanged, and what is special here."""

    @pytest.mark.anyio
    async def test_what_the_other_side_finds_wrong_is_told(self, driver: CloudDriver, harness: PelagosHarness) -> None:
        with pytest.raises(CloudRejected, match="flavour"):
            await create(driver, harness.bad_spec("one"), "token-one")
        with pytest.raises(CloudRejected, match="no-such-cloud"):
            await create(driver, harness.spec("one", type="no-such-cloud"), "token-one")

    @pytest.mark.anyio
    async def test_a_server_that_is_not_made_yet_is_no_infrastructure_that_is_gone(
        self, driver: CloudDriver, harness: PelagosHarness
    ) -> None:
        made = await create(driver, harness.spec("one"), "token-one")
        await reach(driver, harness, "token-one", ServerState.ACTIVE)
        harness.proxy.fail("error_before", request_where(method="GET", path="^/servers/"), status=404)
        found = await driver.get_server(made.provider_id, timeout=limit(driver))
        assert (found.provider_id, found.state, found.addresses) == (made.provider_id, ServerState.UNKNOWN, ())

    @pytest.mark.anyio
    async def test_user_data_arrives_as_it_was_written(self, driver: CloudDriver, harness: PelagosHarness) -> None:
        """Its braces were rendered on this side already."""
        text = "#cloud-config {{ not }} {% a %} template\nbootcmd: ['true']\n"
        spec = ServerSpec(name="one", hostname="web-1", options=harness.spec("one").options, user_data=text)
        made = await create(driver, spec, "token-one")
        await reach(driver, harness, "token-one", ServerState.ACTIVE)
        assert "{{ not }} {% a %} template" in await self._told(harness, made.provider_id)

    async def _told(self, harness: PelagosHarness, infrastructure: str) -> str:
        """What the simulated server's console shows of its user data."""
        async with connect(harness.daemon) as other:
            return "".join(log.text for log in await other.infrastructures.logs(infrastructure))

    @pytest.mark.anyio
    async def test_the_other_side_replaces_what_dies_and_the_server_stays(
        self, driver: CloudDriver, harness: PelagosHarness
    ) -> None:
        made = await create(driver, harness.spec("one", lifetime_seconds=1.0), "token-one")
        first = await reach(driver, harness, "token-one", ServerState.ACTIVE)
        async with asyncio.timeout(60):
            while True:
                found = await driver.find_by_token("token-one", timeout=limit(driver))
                assert found is not None and found.provider_id == made.provider_id
                if found.state is ServerState.ACTIVE and found.addresses != first.addresses:
                    break
                await asyncio.sleep(0.05)
