"""Structured logging to standard error, with process, conversation and trace in every line written within a request."""

from __future__ import annotations

import logging
from typing import TextIO

from pelagos.model.errors import InvalidInput
from pelagos.process import add_context

__all__ = ["configure_logging"]


def configure_logging(level: str = "warning", *, json: bool = False, stream: TextIO | None = None) -> None:
    """Set up structlog once for the operating-system process.

    ``level`` is debug, info, warning, error or critical; ``json`` writes a JSON object a line for machines; ``stream``
    is standard error if None. Raises :class:`InvalidInput` for another level.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise InvalidInput(f"{level!r} is no log level", advice="Use debug, info, warning, error or critical.")
    import sys

    import structlog

    out = sys.stderr if stream is None else stream
    last: list[structlog.typing.Processor]
    if json:
        last = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        # Plain tracebacks: richer ones print the values of locals, and some of those are secrets.
        plain = structlog.dev.plain_traceback
        last = [structlog.dev.ConsoleRenderer(colors=out.isatty(), exception_formatter=plain)]
    structlog.configure(
        processors=[
            add_context,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr if stream is None else stream),
        cache_logger_on_first_use=False,
    )
