"""A small system for the services' tests: one simulated database, and containers on one exchange."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from pelagos.container import Container, ContainerConfig
from pelagos.exchange import MemoryTransport
from pelagos.model.world import World
from pelagos.process import Process
from pelagos.store import Holder, LeaseKeeper, LeaseRow, Store, open_simulated_store
from pelagos.store.simulated import SimulatedDatabase


class Crash(BaseException):
    """The program dies here."""


class Facts:
    """Nobody can tell that another is dead: leases must expire."""

    def hold(self, holder_id: str) -> Holder:
        return Holder(holder_id, "host", "boot", 1, "1", "")

    def let_go(self, *, clean: bool) -> None: ...

    def is_dead(self, row: LeaseRow) -> bool:
        return False


class Node:
    """One container with its store and lease keeper."""

    def __init__(self, container: Container, store: Store, keeper: LeaseKeeper) -> None:
        self.container = container
        self.store = store
        self.keeper = keeper


@asynccontextmanager
async def running_node(
    world: World, database: SimulatedDatabase, transport: MemoryTransport, name: str, **options: Any
) -> AsyncIterator[Node]:
    store = open_simulated_store(world, database=database, **options)
    await store.start()
    async with LeaseKeeper(store, world, Facts(), holder_id=name).running() as keeper:
        config = ContainerConfig(id=name, system="test")
        async with Container(world, config, transport, shared_transport=True) as container:
            yield Node(container, store, keeper)
    await store.stop()


class System:
    """Nodes of one system, all ended at the end of the test."""

    def __init__(self, world: World, stack: AsyncExitStack) -> None:
        self.world = world
        self.database = SimulatedDatabase(world)
        self.transport = MemoryTransport(world)
        self._stack = stack
        self._count = 0

    async def node(self, **options: Any) -> Node:
        self._count += 1
        name = f"n{self._count}"
        return await self._stack.enter_async_context(
            running_node(self.world, self.database, self.transport, name, **options)
        )


@asynccontextmanager
async def running_system(world: World) -> AsyncIterator[System]:
    async with AsyncExitStack() as stack:
        system = System(world, stack)
        stack.callback(system.database.close)
        await system.transport.start()
        stack.push_async_callback(system.transport.stop)
        yield system


class Follower(Process):
    """A process whose activation is what a test says; it records what its handlers are given."""

    def __init__(self, begin: Callable[[Follower], Any]) -> None:
        super().__init__()
        self._begin = begin
        self.seen: list[Any] = []
        self.subscription: Any = None

    async def on_activate(self) -> None:
        self.subscription = await self._begin(self)

    async def record(self, value: Any) -> None:
        self.seen.append(value)


async def until(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    """Virtual time passes until something holds."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for rings no bell
            await asyncio.sleep(0.01)
