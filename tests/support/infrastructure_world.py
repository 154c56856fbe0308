"""A small universe for the infrastructure service: one database, some simulated clouds, and programs on them.

A :class:`Program` is a container with the compute and the infrastructure service, as the runtime composes them. Several
may live on one :class:`Site`; one that is killed never reaches its database again and has cleaned up nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import select

from pelagos.clouds.plugins import Plugins
from pelagos.clouds.pool import AccountConfig, Pool
from pelagos.clouds.simulated import SimulatedCloud, SimulatedOptions, SimulatedPlugin
from pelagos.container import Container, ContainerConfig
from pelagos.model import DEFAULT_SCOPE, Scope
from pelagos.model.states import RunState
from pelagos.model.world import World
from pelagos.operations import OperationsEngine
from pelagos.process import Context, client, use_context
from pelagos.services.compute import ComputeService
from pelagos.services.infrastructure import InfrastructureService, MaintainerSettings, queries
from pelagos.services.infrastructure.health import HealthVerdict
from pelagos.services.infrastructure.messages import CancelRun
from pelagos.store import LeaseKeeper, Store
from pelagos.store.schema import events as event_rows
from pelagos.store.schema import servers as server_rows
from pelagos.wire.infrastructures import ExplainView, PlanRequest, PlanView, RunRequest, RunView, StatusView
from support.operations_world import Facts, rows

OTHER = Scope("other", "somebody")
QUICK = MaintainerSettings(
    interval=0.3,
    health_interval=0.1,
    first_poll=0.01,
    poll=0.05,
    recheck=0.02,
    backoff=0.05,
    backoff_max=0.4,
    resend=0.05,
    retry_patience=2.0,
    refusal_patience=0.3,
)
"""Times for tests on the real clock."""


def describe(name: str, nodes: Mapping[str, Mapping[str, Any]], **more: Any) -> dict[str, str]:
    """The bundle of an infrastructure. Of a node: ``after`` (names), ``scaling`` (min, max), ``clouds`` (labels, the
    preferred first), ``check`` and ``policy`` (YAML flow texts), and options of the resource."""
    lines = [f"infra_name: {name}", "user_id: tester@example.org", *(f"{key}: {value}" for key, value in more.items())]
    lines.append("nodes:")
    edges: list[str] = []
    definitions: list[str] = []
    for node, wish in nodes.items():
        least, most = wish.get("scaling", (1, 1))
        lines += [
            f"  - &{node.upper()}",
            f"    name: {node}",
            f"    type: {node}_node",
            f"    scaling: {{min: {least}, max: {most}}}",
        ]
        lines += [f"    policy: {wish['policy']}"] if "policy" in wish else []
        edges += [f"  - connection: [*{node.upper()}, *{other.upper()}]" for other in wish.get("after", ())]
        definitions.append(f"'node_def:{node}_node':")
        kept = {
            key: value
            for key, value in wish.items()
            if key not in ("after", "scaling", "clouds", "check", "text", "policy")
        }
        for cloud in wish.get("clouds", ("east",)):
            options = "".join(f", {key}: {value}" for key, value in kept.items())
            definitions += [
                f"  - resource: {{type: simulated, name: {cloud}{options}}}",
                f"    health_check: {wish.get('check', '{ports: [80]}')}",
            ]
            if "text" in wish:
                definitions += [
                    "    contextualisation:",
                    "      type: cloudinit",
                    f"      context_template: {{bootcmd: [{wish['text']!r}]}}",
                ]
    if edges:
        lines += ["dependencies:", *edges]
    return {"infra.yaml": "\n".join(lines) + "\n", "nodes.yaml": "\n".join(definitions) + "\n"}


class CloudProber:
    """Asks the simulated clouds, which know how their servers are. ``looks`` counts probes by address."""

    def __init__(self, clouds: Mapping[str, SimulatedCloud]) -> None:
        self.clouds = clouds
        self.looks: dict[str, int] = {}
        self.down: set[str] = set()
        """Addresses that do not answer, whatever their cloud thinks of them."""
        self.unavailable: tuple[str, ...] = ()
        """Probes that cannot be made."""

    async def check(self, check: Any, target: Any) -> HealthVerdict:
        await asyncio.sleep(0)
        self.looks[target.address] = self.looks.get(target.address, 0) + 1
        if target.address not in self.down and any(cloud.probe(target.address) for cloud in self.clouds.values()):
            return HealthVerdict(healthy=True, unavailable=self.unavailable)
        return HealthVerdict(healthy=False, reason=f"{target.address} does not answer")


class MortalStore:
    """A store whose process may die: then nothing of it reaches the database, and nobody hears an answer."""

    def __init__(self, store: Store) -> None:
        self.inner = store
        self.dead = asyncio.Event()
        self.buried = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def _mortal(self, work: Callable[[], Awaitable[Any]]) -> Any:
        if self.dead.is_set():
            await self._rest()
        result = await work()
        if self.dead.is_set():
            await self._rest()
        return result

    async def _rest(self) -> None:
        """The dead hear nothing; when they are buried, their tasks end."""
        await self.buried.wait()
        raise asyncio.CancelledError

    async def run(self, transaction: Any) -> Any:
        return await self._mortal(lambda: self.inner.run(transaction))

    async def read(self, query: Any) -> Any:
        return await self._mortal(lambda: self.inner.read(query))


class Program:
    """One running program."""

    def __init__(self, site: Site, number: int, *, serves: bool, settings: MaintainerSettings) -> None:
        self.site = site
        self.number = number
        self.serves = serves
        self.settings = settings
        self.store: Any = None
        self.keeper: Any = None
        self.service: Any = None
        self.commands: Any = None
        self._container: Any = None
        self._stop = asyncio.Event()
        self._started = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    # -- its life --------------------------------------------------------------------------------------------------

    async def start(self) -> Program:
        self.store = MortalStore(await self.site.open_store())
        self.keeper = LeaseKeeper(
            self.store, self.site.world, Facts(self.site.dead), holder_id=f"program-{self.number}"
        )
        self._task = asyncio.create_task(self._live())
        started = asyncio.create_task(self._started.wait())
        await asyncio.wait([started, self._task], return_when=asyncio.FIRST_COMPLETED)
        started.cancel()
        if self._task.done():
            self._task.result()
        return self

    async def _live(self) -> None:
        site = self.site
        plugins = Plugins({"simulated": SimulatedPlugin(site.clouds)}, source=lambda *, group: ())
        accounts = [AccountConfig(name=name, driver="simulated") for name in site.clouds]
        async with self.keeper.running():
            pool = Pool(accounts, plugins, site.world, Path("/nowhere"))
            engine = partial(OperationsEngine, self.store, pool, self.keeper, site.world)
            identity = f"c{self.number}"
            async with Container(site.world, ContainerConfig(id=identity, system=identity)) as container:
                self._container = container
                await container.spawn(lambda: ComputeService(self.store, engine()), name="compute")
                self.service = InfrastructureService(
                    store=self.store,
                    keeper=self.keeper,
                    pool=pool,
                    settings=self.settings,
                    maintain=self.serves,
                    prober=site.prober,
                )
                await container.spawn(self.service, name="infrastructure")
                self.commands = client(InfrastructureService, container.edge, timeout=60.0)
                self._started.set()
                await self._stop.wait()
            await pool.close()

    def kill(self) -> None:
        """As kill -9: calls that were sent arrive, nothing else of it happens ever again."""
        self.site.dead.add(self.keeper.holder_id)
        self.store.dead.set()

    async def stop(self) -> None:
        """In good order."""
        if self._task is None or self.store.dead.is_set():
            return
        self._stop.set()
        await self._task

    async def bury(self) -> None:
        if self._task is not None and not self._task.done():
            self.store.buried.set()
            self._task.cancel()
            await asyncio.wait([self._task], timeout=5.0)

    # -- commands --------------------------------------------------------------------------------------------------

    async def ask(self, command: str, request: Any, *, scope: Scope = DEFAULT_SCOPE) -> Any:
        with use_context(Context(scope)):
            return await getattr(self.commands, command)(request)

    async def start_run(self, kind: str, *, scope: Scope = DEFAULT_SCOPE, **fields: Any) -> RunView:
        request = RunRequest(kind=kind, **fields)  # type: ignore[arg-type]
        return await self.ask("start_run", request, scope=scope)

    async def up(self, sources: dict[str, str], *, scope: Scope = DEFAULT_SCOPE, **fields: Any) -> RunView:
        """Start it; answers as soon as it is accepted."""
        return await self.start_run("up", scope=scope, sources=sources, entries=("infra.yaml", "nodes.yaml"), **fields)

    async def build(self, sources: dict[str, str], **fields: Any) -> RunView:
        """Up, to its successful end."""
        done = await self.finish((await self.up(sources, **fields)).id)
        assert done.state is RunState.SUCCEEDED, done
        return done

    async def run(self, kind: str, name: str = "shop", **fields: Any) -> RunView:
        """A run to its end."""
        return await self.finish((await self.start_run(kind, infrastructure=name, **fields)).id)

    async def cancel(self, run: RunView, *, keep: bool = False) -> RunView:
        return await self.ask("cancel_run", CancelRun(run_id=run.id, keep=keep))

    async def plan(self, *, scope: Scope = DEFAULT_SCOPE, **fields: Any) -> PlanView:
        if "sources" in fields:
            fields.setdefault("entries", ("infra.yaml", "nodes.yaml"))
        return await self.ask("plan", PlanRequest(**fields), scope=scope)

    # -- reads -----------------------------------------------------------------------------------------------------

    async def finish(self, run_id: str, scope: Scope = DEFAULT_SCOPE) -> RunView:
        """Wait for a run's end."""

        async def ended() -> RunView | None:
            run = await self.site.read(lambda c: queries.run(c, scope, run_id))
            return run if run.state.final else None

        return await self.site.until(ended, f"run {run_id} ends")

    async def status(self, name: str = "shop", scope: Scope = DEFAULT_SCOPE) -> StatusView:
        return await self.site.read(lambda c: queries.status(c, scope, name))

    async def explain(self, name: str = "shop", node: str | None = None, scope: Scope = DEFAULT_SCOPE) -> ExplainView:
        return await self.site.read(lambda c: queries.explain(c, scope, name, node))


class Site:
    """What survives a program: the database and the clouds. Use as an async context manager."""

    def __init__(
        self,
        world: World,
        open_store: Callable[[], Awaitable[Store]],
        clouds: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        settings: MaintainerSettings = QUICK,
        patience: float = 20.0,
        look: float = 0.02,
    ) -> None:
        self.world = world
        self.open_store = open_store
        self.settings = settings
        self.patience = patience
        """Seconds that anything may take in a test."""
        self.look = look
        """Seconds between two looks at what no bell tells of."""
        self.dead: set[str] = set()
        defaults = {"create_timeout": 1.0, "call_timeout": 1.0, "settle": 0.2, "poll_interval": 0.02}
        self.clouds = {
            name: SimulatedCloud(world, name=name, options=SimulatedOptions(**{**defaults, **options}))
            for name, options in (clouds or {"east": {}}).items()
        }
        self.prober = CloudProber(self.clouds)
        self.programs: list[Program] = []
        self._eye: Store | None = None

    async def __aenter__(self) -> Site:
        self._eye = await self.open_store()
        return self

    async def __aexit__(self, *exception: object) -> None:
        for program in self.programs:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(program.stop(), 10)
            await program.bury()

    async def program(self, *, serves: bool = False, settings: MaintainerSettings | None = None) -> Program:
        program = Program(self, len(self.programs) + 1, serves=serves, settings=settings or self.settings)
        self.programs.append(program)
        return await program.start()

    @property
    def east(self) -> SimulatedCloud:
        return self.clouds["east"]

    async def read(self, query: Any) -> Any:
        """What the database says, whoever lives."""
        assert self._eye is not None
        return await self._eye.read(query)

    async def run(self, transaction: Any) -> Any:
        assert self._eye is not None
        return await self._eye.run(transaction)

    async def rows(self, table: Any, **where: Any) -> list[Any]:
        assert self._eye is not None
        return await rows(self._eye, table, **where)

    async def until(self, condition: Callable[[], Awaitable[Any]], what: str) -> Any:
        """Wait until the condition's value is true, looking whenever the database changes; answers the value."""
        assert self._eye is not None
        watch = self._eye.watch()
        try:
            async with asyncio.timeout(self.patience):
                while not (value := await condition()):
                    await watch.changed(timeout=self.look)
            return value
        except TimeoutError:
            raise AssertionError(f"not within {self.patience:g} s: {what}") from None
        finally:
            watch.close()

    async def kinds(self, **where: Any) -> list[str]:
        """Kinds of the events, in order."""
        found = await self.rows(event_rows, **where)
        return [row.kind for row in sorted(found, key=lambda row: row.position)]

    async def until_event(self, kind: str, **where: Any) -> Any:
        """The first event of a kind (and node, run_id, ...), as soon as there is one."""

        async def there() -> Any:
            found = await self.rows(event_rows, kind=kind, **where)
            return min(found, key=lambda row: row.position) if found else None

        return await self.until(there, f"event {kind} {where}")

    async def provider_ids(self, node: str, status: StatusView) -> list[str]:
        """Of a node's instances, in the cloud's terms."""
        wanted = {instance.server_id for instance in status.nodes[node].instances.values()}

        def read(connection: Any) -> list[str]:
            query = select(server_rows.c.provider_id).where(server_rows.c.id.in_(wanted))
            return [row for row in connection.execute(query).scalars() if row]

        return await self.read(read)

    def alive(self) -> list[str]:
        """Nodes of the servers that really exist in all clouds, sorted: one entry a server."""
        return sorted(server.name.split("-")[3] for cloud in self.clouds.values() for server in cloud.servers())

    def assert_nothing_doubled(self) -> None:
        for cloud in self.clouds.values():
            assert [token for token, made in cloud.made().items() if len(made) > 1] == []
