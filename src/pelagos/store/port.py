"""What a room may ask of the store: run a transaction, read, and be woken when something changed.

A transaction is a plain function ``(connection) -> value`` with no effect but on the connection, so that the store
may run it again after a conflict. It may raise: then nothing of it is written and the caller gets the error. What it
returns is acknowledged only after the commit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection

__all__ = ["Store", "Transaction", "Watch"]

T = TypeVar("T")
Transaction = Callable[[Connection], T]


class Watch(Protocol):
    """A follower's bell. Rings may be merged: one ring means "look", not "once"."""

    async def changed(self, timeout: float | None = None) -> bool:
        """Wait until anything was committed, by this or any other process, since the last call returned (at once
        if something was). Returns False after ``timeout`` seconds without a change."""
        ...

    def close(self) -> None: ...


class Store(Protocol):
    """See the module's text. All methods are for the event loop's thread."""

    @property
    def dialect(self) -> str:
        """``sqlite`` or ``postgresql``."""
        ...

    async def start(self) -> None:
        """Open the database and bring its schema up to date.

        Raises StoreUnavailable with advice if that cannot be done (no permission, disk full, nobody answers, the
        schema is newer than this program)."""
        ...

    async def stop(self) -> None:
        """Finish what was accepted, then close."""
        ...

    async def run(self, transaction: Transaction[T]) -> T:
        """Run a writing transaction and return its value after the commit.

        Raises what the transaction raised; StoreUnavailable if it was not committed for the store's own reasons."""
        ...

    async def read(self, query: Transaction[T]) -> T:
        """Run a query on a read-only connection (a point read on SQLite runs inline)."""
        ...

    def watch(self) -> Watch:
        """A new bell, silent until the next commit."""
        ...

    def snapshot(self) -> dict[str, Any]:
        """Counters for people, tests and metrics."""
        ...
