"""The store's clock: the one by which leases expire.

Holders on several hosts must agree about what has expired, so the store's own clock judges: the server's on
PostgreSQL, the world's on SQLite (all its users are on one host). It lives in the connection, so that a transaction
needs nothing else, and a re-run of it reads the time anew.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, text

__all__ = ["bind_clock", "store_now"]

_KEY = "pelagos.clock"
_SERVER_CLOCK = text("SELECT extract(epoch FROM clock_timestamp())::float8")


def bind_clock(connection: Connection, now: Callable[[], float]) -> None:
    """Make ``now`` the clock of a connection whose database has none of its own."""
    connection.info[_KEY] = now


def store_now(connection: Connection) -> float:
    """Seconds since the epoch by the store's clock."""
    now: Callable[[], float] | None = connection.info.get(_KEY)
    if now is not None:
        return now()
    return float(connection.execute(_SERVER_CLOCK).scalar_one())
