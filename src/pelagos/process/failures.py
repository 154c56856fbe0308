"""How what goes wrong in a handler becomes an error that travels."""

from __future__ import annotations

from pelagos.exchange import Envelope
from pelagos.model.errors import DeadlineExceeded, InternalError, InvalidInput, PelagosError, Retry

__all__ = ["defect", "single", "too_large", "too_late"]


def too_late(envelope: Envelope, *, begun: bool) -> DeadlineExceeded:
    """The deadline passed while it ran, or before."""
    if begun:
        return DeadlineExceeded(f"{envelope.op} was cancelled at its deadline; it may have been done in part")
    error = DeadlineExceeded(f"{envelope.op} came after its deadline; nothing was done")
    error.retry = Retry.TRANSIENT
    return error


def too_large(what: str, size: int, most: int) -> InvalidInput:
    """Content above the size that the container carries."""
    return InvalidInput(
        f"{what} is {size} bytes; a message carries at most {most}",
        advice="Send less, or a reference to it; or raise max_message_bytes in the container's configuration.",
        details={"bytes": size, "most": most},
    )


def single(raised: BaseException) -> PelagosError | None:
    """The one error of ours in a task group's exception group, however deep."""
    while isinstance(raised, BaseExceptionGroup) and len(raised.exceptions) == 1:
        raised = raised.exceptions[0]
    return raised if isinstance(raised, PelagosError) else None


def defect(envelope: Envelope, raised: BaseException, *, label: str, process_id: str) -> InternalError:
    """What the caller of a handler that raised something foreign gets: what, why, where, and under which trace the
    log has the traceback.
    """
    details = {"trace": envelope.trace, "exception": type(raised).__name__, "process": process_id}
    cause = raised.__cause__
    if cause is not None:
        details["cause"] = f"{type(cause).__name__}: {_first_line(cause)}"
    return InternalError(
        f"{label}.{envelope.op} failed unexpectedly: {type(raised).__name__}: {_first_line(raised)} "
        f"(the log has the traceback under trace {envelope.trace})",
        details=details,
    )


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
