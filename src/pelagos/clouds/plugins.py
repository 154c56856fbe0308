"""The plug-ins there are: found by entry points of the group ``pelagos.clouds``, loaded when first asked for.

Reading the entry points costs milliseconds and loading a driver imports its SDK, so neither happens before somebody
asks for a type; a driver that nobody uses may lack its SDK without harm. Drivers given to :class:`Plugins` go before
those of entry points: so simulation and tests bring their own.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol, cast

from pelagos.clouds.port import DriverPlugin, LibraryUser
from pelagos.model.errors import NotFound, Unsupported

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["GROUP", "Plugins"]

GROUP = "pelagos.clouds"


def _installed(*, group: str) -> object:
    from importlib.metadata import entry_points  # costs milliseconds, and most commands need no driver

    return entry_points(group=group)


class EntryPointSource(Protocol):
    """Where entry points are read from: this installation's metadata, or a test's own."""

    def __call__(self, *, group: str) -> object: ...


class Plugins:
    """Driver plug-ins by type."""

    def __init__(
        self, given: Mapping[str, DriverPlugin] | None = None, *, source: EntryPointSource = _installed
    ) -> None:
        self._loaded: dict[str, DriverPlugin] = dict(given or {})
        self._source = source
        self._found: dict[str, EntryPoint] | None = None

    def names(self) -> list[str]:
        """All types there are, sorted; also those whose SDK is missing."""
        return sorted({*self._loaded, *self._entries()})

    def get(self, type: str) -> DriverPlugin:
        """The plug-in of a type.

        If there is no such type, raises NotFound, which says what there is. If its SDK is not installed or it
        cannot be loaded, raises Unsupported, which says what to install."""
        loaded = self._loaded.get(type)
        if loaded is not None:
            return loaded
        entry = self._entries().get(type)
        if entry is None:
            names = self.names()
            close = difflib.get_close_matches(type, names, 1)
            advice = f"Did you mean {close[0]!r}? " if close else ""
            raise NotFound(
                f"there is no cloud driver of type {type!r}",
                advice=f"{advice}Installed are: {', '.join(names) or 'none'}.",
                details={"types": names},
            )
        plugin = self._loaded[type] = _load(entry)
        return plugin

    def lacking(self, type: str) -> Unsupported | None:
        """Why no account of a type can be opened here although there is such a type: its plug-in cannot be loaded, or a
        library of its driver is not installed; says what to install. Imports nothing but the package around a library.
        Raises NotFound as :meth:`get` does."""
        try:
            plugin = self.get(type)
        except Unsupported as error:
            return error
        if not isinstance(plugin, LibraryUser) or _is_there(plugin.library.package):
            return None
        entry = self._entries().get(type)
        package, extra = plugin.library
        return Unsupported(
            f"the cloud driver {type!r} needs the Python package {package!r}, which is not installed",
            advice=f"pip install '{'pelagos' if entry is None else _distribution(entry)}[{extra}]'",
            details={"package": package, "extra": extra},
        )

    def same(self, one: str, other: str) -> bool:
        """Whether two types are one driver (``nova`` and ``openstack``). Loads nothing."""
        if one == other:
            return True
        if one in self._loaded and other in self._loaded:
            return self._loaded[one] is self._loaded[other]
        entries = self._entries()
        return one in entries and other in entries and entries[one].value == entries[other].value

    def _entries(self) -> dict[str, EntryPoint]:
        if self._found is None:
            found: dict[str, EntryPoint] = {}
            for entry in cast("list[EntryPoint]", self._source(group=GROUP)):
                known = found.setdefault(entry.name, entry)
                if known.value != entry.value:
                    raise Unsupported(
                        f"two packages bring a cloud driver of type {entry.name!r}: {known.value} and {entry.value}",
                        advice="Uninstall one of them.",
                    )
            self._found = found
        return self._found


def _load(entry: EntryPoint) -> DriverPlugin:
    try:
        return cast(DriverPlugin, entry.load())
    except ImportError as error:
        missing = (error.name or "").partition(".")[0]
        if not missing or entry.module == error.name or entry.module.startswith(f"{error.name}."):
            raise Unsupported(
                f"the cloud driver {entry.name!r} cannot be loaded from {entry.value}: {error}",
                advice=f"Install {_distribution(entry)} again.",
            ) from error
        extra = entry.extras[0] if entry.extras else entry.name
        raise Unsupported(
            f"the cloud driver {entry.name!r} needs the Python package {missing!r}, which is not installed",
            advice=f"pip install '{_distribution(entry)}[{extra}]'",
            details={"package": missing, "extra": extra},
        ) from error
    except AttributeError as error:
        raise Unsupported(
            f"the cloud driver {entry.name!r} cannot be loaded from {entry.value}: {error}",
            advice=f"Install {_distribution(entry)} again.",
        ) from error


def _is_there(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def _distribution(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else "pelagos"
