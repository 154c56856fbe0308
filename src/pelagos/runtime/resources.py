"""What this program has for the processes of apps, opened when the first app needs it: the store, the leases, the pool.

Each is held by a process of its own under the container's root supervisor, started before the app that needs it and so
stopped after it. A store that fails for good then ends the container with its cause, instead of leaving services that
can do nothing; and what must be entered and left in one task is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar, cast

from pelagos.clouds import Plugins, Pool
from pelagos.container import Container
from pelagos.model.errors import InternalError, Unsupported
from pelagos.model.world import World
from pelagos.process import Process
from pelagos.runtime.home import DaemonLock
from pelagos.runtime.listening import Listening
from pelagos.runtime.pool_loading import open_pool
from pelagos.runtime.reloading import PoolReloader
from pelagos.runtime.settings import Settings
from pelagos.store import HostFacts, LeaseKeeper, Store, SystemHostFacts, open_store

__all__ = ["HostResources"]

T = TypeVar("T")

Opener = Callable[[], AbstractAsyncContextManager[Any]]


class HostResources:
    """See :class:`pelagos.container.apps.Resources`."""

    def __init__(
        self,
        container: Container,
        settings: Settings,
        given: Mapping[type[Any], object] | None = None,
        *,
        again: Callable[[], Settings] | None = None,
    ) -> None:
        """``given`` are given out instead of being opened: for whoever simulates or shares. ``again`` loads the
        settings once more, so that the pool can be reloaded; None: it cannot."""
        self._container = container
        self._settings = settings
        self._world = container.world
        self._open: dict[type[Any], Any] = {
            Settings: settings,
            World: container.world,
            Container: container,
            HostFacts: SystemHostFacts(settings.home / "locks"),
            Plugins: Plugins(),
            Listening: Listening(),
            **(given or {}),
        }
        if again is not None:
            self._open[PoolReloader] = PoolReloader(again, lambda: self.find(Pool), self._open[Plugins], self._world)
        self._openers: dict[type[Any], Opener] = {
            Store: self._store,
            LeaseKeeper: self._keeper,
            Pool: self._pool,
            DaemonLock: self._daemon_lock,
        }
        self._needs: dict[type[Any], tuple[type[Any], ...]] = {LeaseKeeper: (Store,)}
        self._lock = asyncio.Lock()

    async def open(self, kind: type[Any]) -> None:
        async with self._lock:
            await self._open_one(kind)

    def get(self, kind: type[T]) -> T:
        if kind not in self._open:
            raise InternalError(f"{kind.__name__} was not opened", advice="Name it in the factory's `needs`.")
        return cast(T, self._open[kind])

    def find(self, kind: type[T]) -> T | None:
        """One that this program has or was given; None if there is none."""
        return cast(T | None, self._open.get(kind))

    async def _open_one(self, kind: type[Any]) -> None:
        if kind in self._open:
            return
        opener = self._openers.get(kind)
        if opener is None:
            known = ", ".join(sorted(each.__name__ for each in {*self._open, *self._openers}))
            raise Unsupported(f"a container has no {kind.__name__} for its processes", advice=f"It has: {known}.")
        for need in self._needs.get(kind, ()):
            await self._open_one(need)
        holder = _Holder(kind.__name__, opener)
        await self._container.spawn(holder, name=f"resource {kind.__name__}", shutdown=30.0)
        self._open[kind] = holder.value

    @asynccontextmanager
    async def _store(self) -> AsyncIterator[Store]:
        store = open_store(self._settings.store_target, self._world)
        await store.start()
        try:
            yield store
        finally:
            await store.stop()

    def _keeper(self) -> AbstractAsyncContextManager[LeaseKeeper]:
        store: Any = self._open[Store]
        return LeaseKeeper(store, self._world, self._open[HostFacts]).running()

    @asynccontextmanager
    async def _pool(self) -> AsyncIterator[Pool]:
        pool = open_pool(self._settings, self._open[Plugins], self._world)
        try:
            yield pool
        finally:
            await pool.close()

    @asynccontextmanager
    async def _daemon_lock(self) -> AsyncIterator[DaemonLock]:
        lock = DaemonLock(self._settings.home)
        lock.acquire()
        try:
            yield lock
        finally:
            lock.release()


class _Holder(Process):
    """Enters and leaves a context manager in one task, which ends with the process."""

    vital = True

    def __init__(self, what: str, opener: Opener) -> None:
        self._what = what
        super().__init__()
        self._opener = opener
        self.value: Any = None

    @property
    def label(self) -> str:
        return f"resource {self._what}"

    async def on_init(self) -> None:
        ready: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.start_task(self._hold(ready), name="hold")
        self.value = await ready

    async def _hold(self, ready: asyncio.Future[Any]) -> None:
        try:
            async with self._opener() as value:
                ready.set_result(value)
                await asyncio.Event().wait()
        except Exception as error:
            if ready.done():
                raise
            ready.set_exception(error)  # the start fails of it
