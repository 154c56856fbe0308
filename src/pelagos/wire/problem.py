"""Errors over HTTP: RFC 9457 problem details that keep what the error family knows."""

from __future__ import annotations

from typing import Any

import msgspec

from pelagos.model.diagnostics import Diagnostic
from pelagos.model.errors import ErrorPayload, Retry

__all__ = ["PROBLEM_TYPE", "Problem"]

PROBLEM_TYPE = "application/problem+json"


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """RFC 9457. ``code`` is stable and for programs; ``title`` and ``detail`` are for people; ``advice`` says what to
    do; ``diagnostics`` lists mistakes in files with their places."""

    status: int
    title: str
    detail: str = ""
    type: str = "about:blank"
    instance: str = ""
    code: str = "internal_error"
    advice: str = ""
    retry: Retry = Retry.NEVER
    retry_after: float | None = None
    details: dict[str, Any] = {}
    diagnostics: tuple[Diagnostic, ...] = ()

    @classmethod
    def of(cls, error: ErrorPayload, *, instance: str = "") -> Problem:
        return cls(
            status=error.status,
            title=error.code.replace("_", " "),
            detail=error.message,
            instance=instance,
            code=error.code,
            advice=error.advice,
            retry=error.retry,
            retry_after=error.retry_after,
            details=error.details,
            diagnostics=error.diagnostics,
        )

    def payload(self) -> ErrorPayload:
        return ErrorPayload(
            code=self.code,
            message=self.detail or self.title,
            advice=self.advice,
            retry=self.retry,
            retry_after=self.retry_after,
            status=self.status,
            details=self.details,
            diagnostics=self.diagnostics,
        )
