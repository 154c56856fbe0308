"""Every failpoint once: a run dies there, the next one ends with exactly what is described and nothing else in the
cloud; the same taking it down. The cloud itself is asked, not the records."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pelagos.clouds import CloudPart, CloudServer, DriverContext, PartsDriver, Plugins, ServerSpec
from pelagos.clouds.simulated import SimulatedCloud, SimulatedOptions
from pelagos.model.failpoints import Step, names
from pelagos.model.world import SystemWorld
from support.failpoint_runs import Runs
from support.moto_server import MotoServer, moto_server

pytestmark = pytest.mark.e2e

INFRASTRUCTURE = "pair"


class Account(msgspec.Struct, frozen=True):
    """A cloud to die on: another one is another of these, and goes through the same tests."""

    name: str
    driver: str
    options: dict[str, Any] = {}
    resource: dict[str, Any] = {}
    """More keys of the nodes' resource sections."""
    parts: int = 0
    """How many a server has by them."""

    @property
    def config(self) -> dict[str, Any]:
        return {"name": self.name, "driver": self.driver, "options": self.options}

    def sources(self, count: int = 1) -> dict[str, str]:
        """One node of ``count`` instances."""
        resource = {"type": self.driver, "name": self.name, **self.resource}
        return {
            "infra.yaml": (
                f"infra_name: {INFRASTRUCTURE}\nuser_id: me\nnodes:\n"
                f"  - name: one\n    type: failpoint_node\n    scaling: {{min: {count}, max: {count}}}\n"
            ),
            "nodes.yaml": (
                f"'node_def:failpoint_node':\n  - resource: {json.dumps(resource)}\n    health_check: {{ping: false}}\n"
            ),
        }


LOCAL = Account("local", "local", {"isolation": "processes", "stop_grace": 0.2})
_QUICK: dict[str, Any] = {"state": "file", "create_timeout": 1.0, "call_timeout": 1.0, "settle": 0.2}
SIMULATED = Account("simulated", "simulated", {**_QUICK, "token_lookup": "tag"})
PARTS = msgspec.structs.replace(SIMULATED, resource={"volumes": 1, "address": True}, parts=2)
UPDATING = msgspec.structs.replace(
    SIMULATED, options={**SIMULATED.options, "updates": ["flavor"]}, resource={"flavor": "small"}
)
EC2 = Account(
    "aws",
    "ec2",
    {
        "access_key": "testing",
        "secret_key": "testing",
        "region": "us-east-1",
        "poll_interval": 0.05,
        "create_timeout": 1.0,
        "call_timeout": 5.0,
        "settle": 0.2,
    },
    {"regionname": "us-east-1", "image_id": "ami-12c6146b", "instance_type": "t3.nano", "public_address": False},
)
"""An emulated one; whoever uses it adds its endpoint."""
EC2_PARTS = msgspec.structs.replace(
    EC2, resource={**EC2.resource, "volumes": [{"size": 1}], "elastic_ip": True}, parts=2
)

UP = (
    Step.ACCEPT,
    Step.CHANGES,
    Step.LEASE_ACQUIRE,
    Step.LEASE_RELEASE,
    Step.SUBMIT,
    Step.TAKE_OVER,
    Step.CLAIM,
    Step.SETTLE,
    Step.CREATE,
)
DOWN = (*(step for step in UP if step is not Step.CREATE), Step.DELETE, Step.LIST)
SPECIAL = tuple(step for step in Step if step not in (*UP, *DOWN))
"""Those that need more than an up and a down."""


@pytest.fixture(scope="module")
def runs() -> Iterator[Runs]:
    runs = Runs()
    yield runs
    runs.close()


class Scene:
    """A home, an account in it, and its cloud as it really is."""

    def __init__(self, runs: Runs, home: Path, account: Account) -> None:
        self._runs = runs
        self.home = home
        self.account = account

    def run(self, verb: str, failpoint: str = "", /, **given: Any) -> bool:
        """Whether it died there."""
        return self._runs(self.home, self.account.config, verb, failpoint, **given)

    def up(self, failpoint: str = "", *, count: int = 1, **given: Any) -> bool:
        return self.run("up", failpoint, sources=self.account.sources(count), **given)

    def down(self, failpoint: str = "") -> bool:
        return self.run("down", failpoint, infrastructure=INFRASTRUCTURE)

    def with_driver(self, do: Callable[[Any], Awaitable[Any]]) -> Any:
        """What the account's own driver says."""

        async def ask() -> Any:
            world = SystemWorld()
            context = DriverContext(
                account=self.account.name, world=world, home=self.home, options=self.account.options
            )
            driver = await Plugins().get(self.account.driver).open(context)
            try:
                return await do(driver)
            finally:
                await driver.close()
                world.close()

        return asyncio.run(ask())

    def seen(self) -> tuple[list[CloudServer], list[CloudPart]]:
        """All servers and their parts."""

        async def listed(driver: Any) -> tuple[list[CloudServer], list[CloudPart]]:
            parts = await driver.list_parts(timeout=10) if isinstance(driver, PartsDriver) else []
            return list(await driver.list_servers(timeout=10)), list(parts)

        servers, parts = self.with_driver(listed)
        return servers, parts

    def empty(self) -> bool:
        """Whether there is nothing in the cloud."""
        return self.seen() == ([], [])

    def assert_exactly(self, count: int) -> None:
        servers, parts = self.seen()
        assert len(servers) == count, servers
        assert all(server.state == "active" for server in servers)
        assert len({server.token for server in servers}) == count
        assert len(parts) == count * self.account.parts, parts

    def assert_nothing(self) -> None:
        assert self.seen() == ([], [])

    def vanish(self) -> None:
        """One server goes, and nobody says so."""
        options = msgspec.convert(self.account.options, SimulatedOptions)
        folder = self.home / "clouds" / self.account.name
        cloud = SimulatedCloud(SystemWorld(), name=self.account.name, options=options, folder=folder)
        cloud.vanish(cloud.servers()[0].provider_id)
        self.settle()

    def up_in_vain(self, failpoint: str) -> bool:
        """A server becomes none that can be used."""
        sound = self.account
        self.account = msgspec.structs.replace(sound, options={**sound.options, "faults": {"failed_build": 1.0}})
        try:
            return self.up(failpoint)
        finally:
            self.account = sound

    def settle(self) -> None:
        """Let the cloud's settling time pass: before that, absent means nothing."""
        import time

        time.sleep(2 * self.account.options["settle"])


class Ec2Scene(Scene):
    """On moto, which is asked itself what is left, and does what the account's owner would do there."""

    def __init__(self, runs: Runs, home: Path, account: Account, moto: MotoServer) -> None:
        super().__init__(
            runs, home, msgspec.structs.replace(account, options={**account.options, "endpoint": moto.url})
        )
        self._moto = moto

    def empty(self) -> bool:
        return not self._moto.instances() and not any(self._moto.beside().values())

    def assert_nothing(self) -> None:
        assert self.empty(), (self._moto.instances(), self._moto.beside())

    def vanish(self) -> None:
        self._moto.ask("TerminateInstances", **{"InstanceId.1": next(iter(self._moto.instances()))})
        self.settle()

    def up_in_vain(self, failpoint: str) -> bool:
        """moto's instances all run; but one cannot be finished whose address somebody has released."""
        assert self.up("cloud.finish.before")
        (address,) = self._moto.beside()["addresses"]
        self._moto.ask("ReleaseAddress", AllocationId=address)
        return self.up(failpoint)


@pytest.fixture(scope="module")
def homes() -> Iterator[dict[str, Path]]:
    """A home that ended a test with nothing in it serves the next one."""
    homes: dict[str, Path] = {}
    yield homes
    for home in homes.values():
        shutil.rmtree(home.parent, ignore_errors=True)


@pytest.fixture(scope="module")
def moto() -> Iterator[MotoServer]:
    with moto_server() as running:
        yield running


@pytest.fixture
def scene(request: pytest.FixtureRequest, runs: Runs, homes: dict[str, Path]) -> Iterator[Callable[[Account], Scene]]:
    scenes: list[tuple[Account, Scene]] = []

    def make(account: Account) -> Scene:
        home = homes.pop(str(account), None) or Path(tempfile.mkdtemp(prefix="pel-")) / "home"
        if account.driver == "ec2":
            one: Scene = Ec2Scene(runs, home, account, request.getfixturevalue("moto"))
        else:
            one = Scene(runs, home, account)
        scenes.append((account, one))
        return one

    yield make
    for account, one in scenes:
        if one.empty():
            homes[str(account)] = one.home
            continue
        if account.driver != "simulated":
            servers, parts = one.seen()
            for server in servers:
                one.with_driver(lambda driver, id_=server.provider_id: driver.delete_server(id_, timeout=30))
            for part in reversed(parts):
                one.with_driver(lambda driver, part=part: driver.delete_part(part, timeout=30))
        shutil.rmtree(one.home.parent, ignore_errors=True)


def edges(steps: tuple[Step, ...]) -> list[str]:
    return [name for name in names() if name.rpartition(".")[0] in steps]


def test_all_of_them_are_tried_below() -> None:
    assert set(edges(UP)) | set(edges(DOWN)) | set(edges(SPECIAL)) == set(names())
    assert set(STORIES) == set(SPECIAL)


@pytest.mark.parametrize("failpoint", sorted({*edges(UP), *edges(DOWN)}))
@pytest.mark.parametrize("account", [LOCAL, EC2], ids=lambda account: account.name)
def test_a_death_going_up_and_one_going_down(
    scene: Callable[[Account], Scene], account: Account, failpoint: str
) -> None:
    one = scene(account)
    if failpoint in edges(UP):
        assert one.up(failpoint), "it was not reached"
    assert not one.up()
    one.assert_exactly(1)
    if failpoint in edges(DOWN):
        assert one.down(failpoint), "it was not reached"
        one.down()
        one.assert_nothing()
    else:
        one.down()
        one.assert_nothing()


# -- those that need more ----------------------------------------------------------------------------------------------


def _cancel(one: Scene, failpoint: str) -> None:
    assert one.up(failpoint, cancel=True)
    one.up()
    one.assert_exactly(1)


def _lookup(one: Scene, failpoint: str) -> None:
    assert one.up("cloud.create.after")
    assert one.up(failpoint)
    one.up()
    one.assert_exactly(1)


def _discard(one: Scene, failpoint: str) -> None:
    assert one.up_in_vain(failpoint)
    one.up()
    one.assert_exactly(1)


def _power(one: Scene, failpoint: str) -> None:
    one.up()
    verb = failpoint.split(".")[1]
    if verb == "start":
        one.run("power", verb="stop")
    assert one.run("power", failpoint, verb=verb)
    if verb == "stop":
        one.run("power", verb="start")
    one.run("maintain", infrastructure=INFRASTRUCTURE)
    one.up()
    one.assert_exactly(1)


def _vanished(one: Scene, failpoint: str) -> None:
    one.up(count=2)
    one.vanish()
    assert one.run("refresh", failpoint, account=one.account.name)
    one.run("maintain", infrastructure=INFRASTRUCTURE)
    one.assert_exactly(2)


def _doubled(one: Scene, failpoint: str) -> None:
    one.up()
    ((server,), _) = one.seen()

    async def double(driver: Any) -> None:
        spec = ServerSpec(name="double", options=one.account.resource)
        await driver.create_server(spec, token=server.token, timeout=10)

    one.with_driver(double)
    assert one.run("refresh", failpoint, account=one.account.name)
    one.run("refresh", account=one.account.name)
    one.settle()
    one.run("refresh", account=one.account.name)
    one.assert_exactly(1)
    assert one.seen() == ([server], [])


def _assembly(one: Scene, failpoint: str) -> None:
    assert one.up(failpoint)
    one.up()
    one.assert_exactly(1)


def _disassembly(one: Scene, failpoint: str) -> None:
    one.up()
    assert one.down(failpoint)


def _stranded(one: Scene, failpoint: str) -> None:
    one.up()
    one.vanish()
    assert one.run("refresh", failpoint, account=one.account.name, times=3)
    one.run("refresh", account=one.account.name, times=3)
    assert one.seen() == ([], [])
    one.run("maintain", infrastructure=INFRASTRUCTURE)
    one.assert_exactly(1)


def _updated(one: Scene, failpoint: str) -> None:
    one.up()
    ((before,), _) = one.seen()
    one.account = msgspec.structs.replace(one.account, resource={"flavor": "large"})
    assert one.up(failpoint)
    one.up()
    one.assert_exactly(1)
    ((after,), _) = one.seen()
    assert (before.flavor, after.flavor) == ("small", "large")
    assert (after.provider_id, after.token) == (before.provider_id, before.token)


STORIES: dict[Step, Callable[[Scene, str], None]] = {
    Step.CANCEL: _cancel,
    Step.LOOKUP: _lookup,
    Step.DISCARD: _discard,
    Step.START: _power,
    Step.STOP: _power,
    Step.REBOOT: _power,
    Step.UPDATE: _updated,
    Step.GET: _vanished,
    Step.OBSERVE: _vanished,
    Step.SWEEP: _doubled,
    Step.PART: _assembly,
    Step.FINISH: _assembly,
    Step.LIST_PARTS: _disassembly,
    Step.UNPART: _disassembly,
    Step.OBSERVE_PARTS: _stranded,
}
OF_PARTS = (Step.PART, Step.FINISH, Step.LIST_PARTS, Step.UNPART, Step.OBSERVE_PARTS)
CLOUDS: dict[str, Callable[[Step], Account]] = {
    "simulated": lambda step: PARTS if step in OF_PARTS else UPDATING if step is Step.UPDATE else SIMULATED,
    "ec2": lambda step: EC2_PARTS if step in (*OF_PARTS, Step.DISCARD) else EC2,
}


NOT_THERE = {"ec2": edges((Step.UPDATE,))}
"""What moto changes in place would have to be made there beforehand, and be gone afterwards."""


@pytest.mark.parametrize(
    ("cloud", "failpoint"),
    [
        (cloud, failpoint)
        for cloud in CLOUDS
        for failpoint in edges(SPECIAL)
        if failpoint not in NOT_THERE.get(cloud, ())
    ],
)
def test_a_death_where_an_up_and_a_down_do_not_come(
    scene: Callable[[Account], Scene], cloud: str, failpoint: str
) -> None:
    step = Step(failpoint.rpartition(".")[0])
    one = scene(CLOUDS[cloud](step))
    STORIES[step](one, failpoint)
    one.down()
    one.assert_nothing()
