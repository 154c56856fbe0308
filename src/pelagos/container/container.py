"""The container: hosts processes on one event loop, under one root supervisor.

Everything is held by the instance, so several containers live in one interpreter, sharing a transport if they are to be
one system. (The ancestor's was a singleton with a dozen process-wide globals: reference section 1.3.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import msgspec

from pelagos.container.config import ContainerConfig
from pelagos.exchange import MemoryTransport, Names, Transport, TransportSnapshot
from pelagos.exchange.interceptors.service_names import ServiceNames
from pelagos.model.errors import Conflict, NotFound
from pelagos.model.world import World
from pelagos.process import (
    ChildSnapshot,
    ChildSpec,
    Process,
    ProcessSnapshot,
    Restart,
    Supervisor,
    get_logger,
)

__all__ = ["Container", "ContainerSnapshot"]

log = get_logger(__name__)


class ContainerSnapshot(msgspec.Struct, frozen=True):
    id: str
    system: str
    running: bool
    failure: str | None
    processes: tuple[ProcessSnapshot, ...]
    root: tuple[ChildSnapshot, ...]
    transport: TransportSnapshot


class _Edge(Process):
    """Has no operations of its own: calls for those who are no process, the HTTP edge and the command line."""

    @property
    def label(self) -> str:
        return "edge"


class Container:
    """Start it, spawn processes, stop it; or use it as an asynchronous context manager.

    ``transport`` belongs to the container, which starts and stops it, unless ``shared_transport`` says that somebody
    else does. It may be a function of the container's names, for a transport that needs them.
    ``service_names`` is told which mailbox is of which service: interceptors with rules about services ask it.
    """

    def __init__(
        self,
        world: World,
        config: ContainerConfig | None = None,
        transport: Transport | Callable[[Names], Transport] | None = None,
        *,
        shared_transport: bool = False,
        service_names: ServiceNames | None = None,
    ) -> None:
        self.config = ContainerConfig() if config is None else config
        self._world = world
        self._id = self.config.id or f"c-{world.new_id()[:13]}"
        self._names = Names(self._id, self.config.system)
        self._transport: Transport
        if transport is None:
            self._transport = MemoryTransport(world)
        elif callable(transport):
            self._transport = transport(self._names)
        else:
            self._transport = transport
        self._shared_transport = shared_transport
        self._service_names = service_names
        self._processes: dict[str, Process] = {}
        self._count = 0
        self._root: Supervisor | None = None
        self._task: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self._edge: _Edge | None = None
        self.on_process: Callable[[Process, str, str], None] | None = None
        """Told each process that begins (``init``) and ends (``terminated``, or ``error`` with its cause); must neither
        wait nor raise."""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    # -- life --------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the transport, the root supervisor and the edge. Raises :class:`Conflict` the second time."""
        if self._task is not None:
            raise Conflict(f"container {self._id} was started already")
        if not self._shared_transport:
            await self._transport.start()
        self._edge = _Edge()
        self._root = Supervisor(
            [ChildSpec.of(self._edge, "edge")],
            label="root",
            max_restarts=self.config.max_restarts,
            period=self.config.restart_period,
        )
        loop = asyncio.get_running_loop()
        started: asyncio.Future[None] = loop.create_future()
        # The one task that no task group owns: start() and stop() may be called from different tasks, which a group
        # does not allow. This object owns it: stop() and wait() await it and raise what it raised.
        self._task = loop.create_task(self._run(self._root, started), name=f"container {self._id}")
        try:
            await asyncio.shield(started)
        except asyncio.CancelledError:
            self._task.cancel()
            await self.stop()
            raise
        if self._failure is not None:
            failure = self._failure
            await self.stop()
            raise failure

    async def stop(self) -> None:
        """Stop all processes in reverse order, then the transport. Idempotent; cancel it to have the rest cancelled
        too.

        Each process receives nothing more, ends its requests within its shutdown time, and is terminated. A failure of
        the container is not raised here but by :meth:`wait`.
        """
        if self._task is None or self._root is None:
            return
        self._root.stop()
        try:
            await asyncio.wait([self._task])
        except asyncio.CancelledError:
            self._task.cancel()
            await asyncio.wait([self._task])
            raise
        if not self._shared_transport:
            await self._transport.stop()

    def fail(self, cause: Exception) -> None:
        """Stop in good order, and have :meth:`wait` raise ``cause``."""
        if self._root is not None and self._failure is None:
            self._failure = cause
            log.error("container failed", container=self._id, error=str(cause))
            self._root.stop()

    async def wait(self) -> None:
        """Return when the container has stopped. Raises the cause if it failed: its root supervisor gave up, or
        :meth:`fail` was called."""
        if self._task is None:
            raise Conflict(f"container {self._id} was not started")
        await asyncio.wait([self._task])
        if self._failure is not None:
            raise self._failure

    async def _run(self, root: Supervisor, started: asyncio.Future[None]) -> None:
        try:
            await root.run(self, lambda: started.set_result(None))
        except Exception as error:
            self._failure = error
            log.error("container failed", container=self._id, exc_info=error)
        finally:
            if not started.done():
                started.set_result(None)

    # -- processes ---------------------------------------------------------------------------------------------

    async def spawn(
        self,
        process: Process | Callable[[], Process],
        *,
        supervisor: Supervisor | None = None,
        name: str = "",
        restart: Restart = Restart.PERMANENT,
        shutdown: float | None = -1.0,
    ) -> str:
        """Start a process under a supervisor (the root if None); returns its id when it is ACTIVE.

        Give a factory (a class will do) if it is to be restarted when it fails. An object lives once: if it fails, its
        supervisor fails, unless ``restart`` is temporary. ``name`` is that of the child in its supervisor, made from
        the process's if empty; ``shutdown`` as in :class:`ChildSpec`, the configured one if negative. Raises what the
        process raised when it did not start.
        """
        parent = self.root if supervisor is None else supervisor
        if isinstance(process, Supervisor) and shutdown is not None and shutdown < 0:
            shutdown = None
        elif shutdown is not None and shutdown < 0:
            shutdown = self.config.shutdown
        return await parent.spawn_child(process, name=name, restart=restart, shutdown=shutdown)

    async def terminate(self, process_id: str, shutdown: float | None = None) -> None:
        """Stop one process, wherever it is in the tree, in good order; its supervisor forgets it.

        ``shutdown`` replaces the seconds it may take, those it was spawned with if None. Raises :class:`NotFound`.
        """
        found = self.tree().get(process_id)
        if found is None:
            self.process(process_id)  # raises, unless it lives outside of all supervisors
            raise Conflict(
                f"process {process_id} of container {self._id} has no supervisor that could stop it",
                advice="Stop the container instead.",
            )
        supervisor, child = found
        await supervisor.stop_child(child.name, shutdown)

    def tree(self) -> dict[str, tuple[Supervisor, ChildSnapshot]]:
        """Each process's supervisor and what that knows of it, by process id. Made anew at each call."""
        return {
            child.process_id: (process, child)
            for process in self._processes.values()
            if isinstance(process, Supervisor)
            for child in process.children()
        }

    def process(self, process_id: str) -> Process:
        """The process of an id. Raises :class:`NotFound`."""
        try:
            return self._processes[process_id]
        except KeyError:
            raise NotFound(f"container {self._id} has no process {process_id}") from None

    @property
    def processes(self) -> tuple[Process, ...]:
        """All that live, in the order of their start."""
        return tuple(self._processes.values())

    @property
    def root(self) -> Supervisor:
        if self._root is None:
            raise Conflict(f"container {self._id} was not started", advice="Await start() first.")
        return self._root

    @property
    def edge(self) -> Process:
        """A process for those who are none: ``client(ComputeService, container.edge)``."""
        if self._edge is None:
            raise Conflict(f"container {self._id} was not started", advice="Await start() first.")
        return self._edge

    def snapshot(self) -> ContainerSnapshot:
        return ContainerSnapshot(
            id=self._id,
            system=self.config.system,
            running=self._task is not None and not self._task.done(),
            failure=None if self._failure is None else str(self._failure),
            processes=tuple(process.snapshot() for process in self._processes.values()),
            root=() if self._root is None else self._root.children(),
            transport=self._transport.snapshot(),
        )

    # -- what processes see: pelagos.process.Host --------------------------------------------------------------

    @property
    def id(self) -> str:
        return self._id

    @property
    def world(self) -> World:
        return self._world

    @property
    def transport(self) -> Transport:
        return self._transport

    @property
    def names(self) -> Names:
        return self._names

    @property
    def settings(self) -> Mapping[str, Any]:
        return self.config.settings

    @property
    def call_timeout(self) -> float:
        return self.config.call_timeout

    @property
    def dependency_timeout(self) -> float:
        return self.config.dependency_timeout

    @property
    def max_message_bytes(self) -> int:
        return self.config.max_message_bytes

    def new_process_id(self) -> str:
        self._count += 1
        return f"{self._id}.{self._count}"

    def serving(self, service: str) -> str | None:
        found = (process.address for process in self._processes.values() if process.name == service and process.serves)
        return next(found, None)

    def process_started(self, process: Process) -> None:
        self._processes[process.id] = process
        if self._service_names is not None:
            self._service_names.bind(process.id, process.name or process.label)
        if self.on_process is not None:
            self.on_process(process, "init", "")

    def process_ended(self, process: Process) -> None:
        self._processes.pop(process.id, None)
        if self._service_names is not None:
            self._service_names.unbind(process.id)
        if self.on_process is not None:
            cause = process.cause
            self.on_process(process, "terminated" if cause is None else "error", "" if cause is None else str(cause))
