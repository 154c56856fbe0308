"""A small universe for the operations room: one database, one cloud, and engines that come, crash and go."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Connection, select

from pelagos.clouds import ServerSpec
from pelagos.clouds.plugins import Plugins
from pelagos.clouds.pool import AccountConfig, Pool
from pelagos.clouds.simulated import SimulatedCloud, SimulatedOptions, SimulatedPlugin
from pelagos.model import DEFAULT_SCOPE, OperationState, Scope, ServerState
from pelagos.model.world import World
from pelagos.operations import EngineConfig, NewServer, OperationRecord, OperationsEngine, ServerAction
from pelagos.quotas import Holding, holdings
from pelagos.store import Holder, LeaseKeeper, LeaseRow, Store, open_simulated_store
from pelagos.store.schema import attempts, events, operations, parts, servers
from pelagos.store.simulated import SimulatedDatabase

ACCOUNT = "cloud"
_OPTIONS: dict[str, Any] = {"create_timeout": 10.0, "call_timeout": 5.0, "settle": 20.0}


class Crash(BaseException):
    """The program dies here."""


class Facts:
    """Host facts of the universe: who was crashed is dead, and everybody on the host can tell."""

    def __init__(self, dead: set[str]) -> None:
        self._dead = dead

    def hold(self, holder_id: str) -> Holder:
        return Holder(holder_id, "host", "boot", 1, "1", "")

    def let_go(self, *, clean: bool) -> None: ...

    def is_dead(self, row: LeaseRow) -> bool:
        return row.holder in self._dead


class CrashAt:
    """Commit hooks that crash at one edge: ``edge`` counts befores and afters of commits from when it is armed."""

    def __init__(self) -> None:
        self.edge: int | None = None
        self.seen = 0
        self.crashed: Callable[[BaseException], None] = lambda error: None

    def before_commit(self) -> None:
        self._step()

    def after_commit(self) -> None:
        self._step()

    def _step(self) -> None:
        if self.edge is None:
            return
        if self.seen == self.edge:
            self.edge = None
            raise Crash(f"edge {self.seen}")
        self.seen += 1


class Incarnation:
    """One running engine with its store and its leases."""

    def __init__(self, universe: Universe, store: Store, hooks: CrashAt | None, config: EngineConfig) -> None:
        self.universe = universe
        self.store = store
        self.hooks = hooks
        self.keeper = LeaseKeeper(store, universe.world, Facts(universe.dead))
        pool = Pool(
            [AccountConfig(name=ACCOUNT, driver="simulated")],
            Plugins({"simulated": SimulatedPlugin({ACCOUNT: universe.cloud})}, source=lambda *, group: ()),
            universe.world,
            Path("/nowhere"),
        )
        self.pool = pool
        self.engine = OperationsEngine(store, pool, self.keeper, universe.world, config)
        self.task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self.keeper.start()
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        # Its own tasks in its own group, so that it can be crashed as a process is.
        async with asyncio.TaskGroup() as group:
            keeping = group.create_task(self.keeper.run())
            await self.engine.run()
            await self.keeper.stop()
            keeping.cancel()

    async def crash(self) -> None:
        """As kill -9 does: nothing more is written, calls that are out go their way in the cloud."""
        self.universe.dead.add(self.keeper.holder_id)
        if hasattr(self.store, "kill"):
            self.store.kill(Crash("killed"))
        assert self.task is not None
        self.task.cancel()
        with contextlib.suppress(BaseException):
            await self.task

    async def died(self) -> bool:
        """Wait a while for the program to die of a crash at a commit."""
        assert self.task is not None
        done, _ = await asyncio.wait([self.task], timeout=30)
        if not done:
            return False
        with contextlib.suppress(BaseException):
            self.task.result()
        self.universe.dead.add(self.keeper.holder_id)
        return True

    async def stop(self) -> None:
        if self.task is not None and not self.task.done():
            await self.engine.stop()
            await self.task


class Universe:
    """What survives a crash: the database and the cloud."""

    def __init__(
        self, world: World, open_store: Callable[..., Any] | None = None, options: dict[str, Any] | None = None
    ) -> None:
        self.world = world
        self.dead: set[str] = set()
        self.cloud = SimulatedCloud(
            world,
            name=ACCOUNT,
            options=msgspec.convert({**_OPTIONS, **(options or {})}, SimulatedOptions),
        )
        self._open = open_store
        self._database = None if open_store is not None else SimulatedDatabase(world)
        self._incarnations: list[Incarnation] = []
        self._count = 0

    async def __aenter__(self) -> Universe:
        return self

    async def __aexit__(self, *exception: object) -> None:
        for incarnation in self._incarnations:
            with contextlib.suppress(Crash):
                await incarnation.stop()
                await incarnation.store.stop()
        if self._database is not None:
            self._database.close()

    async def incarnate(self, *, hooks: CrashAt | None = None, start: bool = True, **config: Any) -> Incarnation:
        if self._open is not None:
            store = await self._open()
        else:
            store = open_simulated_store(
                self.world, database=self._database, hooks=hooks, before=(0.0, 0.002), after=(0.0, 0.002)
            )
            await store.start()
        incarnation = Incarnation(self, store, hooks, EngineConfig(**config))
        self._incarnations.append(incarnation)
        if start:
            await incarnation.start()
        return incarnation

    def new(self, count: int = 1, resource: dict[str, Any] | None = None, **options: Any) -> list[NewServer]:
        made = []
        for _ in range(count):
            self._count += 1
            made.append(
                NewServer(
                    operation_id=self.world.new_id(),
                    request_id=f"create-{self._count}",
                    server_id=self.world.new_id(),
                    account=ACCOUNT,
                    spec=ServerSpec(name=f"server-{self._count}", options=resource or {}),
                    **options,
                )
            )
        return made

    def on(self, *server_ids: str, **options: Any) -> list[ServerAction]:
        made = []
        for server_id in server_ids:
            self._count += 1
            made.append(
                ServerAction(
                    operation_id=self.world.new_id(), request_id=f"act-{self._count}", server_id=server_id, **options
                )
            )
        return made

    # -- what is asserted ------------------------------------------------------------------------------------------

    def cloud_names(self) -> list[str]:
        return sorted(server.name for server in self.cloud.servers())

    def assert_nothing_doubled(self) -> None:
        doubled = {token: ids for token, ids in self.cloud.made().items() if len(ids) > 1}
        assert not doubled
        assert not {token: ids for token, ids in self.cloud.parts_made().items() if len(ids) > 1}


async def rows(store: Store, table: Any, **where: Any) -> list[Any]:
    """Rows of a table, oldest first where it has a time."""

    def read(connection: Connection) -> list[Any]:
        query = select(table)
        for name, value in where.items():
            query = query.where(table.c[name] == value)
        if "created_at" in table.c:
            query = query.order_by(table.c.created_at)
        return list(connection.execute(query))

    return await store.read(read)


async def server_states(store: Store) -> dict[str, ServerState]:
    return {row.id: ServerState(row.state) for row in await rows(store, servers)}


async def event_kinds(store: Store, **where: Any) -> list[str]:
    found = await rows(store, events, **where)
    return [row.kind for row in sorted(found, key=lambda row: row.position)]


async def operation_states(store: Store) -> list[OperationState]:
    return [OperationState(row.state) for row in await rows(store, operations)]


async def open_attempts(store: Store) -> list[Any]:
    return await rows(store, attempts, state="open")


async def living_parts(store: Store) -> list[Any]:
    return [row for row in await rows(store, parts) if row.deleted_at is None]


async def used(store: Store, scope: Scope = DEFAULT_SCOPE) -> dict[str, int]:
    """What the project uses, by resource; nothing may be reserved."""
    held = await store.read(partial(holdings, project_id=scope.project_id))
    assert not {resource for resource, holding in held.items() if holding.reserved}
    return {resource: holding.used for resource, holding in held.items() if holding.used}


async def holding(store: Store, scope: Scope = DEFAULT_SCOPE) -> Holding:
    return (await store.read(partial(holdings, project_id=scope.project_id))).get("servers", Holding())


def states(records: dict[str, OperationRecord]) -> set[OperationState]:
    return {record.state for record in records.values()}


async def until(condition: Callable[[], bool]) -> None:
    """Let (virtual) time pass until something is so."""
    async with asyncio.timeout(3600):
        while not condition():  # noqa: ASYNC110 - the cloud has no bell
            await asyncio.sleep(0.05)


async def until_event(store: Store, kind: str) -> None:
    """Wait until an event of this kind was written."""
    watch = store.watch()
    async with asyncio.timeout(3600):
        while kind not in await event_kinds(store):
            await watch.changed()
    watch.close()


async def until_operation(store: Store, state: OperationState, *, gone: bool = False) -> None:
    """Wait until some operation is in this state, or none is any more."""
    watch = store.watch()
    async with asyncio.timeout(3600):
        while (state in await operation_states(store)) == gone:
            await watch.changed()
    watch.close()
