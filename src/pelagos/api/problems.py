"""Errors as answers: every one is problem+json, whoever raised it.

Statuses that HTTP itself asks for (405, 413, 415, 422 for a body of the wrong shape) have no class in the error
family, which is about what may be retried, not about HTTP. :class:`HttpProblem` lends such an answer its status and
keeps a code of the family, so that a client builds an exception it knows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from pelagos.model.errors import ErrorPayload, InternalError, PelagosError, Retry
from pelagos.wire.problem import PROBLEM_TYPE, Problem

__all__ = ["HttpProblem", "internal_problem", "problem_response", "rejected"]

_encode = msgspec.json.Encoder().encode


class HttpProblem(Exception):
    """An answer that is an error: its payload and the headers that go with it."""

    def __init__(self, payload: ErrorPayload, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(payload.message)
        self.payload = payload
        self.headers = dict(headers or {})


def rejected(
    status: int,
    message: str,
    *,
    code: str = "invalid_input",
    advice: str = "",
    headers: Mapping[str, str] | None = None,
) -> HttpProblem:
    """A refusal at the edge; the request itself is at fault."""
    return HttpProblem(ErrorPayload(code=code, message=message, advice=advice, status=status), headers)


def internal_problem(trace: str) -> HttpProblem:
    """What the caller learns of a defect: where the log tells more, and nothing else."""
    error = InternalError(
        "The server failed to answer this request.",
        advice=f"This is a defect in Pelagos; please report it with the server's log of trace {trace}.",
        details={"trace": trace},
    )
    return HttpProblem(error.payload())


def problem_response(
    error: PelagosError | HttpProblem, *, instance: str = ""
) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Status, headers and body."""
    payload = error.payload if isinstance(error, HttpProblem) else error.payload()
    headers = error.headers if isinstance(error, HttpProblem) else {}
    # The Struct omits what is default; a code is for programs, so it is always there.
    body = _encode({**msgspec.to_builtins(Problem.of(payload, instance=instance)), "code": payload.code})
    lines = [(b"content-type", PROBLEM_TYPE.encode()), (b"content-length", str(len(body)).encode())]
    lines += [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
    if payload.retry_after is not None:
        lines.append((b"retry-after", str(max(0, math.ceil(payload.retry_after))).encode()))
    elif payload.status == 503 and payload.retry is Retry.TRANSIENT:
        lines.append((b"retry-after", b"1"))
    return payload.status, lines, body
