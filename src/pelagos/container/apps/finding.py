"""Finds app and release files and reads all that a start may need.

An app's name is looked for as ``<name>.yaml`` beside the file that names it, in ``apps/`` beside that, in the
configured directories, and among the apps that come with Pelagos; the first that is found counts. Only files the user
named, and those found through them, may bring classes of their own from modules beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from importlib import resources
from pathlib import Path

import msgspec

from pelagos.container.apps.files import AppFile, ReleaseFile, Source, class_problem, parse_source
from pelagos.container.apps.resolving import Catalogue, raise_mistakes, split_dependency
from pelagos.model.diagnostics import Diagnostic
from pelagos.model.errors import InvalidInput
from pelagos.model.yaml_layer import did_you_mean, read_bounded

__all__ = ["builtin_directory", "find_apps", "listed_processes"]

_SUFFIXES = (".yaml", ".yml")


def builtin_directory() -> Path:
    """Where the apps are that come with Pelagos."""
    return Path(str(resources.files("pelagos"))) / "apps"


def find_apps(
    files: Iterable[Path | str],
    search: Sequence[Path] = (),
    *,
    processes: Sequence[str] = (),
    here: bool = True,
    check: Callable[[], None] | None = None,
) -> Catalogue:
    """Read the files, and every app that they need and that can be found.

    ``files`` are paths, or names of apps on the search path, to which the working directory belongs if they are looked
    for ``here``; ``processes`` as for :func:`listed_processes`. ``check`` is called every now and then while a file is
    read, and ends that by raising. Raises
    :class:`DescriptionError` with the mistakes of all files, :class:`InvalidInput` for one that cannot be read."""
    finder = _Finder(search, [Path.cwd(), Path.cwd() / "apps"] if here else [], check)
    for file in files:
        finder.add_root(file)
    if processes:
        finder.catalogue.roots.append(listed_processes(processes))
    finder.follow()
    raise_mistakes(finder.mistakes)
    return finder.catalogue


def listed_processes(texts: Sequence[str]) -> Source:
    """An app ``processes`` of ``[name=]module:Class[*count]`` texts. Raises :class:`InvalidInput`."""
    entries = []
    for text in texts:
        name, equals, rest = text.rpartition("=")
        kind, star, count = rest.partition("*")
        problem = class_problem(kind)
        if problem is not None or (star and not count.isdigit()) or (equals and not name):
            raise InvalidInput(
                f"{text!r} is no process to start", advice="Write [name=]module:Class[*count], such as hello:Hello*2."
            )
        entries.append({"class": kind, **({"name": name} if name else {}), **({"count": int(count)} if star else {})})
    mistakes: list[Diagnostic] = []
    data = msgspec.json.encode({"name": "processes", "processes": entries})
    source = parse_source(str(Path.cwd() / "(command line)"), data, mistakes, trusted=True)
    if source is None:
        said = mistakes[0]
        raise InvalidInput(f"{', '.join(texts)}: {said.summary}", advice=said.advice)
    return source


class _Finder:
    def __init__(self, search: Sequence[Path], here: Sequence[Path], check: Callable[[], None] | None) -> None:
        self._here = here
        self._check = check
        self.catalogue = Catalogue([], {}, {}, [])
        self.mistakes: list[Diagnostic] = []
        self._search = [*(path.absolute() for path in search), builtin_directory()]
        self._read: dict[Path, Source | None] = {}

    def add_root(self, file: Path | str) -> None:
        path = Path(file)
        if not path.suffix and (not self._here or not path.exists()):
            found = self._look_for(str(file), self._here)
            if found is None:
                raise InvalidInput(
                    f"there is no file {str(file)!r}, and no app of that name",
                    advice=did_you_mean(str(file), self.catalogue.names, "Give the path of an app or release file."),
                )
            path = found
        source = self._source(path.absolute(), trusted=not self._is_builtin(path))
        if source is not None:
            self.catalogue.roots.append(source)

    def follow(self) -> None:
        """Read what the roots need, and what that needs."""
        waiting = list(self.catalogue.roots)
        for root in waiting:
            if isinstance(root.file, AppFile):
                self.catalogue.apps.setdefault(root.file.name, root)
        seen: set[str] = set()
        while waiting:
            source = waiting.pop(0)
            if source.path in seen:
                continue
            seen.add(source.path)
            for name, reference in self._needs(source):
                found = self._find(name, source)
                if found is None:
                    continue
                if reference:
                    self.catalogue.references[(source.path, name)] = found
                if isinstance(found.file, AppFile):
                    self.catalogue.apps.setdefault(found.file.name, found)
                waiting.append(found)

    def _needs(self, source: Source) -> list[tuple[str, bool]]:
        if isinstance(source.file, ReleaseFile):
            return [(entry.app, True) for entry in source.file.apps]
        return [(split_dependency(text)[0], False) for text in source.file.depends]

    def _find(self, name: str, source: Source) -> Source | None:
        beside = Path(source.directory)
        if name.endswith(_SUFFIXES) or "/" in name:
            path = beside / name
            return self._source(path, trusted=source.trusted) if path.is_file() else None
        if not isinstance(source.file, ReleaseFile) and name in self.catalogue.apps:
            return self.catalogue.apps[name]
        found = self._look_for(name, [beside, beside / "apps"])
        if found is None:
            return self.catalogue.apps.get(name)
        read = self._source(found, trusted=source.trusted and not self._is_builtin(found))
        if read is not None and isinstance(read.file, AppFile) and read.file.name != name:
            self.mistakes.append(
                read.layer.diagnostic(
                    ("name",),
                    f"{found.name} is looked for as the app {name!r}, but its name is {read.file.name!r}",
                    "Give file and app the same name.",
                )
            )
        return read

    def _look_for(self, name: str, nearest: Sequence[Path]) -> Path | None:
        directories = [*nearest, *self._search]
        for directory in directories:
            for suffix in _SUFFIXES:
                path = directory / f"{name}{suffix}"
                if path.is_file():
                    return path
        for directory in directories:
            if directory.is_dir():
                names = (path.stem for path in directory.iterdir() if path.suffix in _SUFFIXES)
                self.catalogue.names += [other for other in names if other not in self.catalogue.names]
        return None

    def _is_builtin(self, path: Path) -> bool:
        return builtin_directory() in path.absolute().parents

    def _source(self, path: Path, *, trusted: bool) -> Source | None:
        path = path.absolute()
        if path not in self._read:
            try:
                data = read_bounded(path)
            except OSError as error:
                raise InvalidInput(
                    f"the file {str(path)!r} cannot be read: {error.strerror}",
                    advice="Give the path of an app or release file.",
                ) from error
            self._read[path] = parse_source(str(path), data, self.mistakes, trusted=trusted, check=self._check)
        return self._read[path]
