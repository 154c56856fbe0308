"""What a refusal is made of, for both directions."""

from __future__ import annotations

import structlog

from pelagos.exchange.envelope import Envelope
from pelagos.model.errors import InternalError, InvalidInput, PelagosError

__all__ = ["MAX_CONTENT", "as_error", "check_size"]

log = structlog.get_logger(__name__)

MAX_CONTENT = 16 * 2**20
"""Bytes of a message's content, if nothing else is configured. Bulk data never rides on the exchange."""


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
