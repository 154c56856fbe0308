"""What a refusal is made of, for both directions, and how often it is worth a line in the log."""

from __future__ import annotations

from collections.abc import Hashable

import structlog

from pelagos.exchange.envelope import Envelope
from pelagos.model.errors import InternalError, InvalidInput, PelagosError

__all__ = ["MAX_CONTENT", "Sparingly", "as_error", "check_size"]

log = structlog.get_logger(__name__)

MAX_CONTENT = 16 * 2**20
"""Bytes of a message's content, if nothing else is configured. Bulk data never rides on the exchange."""


class Sparingly:
    """Whether something that comes again and again is to be told: the first time, and then once in ``every`` seconds.

    Who sends decides how many keys there are, so only ``limit`` of them are remembered."""

    def __init__(self, every: float = 300.0, limit: int = 256) -> None:
        self._every = every
        self._limit = limit
        self._told: dict[Hashable, tuple[float, int]] = {}
        """When it was told last, and how often it came since."""

    def tell(self, key: Hashable, now: float) -> int | None:
        """None: not now. Else how often it came untold since the last time."""
        told = self._told.pop(key, None)
        if told is not None and now - told[0] < self._every:
            self._told[key] = (told[0], told[1] + 1)
            return None
        if len(self._told) >= self._limit:
            del self._told[next(iter(self._told))]
        self._told[key] = (now, 0)
        return told[1] if told is not None else 0


def as_error(raised: Exception, interceptor: str, envelope: Envelope) -> PelagosError:
    """The error to answer with: what was raised if it is of the family, else an :class:`InternalError`, and a log."""
    if isinstance(raised, PelagosError):
        return raised
    log.error(
        "an interceptor failed",
        interceptor=interceptor,
        op=envelope.op,
        conversation=envelope.conv_id,
        trace=envelope.trace,
        exc_info=raised,
    )
    return InternalError(
        f"the interceptor {interceptor!r} failed unexpectedly: {type(raised).__name__} "
        f"(the log has the traceback under trace {envelope.trace})",
        details={"interceptor": interceptor, "exception": type(raised).__name__},
    )


def check_size(envelope: Envelope, limit: int) -> None:
    """Raises :class:`InvalidInput` if the content is longer than ``limit`` bytes."""
    if len(envelope.content) > limit:
        raise InvalidInput(
            f"the content of {envelope.op} has {len(envelope.content)} bytes; at most {limit} are carried",
            advice="Store bulk data and send a reference to it.",
            details={"bytes": len(envelope.content), "limit": limit},
        )
