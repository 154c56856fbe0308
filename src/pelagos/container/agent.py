"""The agent: one process a container, which says that the container lives, knows the others, and acts for them.

Three addresses reach it (see :mod:`pelagos.container.messages`): ``service:agent`` any one of the system,
``service:agent.<container id>`` this one, ``fanout:agents`` all. What it tells of the others is its inventory's: what
was announced, judged by silence. What it tells of processes is asked of their own containers at that moment, since only
they know.

It gives no rights. Who may spawn or terminate here is decided before a request reaches it, by the signature and policy
interceptors; what may be started is decided by the container's table of startable processes.

(The ancestor's agent announced nothing by itself, started any module by its name for anybody, and took no arguments:
reference section 7.)
"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Protocol, TypeVar

import msgspec

from pelagos import __version__
from pelagos.container.container import Container
from pelagos.container.inventory import AgentSettings, Change, Inventory
from pelagos.container.messages import (
    AGENT,
    AGENTS_FANOUT,
    AllProcesses,
    AllServices,
    Announcement,
    AppInfo,
    AppRequest,
    ExchangeInfo,
    ExchangeQuery,
    Identify,
    LogLevelRequest,
    NodeChanged,
    NodeInfo,
    ProcessInfo,
    ProcessQuery,
    RemoveQueue,
    ServiceInfo,
    SpawnRequest,
    SpawnResult,
    TerminateRequest,
    agent_of,
)
from pelagos.exchange import DeadLetter
from pelagos.model.errors import Conflict, DeadlineExceeded, InvalidInput, NotFound, Unavailable, Unsupported
from pelagos.process import Process, ServiceProcess, client, get_logger, operation
from pelagos.process.operation import operations_of

__all__ = ["AgentProcess", "AgentSettings", "Apps"]

T = TypeVar("T")

log = get_logger(__name__)

_JITTER = 0.1
_REPLY_SPREAD = 0.2
"""Answers to a round of identification are spread over so many seconds."""
_MOST_NAMES = 5000
_MOST_TOLD = 100
"""Processes of an app that an announcement names: it goes to all containers every other second, and has its bounds."""
_MOST_SPAWNED = 10_000
"""Processes that one request may ask for."""


class Apps(Protocol):
    """What the agent needs of the container's apps: :class:`pelagos.container.apps.AppManager`."""

    @property
    def startable(self) -> dict[str, str]: ...

    @property
    def spawn_any(self) -> bool: ...

    def running(self) -> tuple[AppInfo, ...]: ...

    def app_of(self, process_id: str) -> str: ...

    async def spawn(self, request: SpawnRequest) -> tuple[str, ...]: ...

    async def start_app(self, request: AppRequest) -> AppInfo: ...

    async def stop_app(self, name: str) -> None: ...

    async def reload_app(self, name: str) -> AppInfo: ...


class AgentProcess(ServiceProcess):
    """See the module's head. ``host`` and ``pid`` tell people where the container runs; ``set_log_level`` sets a
    package's level in this program (room, level), ``log_levels`` tells them. Until it has lived for ``settle`` seconds,
    it lets questions about the others wait."""

    name = AGENT
    version = "1.0"

    def __init__(
        self,
        container: Container,
        apps: Apps | None = None,
        settings: AgentSettings | None = None,
        *,
        host: str = "",
        pid: int = 0,
        set_log_level: Callable[[str, str], None] | None = None,
        log_levels: Callable[[], dict[str, str]] | None = None,
        settle: float = 0.0,
    ) -> None:
        super().__init__()
        self._resident = container
        self._apps = apps
        self._settings = AgentSettings() if settings is None else settings
        self.host = host
        self._pid = pid
        self._set_log_level = set_log_level
        self._log_levels = log_levels
        self.inventory = Inventory(self._settings)
        self._announcing = False
        self._settle = settle

    async def on_init(self) -> None:
        self._boot = self.world.new_id()
        self._started_at = self.world.now()
        await self.serve(agent_of(self._resident.id))
        await self.listen(AGENTS_FANOUT, self._hear, Announcement | Identify)

    async def on_activate(self) -> None:
        self._announcing = True
        self._settled_at = self._now() + self._settle
        self.start_task(self._live_on(), name="heartbeat")

    async def on_deactivate(self) -> None:
        self.leave()

    def leave(self) -> None:
        """Say good-bye: the others know at once, instead of after some silence. Nothing is announced any more."""
        if self._announcing:
            self._announce("stop")
        self._announcing = False

    # -- operations: who is there --------------------------------------------------------------------------------

    @operation
    async def info(self) -> NodeInfo:
        """This container."""
        return self._node()

    @operation
    async def nodes(self) -> list[NodeInfo]:
        """All containers that this one knows, itself included, by id."""
        await self._settled()
        others = [node for node in self.inventory.nodes(self._now()) if node.id != self._resident.id]
        return sorted([*others, self._node()], key=lambda node: node.id)

    @operation
    async def identify(self) -> None:
        """Have every container of the system announce itself now; ``nodes`` knows them a moment later."""
        self.publish(AGENTS_FANOUT, Identify(self._resident.id), op="identify")

    @operation
    async def processes(self, query: ProcessQuery) -> list[ProcessInfo]:
        """The processes of this container, in the order of their start."""
        tree = self._resident.tree()
        found = []
        for process in self._resident.processes:
            if query.service and process.name != query.service:
                continue
            place = tree.get(process.id)
            found.append(self._process_info(process, place))
        return found

    @operation
    async def all_processes(self, query: ProcessQuery) -> AllProcesses:
        """The processes of all containers that are not dead, and which of these did not answer."""
        answers, silent = await self._ask_all(lambda agent: agent.processes(query), await self.processes(query))
        return AllProcesses(tuple(info for answer in answers for info in answer), tuple(silent))

    @operation
    async def local_services(self) -> list[ServiceInfo]:
        """The services that processes of this container serve, by name."""
        serving: dict[str, list[Process]] = {}
        for process in self._resident.processes:
            if process.name:
                serving.setdefault(process.name, []).append(process)
        return [
            ServiceInfo(
                name=name,
                version=processes[0].version,
                processes=tuple(process.id for process in processes),
                containers=(self._resident.id,),
                operations=tuple(sorted(operations_of(type(processes[0])))),
            )
            for name, processes in sorted(serving.items())
        ]

    @operation
    async def services(self) -> list[ServiceInfo]:
        """The services of the system, by name, as far as their containers answer."""
        return list((await self.all_services()).services)

    @operation
    async def all_services(self) -> AllServices:
        """The services of the system, by name, and which containers that are not dead did not answer."""
        answers, silent = await self._ask_all(lambda agent: agent.local_services(), await self.local_services())
        merged: dict[str, ServiceInfo] = {}
        for info in (info for answer in answers for info in answer):
            known = merged.get(info.name)
            if known is None:
                merged[info.name] = info
            else:
                merged[info.name] = msgspec.structs.replace(
                    known,
                    processes=(*known.processes, *info.processes),
                    containers=(*known.containers, *info.containers),
                    operations=tuple(sorted({*known.operations, *info.operations})),
                )
        return AllServices(tuple(merged[name] for name in sorted(merged)), tuple(silent))

    @operation
    async def exchange_names(self, query: ExchangeQuery) -> ExchangeInfo:
        """The messaging names that this container receives at, with consumers and what waits."""
        told = self.container.transport.snapshot()
        found = sorted(
            (
                queue
                for queue in told.queues
                if query.part in queue.address and (query.processes or not queue.address.startswith("process:"))
            ),
            key=lambda queue: queue.address,
        )
        most = max(1, min(query.limit, _MOST_NAMES))
        counters = {name: value for name, value in msgspec.structs.asdict(told).items() if type(value) is int}
        return ExchangeInfo(self._resident.id, tuple(found[:most]), max(0, len(found) - most), told.connected, counters)

    @operation
    async def remove_queue(self, request: RemoveQueue) -> int:
        """Take the durable queue of a service away that is not wanted any more, or is to be of another kind; returns
        how many messages waited. Raises :class:`Conflict` while the service is served anywhere."""
        reason = None if request.drop else "its queue was removed"
        address = self.container.names.full(request.address)
        return await self.container.transport.delete_durable(address, reason=reason)

    # -- operations: processes -----------------------------------------------------------------------------------

    @operation
    async def spawn(self, request: SpawnRequest) -> SpawnResult:
        """Start processes here or elsewhere; returns when they are ACTIVE.

        Raises :class:`NotFound` for a container or a startable that is not known, :class:`Unavailable` for a container
        that is dead, and what the processes raised when they did not start: then none of them is left.
        """
        if not 1 <= request.count <= _MOST_SPAWNED:
            raise InvalidInput(f"{request.count} processes cannot be started", advice=f"1 to {_MOST_SPAWNED} can be.")
        if request.on not in ("", self._resident.id):
            await self._settled()
        target = self._choose(request.name) if request.on == "any" else request.on or self._resident.id
        if target != self._resident.id:
            self._must_live(target)
            return await self._agent(target).spawn(msgspec.structs.replace(request, on=target))
        return SpawnResult(self._resident.id, await self._need_apps().spawn(request))

    @operation
    async def terminate(self, request: TerminateRequest) -> None:
        """Stop a process of any container in good order; its supervisor does not start it again.

        Raises :class:`NotFound`."""
        target, dot, number = request.process.rpartition(".")
        if not dot or not number.isdigit():
            raise InvalidInput(f"{request.process!r} is not the id of a process", advice="Take one from `pelagos ps`.")
        if target != self._resident.id:
            await self._settled()
            self._must_live(target)
            await self._agent(target).terminate(request)
            return
        if request.process == self.id:
            raise Conflict("an agent does not terminate itself", advice="Stop the container.")
        needed = (self._resident.edge.id, self._resident.root.id)
        if request.process in needed or self._resident.process(request.process).vital:
            raise Conflict(f"the container cannot live without {request.process}", advice="Stop the container.")
        await self._resident.terminate(request.process, request.shutdown)

    # -- operations: apps ----------------------------------------------------------------------------------------

    @operation
    async def apps(self) -> list[AppInfo]:
        """The apps that run in this container, in the order of their start."""
        return [] if self._apps is None else list(self._apps.running())

    @operation
    async def start_app(self, request: AppRequest) -> AppInfo:
        """Start an app of this container's search path, and what it depends on. Raises what the start raised."""
        return await self._need_apps().start_app(request)

    @operation
    async def stop_app(self, request: AppRequest) -> None:
        """Stop an app that runs here. Raises :class:`NotFound`, and :class:`Conflict` if others depend on it."""
        await self._need_apps().stop_app(request.name)

    @operation
    async def reload_app(self, request: AppRequest) -> AppInfo:
        """Stop an app and start it again as it was started, with new processes."""
        return await self._need_apps().reload_app(request.name)

    # -- operations: the program ---------------------------------------------------------------------------------

    @operation
    async def set_log_level(self, request: LogLevelRequest) -> list[str]:
        """Set a package's log level; returns the ids of the containers that did so."""
        if self._set_log_level is None:
            raise Unsupported("this container's program does not let its log levels be set")
        self._set_log_level(request.room, request.level)
        if not request.everywhere:
            return [self._resident.id]
        here = msgspec.structs.replace(request, everywhere=False)
        answers, _ = await self._ask_all(lambda agent: agent.set_log_level(here), [self._resident.id])
        return sorted(container for answer in answers for container in answer)

    @operation
    async def log_levels(self) -> dict[str, str]:
        """Levels by package in this program; the empty name is all others'."""
        if self._log_levels is None:
            raise Unsupported("this container's program does not tell its log levels")
        return self._log_levels()

    @operation
    async def dead_letters(self, limit: int) -> list[DeadLetter]:
        """The dead letters of the system, the oldest first."""
        return await self.container.transport.dead_letters.list(limit)

    @operation
    async def dead_letter(self, letter: str) -> DeadLetter:
        """One of them. Raises :class:`NotFound`."""
        return await self.container.transport.dead_letters.get(letter)

    @operation
    async def retry_dead_letter(self, letter: str) -> None:
        """Send it once more. Raises :class:`NotFound`, and :class:`Unavailable` if nobody serves its address."""
        await self.container.transport.dead_letters.retry(letter)

    @operation
    async def drop_dead_letter(self, letter: str) -> None:
        """Forget it. Raises :class:`NotFound`."""
        await self.container.transport.dead_letters.drop(letter)

    # -- living on -----------------------------------------------------------------------------------------------

    async def _live_on(self) -> None:
        rng = self.world.rng("agent")
        beat = self._settings.heartbeat
        self._announce("start")
        next_beat = self._now() + beat * rng.uniform(1 - _JITTER, 1 + _JITTER)
        while True:
            now = self._now()
            if now >= next_beat:
                self._announce("heartbeat")
                next_beat = now + beat * rng.uniform(1 - _JITTER, 1 + _JITTER)
            for change in self.inventory.sweep(now):
                self._tell(change)
            await asyncio.sleep(max(0.001, min(next_beat - now, self.inventory.next_sweep(now))))

    async def _hear(self, message: Announcement | Identify) -> None:
        if isinstance(message, Identify):
            if message.sender != self._resident.id:
                await asyncio.sleep(self.world.rng("agent").uniform(0, _REPLY_SPREAD))
            self._announce("heartbeat")
            return
        if message.node.id == self._resident.id:
            if message.boot != self._boot:
                log.error(
                    "another container lives under this one's id", container=self._resident.id, host=message.node.host
                )
            return
        change = self.inventory.hear(message, self._now())
        if change is not None:
            self._tell(change)
        if message.event == "start":
            await asyncio.sleep(self.world.rng("agent").uniform(0, _REPLY_SPREAD))
            self._announce("heartbeat")

    def _announce(self, event: str) -> None:
        if not self._announcing:
            return
        self.publish(AGENTS_FANOUT, Announcement(self._node(), self._boot, event), op="announce")

    def _tell(self, change: Change) -> None:
        write = log.warning if change.state in ("suspect", "dead") else log.info
        write("container changed", other=change.container, state=change.state, before=change.before)
        self.publish(
            f"topic:event.container_lifecycle.{change.container}",
            NodeChanged(change.container, change.state, change.before, self._resident.id, self.world.now()),
        )

    # -- what it knows -------------------------------------------------------------------------------------------

    async def _settled(self) -> None:
        """Questions about the others wait until those who are there have had time to answer the first announcement."""
        remaining = self._settled_at - self._now()
        if remaining > 0:
            await asyncio.sleep(remaining)

    def _now(self) -> float:
        return self.world.monotonic()

    def _node(self) -> NodeInfo:
        processes = self._resident.processes
        return NodeInfo(
            id=self._resident.id,
            system=self._resident.config.system,
            host=self.host,
            pid=self._pid,
            version=__version__,
            state="alive",
            started_at=self._started_at,
            heard=0.0,
            processes=len(processes),
            apps=() if self._apps is None else tuple(map(_short, self._apps.running())),
            services=tuple(sorted({process.name for process in processes if process.name})),
            startable={} if self._apps is None else self._apps.startable,
        )

    def _process_info(self, process: Process, place: Any) -> ProcessInfo:
        seen = process.snapshot()
        supervisor = "" if place is None or place[0] is self._resident.root else place[0].id
        return ProcessInfo(
            id=process.id,
            name=process.name,
            kind=f"{type(process).__module__}:{type(process).__qualname__}",
            state=str(seen.state),
            container=self._resident.id,
            supervisor=supervisor,
            app="" if self._apps is None else self._apps.app_of(process.id),
            restarts=0 if place is None else place[1].restarts,
            running=sum(seen.serving.running),
            waiting=seen.serving.waiting,
            done=seen.serving.done,
            failed=seen.serving.failed,
            calls=seen.calls,
            cause=seen.cause,
        )

    def _agent(self, container: str) -> AgentProcess:
        return client(AgentProcess, self, address=agent_of(container))

    def _need_apps(self) -> Apps:
        if self._apps is None:
            raise Unsupported(
                f"container {self._resident.id} starts nothing on request", advice="Start it with `pelagos container`."
            )
        return self._apps

    def _must_live(self, container: str) -> None:
        node = self.inventory.get(container)
        if node is None:
            known = [self._resident.id, *(node.id for node in self.inventory.nodes(self._now()))]
            raise NotFound(f"no container {container!r} is known", advice=_did_you_mean(container, known))
        if node.state in ("dead", "left"):
            raise Unavailable(f"container {container} is gone ({node.state})", advice="See `pelagos nodes`.")

    def _choose(self, name: str) -> str:
        """The container with the fewest processes among those that can start it."""

        def can(node: NodeInfo) -> bool:
            return name in node.startable

        own = self._node()
        nodes = [own, *(n for n in self.inventory.nodes(self._now()) if n.state == "alive" and n.id != own.id)]
        able = [node for node in nodes if can(node)]
        if not able and self._apps is not None and self._apps.spawn_any and ":" in name:
            able = [own]
        if not able:
            startable = sorted({other for node in nodes for other in node.startable})
            raise NotFound(
                f"no container that is alive can start {name!r}",
                advice=_did_you_mean(name, startable) or "Start a container with an app that has it.",
            )
        return min(able, key=lambda node: (node.processes, node.id)).id

    async def _ask_all(self, ask: Callable[[AgentProcess], Awaitable[T]], own: T) -> tuple[list[T], list[str]]:
        """What all containers answer that are not dead, in the order of their ids, and who did not answer."""
        await self._settled()
        others = [n for n in self.inventory.nodes(self._now()) if n.state in ("alive", "suspect")]
        answers: dict[str, T] = {self._resident.id: own}
        silent: list[str] = []

        async def one(container: str) -> None:
            agent = client(AgentProcess, self, address=agent_of(container), timeout=self._settings.ask_timeout)
            try:
                answers[container] = await ask(agent)
            except (Unavailable, DeadlineExceeded):
                silent.append(container)

        await _together(one(node.id) for node in others if node.id != self._resident.id)
        return [answers[container] for container in sorted(answers)], sorted(silent)


def _short(app: AppInfo) -> AppInfo:
    if len(app.processes) <= _MOST_TOLD:
        return app
    return msgspec.structs.replace(app, processes=app.processes[:_MOST_TOLD])


async def _together(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    async with asyncio.TaskGroup() as group:
        for each in work:
            group.create_task(each)


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    close = difflib.get_close_matches(name, names, 1)
    if close:
        return f"Did you mean {close[0]!r}?"
    return f"There are: {', '.join(names[:12])}." if names else ""
