"""The ancestor's configuration file as plain data (reference, sections 3.1 to 3.3).

Its loader made objects of what the file said, any object of any module: whoever could write a file, or post a body,
ran code. Here the tags it knew are an allow-list, and each stands for plain data: what a tag stood before becomes a
mapping with the tag's name under ``tag``, so that a program that reads the configuration finds everything it found
there, and nothing is imported, opened or called. Any other tag is a mistake with its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pelagos.compat.errors import ConfigurationError, ConfigurationUnreadable
from pelagos.model.diagnostics import Diagnostic
from pelagos.model.yaml_layer import MAX_BYTES, Tag, read_bounded, read_layer

__all__ = ["TAGS", "find_file", "is_ancestors", "read_configuration", "rest_address"]

OBJECT_TAGS = (
    *("!ResourceHandler", "!ConfigManager", "!UDS", "!KeyValueStore", "!EventLog", "!InfraProcessor", "!Strategy"),
    *("!InfoRouter", "!DynamicStateProvider", "!ResourceHandlerProvider", "!ConfigManagerProvider"),
    *("!SynchronizationProvider", "!UserInfoProvider", "!KeyValueStoreProvider", "!RemoteProviderStub"),
)
IMPORT_TAGS = ("!python_import", "!text_import", "!yaml_import")
TAGS = (*OBJECT_TAGS, *IMPORT_TAGS)
"""All that may stand in a configuration file."""

_MAX_IMPORTS = 20
"""Deepest nesting of ``!yaml_import``."""


def find_file(named: str | Path | None, variable: str, usual: str, environ: Mapping[str, str]) -> Path | None:
    """The file that is named, else the one of the environment ``variable``, else ``~/.occopus/<usual>``; None if there
    is none. The working directory is not looked into: whoever enters one would take its settings.

    Raises ConfigurationUnreadable for one that is named and is not there."""
    home = Path(environ.get("HOME") or Path.home())
    given = named or environ.get(variable)
    path = Path(given).expanduser() if given else home / ".occopus" / usual
    if path.is_file():
        return path
    if given:
        raise ConfigurationUnreadable(
            f"there is no file {str(path)!r}",
            advice=f"Name another one, set {variable}, or write ~/.occopus/{usual}.",
        )
    return None


def read_configuration(path: Path) -> dict[str, Any]:
    """The file's data. Raises ConfigurationError with every mistake and its place, ConfigurationUnreadable if it cannot
    be read."""
    mistakes: list[Diagnostic] = []
    data = _read(path, mistakes, ())
    if mistakes:
        raise ConfigurationError(
            str(mistakes[0]) + (f" (and {len(mistakes) - 1} more)" if len(mistakes) > 1 else ""),
            advice=mistakes[0].advice,
            diagnostics=tuple(mistakes),
        )
    return data


def is_ancestors(configuration: Mapping[str, Any]) -> bool:
    """Whether it is a configuration of the ancestor, and not one of Pelagos."""
    return "components" in configuration or "plugins" in configuration


def rest_address(configuration: Mapping[str, Any]) -> tuple[str, int]:
    """Host and port of ``components.rest``, with the ancestor's defaults. Raises ConfigurationError."""
    components = configuration.get("components")
    rest = components.get("rest") if isinstance(components, dict) else None
    found = rest if isinstance(rest, dict) else {}
    host, port = found.get("host", "127.0.0.1"), found.get("port", 5000)
    try:
        number = int(port)
    except (TypeError, ValueError):
        number = -1
    if not isinstance(host, str) or not host or not 0 <= number <= 65535:
        raise ConfigurationError(f"components.rest is no address: host {host!r}, port {port!r}")
    return host, number


def _read(path: Path, mistakes: list[Diagnostic], above: tuple[Path, ...]) -> dict[str, Any]:
    try:
        return read_layer(path, mistakes, tags=_tags(path, mistakes, (*above, path.resolve()))).data
    except OSError as error:
        raise ConfigurationUnreadable(f"{str(path)!r} cannot be read: {error.strerror or error}") from error


def _tags(path: Path, mistakes: list[Diagnostic], above: tuple[Path, ...]) -> dict[str, Tag]:
    def imported_text(value: Any) -> str:
        target = _target(value, path)
        try:
            data = read_bounded(target)
        except OSError as error:
            raise ValueError(f"{str(target)!r} cannot be read: {error.strerror or error}") from error
        if len(data) > MAX_BYTES:
            raise ValueError(f"{str(target)!r} is larger than {MAX_BYTES // 1024**2} MiB")
        return data.decode("utf-8-sig")

    def imported_yaml(value: Any) -> dict[str, Any]:
        target = _target(value, path)
        if target.resolve() in above or len(above) > _MAX_IMPORTS:
            raise ValueError(f"{str(target)!r} imports itself")
        try:
            return _read(target, mistakes, above)
        except ConfigurationError as error:
            raise ValueError(error.message) from error

    tags: dict[str, Tag] = {name: _plain(name) for name in OBJECT_TAGS}
    return tags | {"!python_import": _modules, "!text_import": imported_text, "!yaml_import": imported_yaml}


def _plain(name: str) -> Tag:
    def plain(value: Any) -> dict[str, Any]:
        if isinstance(value, dict):
            return {"tag": name, **value}
        if value in ("", "null", "~"):
            return {"tag": name}
        raise ValueError(f"{name} stands before a mapping or nothing")

    return plain


def _modules(value: Any) -> Sequence[str]:
    """Names of modules; none of them is imported."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    raise ValueError("!python_import stands before a list of module names")


def _target(value: Any, importer: Path) -> Path:
    url = value.get("url") if isinstance(value, dict) else None
    scheme, separator, rest = str(url or "").partition("://")
    if scheme != "file" or not separator or not rest:
        raise ValueError("an import needs {url: file://name}")
    return importer.parent / Path(rest).expanduser()
