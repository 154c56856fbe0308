"""Times on HTTP are RFC 3339 text in UTC; inside, they are seconds since the epoch."""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["from_rfc3339", "rfc3339"]


def rfc3339(seconds: float) -> str:
    """``1700000000.5`` -> ``2023-11-14T22:13:20.500Z``."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def from_rfc3339(text: str) -> float:
    """The inverse; raises ValueError for other text."""
    return datetime.fromisoformat(text).timestamp()
