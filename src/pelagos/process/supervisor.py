"""Supervisors: processes whose work is to keep other processes alive, by the rules of Erlang's OTP.

A child lives in a task of its supervisor's task group. Its end is a value in a queue that one task works off, so two
children that fail together are handled one after the other, and a restart under way is never overtaken. What is
restarted is a new object from the child's factory: half of a failed object's state is what made it fail. (Source of the
rules: OTP Design Principles, supervisor behaviour.)
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable

from pelagos.model.errors import Conflict, NotFound, Unavailable, Unsupported
from pelagos.process.child import ChildSnapshot, ChildSpec, ExitReason, Restart, RestartStrategy
from pelagos.process.log import get_logger
from pelagos.process.process import Process

__all__ = ["Supervisor"]

log = get_logger(__name__)

_DRAIN_SHARE = 0.8
"""The part of a child's shutdown time in which its requests may end; the rest is for its hooks."""


class _Child:
    """A child and its present incarnation."""

    def __init__(self, spec: ChildSpec) -> None:
        self.spec = spec
        self.process: Process | None = None
        self.task: asyncio.Task[None] | None = None
        self.started: asyncio.Future[None] | None = None
        self.shutdown = spec.shutdown
        self.stopping = False
        self.settled = False
        """It has been active; until then it belongs to whoever starts it, and others' failures do not touch it.
        """
        self.cause: BaseException | None = None
        self.last_exit: ExitReason | None = None
        self.restarts = 0


class Supervisor(Process):
    """Starts its children in order, stops them in reverse order, restarts them by ``strategy``.

    If it would restart more than ``max_restarts`` times in ``period`` seconds, it fails itself, and its own supervisor
    acts. The first restart in a period is immediate, each further one waits twice as long as the one before, from
    ``backoff`` up to ``max_backoff`` seconds. A child that does not start counts as one that failed; at the
    supervisor's own start it fails the start, and what was started is stopped again.
    """

    def __init__(
        self,
        children: Iterable[ChildSpec] = (),
        *,
        label: str = "supervisor",
        strategy: RestartStrategy = RestartStrategy.ONE_FOR_ONE,
        max_restarts: int = 3,
        period: float = 5.0,
        backoff: float = 0.05,
        max_backoff: float = 30.0,
    ) -> None:
        self.__label = label
        super().__init__()
        self.__specs = tuple(children)
        self.__strategy = strategy
        self.__max_restarts = max_restarts
        self.__period = period
        self.__backoff = backoff
        self.__max_backoff = max_backoff
        self.__children: dict[str, _Child] = {}
        self.__numbers: dict[str, int] = {}
        """The next to try for a name made from a label."""
        self.__exits: deque[_Child] = deque()
        self.__exit_came = asyncio.Event()
        self.__watching: asyncio.Task[None] | None = None
        self.__restarted: deque[float] = deque()
        self.__ending = False

    @property
    def label(self) -> str:
        return self.__label

    async def on_activate(self) -> None:
        for spec in self.__specs:
            await self.start_child(spec)
        self.__watching = self.start_task(self._watch_children(), name="watch")

    async def deactivate(self, drain: float = 5.0) -> None:
        """Its work are its children: it has no READY to go back to. Raises :class:`Unsupported`."""
        raise Unsupported(f"{self.label} is a supervisor", advice="Deactivate its children, or stop it.")

    async def start_child(self, spec: ChildSpec) -> Process:
        """Start a child after those there are; returns when it is ACTIVE.

        Raises :class:`Conflict` if its name is taken or the supervisor is ending, and whatever the child raised when it
        did not start; it is forgotten then.
        """
        if self.__ending:
            raise Conflict(f"{self.label} is stopping; it starts no more children")
        if spec.name in self.__children:
            raise Conflict(f"{self.label} has a child {spec.name!r} already", advice="Choose another name.")
        child = _Child(spec)
        self.__children[spec.name] = child
        try:
            return await self._start_one(child)
        except BaseException:
            await self._stop_one(child)
            self._forget(child)
            raise

    async def spawn_child(
        self,
        process: Process | Callable[[], Process],
        *,
        name: str = "",
        restart: Restart = Restart.PERMANENT,
        shutdown: float | None = 5.0,
    ) -> str:
        """:meth:`start_child` with a spec made of the arguments; a missing name is made from the process's."""
        if isinstance(process, Process):
            spec = ChildSpec.of(process, name or self._free(process.label), restart=restart, shutdown=shutdown)
        else:
            spec = ChildSpec(name or self._free(_label_of(process)), process, restart, shutdown)
        return (await self.start_child(spec)).id

    def _free(self, label: str) -> str:
        if label not in self.__children:
            return label
        # On from the last number given: looking from the first one each time is quadratic for ten thousand of a kind.
        number = self.__numbers.get(label, 2)
        while f"{label}-{number}" in self.__children:
            number += 1
        self.__numbers[label] = number + 1
        return f"{label}-{number}"

    async def stop_child(self, name: str, shutdown: float | None = None) -> None:
        """Stop a child in good order and forget it. Raises :class:`NotFound`.

        ``shutdown`` replaces the seconds of its spec, if given."""
        child = self.__children.get(name)
        if child is None:
            raise NotFound(f"{self.label} has no child {name!r}")
        if shutdown is not None:
            child.shutdown = shutdown
        self._forget(child)  # first, so that a restart under way leaves it alone
        await self._stop_one(child)

    def children(self) -> tuple[ChildSnapshot, ...]:
        """Its children in the order of their start."""
        return tuple(
            ChildSnapshot(
                name=name,
                process_id="" if child.process is None else child.process.id,
                state=None if child.process is None else child.process.state,
                restarts=child.restarts,
                last_exit=child.last_exit,
            )
            for name, child in self.__children.items()
        )

    # -- one child ---------------------------------------------------------------------------------------------

    async def _start_one(self, child: _Child) -> Process:
        child.stopping = False
        child.cause = None
        child.process = child.spec.factory()
        child.process.supervisor_id = self.id
        child.started = asyncio.get_running_loop().create_future()
        child.task = self._start(self._run_child(child, child.process, child.started), child.spec.name)
        await child.started
        if child.cause is not None:
            raise child.cause
        return child.process

    async def _run_child(self, child: _Child, process: Process, started: asyncio.Future[None]) -> None:
        def active() -> None:
            child.settled = True
            if not started.done():
                started.set_result(None)

        try:
            await process.run(self.container, active)
        except asyncio.CancelledError as cancelled:
            child.cause = cancelled  # by us: a task group is told of no cancellation of a child
        except Exception as error:  # noqa: BLE001 - this is a supervisor: the cause decides what happens next
            child.cause = error
        was_active = started.done()
        if not was_active and child.cause is None:
            child.cause = Unavailable(f"{process.label} ended before it was active")
        child.last_exit = ExitReason.of(child.cause, asked=child.stopping)
        self._tell(child.spec.name, child.last_exit)
        if not was_active:
            started.set_result(None)
        elif not child.stopping:
            self.__exits.append(child)
            self.__exit_came.set()
        elif isinstance(child.cause, Exception):
            log.error("child failed while stopping", supervisor=self.label, child=child.spec.name, exc_info=child.cause)

    async def _stop_one(self, child: _Child) -> None:
        child.stopping = True
        task = child.task
        if task is None or child.process is None:
            return
        if not task.done():
            shutdown = 0.0 if self._pelagos_hurried else child.shutdown
            if shutdown is None or shutdown > 0:
                child.process.stop(5.0 if shutdown is None else shutdown * _DRAIN_SHARE)
                await asyncio.wait([task], timeout=shutdown)
            if not task.done():
                log.warning("child cancelled at shutdown", supervisor=self.label, child=child.spec.name)
                task.cancel()
                await asyncio.wait([task])
        child.task = None

    def _tell(self, name: str, reason: ExitReason) -> None:
        try:
            self.on_child_exit(name, reason)
        except Exception as error:
            log.error("on_child_exit failed", supervisor=self.label, child=name, exc_info=error)

    def _has(self, child: _Child) -> bool:
        return self.__children.get(child.spec.name) is child

    def _forget(self, child: _Child) -> None:
        if self._has(child):
            del self.__children[child.spec.name]

    # -- restarts ----------------------------------------------------------------------------------------------

    async def _watch_children(self) -> None:
        while True:
            await self.__exit_came.wait()
            self.__exit_came.clear()
            while self.__exits:
                child = self.__exits.popleft()
                if self._has(child) and child.task is not None and child.task.done():
                    await self._after_exit(child)

    async def _after_exit(self, child: _Child) -> None:
        cause, spec = child.cause, child.spec
        process_id = child.process.id if child.process is not None else ""
        if cause is None:
            log.info("child ended", supervisor=self.label, child=spec.name, id=process_id)
        else:
            log.error("child failed", supervisor=self.label, child=spec.name, id=process_id, exc_info=cause)
        child.process, child.task = None, None
        if spec.restart is Restart.TEMPORARY or (spec.restart is Restart.TRANSIENT and cause is None):
            self._forget(child)
            return
        affected = self._affected_by(child)
        for other in reversed(affected):
            await self._stop_one(other)
            if other.spec.restart is Restart.TEMPORARY:
                self._forget(other)
        await self._restart(affected, child, cause)

    def _affected_by(self, child: _Child) -> list[_Child]:
        everyone = [other for other in self.__children.values() if other.settled]
        match self.__strategy:
            case RestartStrategy.ONE_FOR_ONE:
                return [child]
            case RestartStrategy.ONE_FOR_ALL:
                return everyone
            case RestartStrategy.REST_FOR_ONE:
                return everyone[everyone.index(child) :]

    async def _restart(self, affected: list[_Child], failed: _Child, cause: BaseException | None) -> None:
        while True:
            await asyncio.sleep(self._count_restart(failed, cause))
            started: list[_Child] = []
            try:
                for child in filter(self._has, affected):
                    failed = child
                    started.append(child)
                    await self._start_one(child)
                    child.restarts += 1
            except Exception as error:
                for child in reversed(started):
                    await self._stop_one(child)
                if self._has(failed):
                    log.error("child did not start", supervisor=self.label, child=failed.spec.name, exc_info=error)
                    cause = error
                    continue
                self.__restarted.pop()  # it was stopped for good while it started: no failure
            else:
                return

    def _count_restart(self, failed: _Child, cause: BaseException | None) -> float:
        """The delay before the restart. Raises when there were too many."""
        now = self.world.monotonic()
        while self.__restarted and self.__restarted[0] <= now - self.__period:
            self.__restarted.popleft()
        if len(self.__restarted) >= self.__max_restarts:
            raise Unavailable(
                f"{self.label} gave up: {self.__max_restarts} restarts in {self.__period:g} s; "
                f"last of {failed.spec.name}: {'it ended' if cause is None else cause}"
            ) from cause
        self.__restarted.append(now)
        nth = len(self.__restarted)
        return 0.0 if nth == 1 else min(self.__max_backoff, self.__backoff * 2.0 ** (nth - 2))

    async def _close(self) -> None:
        self.__ending = True
        await super()._close()
        if self.__watching is not None and not self.__watching.done():
            self.__watching.cancel()
            await asyncio.wait([self.__watching])
        for child in reversed(list(self.__children.values())):
            await self._stop_one(child)


def _label_of(factory: Callable[[], Process]) -> str:
    """A service's name, a class's or function's; ``process`` for what has none, as a lambda."""
    name: str = getattr(factory, "name", "") or getattr(factory, "__name__", "")
    return name if name and name != "<lambda>" else "process"
