"""Every failpoint once: a run dies there, the next one ends with exactly what is described and nothing else in the
cloud; the same taking it down. The cloud itself is asked, not the records."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pelagos.clouds import CloudServer, DriverContext, PartsDriver, Plugins
from pelagos.clouds.simulated import SimulatedCloud, SimulatedOptions
from pelagos.model.failpoints import Step, names
from pelagos.model.world import SystemWorld
from support.failpoint_runs import Runs

pytestmark = pytest.mark.e2e

INFRASTRUCTURE = "pair"


class Account(msgspec.Struct, frozen=True):
    """A cloud to die on: another one (an emulated EC2, say) is another of these, and goes through the same tests."""

    name: str
    driver: str
    options: dict[str, Any] = {}
    resource: str = ""
    """More keys of the nodes' resource sections, as YAML's flow style has them."""

    @property
    def config(self) -> dict[str, Any]:
        return {"name": self.name, "driver": self.driver, "options": self.options}

    def sources(self, count: int = 1) -> dict[str, str]:
        """One node of ``count`` instances."""
        return {
            "infra.yaml": (
                f"infra_name: {INFRASTRUCTURE}\nuser_id: me\nnodes:\n"
                f"  - name: one\n    type: failpoint_node\n    scaling: {{min: {count}, max: {count}}}\n"
            ),
            "nodes.yaml": (
                "'node_def:failpoint_node':\n"
                f"  - resource: {{type: {self.driver}, name: {self.name}{self.resource}}}\n"
                "    health_check: {ping: false}\n"
            ),
        }


LOCAL = Account("local", "local", {"isolation": "processes", "stop_grace": 0.2})
_QUICK: dict[str, Any] = {"state": "file", "create_timeout": 1.0, "call_timeout": 1.0, "settle": 0.2}
SIMULATED = Account("simulated", "simulated", {**_QUICK, "token_lookup": "tag"})
PARTS = Account("simulated", "simulated", {**_QUICK, "token_lookup": "tag"}, ", volumes: 1, address: true")

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

    def servers(self) -> list[CloudServer]:
        return list(self.with_driver(lambda driver: driver.list_servers(timeout=10)))

    def parts(self) -> list[Any]:
        async def listed(driver: Any) -> list[Any]:
            return list(await driver.list_parts(timeout=10)) if isinstance(driver, PartsDriver) else []

        return list(self.with_driver(listed))

    @property
    def reality(self) -> SimulatedCloud:
        options = msgspec.convert(self.account.options, SimulatedOptions)
        folder = self.home / "clouds" / self.account.name
        return SimulatedCloud(SystemWorld(), name=self.account.name, options=options, folder=folder)

    def assert_exactly(self, count: int, parts: int = 0) -> None:
        servers = self.servers()
        assert len(servers) == count, servers
        assert all(server.state == "active" for server in servers)
        assert len({server.token for server in servers}) == count
        assert len(self.parts()) == parts

    def assert_nothing(self) -> None:
        assert self.servers() == [] and self.parts() == []


@pytest.fixture(scope="module")
def homes() -> Iterator[dict[str, Path]]:
    """A home that ended a test with nothing in it serves the next one."""
    homes: dict[str, Path] = {}
    yield homes
    for home in homes.values():
        shutil.rmtree(home.parent, ignore_errors=True)


@pytest.fixture
def scene(runs: Runs, homes: dict[str, Path]) -> Iterator[Callable[[Account], Scene]]:
    scenes: list[tuple[Account, Scene]] = []

    def make(account: Account) -> Scene:
        home = homes.pop(str(account), None) or Path(tempfile.mkdtemp(prefix="pel-")) / "home"
        scenes.append((account, Scene(runs, home, account)))
        return scenes[-1][1]

    yield make
    for account, one in scenes:
        left = one.servers()
        if not left and not one.parts():
            homes[str(account)] = one.home
            continue
        if account.driver != "simulated":
            for server in left:
                one.with_driver(lambda driver, id_=server.provider_id: driver.delete_server(id_, timeout=30))
        shutil.rmtree(one.home.parent, ignore_errors=True)


def edges(steps: tuple[Step, ...]) -> list[str]:
    return [name for name in names() if name.rpartition(".")[0] in steps]


def test_all_of_them_are_tried_below() -> None:
    assert set(edges(UP)) | set(edges(DOWN)) | set(edges(SPECIAL)) == set(names())
    assert set(STORIES) == set(SPECIAL)


@pytest.mark.parametrize("failpoint", sorted({*edges(UP), *edges(DOWN)}))
@pytest.mark.parametrize("account", [LOCAL], ids=lambda account: account.name)
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
    broken = msgspec.structs.replace(one.account, options={**one.account.options, "faults": {"failed_build": 1.0}})
    sound, one.account = one.account, broken
    assert one.up(failpoint)
    one.account = sound
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
    reality = one.reality
    reality.vanish(reality.servers()[0].provider_id)
    _settle()
    assert one.run("refresh", failpoint, account=one.account.name)
    one.run("maintain", infrastructure=INFRASTRUCTURE)
    one.assert_exactly(2)


def _doubled(one: Scene, failpoint: str) -> None:
    one.up()
    (server,) = one.servers()

    async def double(driver: Any) -> None:
        from pelagos.clouds import ServerSpec

        await driver.create_server(ServerSpec(name="double"), token=server.token, timeout=10)

    one.with_driver(double)
    assert one.run("refresh", failpoint, account=one.account.name)
    one.run("refresh", account=one.account.name)
    _settle()
    one.run("refresh", account=one.account.name)
    one.assert_exactly(1)
    assert one.servers() == [server]


def _assembly(one: Scene, failpoint: str) -> None:
    assert one.up(failpoint)
    one.up()
    one.assert_exactly(1, parts=2)


def _disassembly(one: Scene, failpoint: str) -> None:
    one.up()
    assert one.down(failpoint)


def _stranded(one: Scene, failpoint: str) -> None:
    one.up()
    reality = one.reality
    reality.vanish(reality.servers()[0].provider_id)
    _settle()
    assert one.run("refresh", failpoint, account=one.account.name, times=3)
    one.run("refresh", account=one.account.name, times=3)
    assert one.servers() == [] and one.parts() == []
    one.run("maintain", infrastructure=INFRASTRUCTURE)
    one.assert_exactly(1, parts=2)


def _settle() -> None:
    """Let the cloud's settling time pass: before that, absent means nothing."""
    import time

    time.sleep(2 * _QUICK["settle"])


STORIES: dict[Step, tuple[Account, Callable[[Scene, str], None]]] = {
    Step.CANCEL: (SIMULATED, _cancel),
    Step.LOOKUP: (SIMULATED, _lookup),
    Step.DISCARD: (SIMULATED, _discard),
    Step.START: (SIMULATED, _power),
    Step.STOP: (SIMULATED, _power),
    Step.REBOOT: (SIMULATED, _power),
    Step.GET: (SIMULATED, _vanished),
    Step.OBSERVE: (SIMULATED, _vanished),
    Step.SWEEP: (SIMULATED, _doubled),
    Step.PART: (PARTS, _assembly),
    Step.FINISH: (PARTS, _assembly),
    Step.LIST_PARTS: (PARTS, _disassembly),
    Step.UNPART: (PARTS, _disassembly),
    Step.OBSERVE_PARTS: (PARTS, _stranded),
}


@pytest.mark.parametrize("failpoint", edges(SPECIAL))
def test_a_death_where_an_up_and_a_down_do_not_come(scene: Callable[[Account], Scene], failpoint: str) -> None:
    account, story = STORIES[Step(failpoint.rpartition(".")[0])]
    one = scene(account)
    story(one, failpoint)
    one.down()
    one.assert_nothing()
