"""A container program: what `pelagos container` and `pelagos serve` run until they are told to stop.

Files -> plan -> container with exchange, agent, control socket -> apps -> ready. What can be wrong with files and flags
is found before anything starts. A start that fails stops what it started, in reverse, and raises the cause.

The first SIGTERM or SIGINT stops in good order: the agent says good-bye, so that nobody waits for this container to be
suspected; the apps stop, the last started first; what runs may end; the exchange closes. A second one leaves at once.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from pelagos import __version__
from pelagos.container import AgentProcess, Container, ContainerConfig
from pelagos.container.apps import AppManager, find_apps, parse_arguments, resolve
from pelagos.container.apps.files import AppFile
from pelagos.container.apps.resolving import Argument, Catalogue, Place, StartPlan
from pelagos.container.control import ContainerInfo, ControlProcess
from pelagos.container.control.sockets import MAX_PATH, socket_path
from pelagos.container.keys import KeyExchangeProcess
from pelagos.exchange import MemoryTransport, Names, Transport
from pelagos.exchange.interceptors.building import DEFAULT_STACK, Stack, StackEntry, Surroundings, build_stack
from pelagos.exchange.interceptors.service_names import ServiceNames
from pelagos.exchange.interceptors.transport import InterceptedTransport
from pelagos.model import failpoints
from pelagos.model.errors import Cancelled, InvalidInput
from pelagos.model.world import SystemWorld, World
from pelagos.process import get_logger
from pelagos.runtime.brokers import amqp_config, with_variables
from pelagos.runtime.guards import Guards
from pelagos.runtime.home import prepare_home, write_private
from pelagos.runtime.listening import Listening
from pelagos.runtime.log_levels import LEVELS, set_log_level
from pelagos.runtime.logs import configure_logs
from pelagos.runtime.reloading import PoolReloader, PoolReloads, reload_at_hangup
from pelagos.runtime.resources import HostResources
from pelagos.runtime.settings import Settings
from pelagos.runtime.stopping import (
    handle_signals,
    notify_manager,
    tell_what_stopping_waits_for,
    until_stopped,
)
from pelagos.services.events.lifecycle import LifecycleEvents

if TYPE_CHECKING:  # brings the registry, and with it the store, which few containers need
    from pelagos.runtime.owners import RegistryOwners

__all__ = ["HostReady", "host"]

log = get_logger(__name__)

_SETTLE = 0.6
"""Seconds in which the other containers of a system have answered a new one."""
_EDGE = "pelagos.runtime.factories:edge"


class HostReady(msgspec.Struct, frozen=True):
    """What a container program says once all its apps run."""

    system: str
    container: str
    broker: str
    """Without credentials; ``memory`` for none."""
    socket: str
    """Path of the control socket."""
    apps: tuple[str, ...]
    addresses: tuple[str, ...] = ()
    """Where its HTTP edge listens, if it has one."""


async def host(
    settings: Settings,
    files: Sequence[Path | str] = (),
    *,
    here: bool = True,
    mode: Literal["container", "serve"] = "container",
    given: Mapping[type[Any], object] | None = None,
    system: str | None = None,
    container_id: str | None = None,
    broker: str | None = None,
    arguments: Mapping[str, Mapping[str, Any]] | Sequence[str] = (),
    processes: Sequence[str] = (),
    ready: Callable[[HostReady], None] | None = None,
    ready_file: Path | None = None,
    notify_fd: int | None = None,
    allow_spawn_any: bool = False,
    world: World | None = None,
    stop: asyncio.Event | None = None,
    signals: bool = True,
    again: Callable[[], Settings] | None = None,
) -> None:
    """Run a container until it is told to stop.

    ``files`` are app files, release files, lists of processes, or names of apps on the search path; ``processes`` are
    ``[name=]module:Class[*count]``; ``arguments`` are texts ``app.key=value``, the value as YAML or JSON, or mappings
    by app. ``system``, ``container_id`` and ``broker`` go before the settings'. When all apps run, ``ready`` is called
    (without it a line is written to standard output), ``ready_file`` is written, a line is written to ``notify_fd``,
    which is then closed, and systemd is told. ``stop`` stops it like a first signal. ``here``: whether names of apps
    are also looked for in the working directory; ``mode``: whose log it is; ``given``: resources that the caller has.
    ``signals``: whether this is all of its program, which then heeds signals, is watched, and ends by force if it
    hangs (:mod:`pelagos.runtime.guards`). ``again`` loads the settings once more, for reloads of the pool; with
    ``signals`` SIGHUP asks for one.

    Raises DescriptionError with all mistakes in files and arguments, InvalidInput for flags, Conflict if a container
    of that id lives, Unauthenticated if the system's other containers have other keys, Unavailable if the broker cannot
    be reached, what made an app fail to start, and what made the container fail for good.
    """
    world = world or SystemWorld()
    program = _Program(settings, world, system=system, container_id=container_id, broker=broker)
    failpoints.arm(world.environ)
    prepare_home(settings.home)
    async with AsyncExitStack() as stack:
        stack.callback(configure_logs(settings, mode=mode))
        waits = stack.enter_context(ExitStack())  # left after all that a stop waits for
        catalogue = await _find_apps(world, files, program.search, processes=processes, here=here)
        plan = resolve(catalogue, _arguments(arguments, catalogue))
        stopping = stop or asyncio.Event()
        guards = None
        if signals:  # a program of its own, which may be ended
            stack.callback(handle_signals(stopping))
            guards = stack.enter_context(Guards(settings.guards, world))
        container = program.container()
        await container.start()
        stack.push_async_callback(container.stop)
        await program.exchange_keys(container)
        events = LifecycleEvents()
        await container.spawn(events, name="lifecycle events")
        container.on_process = events.process_changed
        resources = HostResources(container, settings, given, again=again)
        reloader = resources.find(PoolReloader)
        if reloader is not None:
            reloads = PoolReloads(reloader)
            await container.spawn(reloads, name="pool reloads")
            if signals:
                stack.callback(reload_at_hangup(reloads))
        apps = AppManager(
            container,
            resources,
            search=program.search,
            spawn_any=allow_spawn_any,
            on_change=events.app_changed,
        )
        info = partial(program.info, apps, tuple(root.path for root in catalogue.roots))
        # Its socket is there early, since it says that a container of this id lives; it answers once the agent does.
        control = ControlProcess(container, settings.home, info, held=True)
        await container.spawn(control, name="control")
        await program.watch(container)
        if program.owners is not None:
            await container.spawn(program.owners, name="owners")
        agent = AgentProcess(
            container,
            apps,
            settings.agent,
            host=socket.gethostname(),
            pid=os.getpid(),
            set_log_level=set_log_level,
            log_levels=LEVELS.snapshot,
            settle=0.0 if program.place == "memory" else _SETTLE,
        )
        await container.spawn(agent, name="agent")
        await control.open()
        stack.push_async_callback(apps.stop_all)
        stack.callback(agent.leave)
        if guards is not None:
            stack.callback(guards.stopping, _orderly_stop(plan, container.config, settings))
        await apps.start(plan)
        told = HostReady(
            program.system,
            container.id,
            program.place,
            str(socket_path(settings.home, program.system, container.id)),
            tuple(app.name for app in plan.apps),
            resources.get(Listening).addresses,
        )
        events.container_changed("started", host=agent.host, pid=os.getpid())
        (ready or _say_ready)(told)
        _leave_word(told, ready_file, notify_fd)
        notify_manager("READY=1")
        if guards is not None:
            guards.started()
        log.info("container ready", container=container.id, system=program.system, apps=list(told.apps))
        await until_stopped(container, stopping)
        waits.callback(tell_what_stopping_waits_for(container, program.place))
        notify_manager("STOPPING=1")
        log.info("stopping", container=container.id)
        events.container_changed("stopping", host=agent.host, pid=os.getpid())


async def _find_apps(
    world: World, files: Sequence[Path | str], search: Sequence[Path], *, processes: Sequence[str], here: bool
) -> Catalogue:
    """As :func:`find_apps`, beside the loop: a large file takes seconds, in which Ctrl+C has to work."""
    given_up = threading.Event()

    def check() -> None:
        if given_up.is_set():
            raise Cancelled("the files are not wanted any more")

    try:
        return await world.run_blocking(partial(find_apps, files, search, processes=processes, here=here, check=check))
    except asyncio.CancelledError:
        given_up.set()
        raise


class _Program:
    """What settings and flags come to."""

    def __init__(
        self, settings: Settings, world: World, *, system: str | None, container_id: str | None, broker: str | None
    ) -> None:
        self.settings = settings
        self.system = system or settings.system
        self.id = container_id or settings.container_id or _new_id(world, settings.home, self.system)
        self._world = world
        self._started_at = world.now()
        self._url = with_variables(broker or settings.broker, world.environ)
        self._tap: Any = None
        self._stack: Stack | None = None
        self._services = ServiceNames(system=self.system, container=self.id)
        self.owners: RegistryOwners | None = None
        if settings.policy or settings.interceptors:  # nobody else can have a rule for owners
            from pelagos.runtime.owners import RegistryOwners

            self.owners = RegistryOwners()
        self.search = settings.app_directories
        socket_path(settings.home, self.system, self.id)  # names that cannot be, before anything starts
        self.place = "memory"
        if self._url:
            self.place = self._amqp_config(Names(self.id, self.system)).place

    def container(self) -> Container:
        settings = self.settings
        config = ContainerConfig(
            system=self.system,
            id=self.id,
            call_timeout=settings.call_timeout,
            dependency_timeout=settings.dependency_timeout,
            settings=settings.app_config,
        )
        return Container(self._world, config, self._transport, service_names=self._services)

    def info(self, apps: AppManager, files: tuple[str, ...]) -> ContainerInfo:
        return ContainerInfo(
            id=self.id,
            system=self.system,
            pid=os.getpid(),
            version=__version__,
            broker=self.place,
            started_at=self._started_at,
            files=files,
            classes=apps.startable,
        )

    async def exchange_keys(self, container: Container) -> None:
        """Before all other processes: what they send is signed, and believed. Raises :class:`Unauthenticated`."""
        if self._stack is not None and self._stack.sessions is not None:
            exchange = KeyExchangeProcess(self._stack.sessions)
            await container.spawn(exchange, name="keys")
            if self.place != "memory":
                await exchange.meet()

    async def watch(self, container: Container) -> None:
        """Have what passes the exchange observed on request."""
        from pelagos.container.observer import ObserverProcess

        tap = self._tap

        def is_agent(address: str) -> bool:
            return any(
                address == container.names.full(f"process:{process.id}")
                for process in container.processes
                if isinstance(process, AgentProcess)
            )

        tap.is_agent = is_agent
        await container.spawn(lambda: ObserverProcess(tap), name="observer")

    def _transport(self, names: Names) -> Transport:
        from pelagos.exchange.observing import Tap
        from pelagos.model.redaction import redact

        inner: Transport
        if self._url:
            from pelagos.exchange.amqp import AmqpTransport

            inner = AmqpTransport(self._world, self._amqp_config(names))
        else:
            inner = MemoryTransport(self._world)
        self._stack = self._interceptors()
        intercepted = InterceptedTransport(inner, self._stack.interceptors, self._world)
        self._tap = Tap(intercepted, self._world, redact=redact)
        tapped: Transport = self._tap
        return tapped

    def _interceptors(self) -> Stack:
        settings, local = self.settings, not self._url
        entries: Sequence[StackEntry] | None = settings.interceptors or None
        if settings.policy:
            usual = [name for name in DEFAULT_STACK if name != "signature" or not local]
            entries = _with_policy(entries or usual, str(Path(settings.policy).expanduser().absolute()))
        keys = Path(settings.keys).expanduser() if settings.keys else settings.home / "keys" / self.system
        surroundings = Surroundings(
            self._world,
            self.id,
            self.system,
            self._services,
            local,
            keys=None if local and not entries else keys,
            owners=self.owners,
        )
        return build_stack(entries, surroundings)

    def _amqp_config(self, names: Names) -> Any:
        return amqp_config(self.settings, self._url, system=names.system, container=names.container)


def _with_policy(entries: Sequence[StackEntry], path: str) -> list[StackEntry]:
    """The stack, with this file in its policy. Raises InvalidInput if it has none, or names another file."""
    made: list[StackEntry] = []
    found = False
    for entry in entries:
        if entry == "policy" or (isinstance(entry, dict) and "policy" in entry):
            options = entry["policy"] if isinstance(entry, dict) else {}
            if isinstance(options, dict) and options.get("file"):
                raise InvalidInput(
                    "two policy files are configured: `policy`, and `file` of the interceptor 'policy'",
                    advice="Leave one of them out.",
                )
            entry, found = {"policy": {**(options or {}), "file": path}}, True
        made.append(entry)
    if not found:
        raise InvalidInput(
            "`policy` names a file, and the list of `interceptors` has no 'policy' that would read it",
            advice="Put 'policy' before 'identity' in `interceptors`, or leave `policy` out.",
        )
    return made


def _orderly_stop(plan: StartPlan, config: ContainerConfig, settings: Settings) -> float:
    """Seconds that a stop in good order takes at the most. How long the edge takes, ``http.drain`` says."""
    processes = [one for app in plan.apps for one in app.processes if one.kind != _EDGE]
    times = [one.count * (config.shutdown if one.shutdown is None else one.shutdown) for one in processes]
    return settings.http.drain + sum(times)


def _new_id(world: World, home: Path, system: str) -> str:
    """Host and a piece of chance: a pid alone comes again. As much of the host as the control socket's path bears."""
    chance = world.new_id()[:8]
    room = max(0, MAX_PATH - len(os.fsencode(home / "control" / system / f"-{chance}.sock")))
    name = re.sub(r"[^A-Za-z0-9-]+", "-", socket.gethostname().partition(".")[0]).strip("-") or "container"
    return f"{name[: min(room, 24)]}-{chance}".lstrip("-")


def _arguments(
    given: Mapping[str, Mapping[str, Any]] | Sequence[str], catalogue: Catalogue
) -> dict[str, dict[str, Argument]]:
    if isinstance(given, Mapping):
        return {
            app: {key: Argument(value, Place(None, (), f"argument {app}.{key}"), True) for key, value in values.items()}
            for app, values in given.items()
        }
    names = [root.file.name for root in catalogue.roots if isinstance(root.file, AppFile)]
    only = names[0] if len(names) == 1 and len(catalogue.roots) == 1 else None
    return parse_arguments(given, only)


def _say_ready(told: HostReady) -> None:
    print(  # noqa: T201 - the readiness line
        f"pelagos: container {told.container} of system {told.system} is ready", file=sys.stdout, flush=True
    )


def _leave_word(told: HostReady, ready_file: Path | None, notify_fd: int | None) -> None:
    if ready_file is not None:
        try:
            write_private(ready_file.absolute(), msgspec.json.encode(told).decode() + "\n")
        except OSError as error:
            raise InvalidInput(f"the file {ready_file} cannot be written: {error.strerror}") from error
    if notify_fd is not None:
        try:
            with os.fdopen(notify_fd, "w", encoding="utf-8") as pipe:
                pipe.write(f"ready {told.container}\n")
        except OSError as error:
            raise InvalidInput(f"nothing can be written to the descriptor {notify_fd}: {error.strerror}") from error
