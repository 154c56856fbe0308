"""Tells the life of a container, its processes and apps as events.

The container calls plain methods, which never wait and never fail; a task of this process writes what they said, in
order. What is said faster than it can be written waits in a bounded queue, of which the oldest is dropped and counted.
"""

from __future__ import annotations

import asyncio
from collections import deque

import msgspec

from pelagos.model.errors import PelagosError
from pelagos.process import Process, get_logger
from pelagos.services.events.catalogue import AppChanged, ContainerChanged, ProcessChanged
from pelagos.services.events.publishing import EventPublisher
from pelagos.store import Store

__all__ = ["LifecycleEvents"]

log = get_logger(__name__)
_MOST = 10_000


class LifecycleEvents(Process):
    """Spawn it first; give its methods to whoever sees the changes. ``store`` None: live events alone."""

    def __init__(self, store: Store | None = None) -> None:
        super().__init__()
        self._publisher = EventPublisher(self, store)
        self._told: deque[tuple[str, str, msgspec.Struct]] = deque()
        self._wake = asyncio.Event()
        self.dropped = 0

    async def on_activate(self) -> None:
        self.start_task(self._publish(), name="publish")

    async def on_deactivate(self) -> None:
        while self._told:
            await self._publish_one()

    def container_changed(self, state: str, *, host: str = "", pid: int = 0) -> None:
        """``state`` started means that all it was told to start is there."""
        kind = "container_started" if state == "started" else "container_lifecycle"
        self._tell(kind, self.container.id, ContainerChanged(state, host, pid))

    def process_changed(self, process: Process, state: str, cause: str = "") -> None:
        if process is not self:
            kind = f"{type(process).__module__}:{type(process).__qualname__}"
            self._tell(
                "process_lifecycle", process.id, ProcessChanged(process.label, kind, state, self.container.id, cause)
            )

    def app_changed(self, app: str, state: str, version: str = "") -> None:
        self._tell("app_lifecycle", app, AppChanged(state, version, self.container.id))

    def _tell(self, event_type: str, origin: str, payload: msgspec.Struct) -> None:
        if len(self._told) >= _MOST:
            self._told.popleft()
            self.dropped += 1
        self._told.append((event_type, origin, payload))
        self._wake.set()

    async def _publish(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._told:
                await self._publish_one()

    async def _publish_one(self) -> None:
        event_type, origin, payload = self._told.popleft()
        try:
            await self._publisher.publish(event_type, origin, payload)
        except PelagosError as error:
            log.warning("not told", type=event_type, origin=origin, error=str(error))
