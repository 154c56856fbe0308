"""From files to what is started, in order: dependencies, versions, overrides. Pure: it opens and imports nothing.

A catalogue holds every file that may be needed (:mod:`pelagos.container.apps.finding` fills it). Each app of a release
becomes an instance, with what it depends on before it; what nobody listed is taken from the catalogue. The order is the
release's, except that nothing starts before what it depends on. All mistakes are collected and raised together, each at
its place: the ancestor read dependencies and ignored them (reference section 6.1).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from pelagos.container.apps.files import AppEntry, AppFile, ProcessEntry, ProcessOverride, Source, default_name
from pelagos.model.diagnostics import Diagnostic
from pelagos.model.errors import DescriptionError
from pelagos.model.yaml_layer import Layer, PathKey, did_you_mean, parse_scalar
from pelagos.process import Restart, RestartStrategy

__all__ = [
    "AppPlan",
    "Argument",
    "Catalogue",
    "Place",
    "ProcessPlan",
    "StartPlan",
    "merged",
    "parse_arguments",
    "raise_mistakes",
    "resolve",
    "split_dependency",
]

_DEPENDENCY = re.compile(r"\s*([A-Za-z0-9-]+)\s*(.*)")


class Place(msgspec.Struct, frozen=True):
    """Where something was written, so that a mistake found later is told there as well."""

    layer: Layer | None
    path: PathKey
    said: str = ""
    """Instead of a layer: the flag it came from."""

    def mistake(self, summary: str, advice: str = "") -> Diagnostic:
        if self.layer is None:
            return Diagnostic(f"{self.said}: {summary}" if self.said else summary, advice=advice)
        return self.layer.diagnostic(self.path, summary, advice)


class Argument(msgspec.Struct, frozen=True):
    value: Any
    place: Place
    offered: bool = False
    """It was given to the whole app: a process that takes no such argument does without."""


class ProcessPlan(msgspec.Struct, frozen=True):
    name: str
    kind: str
    count: int
    arguments: dict[str, Argument]
    restart: Restart
    shutdown: float | None
    place: Place
    """Of its class."""


class AppPlan(msgspec.Struct, frozen=True):
    """One app to be started, as everything together has it."""

    name: str
    app: str
    version: str
    description: str
    depends: tuple[str, ...]
    """Names of the instances that run before it."""
    processes: tuple[ProcessPlan, ...]
    strategy: RestartStrategy
    max_restarts: int
    period: float
    vital: bool
    config: dict[str, Any]
    path: str
    trusted: bool


class StartPlan(msgspec.Struct, frozen=True):
    release: str
    """Empty if there is none."""
    version: str
    apps: tuple[AppPlan, ...]


class Catalogue(msgspec.Struct):
    """The files at hand. ``roots`` are those to start, in order; ``apps`` those that others may depend on, by name;
    ``references`` what a release file says, by its path and its words; ``names`` all names that the search path has.
    """

    roots: list[Source] = []
    apps: dict[str, Source] = {}
    references: dict[tuple[str, str], Source] = {}
    names: list[str] = []


class _Instance:
    def __init__(self, source: Source, entry: AppEntry | None, place: Place) -> None:
        assert isinstance(source.file, AppFile)
        self.source = source
        self.file: AppFile = source.file
        self.entry = entry
        self.place = place
        self.name = (entry.name if entry is not None else "") or self.file.name
        self.before: list[tuple[int, _Instance]] = []
        """What it depends on, and by which entry of its list."""


def resolve(
    catalogue: Catalogue,
    arguments: Mapping[str, Mapping[str, Argument]] | None = None,
    running: Mapping[str, str] | None = None,
) -> StartPlan:
    """What is started, in order. ``arguments`` are those of :func:`parse_arguments`; ``running`` are apps that run
    already, with their versions, which satisfy dependencies and are not started again.

    Raises :class:`DescriptionError` with all mistakes."""
    work = _Resolving(catalogue, dict(running or {}))
    for root in catalogue.roots:
        work.add_root(root)
    work.add_dependencies()
    order = work.sort()
    given = {name: dict(values) for name, values in (arguments or {}).items()}
    plans = tuple(work.plan(instance, given.pop(instance.name, {})) for instance in order)
    for name, values in given.items():
        place = next(iter(values.values())).place
        names = [instance.name for instance in order]
        work.mistakes.append(
            place.mistake(f"no app {name!r} is started", did_you_mean(name, names, f"Apps are: {', '.join(names)}."))
        )
    raise_mistakes(work.mistakes)
    return StartPlan(work.release, work.version, plans)


def raise_mistakes(mistakes: Sequence[Diagnostic]) -> None:
    """Raise :class:`DescriptionError` if there are any."""
    if not mistakes:
        return
    first, others = mistakes[0], len(mistakes) - 1
    more = f" (and {others} more)" if others else ""
    raise DescriptionError(f"{first}{more}", advice=first.advice, diagnostics=tuple(mistakes))


def parse_arguments(texts: Iterable[str], only: str | None = None) -> dict[str, dict[str, Argument]]:
    """``app.key=value`` texts by app and key; the value is YAML, so also JSON: ``[1, 2]``, ``{"a": true}``, ``text``.

    ``app.process.key=value`` is for one process of the app, ``app={...}`` gives several keys at once. Without an app
    it is for ``only``, the one app there is. Nothing is ever evaluated. Raises :class:`DescriptionError`."""
    found: dict[str, dict[str, Argument]] = {}
    mistakes: list[Diagnostic] = []
    for text in texts:
        place = Place(None, (), f"--arg {text}")
        left, equals, right = text.partition("=")
        app, dot, key = left.strip().partition(".")
        value = parse_scalar(right)
        if equals and app and not dot and isinstance(value, dict):
            for each, inner in value.items():
                found.setdefault(app, {})[str(each)] = Argument(inner, place, offered=True)
            continue
        if not dot and only is not None:
            app, key = only, app
        if not equals or not app or not key:
            mistakes.append(
                place.mistake("this is no argument", "Write it as app.key=value, the value as YAML or JSON.")
            )
            continue
        found.setdefault(app, {})[key] = Argument(value, place, offered="." not in key)
    raise_mistakes(mistakes)
    return found


def split_dependency(text: str) -> tuple[str, str]:
    """Name and range of versions of ``store>=1.2,<2``."""
    match = _DEPENDENCY.fullmatch(text)
    return (match[1], match[2].strip()) if match else (text, "")


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings key by key, anything else as a whole."""
    result = dict(base)
    for key, value in over.items():
        known = result.get(key)
        result[key] = merged(known, value) if isinstance(known, Mapping) and isinstance(value, Mapping) else value
    return result


def _matches(version: str, wanted: str) -> bool:
    if not wanted:  # any: each command starts apps of which none asks for a version, and the import is dear
        return True
    from packaging.specifiers import SpecifierSet
    from packaging.version import Version

    return SpecifierSet(wanted).contains(Version(version), prereleases=True)


class _Resolving:
    def __init__(self, catalogue: Catalogue, running: dict[str, str]) -> None:
        self.mistakes: list[Diagnostic] = []
        self.release = ""
        self.version = ""
        self._catalogue = catalogue
        self._running = running
        self._instances: dict[str, _Instance] = {}

    # -- instances -----------------------------------------------------------------------------------------------

    def add_root(self, root: Source) -> None:
        if isinstance(root.file, AppFile):
            self._add(_Instance(root, None, Place(root.layer, ("name",))))
            return
        self.release = f"{self.release}+{root.file.release}" if self.release else root.file.release
        self.version = self.version or root.file.version
        for index, entry in enumerate(root.file.apps):
            place = Place(root.layer, ("apps", index, "app"))
            source = self._catalogue.references.get((root.path, entry.app)) or self._catalogue.apps.get(entry.app)
            if source is None or not isinstance(source.file, AppFile):
                self.mistakes.append(self._missing(place, entry.app, f"release {root.file.release!r} has"))
                continue
            self._check_version(
                Place(root.layer, ("apps", index, "version")), root.file.release, source, entry.app, entry.version
            )
            self._add(_Instance(source, entry, place))

    def add_dependencies(self) -> None:
        """Link each instance to what it depends on; what nobody listed is added."""
        waiting = list(self._instances.values())
        while waiting:
            instance = waiting.pop(0)
            for index, text in enumerate(instance.file.depends):
                name, wanted = split_dependency(text)
                place = Place(instance.source.layer, ("depends", index))
                if name in self._running:
                    if not _matches(self._running[name], wanted):
                        self.mistakes.append(
                            place.mistake(
                                f"{instance.name} needs {text}, but {name} {self._running[name]} runs",
                                "Stop that one, or change the range.",
                            )
                        )
                    continue
                found = [other for other in self._instances.values() if name in (other.name, other.file.name)]
                if not found:
                    source = self._catalogue.apps.get(name)
                    if source is None or not isinstance(source.file, AppFile):
                        self.mistakes.append(self._missing(place, name, f"{instance.name} depends on"))
                        continue
                    added = _Instance(source, None, place)
                    self._add(added)
                    waiting.append(added)
                    found = [added]
                for other in found:
                    self._check_version(place, instance.name, other.source, name, wanted)
                    instance.before.append((index, other))

    def _add(self, instance: _Instance) -> None:
        known = self._instances.get(instance.name)
        if known is not None or instance.name in self._running:
            where = "it runs already"
            if known is not None and known.place.layer is not None:
                where = f"first at {known.place.layer.origin(known.place.path)}"
            self.mistakes.append(
                instance.place.mistake(
                    f"the app {instance.name!r} is there twice: {where}",
                    "Give one of them another `name` in the release, or delete it.",
                )
            )
            return
        self._instances[instance.name] = instance

    def _missing(self, place: Place, name: str, who: str) -> Diagnostic:
        names = {*self._catalogue.names, *self._catalogue.apps}
        there = f"Apps found are: {', '.join(sorted(names)[:12])}." if names else "No app was found at all."
        return place.mistake(
            f"{who} the app {name!r}, which is not found",
            did_you_mean(name, names, f"{there} Put {name}.yaml beside the file, or in apps/ beside it."),
        )

    def _check_version(self, place: Place, who: str, source: Source, name: str, wanted: str) -> None:
        assert isinstance(source.file, AppFile)
        if not _matches(source.file.version, wanted):
            self.mistakes.append(
                place.mistake(
                    f"{who} needs {name}{wanted}, but {source.path} is {name} {source.file.version}",
                    "Change the range, or use another version of the app.",
                )
            )

    # -- order ---------------------------------------------------------------------------------------------------

    def sort(self) -> list[_Instance]:
        """Dependencies first, otherwise as listed. Circles are mistakes."""
        order: list[_Instance] = []
        done: set[str] = set()
        circles: set[frozenset[str]] = set()

        for root in self._instances.values():
            if root.name in done:
                continue
            # Depth first with a stack of our own: a chain of a thousand apps is long, not wrong.
            path: list[tuple[_Instance, int]] = [(root, 0)]
            while path:
                instance, at = path[-1]
                if at == len(instance.before):
                    path.pop()
                    if instance.name not in done:
                        done.add(instance.name)
                        order.append(instance)
                    continue
                path[-1] = (instance, at + 1)
                _, other = instance.before[at]
                if other.name in done:
                    continue
                on_way = [each for each, _ in path]
                if other in on_way:
                    self._circle(path[on_way.index(other) :], circles)
                    continue
                path.append((other, 0))
        return order

    def _circle(self, path: list[tuple[_Instance, int]], circles: set[frozenset[str]]) -> None:
        names = [instance.name for instance, _ in path]
        if frozenset(names) in circles:
            return
        circles.add(frozenset(names))
        places = [str(instance.source.layer.origin(("depends", instance.before[at - 1][0]))) for instance, at in path]
        last, at = path[-1]
        advice = "Take one of these out: " + ", ".join(places) + "."
        summary = f"apps depend on one another in a circle: {' -> '.join([*names, names[0]])}"
        self.mistakes.append(last.source.layer.diagnostic(("depends", last.before[at - 1][0]), summary, advice))

    # -- plans ---------------------------------------------------------------------------------------------------

    def plan(self, instance: _Instance, given: dict[str, Argument]) -> AppPlan:
        file, entry = instance.file, instance.entry
        names = [process.name or default_name(process.kind) for process in file.processes]
        overrides = self._overrides(instance, names)
        general = _arguments(file.arguments, Place(instance.source.layer, ("arguments",)), offered=True)
        own: dict[str, dict[str, Argument]] = {}
        if entry is not None:
            assert instance.place.layer is not None
            at = instance.place.path[:2]
            general |= _arguments(entry.arguments, Place(instance.place.layer, (*at, "arguments")), offered=True)
            for name, override in entry.processes.items():
                path = (*at, "processes", name, "arguments")
                own[name] = _arguments(override.arguments, Place(instance.place.layer, path))
        for key, argument in given.items():
            process, dot, rest = key.partition(".")
            if not dot:
                general[key] = argument
            elif process in names:
                own.setdefault(process, {})[rest] = argument
            else:
                advice = did_you_mean(process, names, f"It has: {', '.join(names)}.")
                self.mistakes.append(argument.place.mistake(f"{instance.name} has no process {process!r}", advice))
        return AppPlan(
            name=instance.name,
            app=file.name,
            version=file.version,
            description=file.description,
            depends=tuple(dict.fromkeys(other.name for _, other in instance.before)),
            processes=tuple(
                self._process(instance, index, name, overrides.get(name), general, own.get(name, {}))
                for index, name in enumerate(names)
            ),
            strategy=file.supervision.strategy,
            max_restarts=file.supervision.max_restarts,
            period=file.supervision.period,
            vital=file.supervision.vital,
            config=merged(file.config, entry.config if entry is not None else {}),
            path=instance.source.path,
            trusted=instance.source.trusted,
        )

    def _overrides(self, instance: _Instance, names: list[str]) -> dict[str, ProcessOverride]:
        entry, place = instance.entry, instance.place
        if entry is None:
            return {}
        for key, given in (("counts", entry.counts), ("processes", entry.processes)):
            for name in given:
                if name not in names:
                    there = Place(place.layer, (*place.path[:2], key, name))
                    advice = did_you_mean(name, names, f"It has: {', '.join(names)}.")
                    self.mistakes.append(there.mistake(f"app {entry.app!r} has no process {name!r}", advice))
        found = dict(entry.processes)
        for name, count in entry.counts.items():
            found[name] = msgspec.structs.replace(found.get(name, ProcessOverride()), count=count)
        return found

    def _process(
        self,
        instance: _Instance,
        index: int,
        name: str,
        override: ProcessOverride | None,
        general: dict[str, Argument],
        own: dict[str, Argument],
    ) -> ProcessPlan:
        entry: ProcessEntry = instance.file.processes[index]
        layer, override = instance.source.layer, override or ProcessOverride()
        written = _arguments(entry.arguments, Place(layer, ("processes", index, "arguments")))
        # What says more wins: the file's app, its process, then what the release and the command line said of the app,
        # then what they said of the process.
        app_wide = {key: value for key, value in general.items() if not _is_of(value, layer) or key not in written}
        return ProcessPlan(
            name=name,
            kind=entry.kind,
            count=entry.count if override.count is None else override.count,
            arguments={**written, **app_wide, **own},
            restart=override.restart or entry.restart,
            shutdown=entry.shutdown if override.shutdown is None else override.shutdown,
            place=Place(layer, ("processes", index, "class")),
        )


def _arguments(values: Mapping[str, Any], place: Place, *, offered: bool = False) -> dict[str, Argument]:
    return {
        key: Argument(value, Place(place.layer, (*place.path, key)), offered=offered) for key, value in values.items()
    }


def _is_of(argument: Argument, layer: Layer) -> bool:
    return argument.place.layer is layer
