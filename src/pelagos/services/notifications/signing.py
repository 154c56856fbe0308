"""The signature of a webhook: how it is made, and how a receiver checks it.

``X-Pelagos-Signature: t=1795862404,v1=<hex>`` where v1 is HMAC-SHA256 of ``<t>.<body>`` under the shared secret. The
time is in what is signed, so a recorded delivery can be refused when it comes again later; ``X-Pelagos-Delivery`` is
the same each time one event is tried again, so a receiver can tell a repeat from news.
"""

from __future__ import annotations

import hashlib
import hmac

from pelagos.model.errors import Unauthenticated

__all__ = ["SIGNATURE", "sign", "verify_webhook"]

SIGNATURE = "X-Pelagos-Signature"


def sign(secret: str, body: bytes, now: float) -> str:
    """The header's value. ``now``: wall-clock seconds."""
    at = int(now)
    return f"t={at},v1={_digest(secret, body, at)}"


def verify_webhook(secret: str, body: bytes, header: str, now: float, *, tolerance: float = 300.0) -> None:
    """For receivers: raises Unauthenticated unless ``header`` signs ``body``, at most ``tolerance`` seconds ago."""
    parts = dict(part.partition("=")[::2] for part in header.split(","))
    stamp, given = parts.get("t", ""), parts.get("v1", "")
    if not (stamp.isascii() and stamp.isdigit()) or not given.isascii():
        raise Unauthenticated(f"no signature of Pelagos: {header[:80]!r}")
    if not hmac.compare_digest(_digest(secret, body, int(stamp)), given):
        raise Unauthenticated("the signature is wrong", advice="Compare the secrets of both sides.")
    if abs(now - int(stamp)) > tolerance:
        raise Unauthenticated(
            f"the delivery was signed {now - int(stamp):.0f} s ago", advice="Set the clocks, or refuse the replay."
        )


def _digest(secret: str, body: bytes, at: int) -> str:
    return hmac.new(secret.encode(), b"%d." % at + body, hashlib.sha256).hexdigest()
