"""Loggers that cost nothing until they speak: structlog is imported with the first line."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from pelagos.model.scope import DEFAULT_SCOPE
from pelagos.process.context import current_context

__all__ = ["Logger", "add_context", "get_logger"]


class Logger:
    """A structlog logger by name. Fields are keyword arguments; :func:`add_context` adds those of the context."""

    def __init__(self, name: str) -> None:
        self._name = name

    def debug(self, event: str, **fields: object) -> None:
        self._get().debug(event, **fields)

    def info(self, event: str, **fields: object) -> None:
        self._get().info(event, **fields)

    def warning(self, event: str, **fields: object) -> None:
        self._get().warning(event, **fields)

    def error(self, event: str, **fields: object) -> None:
        """``exc_info`` may be an exception: its traceback is logged."""
        self._get().error(event, **fields)

    def critical(self, event: str, **fields: object) -> None:
        """For what should wake somebody, or was asked for: no level in use hides it."""
        self._get().critical(event, **fields)

    def _get(self) -> Any:
        import structlog

        if not structlog.is_configured():
            import sys

            # Nobody has configured logging (a test, a script): lines still belong on standard error, never on standard
            # output.
            structlog.configure(
                processors=[
                    add_context,
                    structlog.processors.add_log_level,
                    structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
                ],
                logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
                cache_logger_on_first_use=False,
            )
        return structlog.get_logger().bind(logger=self._name)


def get_logger(name: str) -> Logger:
    """The logger of a module: ``log = get_logger(__name__)``."""
    return Logger(name)


def add_context(logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor: process, conversation, trace and user of the request in whose context the line is written.

    They are read when a line is written, not bound when a request comes: most requests write none.
    """
    context = current_context()
    for key in ("process", "conversation", "trace"):
        value = getattr(context, key)
        if value:
            event.setdefault(key, value)
    user = context.scope.user_id
    if user != DEFAULT_SCOPE.user_id:
        event.setdefault("user", user)
    return event
