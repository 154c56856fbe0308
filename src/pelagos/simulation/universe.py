"""A universe: one database, some clouds, and incarnations of Pelagos that come, freeze, crash and go.

Each incarnation is the real program (store, keeper, pool, container, services, started as apps of the runtime) on a
virtual process. What survives it is what would survive a process on a real machine: the database, the clouds, and
requests that are on their way. One host is the rule; an incarnation may be placed on another one, whose death nobody
here can tell but by the lease's expiry.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pelagos.clouds import AccountConfig, Plugins, Pool
from pelagos.clouds.simulated import SimulatedCloud, SimulatedOptions, SimulatedPlugin
from pelagos.container import Container, ContainerConfig
from pelagos.container.apps import AppManager
from pelagos.exchange import MemoryTransport
from pelagos.exchange.envelope import Envelope
from pelagos.model.errors import StoreUnavailable, Unavailable
from pelagos.model.scope import DEFAULT_SCOPE
from pelagos.process import client
from pelagos.runtime.releases import builtin_plan
from pelagos.runtime.resources import HostResources
from pelagos.runtime.settings import Settings
from pelagos.services.infrastructure import InfrastructureService
from pelagos.services.infrastructure.health import HealthVerdict, Prober, ProbeTarget
from pelagos.services.infrastructure.metrics import MetricReader, MetricUnavailable
from pelagos.services.infrastructure.policies import MetricSource
from pelagos.services.infrastructure.values import HealthCheck
from pelagos.simulation.edges import Crash, DyingPlugin, Edges
from pelagos.simulation.invariants import Invariants
from pelagos.simulation.loop import SimulationError, VirtualLoop, VirtualProcess
from pelagos.simulation.recording import Recorder, RecordingStore
from pelagos.simulation.world import SimulatedWorld
from pelagos.store import Holder, HostFacts, LeaseKeeper, LeaseRow, SimulatedDatabase, Store, open_simulated_store
from pelagos.store.migrating import bring_up_to_date

__all__ = ["Died", "Incarnation", "Universe", "Violated"]

T = TypeVar("T")

_STORE_DELAY = (0.0, 0.004)
_empty_database: list[bytes] = []


class Died(Exception):
    """The incarnation that was asked died, or was stopped, before it answered."""


class Violated(SimulationError):
    """An invariant does not hold."""


class _Facts:
    """Host facts of an incarnation: on one host, everybody sees who is dead."""

    def __init__(self, incarnation: Incarnation) -> None:
        self._me = incarnation

    def hold(self, holder_id: str) -> Holder:
        self._me.holder_id = holder_id
        number, host = self._me.number, self._me.host
        return Holder(holder_id, host, f"boot of {host}", number, str(number), f"/locks/{holder_id}")

    def let_go(self, *, clean: bool) -> None:
        self._me.let_go = True

    def is_dead(self, row: LeaseRow) -> bool:
        for other in self._me.universe.incarnations:
            if other.holder_id == row.holder:
                return other.host == self._me.host and (other.dead or other.let_go)
        return False


class _Broker(MemoryTransport):
    """The exchange of an incarnation, with a broker that may be lost: then nothing is sent, and replies are gone."""

    lost = False

    async def publish(self, envelope: Envelope) -> None:
        if self.lost:
            raise Unavailable("the broker is gone", advice="Wait until it is back.")
        await super().publish(envelope)

    def post(self, envelope: Envelope) -> None:
        if not self.lost:
            super().post(envelope)


class _Prober:
    """Asks the clouds, which know how their servers are."""

    def __init__(self, universe: Universe) -> None:
        self._universe = universe
        self._rng = universe.world.rng("prober")

    async def check(self, check: HealthCheck, target: ProbeTarget) -> HealthVerdict:
        await asyncio.sleep(self._rng.uniform(0.001, 0.05))
        # Two clouds may have servers at one address: the one is asked whose server it is.
        (account,) = self._universe.query("SELECT account FROM servers WHERE id = ?", target.server_id)[0]
        if self._universe.clouds[account].probe(target.address):
            return HealthVerdict(healthy=True)
        return HealthVerdict(healthy=False, reason=f"{target.address} does not answer")


class _Metrics:
    """Tells the universe's load, whoever is asked."""

    def __init__(self, universe: Universe) -> None:
        self._universe = universe
        self._rng = universe.world.rng("metrics")

    async def read(self, source: MetricSource, server_id: str) -> float:
        await asyncio.sleep(self._rng.uniform(0.001, 0.05))
        if self._universe.load is None:
            raise MetricUnavailable("nobody tells a load")
        return self._universe.load()

    async def read_pair(self, source: MetricSource, server_id: str) -> tuple[float, float]:
        raise MetricUnavailable("nobody tells how busy a processor is")


class Incarnation:
    """One run of the program. ``serves``: it maintains what is to be maintained, as the daemon does."""

    def __init__(self, universe: Universe, number: int, *, serves: bool, host: str) -> None:
        self.universe = universe
        self.number = number
        self.serves = serves
        self.host = host
        self.holder_id = ""
        self.let_go = False
        self.partitioned = False
        self.broker = _Broker(universe.world)
        self.process: VirtualProcess = universe.loop.process(f"p{number}")
        self.edges = Edges(self._die, self.pause)
        self.commands: Any = None
        self.pool: Pool | None = None
        self.keeper: LeaseKeeper | None = None
        self.died: asyncio.Future[None] = universe.loop.create_future()
        self._paused: asyncio.Future[None] = universe.loop.create_future()
        self._started: asyncio.Future[None] = universe.loop.create_future()
        self._stop = asyncio.Event()
        self._store = open_simulated_store(
            universe.world,
            database=universe.database,
            hooks=self,
            before=_STORE_DELAY,
            after=_STORE_DELAY,
            name=f"store.{number}",
        )
        self._main: asyncio.Task[None] | None = None

    # -- its life --------------------------------------------------------------------------------------------------

    async def start(self) -> Incarnation:
        """Start it, and wait until its services are active. Raises Died."""
        self._main = self.process.start(self._live())
        await self._race(self._started)
        return self

    async def stop(self) -> None:
        """End it in good order, as an interrupt would. Raises Died."""
        assert self._main is not None
        self._stop.set()
        await self._race(self._main)

    def kill(self, why: str = "kill -9") -> None:
        """It is dead in this moment; what it sent is on its way."""
        if not self.dead:
            self._die(why)
            self._store.kill(Crash(why))

    def pause(self) -> None:
        self.universe.note(f"p{self.number} paused")
        self.process.pause()
        if not self._paused.done():
            self._paused.set_result(None)

    def resume(self) -> None:
        if self.process.state == "paused":
            self.universe.note(f"p{self.number} resumed")
            self._paused = self.universe.loop.create_future()
            self.process.resume()

    def cut_off(self) -> None:
        """From now on it does not reach its store, and goes on with what it has in hand."""
        self.universe.note(f"p{self.number} is cut off from the store")
        self.partitioned = True

    def rejoin(self) -> None:
        if self.partitioned:
            self.universe.note(f"p{self.number} reaches the store again")
            self.partitioned = False

    def lose_broker(self) -> None:
        """Its messages go nowhere from now on."""
        self.universe.note(f"p{self.number} loses its broker")
        self.broker.lost = True

    def find_broker(self) -> None:
        if self.broker.lost:
            self.universe.note(f"p{self.number} has its broker again")
            self.broker.lost = False

    def _reach_store(self) -> None:
        if self.partitioned:
            raise StoreUnavailable("the store is out of reach", advice="The network is partitioned: wait.")

    @property
    def dead(self) -> bool:
        return self.process.state == "dead"

    @property
    def alive(self) -> bool:
        """It lives, or is only paused."""
        return not self.dead and self._main is not None and not self._main.done()

    async def call(self, command: Callable[[Any], Awaitable[T]]) -> T:
        """Let it carry out a command of the infrastructure service, as its command line would. Raises Died."""

        async def ask() -> T:
            return await command(self.commands)

        return await self._race(self.process.start(ask(), "call"))

    async def have_accounts(self, names: Iterable[str]) -> None:
        """Let its pool be of these accounts from now on, as its administrator does. Raises Died."""

        async def reload(_: Any) -> None:
            assert self.pool is not None
            self.pool.reload(_accounts(wanted))

        wanted = list(names)
        self.universe.note(f"the pool of p{self.number} is {wanted}")
        await self.call(reload)

    def before_commit(self) -> None:
        """The store's hook."""
        if self.edges.reached("before commit"):
            raise Crash(self.edges.died_at)

    def after_commit(self) -> None:
        """The store's hook."""
        self.universe.invariants.committed()
        if self.edges.reached("after commit"):
            raise Crash(self.edges.died_at)

    def _die(self, why: str) -> None:
        self.universe.note(f"p{self.number} dies: {why}")
        self.process.kill()
        self._store.kill(Crash(why))
        if not self.died.done():
            self.died.set_result(None)

    async def _race(self, future: asyncio.Future[T]) -> T:
        ends: set[asyncio.Future[Any]] = {future, self.died, self._paused}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if not future.done():
            raise Died(f"p{self.number}: {self.edges.died_at or ('killed' if self.dead else 'paused')}")
        return future.result()

    async def _live(self) -> None:
        universe = self.universe
        world = universe.world
        store = RecordingStore(
            self._store,
            universe.recorder,
            lambda: self.holder_id,
            lambda: self.edges.pass_("handing over"),
            self._reach_store,
        )
        await store.start()
        async with LeaseKeeper(store, world, _Facts(self)).running() as keeper:
            self.keeper = keeper
            plugins = Plugins({"simulated": DyingPlugin(SimulatedPlugin(universe.clouds), self.edges)})
            pool = self.pool = Pool(_accounts(universe.clouds), plugins, world, Path("/simulated"))
            container = Container(world, ContainerConfig(id=f"p{self.number}", system=f"p{self.number}"), self.broker)
            await container.start()
            given = {
                Store: store,
                LeaseKeeper: keeper,
                Pool: pool,
                HostFacts: _Facts(self),
                Prober: _Prober(universe),
                MetricReader: _Metrics(universe),
            }
            apps = AppManager(container, HostResources(container, universe.settings, given))
            await apps.start(builtin_plan(*(("compute", "infrastructure") if self.serves else ("embedded",))))
            timeout = universe.settings.http.command_timeout
            self.commands = client(InfrastructureService, container.edge, timeout=timeout)
            self._started.set_result(None)
            failed = asyncio.ensure_future(container.wait())
            stopped = asyncio.ensure_future(self._stop.wait())
            ends: set[asyncio.Future[Any]] = {failed, stopped}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if failed.done():
                universe.invariants.broken(f"the container of p{self.number} failed: {failed.exception()!r}")
            stopped.cancel()
            await container.stop()
            await asyncio.wait({failed})
            await pool.close()
        await store.stop()


class Universe:
    """See the module's text."""

    def __init__(
        self,
        seed: int | str,
        loop: VirtualLoop,
        *,
        clouds: Mapping[str, SimulatedOptions] | None = None,
        maintain_interval: float = 10.0,
    ) -> None:
        self.loop = loop
        self.world = SimulatedWorld(seed, loop)
        self.rng = self.world.rng("scenario")
        self.settings = Settings(maintain_interval=maintain_interval)
        self.database = SimulatedDatabase(self.world)
        _make_tables(self.database)
        self.recorder = Recorder(self.database)
        self.clouds = {
            name: SimulatedCloud(self.world, name=name, options=options)
            for name, options in (clouds or {"east": SimulatedOptions()}).items()
        }
        self.incarnations: list[Incarnation] = []
        self.load: Callable[[], float] | None = None
        """What a metric is now, for scenarios of autoscaling."""
        self.notes: list[str] = []
        self.invariants = Invariants(self.recorder, self.clouds, self.note)
        loop.set_exception_handler(self._unhandled)

    def note(self, text: str) -> None:
        """Write a line into the seed's story."""
        self.notes.append(f"{self.loop.time():12.6f} {text}")

    async def incarnate(self, *, serves: bool = False, host: str = "here", dies_at: int | None = None) -> Incarnation:
        """Start the program once more. ``dies_at``: at its edge of that number. Raises Died."""
        incarnation = Incarnation(self, len(self.incarnations) + 1, serves=serves, host=host)
        self.incarnations.append(incarnation)
        self.note(f"p{incarnation.number} starts on {host}{', serving' if serves else ''}")
        if dies_at is not None:
            incarnation.edges.arm(dies_at)
        return await incarnation.start()

    def check(self) -> None:
        """Raise Violated if any invariant was broken so far."""
        if self.invariants.problems:
            raise Violated(self.invariants.problems[0])

    async def until(self, what: str, condition: Callable[[], bool], within: float, *, look: float = 0.05) -> None:
        """Wait until a condition holds. Raises Violated when it does not come true within so many virtual seconds."""
        end = self.loop.time() + within
        while True:
            self.check()
            if condition():
                return
            if self.loop.time() >= end:
                raise Violated(f"not within {within:g} s: {what}")
            await asyncio.sleep(look)

    def query(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Rows of the committed state."""
        return self.recorder.query(sql, *parameters)

    def limit(self, resource: str, limit: int | None) -> None:
        """Set the project's quota of a resource, as its administrator does, or take it away."""
        self.note(f"the quota of {resource} is {limit}")
        execute = self.database.raw.execute
        execute("DELETE FROM quota_limits WHERE project_id = ? AND resource = ?", (DEFAULT_SCOPE.project_id, resource))
        if limit is not None:
            values = (DEFAULT_SCOPE.project_id, resource, limit)
            execute('INSERT INTO quota_limits (project_id, resource, "limit") VALUES (?, ?, ?)', values)

    def close(self) -> None:
        """Let the data go; nothing runs any more."""
        for incarnation in self.incarnations:
            incarnation.process.bury()
        self.database.close()

    def _unhandled(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, Crash):
            return
        self.invariants.broken(f"{context.get('message')}: {error!r}")


def _accounts(names: Iterable[str]) -> list[AccountConfig]:
    return [AccountConfig(name=name, driver="simulated") for name in names]


def _make_tables(database: SimulatedDatabase) -> None:
    """The schema, made once a program and copied: migrating takes longer than most scenarios."""
    raw = database.raw
    if not _empty_database:
        bring_up_to_date(database.connection, raw.execute, database.where)
        _empty_database.append(raw.serialize())
        return
    raw.deserialize(_empty_database[0])
