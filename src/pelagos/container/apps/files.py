"""App files and release files as values, and how they are read.

An app file says what belongs together and is started as one::

    name: hello
    version: "1.0"
    depends: ["store>=1.2,<2"]
    processes:
      - {name: hello, class: "hello:HelloService", count: 2}
    arguments: {greeting: Ahoy}

A release file says which apps make a system, in which order, and what is different here. A bare list of processes is
an app named after its file. (The ancestor's files held Python literals, took any key and were read by ``eval``:
reference section 6.)

Reading never stops at the first mistake: each becomes a diagnostic with its place, and the file is then not used.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Callable
from pathlib import PurePath
from typing import Annotated, Any

import msgspec

from pelagos.model.diagnostics import Diagnostic, Position
from pelagos.model.names import name_problem
from pelagos.model.yaml_layer import Layer, PathKey, did_you_mean, parse_layer
from pelagos.process import Restart, RestartStrategy

__all__ = [
    "AppEntry",
    "AppFile",
    "ProcessEntry",
    "ProcessOverride",
    "ReleaseFile",
    "Source",
    "SupervisionEntry",
    "class_problem",
    "default_name",
    "parse_source",
]

Count = Annotated[int, msgspec.Meta(ge=0, le=100_000)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]


class ProcessEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of process of an app."""

    kind: str = msgspec.field(name="class")
    """``module:Class``; the module may lie beside the app file."""
    name: str = ""
    """What ``spawn`` takes; made from the class's name if empty."""
    count: Count = 1
    """How many are started with the app; 0: none until somebody spawns one."""
    arguments: dict[str, Any] = {}
    restart: Restart = Restart.PERMANENT
    shutdown: Seconds | None = None
    """Seconds it may take to end; the container's if not given."""


class SupervisionEntry(msgspec.Struct, frozen=True, kw_only=True):
    """How the app's supervisor keeps its processes alive."""

    strategy: RestartStrategy = RestartStrategy.ONE_FOR_ONE
    max_restarts: Annotated[int, msgspec.Meta(ge=0)] = 3
    period: Annotated[float, msgspec.Meta(gt=0)] = 5.0
    """More than ``max_restarts`` in so many seconds, and the app fails: the other apps go on without it."""
    vital: bool = False
    """Whether the container is nothing without it: it is started anew when it fails, and if that does not help, the
    container ends with the cause, for whoever starts containers to start another."""


class AppFile(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    version: str = "0"
    description: str = ""
    depends: tuple[str, ...] = ()
    """Apps that must run before it: ``store``, or with a range of versions ``store>=1.2,<2``."""
    processes: tuple[ProcessEntry, ...] = ()
    supervision: SupervisionEntry = SupervisionEntry()
    config: dict[str, Any] = {}
    """Settings that this app's processes alone see, over the container's."""
    arguments: dict[str, Any] = {}
    """For every process of the app that takes an argument of that name."""


class ProcessOverride(msgspec.Struct, frozen=True, kw_only=True):
    """What a release changes of an app's process; what it does not name stays."""

    count: Count | None = None
    arguments: dict[str, Any] = {}
    restart: Restart | None = None
    shutdown: Seconds | None = None


class AppEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One app of a release."""

    app: str
    """Its name, or the path of its file, seen from the release file."""
    name: str = ""
    """What it is called here, so that one app may run several times."""
    version: str = ""
    """A range of versions, such as ``>=1.2,<2``."""
    config: dict[str, Any] = {}
    arguments: dict[str, Any] = {}
    counts: dict[str, Count] = {}
    """How many of which process: short for ``processes: {worker: {count: 4}}``."""
    processes: dict[str, ProcessOverride] = {}


class ReleaseFile(msgspec.Struct, frozen=True, kw_only=True):
    release: str
    version: str = "0"
    description: str = ""
    apps: tuple[AppEntry, ...]
    """Started in this order, each after what it depends on."""


class Source(msgspec.Struct, frozen=True):
    """A file that was read without a mistake."""

    path: str
    file: AppFile | ReleaseFile
    layer: Layer
    trusted: bool = False
    """The user named it: modules beside it may be imported."""

    @property
    def directory(self) -> str:
        return str(PurePath(self.path).parent)


def parse_source(
    path: str,
    data: bytes,
    mistakes: list[Diagnostic],
    *,
    trusted: bool = False,
    check: Callable[[], None] | None = None,
) -> Source | None:
    """The file of that path and content; None after a mistake, each of which is added. ``check`` is as
    :func:`parse_layer`'s."""
    before = len(mistakes)
    layer = parse_layer(path, data, mistakes, what="an app or release file", list_key="processes", check=check)
    if len(mistakes) > before:
        return None
    if not layer.data:
        mistakes.append(
            Diagnostic("the app file is empty", Position(path, 1), advice="Write at least `name` and `processes`.")
        )
        return None
    if layer.data.keys() == {"processes"}:
        layer.data["name"] = _name_of_file(path)
    kind: type[AppFile] | type[ReleaseFile] = ReleaseFile if "release" in layer.data else AppFile
    _expand(layer, kind)
    file = _build(kind, layer, layer.data, (), mistakes)
    if file is not None:
        _check(file, layer, mistakes)
    return None if len(mistakes) > before else Source(path, file, layer, trusted)


def default_name(kind: str) -> str:
    """What a process of ``module:Class`` is called that has no name: HelloService is hello, Rot13 is rot13."""
    name = kind.rpartition(":")[2].rpartition(".")[2]
    short = re.sub(r"(Service|Process)\Z", "", name) or name
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", short).replace("_", "-").strip("-").lower() or "process"


def class_problem(kind: str) -> str | None:
    """What is wrong with the text of a class, or None."""
    module, colon, name = kind.partition(":")
    parts = [*module.split("."), *name.split(".")]
    if colon and all(part.isidentifier() for part in parts):
        return None
    return f"{kind!r} is not a class; write module:Class"


def _name_of_file(path: str) -> str:
    return re.sub(r"[^A-Za-z0-9-]+", "-", PurePath(path).stem).strip("-") or "processes"


def _expand(layer: Layer, kind: type[Any]) -> None:
    """Short forms: a process may be written as its class alone, an app of a release as its name alone."""
    key, short = ("apps", "app") if kind is ReleaseFile else ("processes", "class")
    entries = layer.data.get(key)
    if isinstance(entries, list):
        for index, entry in enumerate(entries):
            if isinstance(entry, str):
                entries[index] = {short: entry}
                layer.origins[(key, index, short)] = layer.origin((key, index))
    version = layer.data.get("version")
    if isinstance(version, int) and not isinstance(version, bool):
        layer.data["version"] = str(version)


def _build(kind: Any, layer: Layer, data: Any, path: PathKey, mistakes: list[Diagnostic]) -> Any:
    """``data`` as a Struct of ``kind``; None after a mistake."""
    if not isinstance(data, dict):
        mistakes.append(layer.diagnostic(path, f"{_dotted(path)} is not a mapping of keys to values"))
        return None
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    before = len(mistakes)
    values: dict[str, Any] = {}
    for key, value in data.items():
        field = fields.get(key)
        if field is None:
            advice = did_you_mean(key, fields, f"Keys here are: {', '.join(fields)}.")
            mistakes.append(layer.diagnostic((*path, key), f"there is no key {_dotted((*path, key))!r}", advice))
        else:
            values[field.name] = _value(field.type, layer, value, (*path, key), mistakes)
    for name, field in fields.items():
        if field.required and name not in data:
            mistakes.append(layer.diagnostic(path, f"{_dotted(path)} has no key {name!r}", "Add it."))
    return kind(**values) if len(mistakes) == before else None


def _value(kind: Any, layer: Layer, value: Any, path: PathKey, mistakes: list[Diagnostic]) -> Any:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return _build(kind, layer, value, path, mistakes)
    if origin is tuple and isinstance(value, list):
        return tuple(_value(inner[0], layer, item, (*path, index), mistakes) for index, item in enumerate(value))
    if origin is dict and inner[1] is not Any and isinstance(value, dict):
        return {key: _value(inner[1], layer, item, (*path, key), mistakes) for key, item in value.items()}
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        text = str(error).partition(" - at ")[0]
        advice = ""
        if path[-1] == "version":
            advice = 'Put it in quotes, since YAML takes 1.10 for the number 1.1: version: "1.10".'
        mistakes.append(layer.diagnostic(path, f"{_dotted(path)}: {text[:1].lower()}{text[1:]}", advice))
        return None


def _check(file: AppFile | ReleaseFile, layer: Layer, mistakes: list[Diagnostic]) -> None:
    """What the types do not say."""

    def wrong(path: PathKey, summary: str, advice: str = "") -> None:
        mistakes.append(layer.diagnostic(path, summary, advice))

    def name_is_right(path: PathKey, name: str) -> None:
        problem = name_problem(name)
        if problem is not None:
            wrong(path, f"the name {name!r} {problem}")

    if not _is_version(file.version):
        wrong(("version",), f"{file.version!r} is not a version", "Write it like 1.2 or 1.2.3.")
    if isinstance(file, ReleaseFile):
        name_is_right(("release",), file.release)
        for index, entry in enumerate(file.apps):
            if entry.name:
                name_is_right(("apps", index, "name"), entry.name)
            if not _is_range(entry.version):
                wrong(
                    ("apps", index, "version"), f"{entry.version!r} is no range of versions", "Write it like >=1.2,<2."
                )
        return
    name_is_right(("name",), file.name)
    taken: dict[str, int] = {}
    for index, process in enumerate(file.processes):
        problem = class_problem(process.kind)
        if problem is not None:
            wrong(("processes", index, "class"), problem)
            continue
        name = process.name or default_name(process.kind)
        name_is_right(("processes", index, "name" if process.name else "class"), name)
        if name in taken:
            first = layer.origin(("processes", taken[name]))
            wrong(
                ("processes", index, "name" if process.name else "class"),
                f"the process {name!r} is there twice, first at {first}",
                "Give each its own `name`, or one of them a `count`.",
            )
        taken.setdefault(name, index)
    for index, dependency in enumerate(file.depends):
        match = re.match(r"[A-Za-z0-9-]+", dependency.strip())
        if not _is_range(dependency.strip()[match.end() :].strip() if match else "?"):
            wrong(
                ("depends", index),
                f"{dependency!r} is not the name of an app with a range of versions",
                "Write it like store or store>=1.2,<2.",
            )


def _is_version(text: str) -> bool:
    if re.fullmatch(r"\d+(\.\d+)*", text):
        return True  # the usual case costs no import: every command reads the files of its release
    from packaging.version import InvalidVersion, Version

    try:
        Version(text)
    except InvalidVersion:
        return False
    return True


def _is_range(text: str) -> bool:
    if not text:
        return True
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        SpecifierSet(text)
    except InvalidSpecifier:
        return False
    return True


def _dotted(path: PathKey) -> str:
    return ".".join(str(part) for part in path) or "the file"
