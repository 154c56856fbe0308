"""The composition root: everything a program of Pelagos consists of, started in order, stopped in reverse.

home -> store -> lease keeper -> pool -> container -> services -> edge. A start that fails half-way stops what it has
started, also in reverse, and raises what went wrong. The same object serves a command that lives for a second
(``embedded``) and the daemon (``serve``); the difference is what the services do unasked.

Whoever simulates brings a store, host facts and plug-ins of its own; nothing here asks the operating system but through
the world and these.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

import httpx2

from pelagos import __version__
from pelagos.api import Application, Edge, Limits
from pelagos.clients import Client, InProcessTransport, connect
from pelagos.clouds import Plugins, Pool
from pelagos.container import Container, ContainerConfig
from pelagos.model.errors import Conflict
from pelagos.model.world import World
from pelagos.process import get_logger
from pelagos.runtime.composition import Assemble, Foundations, Services, assemble_services
from pelagos.runtime.doctor import gather_facts
from pelagos.runtime.home import prepare_home
from pelagos.runtime.housekeeping import tidy_up
from pelagos.runtime.settings import Settings
from pelagos.store import HostFacts, LeaseKeeper, Store, SystemHostFacts, open_store
from pelagos.wire.doctor import DoctorView

if TYPE_CHECKING:
    from starlette.types import ASGIApp

__all__ = ["Mode", "Runtime"]

T = TypeVar("T")

log = get_logger(__name__)

Mode = Literal["embedded", "serve"]


class Runtime:
    """Use as an async context manager, entered and left in one task. Its parts are there while it is open."""

    def __init__(
        self,
        settings: Settings,
        *,
        world: World,
        mode: Mode = "embedded",
        assemble: Assemble = assemble_services,
        store: Store | None = None,
        facts: HostFacts | None = None,
        plugins: Plugins | None = None,
    ) -> None:
        self.settings = settings
        self.world = world
        self.mode: Mode = mode
        self._assemble = assemble
        self._given_store = store
        self._given_facts = facts
        self._given_plugins = plugins
        self._stack: AsyncExitStack | None = None
        self._parts: dict[str, Any] = {}

    async def __aenter__(self) -> Self:
        if self._stack is not None:
            raise Conflict("this runtime was started already")
        async with AsyncExitStack() as stack:
            await self._start(stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        if self._stack is not None:
            self.application.edge.closing.set()
            await self._stack.__aexit__(exc_type, exc_value, traceback)

    async def _start(self, stack: AsyncExitStack) -> None:
        settings, world = self.settings, self.world
        if self._given_store is None or self._given_facts is None:
            prepare_home(settings.home)
        store = self._given_store or open_store(settings.store_target, world)
        if self.mode == "embedded" and self._given_store is None:
            stack.push_async_exit(self._tidy_up)  # after the store's stop
        await store.start()
        stack.push_async_callback(store.stop)

        facts = self._given_facts or SystemHostFacts(settings.home / "locks")
        keeper = await stack.enter_async_context(_errors_as_they_are(LeaseKeeper(store, world, facts).running()))

        pool = Pool(settings.pool, self._given_plugins or Plugins(), world, settings.home, simulated=settings.simulated)
        stack.push_async_callback(pool.close)

        container = Container(world, ContainerConfig(call_timeout=settings.http.command_timeout))
        await container.start()
        stack.push_async_callback(container.stop)

        foundations = Foundations(
            settings=settings,
            world=world,
            mode=self.mode,
            store=store,
            keeper=keeper,
            pool=pool,
            container=container,
            facts=facts,
        )
        services = await self._assemble(foundations)
        application = Application(self._edge(foundations, services))
        transport = await stack.enter_async_context(InProcessTransport(application.trusted))
        self._parts = {
            "store": store,
            "keeper": keeper,
            "pool": pool,
            "container": container,
            "application": application,
            "transport": transport,
        }
        log.debug("runtime started", mode=self.mode, home=str(settings.home), store=store.dialect)

    async def _tidy_up(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if exc_type is None:
            await tidy_up(self.settings, self.world)

    def _edge(self, foundations: Foundations, services: Services) -> Edge:
        http = self.settings.http

        async def doctor() -> DoctorView:
            return await gather_facts(
                self.settings, world=self.world, mode=self.mode, store=foundations.store, pool=foundations.pool
            )

        return Edge(
            store=foundations.store,
            world=self.world,
            commands=services.commands,
            delete_definition=services.delete_definition,
            queries=services.queries,
            servers=services.servers,
            doctor=doctor,
            version=__version__,
            mode=self.mode,
            limits=Limits(body_bytes=http.body_bytes, command_timeout=http.command_timeout, heartbeat=http.heartbeat),
            closing=asyncio.Event(),
        )

    def _part(self, name: str) -> Any:
        if name not in self._parts:
            raise Conflict("the runtime is not started", advice="Use it in an `async with` statement.")
        return self._parts[name]

    @property
    def store(self) -> Store:
        store: Store = self._part("store")
        return store

    @property
    def keeper(self) -> LeaseKeeper:
        keeper: LeaseKeeper = self._part("keeper")
        return keeper

    @property
    def pool(self) -> Pool:
        pool: Pool = self._part("pool")
        return pool

    @property
    def container(self) -> Container:
        container: Container = self._part("container")
        return container

    @property
    def application(self) -> Application:
        """The edge, with its trusted and its guarded face."""
        application: Application = self._part("application")
        return application

    @property
    def app(self) -> ASGIApp:
        """The ASGI application for callers whom the operating system has admitted."""
        return self.application.trusted

    def client(self) -> Client:
        """A client of this very runtime. It may be used at once, and need not be closed."""
        return connect(_Borrowed(self._part("transport")), world=self.world)

    async def doctor(self) -> DoctorView:
        """What this installation is and can do."""
        return await self.application.edge.doctor()

    def snapshot(self) -> dict[str, Any]:
        """The parts' own snapshots, for people and tests; no secrets."""
        return {
            "mode": self.mode,
            "store": self.store.snapshot(),
            "leases": self.keeper.snapshot(),
            "pool": self.pool.snapshot(),
            "edge": dict(self.application.edge.snapshot()),
        }


@asynccontextmanager
async def _errors_as_they_are(manager: AbstractAsyncContextManager[T]) -> AsyncIterator[T]:
    """The manager, whose task group would wrap errors of the code in its body, without that."""
    own: BaseException | None = None
    try:
        async with manager as value:
            try:
                yield value
            except BaseException as error:
                own = error
                raise
    except BaseExceptionGroup:
        if own is None or isinstance(own, asyncio.CancelledError):
            raise
        raise own from own.__cause__


class _Borrowed(httpx2.AsyncBaseTransport):
    """The runtime's transport for one client: closing the client leaves it open for the others."""

    def __init__(self, transport: InProcessTransport) -> None:
        self._transport = transport

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        return await self._transport.handle_async_request(request)
