"""The closed family of errors.

Every error that crosses a room's door is a :class:`PelagosError`: it has a stable ``code``, the HTTP status the edge
answers with, a :class:`Retry` class that says whether asking again may help, and a line of ``advice`` that tells
the reader what to do. The family travels: :meth:`PelagosError.payload` is what goes into a message or an HTTP body,
and :func:`from_payload` builds the same class again on the other side.

The way not chosen was to map foreign exceptions at each edge: then every edge decides anew what may be retried, and
they disagree. Here whoever raises knows best, and says so once.
"""

from __future__ import annotations

import enum
from typing import Any, ClassVar

import msgspec

from pelagos.model.diagnostics import Diagnostic
from pelagos.model.redaction import without_secrets

__all__ = [
    "Ambiguous",
    "Cancelled",
    "Conflict",
    "DeadlineExceeded",
    "DescriptionError",
    "ErrorPayload",
    "Forbidden",
    "Gone",
    "InternalError",
    "InvalidInput",
    "LeaseHeld",
    "LeaseLost",
    "NotFound",
    "PelagosError",
    "ProcessFailed",
    "QuotaExceeded",
    "Refused",
    "Retry",
    "StoreUnavailable",
    "Unauthenticated",
    "Unavailable",
    "Unsupported",
    "from_payload",
]


class Retry(enum.StrEnum):
    """Whether the same request may succeed when sent again."""

    NEVER = "never"
    """The request itself is at fault; change it first."""
    TRANSIENT = "transient"
    """Nothing was done; send it again after a back-off."""
    AFTER = "after"
    """Nothing was done; send it again after ``retry_after`` seconds."""
    UNCERTAIN = "uncertain"
    """It may have been done; look before sending it again."""


class ErrorPayload(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error as a value, for messages, journals and HTTP bodies."""

    code: str
    message: str
    advice: str = ""
    retry: Retry = Retry.NEVER
    retry_after: float | None = None
    status: int = 500
    details: dict[str, Any] = {}
    diagnostics: tuple[Diagnostic, ...] = ()


_FAMILY: dict[str, type[PelagosError]] = {}


class PelagosError(Exception):
    """Base of the family. ``message`` says what is wrong, ``advice`` what the reader can do about it."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    retry: Retry = Retry.NEVER
    default_advice: ClassVar[str] = ""

    def __init__(
        self,
        message: str,
        *,
        advice: str | None = None,
        retry_after: float | None = None,
        details: dict[str, Any] | None = None,
        diagnostics: tuple[Diagnostic, ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.advice = self.default_advice if advice is None else advice
        self.retry_after = retry_after
        self.details = details or {}
        self.diagnostics = diagnostics

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        known = _FAMILY.get(cls.code)
        if known is not None and known.__qualname__ != cls.__qualname__:
            raise TypeError(f"error code {cls.code!r} belongs to {known.__qualname__}")
        _FAMILY[cls.code] = cls

    def __str__(self) -> str:
        return self.message

    def payload(self) -> ErrorPayload:
        """The error as a value, without the secrets that this program has read: it goes into journals and answers."""
        return ErrorPayload(
            code=self.code,
            message=without_secrets(self.message),
            advice=without_secrets(self.advice),
            retry=self.retry,
            retry_after=self.retry_after,
            status=self.status,
            details=self.details,
            diagnostics=self.diagnostics,
        )


def from_payload(payload: ErrorPayload) -> PelagosError:
    """The exception for a payload.

    A code that this program does not know (a newer peer's, or of a room that it has not imported) becomes the nearest
    class of the family by its status; the code is kept in ``details``, and what the payload says of repeating counts.
    """
    cls = _FAMILY.get(payload.code)
    details = payload.details if cls is not None else {**payload.details, "code": payload.code}
    error = (cls or _nearest(payload.status))(
        payload.message,
        advice=payload.advice,
        retry_after=payload.retry_after,
        details=details,
        diagnostics=payload.diagnostics,
    )
    error.retry = payload.retry
    return error


def _nearest(status: int) -> type[PelagosError]:
    if 400 <= status < 500:
        return _BY_STATUS.get(status, InvalidInput)
    return _BY_STATUS.get(status, InternalError)


class InternalError(PelagosError):
    """A defect of ours: something happened that the code holds impossible."""

    code = "internal_error"
    default_advice = "This is a defect in Pelagos; please report it with the log of the command."


class ProcessFailed(PelagosError):
    """A process of an app failed by an error of its own code: a defect of the app, not of ours."""

    code = "process_failed"
    default_advice = "Correct its class; the log of its container has the traceback."


class InvalidInput(PelagosError):
    """A value that a person or program gave is wrong."""

    code = "invalid_input"
    status = 400


class DescriptionError(PelagosError):
    """Mistakes in YAML files: each is a diagnostic with its place."""

    code = "description_error"
    status = 422


class Unauthenticated(PelagosError):
    """Nobody, or not who they say."""

    code = "unauthenticated"
    status = 401
    default_advice = "Give a valid token, for example in PELAGOS_TOKEN."


class Forbidden(PelagosError):
    """Known, but not allowed."""

    code = "forbidden"
    status = 403


class NotFound(PelagosError):
    """No such thing in the caller's project."""

    code = "not_found"
    status = 404


class Gone(PelagosError):
    """It was there and has been destroyed."""

    code = "gone"
    status = 410


class Conflict(PelagosError):
    """The request does not fit the state the thing is in."""

    code = "conflict"
    status = 409


class Ambiguous(PelagosError):
    """A name that means several things; ``details['ids']`` lists them."""

    code = "ambiguous"
    status = 409
    default_advice = "Name one of the ids."


class QuotaExceeded(PelagosError):
    """The project's limit of a resource would be exceeded."""

    code = "quota_exceeded"
    status = 413


class LeaseHeld(PelagosError):
    """Somebody else holds the lease; ``details`` names the holder."""

    code = "lease_held"
    status = 409
    retry = Retry.TRANSIENT


class LeaseLost(PelagosError):
    """The writer's epoch is not the lease's any more: it must stop writing at once."""

    code = "lease_lost"
    status = 409


class Cancelled(PelagosError):
    """The caller, or a person, asked to stop."""

    code = "cancelled"
    status = 409


class Unavailable(PelagosError):
    """Nobody answers there now; nothing was done."""

    code = "unavailable"
    status = 503
    retry = Retry.TRANSIENT


class StoreUnavailable(PelagosError):
    """The store cannot be read or written (disk full, no permission, database away); nothing was done."""

    code = "store_unavailable"
    status = 507
    retry = Retry.TRANSIENT


class DeadlineExceeded(PelagosError):
    """No answer within the deadline; it may have been done."""

    code = "deadline_exceeded"
    status = 504
    retry = Retry.UNCERTAIN


class Refused(PelagosError):
    """A process understood the request and refuses to carry it out."""

    code = "refused"
    status = 409


class Unsupported(PelagosError):
    """The cloud or the installation lacks this ability."""

    code = "unsupported"
    status = 501


_BY_STATUS: dict[int, type[PelagosError]] = {
    cls.status: cls
    for cls in (
        InvalidInput,
        Unauthenticated,
        Forbidden,
        NotFound,
        Conflict,
        Gone,
        QuotaExceeded,
        DescriptionError,
        Unsupported,
        Unavailable,
        DeadlineExceeded,
        StoreUnavailable,
    )
}
"""The class that says least beside its status: of those with 409 it is :class:`Conflict`."""
