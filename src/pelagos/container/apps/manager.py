"""Runs apps in a container: each is a supervisor with its processes, started in order, stopped in reverse.

A start first imports every class and checks every argument of all its apps: what can be known beforehand never stops a
start half-way. If an app fails to start all the same, what this start has started is stopped again, in reverse, and the
cause is raised.

An app's settings are seen by its processes alone: their host is the container with the app's ``config`` over its
settings, so they end with the app. (The ancestor merged them into one global dictionary and never took them out:
reference section 1.7.)
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import msgspec

from pelagos.container.apps.factories import Maker, NoResources, Resources, load_maker
from pelagos.container.apps.files import class_problem, default_name
from pelagos.container.apps.finding import find_apps
from pelagos.container.apps.resolving import (
    AppPlan,
    Argument,
    Place,
    ProcessPlan,
    StartPlan,
    merged,
    raise_mistakes,
    resolve,
)
from pelagos.container.container import Container
from pelagos.container.messages import AppInfo, AppRequest, SpawnRequest
from pelagos.model.diagnostics import Diagnostic
from pelagos.model.errors import Conflict, Forbidden, InvalidInput, NotFound, PelagosError, ProcessFailed
from pelagos.model.yaml_layer import did_you_mean
from pelagos.process import ChildSpec, Host, Process, Restart, Supervisor, get_logger

__all__ = ["AppManager"]

log = get_logger(__name__)


class _ScopedHost:
    """The container as an app's processes see it: with the app's settings over the container's."""

    def __init__(self, host: Host, settings: Mapping[str, Any], app: str) -> None:
        self._host = host
        self.settings = merged(host.settings, settings)
        self.app = app

    def __getattr__(self, name: str) -> Any:
        return getattr(self._host, name)


class _AppSupervisor(Supervisor):
    """``on_failed`` is told why an app that ran has failed for good."""

    def __init__(
        self, plan: AppPlan, children: Sequence[ChildSpec], on_failed: Callable[[Exception], None] | None = None
    ) -> None:
        super().__init__(
            children,
            label=f"app {plan.name}",
            strategy=plan.strategy,
            max_restarts=plan.max_restarts,
            period=plan.period,
        )
        self._plan = plan
        self._on_failed = on_failed
        self._kinds = {process.name: process.kind for process in plan.processes}

    async def start_child(self, spec: ChildSpec) -> Process:
        """As the supervisor's; what is not of the family comes from the app's own code, and is told as that."""
        try:
            return await super().start_child(spec)
        except PelagosError:
            raise
        except Exception as error:
            # A child is called as its kind, or as its kind and which of several it is: see AppManager.
            kind = next((self._kinds[name] for name in _kinds_of(spec.name) if name in self._kinds), spec.name)
            raise _own_error(error, kind, f"of the app {self._plan.name}", self._plan.path) from error

    async def run(self, host: Host, started: Callable[[], None]) -> None:
        ran = False

        def now_started() -> None:
            nonlocal ran
            ran = True
            started()

        try:
            await super().run(cast(Host, _ScopedHost(host, self._plan.config, self._plan.name)), now_started)
        except Exception as error:
            if ran and self._on_failed is not None:
                self._on_failed(error)
            raise


def _kinds_of(child: str) -> tuple[str, ...]:
    """What the kind of a child of that name may be called: see :meth:`AppManager.spawn` and the names of several."""
    return (child, child.rpartition("-")[0], child.partition(" spawned ")[0])


def _own_error(error: Exception, kind: str, where: str, path: str = "") -> Exception:
    """The error to raise for what a class raised that was to start. What comes with Pelagos keeps its own."""
    if kind.startswith("pelagos."):
        return error
    what = str(error).partition("\n")[0]
    said = f"{type(error).__name__}: {what}" if what else type(error).__name__
    file = f" ({path})" if path else ""
    frame = traceback.extract_tb(error.__traceback__)[-1:]
    see = f"See {frame[0].filename}:{frame[0].lineno}; the traceback" if frame else "The traceback"
    return ProcessFailed(f"{kind} {where}{file} did not start: {said}", advice=f"{see} is in the log of the container.")


def _defect_of(cause: Exception) -> BaseException | None:
    """The exception whose traceback is worth to be in the log; None for what was told on purpose."""
    if isinstance(cause, ProcessFailed):
        return cause.__cause__ or cause
    return None if isinstance(cause, PelagosError) else cause


class _Kind:
    """A kind of process that can be started."""

    def __init__(self, plan: ProcessPlan, maker: Maker, values: dict[str, Any]) -> None:
        self.plan = plan
        self.maker = maker
        self.values = values


class _App:
    def __init__(self, plan: AppPlan, kinds: dict[str, _Kind]) -> None:
        self.plan = plan
        self.kinds = kinds
        self.supervisor: _AppSupervisor | None = None
        self.spawned = 0

    @property
    def child_name(self) -> str:
        return f"app {self.plan.name}"


class AppManager:
    """The apps of one container. ``search`` are directories with app files; ``spawn_any`` lets any ``module:Class`` be
    spawned that can be imported, which is as much as letting its callers run code. ``on_change`` is told each app that
    ``started``, ``stopped`` or ``failed``, at its start or later, with its version; it must neither wait nor raise."""

    def __init__(
        self,
        container: Container,
        resources: Resources | None = None,
        *,
        search: Sequence[Path] = (),
        spawn_any: bool = False,
        on_change: Callable[[str, str, str], None] | None = None,
    ) -> None:
        self._container = container
        self._resources: Resources = NoResources() if resources is None else resources
        self._search = tuple(search)
        self._spawn_any = spawn_any
        self._on_change = on_change
        self._apps: dict[str, _App] = {}
        self._lock = asyncio.Lock()
        self._loose = 0

    # -- starting and stopping -----------------------------------------------------------------------------------

    async def start(self, plan: StartPlan) -> tuple[AppInfo, ...]:
        """Start all apps of a plan, in order. Raises :class:`DescriptionError` with all mistakes in classes and
        arguments before anything starts, else what an app raised: then nothing of this start is left."""
        async with self._lock:
            return await self._start(plan)

    async def stop(self, name: str) -> None:
        """Stop an app in good order. Raises :class:`NotFound`, and :class:`Conflict` if apps that run depend on it."""
        async with self._lock:
            app = self._find(name)
            needing = [other.plan.name for other in self._apps.values() if name in other.plan.depends]
            if needing:
                raise Conflict(f"{', '.join(needing)} depend on the app {name}", advice="Stop them first.")
            await self._stop(app)

    async def stop_all(self) -> None:
        """Stop all apps, the last started first."""
        async with self._lock:
            for app in reversed(list(self._apps.values())):
                await self._stop(app)

    async def reload(self, name: str) -> AppInfo:
        """Stop an app and start it again as it was started, with new processes. Its files are not read again.

        If it does not start again, it is gone and the cause is raised. Raises :class:`NotFound`."""
        async with self._lock:
            app = self._find(name)
            await self._stop(app)
            return (await self._start(StartPlan("", "", (app.plan,))))[0]

    async def _start(self, plan: StartPlan) -> tuple[AppInfo, ...]:
        mistakes: list[Diagnostic] = []
        apps = [self._prepare(each, mistakes) for each in plan.apps]
        raise_mistakes(mistakes)
        taken = [app.plan.name for app in apps if app.plan.name in self._apps]
        if taken:
            raise Conflict(f"the app {taken[0]!r} runs already", advice="Stop it first, or give this one another name.")
        started: list[_App] = []
        try:
            for app in apps:
                await self._start_one(app)
                started.append(app)
                self._tell(app, "started")
        except BaseException as cause:
            self._tell(apps[len(started)], "failed", cause)
            if started:
                log.warning("start unwound", apps=[app.plan.name for app in reversed(started)])
            for done in reversed(started):
                await self._stop(done)
            if isinstance(cause, Exception):
                cause.add_note(f"while starting the app {apps[len(started)].plan.name}")
            raise
        return tuple(self._info(app) for app in apps)

    async def _start_one(self, app: _App) -> None:
        for kind in app.kinds.values():
            for need in kind.maker.needs:
                await self._resources.open(need)

        def supervisor() -> _AppSupervisor:
            # Made anew if a vital app's supervisor gives up and is restarted by the root.
            app.supervisor = _AppSupervisor(
                app.plan,
                [
                    self._spec(kind, name if kind.plan.count == 1 else f"{name}-{number}", kind.values)
                    for name, kind in app.kinds.items()
                    for number in range(1, kind.plan.count + 1)
                ],
                None if app.plan.vital else partial(self._app_failed, app),
            )
            return app.supervisor

        self._apps[app.plan.name] = app
        try:
            restart = Restart.PERMANENT if app.plan.vital else Restart.TEMPORARY
            await self._container.spawn(supervisor, name=app.child_name, restart=restart, shutdown=None)
        except BaseException:
            del self._apps[app.plan.name]
            raise

    def _app_failed(self, app: _App, cause: Exception) -> None:
        """It could not be kept alive. The others go on; a container of nothing else has nothing left to do."""
        if self._apps.get(app.plan.name) is not app:
            return  # it is being started or stopped, by who tells of it
        del self._apps[app.plan.name]
        self._tell(app, "failed", cause)
        if not self._apps:
            self._container.fail(cause)

    async def _stop(self, app: _App) -> None:
        if any(child.name == app.child_name for child in self._container.root.children()):
            await self._container.root.stop_child(app.child_name)
        self._apps.pop(app.plan.name, None)
        self._tell(app, "stopped")

    def _tell(self, app: _App, state: str, cause: BaseException | None = None) -> None:
        about: dict[str, Any] = {"app": app.plan.name, "version": app.plan.version}
        if isinstance(cause, Exception):
            log.error(f"app {state}", **about, file=app.plan.path, error=str(cause), exc_info=_defect_of(cause))
        else:
            log.info(f"app {state}", **about)
        if self._on_change is not None:
            self._on_change(app.plan.name, state, app.plan.version)

    def _spec(self, kind: _Kind, name: str, values: Mapping[str, Any], restart: Restart | None = None) -> ChildSpec:
        shutdown = self._container.config.shutdown if kind.plan.shutdown is None else kind.plan.shutdown
        resources = self._resources
        return ChildSpec(name, lambda: kind.maker.make(resources, values), restart or kind.plan.restart, shutdown)

    def _prepare(self, plan: AppPlan, mistakes: list[Diagnostic]) -> _App:
        kinds: dict[str, _Kind] = {}
        directory = str(Path(plan.path).parent) if plan.trusted else None
        made: list[tuple[ProcessPlan, Maker]] = []
        for process in plan.processes:
            maker = load_maker(process.kind, directory, process.place, mistakes)
            if maker is None:
                continue
            made.append((process, maker))
            values = maker.check(process.arguments, mistakes, process.place, whole=process.count > 0)
            kinds[process.name] = _Kind(process, maker, values)
        if len(made) == len(plan.processes):
            self._check_offered(plan, made, mistakes)
        return _App(plan, kinds)

    def _check_offered(
        self, plan: AppPlan, made: Sequence[tuple[ProcessPlan, Maker]], mistakes: list[Diagnostic]
    ) -> None:
        """An argument for the whole app that none of its processes takes is a slip of the pen."""
        offered = {
            name: argument
            for process in plan.processes
            for name, argument in process.arguments.items()
            if argument.offered
        }
        for name, argument in offered.items():
            if not any(maker.takes(name) for _, maker in made):
                known = {known for _, maker in made for known in maker.names}
                advice = did_you_mean(name, known, f"They take: {', '.join(sorted(known)) or 'none'}.")
                mistakes.append(
                    argument.place.mistake(f"no process of the app {plan.name} takes an argument {name!r}", advice)
                )

    # -- what is there -------------------------------------------------------------------------------------------

    def running(self) -> tuple[AppInfo, ...]:
        """The apps that run, in the order of their start."""
        return tuple(self._info(app) for app in self._apps.values())

    def app_of(self, process_id: str) -> str:
        """The app that a process belongs to; empty for none."""
        try:
            process = self._container.process(process_id)
        except NotFound:
            return ""
        return str(getattr(process.container, "app", ""))

    @property
    def startable(self) -> dict[str, str]:
        """What ``spawn`` takes, with its ``module:Class``: names of processes, and ``app.process`` where two apps have
        processes of one name."""
        table: dict[str, str] = {}
        for app in self._apps.values():
            for name, kind in app.kinds.items():
                table[name if name not in table else f"{app.plan.name}.{name}"] = kind.plan.kind
        return table

    @property
    def spawn_any(self) -> bool:
        return self._spawn_any

    def _info(self, app: _App) -> AppInfo:
        children = () if app.supervisor is None else app.supervisor.children()
        return AppInfo(
            name=app.plan.name,
            version=app.plan.version,
            description=app.plan.description,
            processes=tuple(child.process_id for child in children if child.process_id),
        )

    def _find(self, name: str) -> _App:
        app = self._apps.get(name)
        if app is None:
            names = list(self._apps)
            raise NotFound(
                f"no app {name!r} runs in container {self._container.id}",
                advice=did_you_mean(name, names, f"Running are: {', '.join(names) or 'none'}."),
            )
        return app

    # -- on request: pelagos.container.agent.Apps ----------------------------------------------------------------

    async def start_app(self, request: AppRequest) -> AppInfo:
        """Start an app by its name on the search path, with what it depends on and what does not run yet."""
        if request.name in self._apps:
            raise Conflict(f"the app {request.name!r} runs already", advice="Reload it, or stop it first.")
        if "/" in request.name or Path(request.name).suffix:
            # Any suffix makes it a path, to the finder too: one in the working directory, whose modules would be run.
            raise InvalidInput(
                f"{request.name!r} is a path; an app is started by its name",
                advice="Put its file into a directory of `apps` in the configuration of the container.",
            )
        catalogue = await self._container.world.run_blocking(find_apps, [request.name], self._search, here=False)
        place = Place(None, (), f"start of {request.name}")
        arguments = {
            request.name: {key: Argument(value, place, offered=True) for key, value in request.arguments.items()}
        }
        async with self._lock:
            running = {app.plan.name: app.plan.version for app in self._apps.values()}
            plan = resolve(catalogue, arguments if request.arguments else None, running)
            if request.config:
                last = plan.apps[-1]
                changed = msgspec.structs.replace(last, config=merged(last.config, request.config))
                plan = msgspec.structs.replace(plan, apps=(*plan.apps[:-1], changed))
            return (await self._start(plan))[-1]

    async def stop_app(self, name: str) -> None:
        await self.stop(name)

    async def reload_app(self, name: str) -> AppInfo:
        return await self.reload(name)

    async def spawn(self, request: SpawnRequest) -> tuple[str, ...]:
        """Start processes of the startable table; all of them or, if one does not start, none.

        They belong to their app and end with it. Raises :class:`NotFound`, :class:`Forbidden` for a class that is not
        in the table, :class:`DescriptionError` for arguments that do not fit."""
        try:
            restart = Restart(request.restart)
        except ValueError:
            names = ", ".join(Restart)
            raise InvalidInput(f"{request.restart!r} is no kind of restart", advice=f"Choose one of {names}.") from None
        app, kind = self._startable(request.name)
        mistakes: list[Diagnostic] = []
        place = Place(None, (), f"spawn of {request.name}")
        given = {key: Argument(value, place) for key, value in request.arguments.items()}
        values = kind.maker.check({**kind.plan.arguments, **given}, mistakes, place)
        raise_mistakes(mistakes)
        for need in kind.maker.needs:
            await self._resources.open(need)
        parent = self._container.root if app is None or app.supervisor is None else app.supervisor
        started: list[tuple[str, str]] = []
        try:
            for _ in range(request.count):
                name = self._next_name(app, kind.plan.name)
                process = await parent.start_child(self._spec(kind, name, values, restart))
                started.append((name, process.id))
        except BaseException as error:
            for name, _ in reversed(started):
                await parent.stop_child(name)
            if isinstance(error, Exception):
                log.error("nothing spawned", name=request.name, error=str(error), exc_info=_defect_of(error))
                if not isinstance(error, PelagosError):
                    raise _own_error(error, kind.plan.kind, "to be spawned") from error
            raise
        return tuple(process_id for _, process_id in started)

    def _startable(self, name: str) -> tuple[_App | None, _Kind]:
        for app in self._apps.values():
            if name in app.kinds:
                return app, app.kinds[name]
        app_name, _, process = name.partition(".")
        if app_name in self._apps and process in self._apps[app_name].kinds:
            return self._apps[app_name], self._apps[app_name].kinds[process]
        same = [(a, k) for a in self._apps.values() for k in a.kinds.values() if k.plan.kind == name]
        if same:
            return same[0]
        if ":" not in name:
            table = self.startable
            raise NotFound(
                f"container {self._container.id} cannot start {name!r}",
                advice=did_you_mean(name, table, f"It can start: {', '.join(table) or 'nothing'}."),
            )
        if not self._spawn_any:
            raise Forbidden(
                f"container {self._container.id} starts no classes that are not of its apps",
                advice="Write an app file with the class, or start the container with --allow-spawn-any.",
            )
        if class_problem(name) is not None:
            raise InvalidInput(str(class_problem(name)))
        mistakes: list[Diagnostic] = []
        place = Place(None, (), f"spawn of {name}")
        maker = load_maker(name, None, place, mistakes)
        raise_mistakes(mistakes)
        assert maker is not None
        plan = ProcessPlan(default_name(name), name, 1, {}, Restart.PERMANENT, None, place)
        return None, _Kind(plan, maker, {})

    def _next_name(self, app: _App | None, name: str) -> str:
        if app is None:
            self._loose += 1
            return f"{name} spawned {self._loose}"
        app.spawned += 1
        return f"{name} spawned {app.spawned}"
