"""Errors travel: also those of a room that the reading program has never imported."""

from __future__ import annotations

import pytest

from pelagos.cli.exits import Exit, exit_of
from pelagos.model.errors import (
    Conflict,
    DeadlineExceeded,
    DescriptionError,
    ErrorPayload,
    Forbidden,
    Gone,
    InternalError,
    InvalidInput,
    LeaseHeld,
    NotFound,
    PelagosError,
    QuotaExceeded,
    Retry,
    StoreUnavailable,
    Unauthenticated,
    Unavailable,
    Unsupported,
    from_payload,
)


def strange(status: int) -> PelagosError:
    return from_payload(
        ErrorPayload(
            "never_heard_of",
            "it is so",
            advice="do so",
            retry=Retry.AFTER,
            retry_after=3.0,
            status=status,
            details={"a": 1},
        )
    )


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, InvalidInput),
        (401, Unauthenticated),
        (403, Forbidden),
        (404, NotFound),
        (409, Conflict),
        (410, Gone),
        (413, QuotaExceeded),
        (418, InvalidInput),
        (422, DescriptionError),
        (500, InternalError),
        (501, Unsupported),
        (502, InternalError),
        (503, Unavailable),
        (504, DeadlineExceeded),
        (507, StoreUnavailable),
        (200, InternalError),
    ],
)
def test_an_unknown_code_becomes_the_nearest_class(status: int, expected: type[PelagosError]) -> None:
    error = strange(status)
    assert type(error) is expected
    assert (error.message, error.advice, error.retry, error.retry_after) == ("it is so", "do so", Retry.AFTER, 3.0)
    assert error.details == {"a": 1, "code": "never_heard_of"}


def test_a_known_code_keeps_its_class_and_its_details() -> None:
    back = from_payload(LeaseHeld("mine", details={"holder": "b"}).payload())
    assert type(back) is LeaseHeld
    assert (back.retry, back.details) == (Retry.TRANSIENT, {"holder": "b"})


def test_a_command_that_meets_an_unknown_conflict_has_failed_and_is_no_defect() -> None:
    assert exit_of(strange(409)) is Exit.FAILED
    assert exit_of(strange(404)) is Exit.MISSING
    assert exit_of(strange(500)) is Exit.INTERNAL
