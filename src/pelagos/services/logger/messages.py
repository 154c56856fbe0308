"""What the logger is told and asked."""

from __future__ import annotations

import enum
from typing import Any

import msgspec

__all__ = ["LevelSet", "Levels", "LogBatch", "LogLevel", "LogRecord", "SetLevel"]


class LogLevel(enum.StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"


class LogRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line. ``at`` in wall-clock seconds of whoever logged; ``origin``: its process, or what it calls itself."""

    level: LogLevel
    message: str
    at: float = 0.0
    logger: str = ""
    origin: str = ""
    fields: dict[str, Any] = {}


class LogBatch(msgspec.Struct, frozen=True):
    """At most 1,000 records; what is more is dropped and counted in a line of its own."""

    records: tuple[LogRecord, ...]


class SetLevel(msgspec.Struct, frozen=True, kw_only=True):
    """``room`` is a package (``exchange``, ``pelagos.exchange``; empty: all); ``level`` None: back to what is
    configured. ``container`` names one; empty: all that live."""

    room: str
    level: LogLevel | None
    container: str = ""


class LevelSet(msgspec.Struct, frozen=True):
    applied: tuple[str, ...]
    """Containers that have set it."""
    failed: dict[str, str] = {}
    """Those that live and have not, and why."""


class Levels(msgspec.Struct, frozen=True):
    containers: dict[str, dict[str, str]]
    """Container -> package -> level, as set at run time."""
    failed: dict[str, str] = {}
