"""Log levels of single packages, at the start and while the program runs.

A line is decided twice. structlog's bound logger drops what is below the lowest level of all, which costs next to
nothing; what passes is judged by its own package, the longest configured prefix of the logger's name. So with no
package set, nothing is judged twice, and a package set to ``debug`` costs the others one look-up a line.

There is one set of levels a program, since structlog has one configuration a program.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, MutableMapping
from importlib import resources
from typing import Any

from pelagos.model.errors import InvalidInput

__all__ = ["LEVELS", "LogLevels", "set_log_level"]

_METHODS = {"warn": logging.WARNING, "exception": logging.ERROR, "err": logging.ERROR, "fatal": logging.CRITICAL}


class LogLevels:
    """Levels by package; the empty name is all others'."""

    def __init__(self) -> None:
        self._configured: dict[str, int] = {"": logging.WARNING}
        self._levels: dict[str, int] = dict(self._configured)
        self._by_logger: dict[str, int] = {}

    def configure(self, general: int, packages: Mapping[str, str]) -> int:
        """Start from these; returns the lowest. Raises :class:`InvalidInput` for a level that is none."""
        self._configured = {"": general, **{package_of(name): level_of(level) for name, level in packages.items()}}
        self._levels = dict(self._configured)
        self._by_logger.clear()
        return self.lowest

    @property
    def lowest(self) -> int:
        return min(self._levels.values())

    def set(self, room: str, level: str) -> None:
        """Of a package; an empty level takes it back to what was configured."""
        package = package_of(room)
        if level:
            self._levels[package] = level_of(level)
        elif package in self._configured:
            self._levels[package] = self._configured[package]
        else:
            self._levels.pop(package, None)
        self._by_logger.clear()

    def threshold(self, logger: str) -> int:
        """The level from which a logger's lines are written."""
        known = self._by_logger.get(logger)
        if known is None:
            package = logger
            while package and package not in self._levels:
                package = package.rpartition(".")[0]
            known = self._levels[package]
            if len(self._by_logger) < 10_000:
                self._by_logger[logger] = known
        return known

    def snapshot(self) -> dict[str, str]:
        return {name: logging.getLevelName(level).lower() for name, level in sorted(self._levels.items())}

    def decide(self, logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """A structlog processor: drops what is below its package's level."""
        name = event.get("logger") or getattr(logger, "name", "")
        if name:
            event["logger"] = name
        if len(self._levels) > 1:
            level = _METHODS.get(method) or logging.getLevelNamesMapping().get(method.upper(), logging.CRITICAL)
            if level < self.threshold(str(name)):
                import structlog

                raise structlog.DropEvent
        return event


LEVELS = LogLevels()
"""Of this program."""


def set_log_level(room: str, level: str) -> None:
    """Set the level of a package (``pelagos.exchange``, or ``exchange`` for short; empty: of all that have none of
    their own), from now on. An empty level takes it back to what was configured. Raises :class:`InvalidInput`."""
    import structlog

    LEVELS.set(room, level)
    if structlog.is_configured():
        config = structlog.get_config()
        config["wrapper_class"] = structlog.make_filtering_bound_logger(LEVELS.lowest)
        structlog.configure(**config)


def level_of(name: str) -> int:
    number = logging.getLevelNamesMapping().get(name.upper())
    if number is None or name.lower() not in ("debug", "info", "warning", "error", "critical"):
        raise InvalidInput(f"{name!r} is no log level", advice="Use debug, info, warning, error or critical.")
    return number


def package_of(room: str) -> str:
    """A room of Pelagos may be named without ``pelagos.``; any other name is a package's own."""
    first = room.partition(".")[0]
    if first and first != "pelagos" and (resources.files("pelagos") / first).is_dir():
        return f"pelagos.{room}"
    return room
