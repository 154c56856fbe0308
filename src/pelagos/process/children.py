"""The children of a process that is no supervisor: a private supervisor keeps them, made with the first child."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from pelagos.model.errors import Conflict, NotFound
from pelagos.process.child import ChildSnapshot, ExitReason, Restart
from pelagos.process.process import Process
from pelagos.process.supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

__all__ = ["Children"]


class _Private(Supervisor):
    """Tells its process how the children end."""

    def __init__(self, owner: Process) -> None:
        super().__init__(
            label=f"{owner.label} children",
            strategy=owner.child_strategy,
            max_restarts=owner.max_child_restarts,
            period=owner.child_restart_period,
        )
        self._owner = owner
        self.supervisor_id = owner.id

    def on_child_exit(self, name: str, reason: ExitReason) -> None:
        self._owner.on_child_exit(name, reason)


class Children:
    """Lives in the task group of its process; ``start`` makes a task there, ``fail`` takes the process to ERROR."""

    def __init__(
        self,
        owner: Process,
        start: Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]],
        fail: Callable[[BaseException], None],
    ) -> None:
        self._owner = owner
        self._start = start
        self._fail = fail
        self._supervisor: Supervisor | None = None
        self._task: asyncio.Task[None] | None = None
        self._started: asyncio.Future[None] | None = None

    async def spawn(
        self, process: Process | Callable[[], Process], name: str, restart: Restart, shutdown: float | None
    ) -> str:
        supervisor = await self._running()
        return await supervisor.spawn_child(process, name=name, restart=restart, shutdown=shutdown)

    async def stop_child(self, name: str) -> None:
        if self._supervisor is None:
            raise NotFound(f"{self._owner.label} has no child {name!r}")
        await self._supervisor.stop_child(name)

    def children(self) -> tuple[ChildSnapshot, ...]:
        return () if self._supervisor is None else self._supervisor.children()

    async def stop(self) -> None:
        """Stop them all in reverse order, each in its shutdown time."""
        if self._supervisor is not None and self._task is not None:
            self._supervisor.stop()
            await asyncio.wait([self._task])

    def cancel(self) -> None:
        """Have them cancelled; the owner's task group waits for their end."""
        if self._task is not None:
            self._task.cancel()

    async def _running(self) -> Supervisor:
        if self._supervisor is None:
            self._supervisor = _Private(self._owner)
            self._started = asyncio.get_running_loop().create_future()
            self._task = self._start(self._run(self._supervisor, self._started), "children")
        assert self._started is not None
        await asyncio.shield(self._started)
        if self._task is None or self._task.done():
            raise Conflict(f"{self._owner.label} is ending; it starts no more children")
        return self._supervisor

    async def _run(self, supervisor: Supervisor, started: asyncio.Future[None]) -> None:
        try:
            await supervisor.run(self._owner.container, lambda: started.set_result(None))
        except Exception as error:  # noqa: BLE001 - forwarded: the process fails with the supervisor of its children
            self._fail(error)
        finally:
            if not started.done():
                started.set_result(None)
