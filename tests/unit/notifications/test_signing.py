"""The signature of a webhook, from both sides."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from pelagos.model.errors import Unauthenticated
from pelagos.services.notifications import sign, verify_webhook

NOW = 1_795_862_404.7


def test_it_is_what_any_receiver_can_compute() -> None:
    expected = hmac.new(b"key", b'1795862404.{"a":1}', hashlib.sha256).hexdigest()
    assert sign("key", b'{"a":1}', NOW) == f"t=1795862404,v1={expected}"
    verify_webhook("key", b'{"a":1}', sign("key", b'{"a":1}', NOW), NOW + 299)


@pytest.mark.parametrize(
    ("secret", "body", "header", "later"),
    [
        ("other", b"body", None, 0),
        ("key", b"bodz", None, 0),
        ("key", b"body", None, 400),
        ("key", b"body", None, -400),
        ("key", b"body", "", 0),
        ("key", b"body", "t=x,v1=00", 0),
        ("key", b"body", "t=1795862404,v1=é", 0),
        ("key", b"body", "t=1795862405,v1=" + sign("key", b"body", NOW).partition("v1=")[2], 0),
    ],
)
def test_what_is_not_signed_so_or_is_old_is_refused(secret: str, body: bytes, header: str | None, later: float) -> None:
    given = sign("key", b"body", NOW) if header is None else header
    with pytest.raises(Unauthenticated):
        verify_webhook(secret, body, given, NOW + later)
