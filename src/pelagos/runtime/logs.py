"""Logs of a whole program: to standard error for people or as JSON, and with the daemon also to a rotated file.

Every line passes the redaction before it is rendered. What libraries log by :mod:`logging` (uvicorn, SQLAlchemy,
Alembic) comes out by the same way, from WARNING on.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, MutableMapping
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from pelagos.model.errors import InvalidInput
from pelagos.model.redaction import redact, redact_text
from pelagos.process import add_context
from pelagos.runtime.log_levels import LEVELS

if TYPE_CHECKING:
    from pelagos.runtime.settings import Settings

__all__ = ["configure_logs"]

Event = MutableMapping[str, Any]
Sink = Callable[[Event], None]


def configure_logs(
    settings: Settings, *, mode: str, stream: TextIO | None = None, level: str | None = None
) -> Callable[[], None]:
    """Set logging up for this program; returns what closes the file. ``level`` is a flag's, over the settings'.

    In mode ``serve`` lines also go to ``<home>/logs/pelagos.log``, which must be possible: raises OSError.
    Raises InvalidInput for a level that is none."""
    import structlog

    name = level or settings.log_level or ("warning" if mode == "embedded" else "info")
    number = logging.getLevelNamesMapping().get(name.upper())
    if number is None:
        raise InvalidInput(f"{name!r} is no log level", advice="Use debug, info, warning, error or critical.")
    sinks = [_stream_sink(stream, as_json=settings.log_format == "json")]
    file: logging.Handler | None = None
    if mode == "serve":
        file = _file_handler(settings)
        sinks.append(_file_sink(file))
    structlog.configure(
        processors=[
            LEVELS.decide,
            add_context,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _redacted,
            _as_one_argument,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS.configure(number, settings.log_levels)),
        logger_factory=lambda *names: _Fan(sinks, str(names[0]) if names else ""),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _FromLibraries)]:
        root.removeHandler(handler)
    root.addHandler(_FromLibraries(level=max(number, logging.WARNING)))
    return file.close if file is not None else lambda: None


def _redacted(logger: object, method: str, event: Event) -> Event:
    return {key: redact(value, name=str(key)) for key, value in event.items()}


def _as_one_argument(logger: object, method: str, event: Event) -> tuple[tuple[Event], dict[str, Any]]:
    return (event,), {}


class _Fan:
    """What structlog calls with the finished event: hands a copy to each sink."""

    def __init__(self, sinks: list[Sink], name: str) -> None:
        self._sinks = sinks
        self.name = name

    def msg(self, event: Event) -> None:
        for sink in self._sinks:
            sink(dict(event))

    log = debug = info = warn = warning = msg
    fatal = failure = err = error = critical = exception = msg


def _stream_sink(stream: TextIO | None, *, as_json: bool) -> Sink:
    import structlog

    out = stream or sys.stderr
    render: Any
    if as_json:
        render = structlog.processors.JSONRenderer(default=str)
    else:
        # Plain tracebacks: richer ones print the values of locals, and some of those are secrets.
        render = structlog.dev.ConsoleRenderer(
            colors=out.isatty(), exception_formatter=structlog.dev.plain_traceback, pad_event_to=0
        )

    def write(event: Event) -> None:
        print(render(None, "", event), file=stream or sys.stderr, flush=True)

    return write


def _file_handler(settings: Settings) -> logging.Handler:
    from logging.handlers import RotatingFileHandler

    class PrivateFile(RotatingFileHandler):
        """Every file it opens is this user's alone. A write that fails (a full disk) neither stops the daemon nor
        floods standard error with tracebacks of the log itself. Closed is closed: the library's would open again."""

        closed = False

        def emit(self, record: logging.LogRecord) -> None:
            if not self.closed:
                super().emit(record)

        def close(self) -> None:
            self.closed = True
            super().close()

        def _open(self) -> TextIOWrapper:
            descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            return open(descriptor, "a", encoding="utf-8")

        def handleError(self, record: logging.LogRecord) -> None:
            pass

    directory: Path = settings.home / "logs"
    directory.mkdir(mode=0o700, exist_ok=True)
    return PrivateFile(directory / "pelagos.log", maxBytes=settings.log_file_bytes, backupCount=settings.log_files - 1)


def _file_sink(handler: logging.Handler) -> Sink:
    import structlog

    render: Any = structlog.processors.JSONRenderer(default=str)

    def write(event: Event) -> None:
        handler.handle(logging.LogRecord("pelagos", logging.INFO, "", 0, render(None, "", event), None, None))

    return write


class _FromLibraries(logging.Handler):
    """Hands records of :mod:`logging` to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        import structlog

        line = structlog.get_logger().bind(logger=record.name)
        method = line.error if record.levelno >= logging.ERROR else line.warning
        method(redact_text(record.getMessage()), **({"exc_info": record.exc_info} if record.exc_info else {}))
