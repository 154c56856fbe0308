"""The composition root of a program that lives for a command: its parts started in order, stopped in reverse.

home -> container -> the apps of the release ``embedded``, with the store, the leases and the pool that they need ->
edge. A start that fails half-way stops what it has started, also in reverse, and raises what went wrong. The daemon
and container programs are :mod:`pelagos.runtime.hosting`; both start the same apps from the same files, by the same
code, and differ in the release and in who reaches them.
"""

# The store and host facts are ports (protocols), which stand for themselves as keys of the resources.
# mypy: disable-error-code="type-abstract"

from __future__ import annotations

from contextlib import AsyncExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import httpx2

from pelagos.api import Application
from pelagos.clients import Client, InProcessTransport, connect
from pelagos.clouds import Plugins, Pool
from pelagos.container import Container, ContainerConfig
from pelagos.container.apps import AppManager
from pelagos.model import failpoints
from pelagos.model.errors import Conflict
from pelagos.model.world import World
from pelagos.process import get_logger
from pelagos.runtime.composition import compose_edge
from pelagos.runtime.home import prepare_home
from pelagos.runtime.housekeeping import tidy_up
from pelagos.runtime.releases import builtin_plan
from pelagos.runtime.resources import HostResources
from pelagos.runtime.settings import Settings
from pelagos.store import HostFacts, LeaseKeeper, Store
from pelagos.wire.doctor import DoctorView

if TYPE_CHECKING:
    from starlette.types import ASGIApp

__all__ = ["Runtime"]

log = get_logger(__name__)


class Runtime:
    """Use as an async context manager, entered and left in one task. Its parts are there while it is open."""

    def __init__(self, settings: Settings, *, world: World, plugins: Plugins | None = None) -> None:
        self.settings = settings
        self.world = world
        self._plugins = plugins
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
        failpoints.arm(world.environ)
        prepare_home(settings.home)
        stack.push_async_exit(self._tidy_up)  # after the store's stop
        container = Container(world, ContainerConfig(call_timeout=settings.http.command_timeout))
        await container.start()
        stack.push_async_callback(container.stop)
        self._parts = {"container": container}
        resources = HostResources(container, settings, {Plugins: self._plugins or Plugins()})
        await AppManager(container, resources).start(builtin_plan("embedded"))
        store, pool = resources.get(Store), resources.get(Pool)
        application = compose_edge(
            settings,
            caller=container.edge,
            mode="embedded",
            store=store,
            pool=pool,
            facts=resources.get(HostFacts),
        )
        transport = await stack.enter_async_context(InProcessTransport(application.trusted))
        self._parts |= {
            "store": store,
            "keeper": resources.get(LeaseKeeper),
            "pool": pool,
            "application": application,
            "transport": transport,
        }
        log.debug("runtime started", home=str(settings.home), store=store.dialect)

    async def _tidy_up(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if exc_type is None:
            await tidy_up(self.settings, self.world)

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
            "store": self.store.snapshot(),
            "leases": self.keeper.snapshot(),
            "pool": self.pool.snapshot(),
            "edge": dict(self.application.edge.snapshot()),
        }


class _Borrowed(httpx2.AsyncBaseTransport):
    """The runtime's transport for one client: closing the client leaves it open for the others."""

    def __init__(self, transport: InProcessTransport) -> None:
        self._transport = transport

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        return await self._transport.handle_async_request(request)
