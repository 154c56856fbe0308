"""How what goes wrong in a handler becomes an error that travels."""

from __future__ import annotations

from collections.abc import Callable

from pelagos.exchange import Envelope
from pelagos.model.errors import DeadlineExceeded, InternalError, InvalidInput, PelagosError, Retry

__all__ = ["advice_on", "defect", "single", "too_large", "too_late"]


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


def defect(
    envelope: Envelope, raised: BaseException, *, label: str, process_id: str, handler: Callable[..., object] | None
) -> InternalError:
    """What the caller of a handler that raised something foreign gets: what, why, where, and under which trace the
    log has the traceback. Whose defect it is, the handler's module says; None: it is not known.
    """
    details = {"trace": envelope.trace, "exception": type(raised).__name__, "process": process_id}
    cause = raised.__cause__
    if cause is not None:
        details["cause"] = f"{type(cause).__name__}: {_first_line(cause)}"
    return InternalError(
        f"{label}.{envelope.op} failed unexpectedly: {type(raised).__name__}: {_first_line(raised)} "
        f"(the log has the traceback under trace {envelope.trace})",
        advice=advice_on(handler, envelope.trace),
        details=details,
    )


def advice_on(handler: Callable[..., object] | None, trace: str) -> str | None:
    """Whose defect it is, and where to look; None (the default: report it to us) for what comes with Pelagos."""
    module = getattr(handler, "__module__", None) or "pelagos"
    if module == "pelagos" or module.startswith("pelagos."):
        return None
    name = getattr(handler, "__qualname__", "")
    return (
        f"Correct {module}:{name}: the error is its own, not of Pelagos. "
        f"The log of its container has the traceback, under trace {trace}."
    )


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
