"""The SQLite engine: one writing connection for the lane, one reading and one watching connection for the loop.

WAL with `synchronous=FULL`: an acknowledged transaction survives a power failure, and readers never wait for writers.
Every batch begins with `BEGIN IMMEDIATE`, so that it meets other processes' writers at once and not in its middle,
where SQLite could only refuse. A busy database is tried again here with jitter instead of by SQLite's busy handler,
whose fixed steps let several waiting processes starve one of them.

When SQLite meets a full disk or an I/O error it may roll the whole transaction back by itself, whereafter statements
would run, and be committed, one by one. So after each job the transaction must still be there; if not, the batch has
failed as a whole.
"""

from __future__ import annotations

import functools
import os
import random
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.pool import NullPool

from pelagos.model.errors import StoreUnavailable
from pelagos.store.batcher import Job
from pelagos.store.clock import bind_clock
from pelagos.store.faults import Fault, sqlite_fault, unavailable
from pelagos.store.jobs import run_jobs
from pelagos.store.migrating import bring_up_to_date
from pelagos.store.reserve import Reserve

__all__ = ["CommitHooks", "SqliteDatabase", "SqliteWriter", "connect_sqlite"]

_RESERVE_PAUSE = 30.0
_LONGEST_PAUSE = 0.05


class CommitHooks(Protocol):
    """The simulation's places to crash: what they raise, if it is no Exception, ends the store."""

    def before_commit(self) -> None: ...

    def after_commit(self) -> None: ...


class _TransactionLost(sqlite3.OperationalError):
    """SQLite rolled the transaction back by itself, and the job did not let its error through."""

    sqlite_errorname = "SQLITE_IOERR"
    sqlite_errorcode = 10


_CACHE = "PRAGMA cache_size=-65536"
"""Pages that a connection keeps, in KiB, once it has read so many: ids are random, so a large infrastructure's rows lie
all over the file, and with the usual 2 MiB each of them is read anew for each statement."""


def connect_sqlite(target: str, now: Callable[[], float], *, uri: bool = False) -> Connection:
    """A SQLAlchemy connection on a SQLite database, in autocommit mode: its user sends BEGIN and COMMIT."""

    def creator() -> sqlite3.Connection:
        raw = sqlite3.connect(
            target, timeout=0.0, isolation_level=None, check_same_thread=False, cached_statements=512, uri=uri
        )
        raw.execute("PRAGMA foreign_keys=ON")
        return raw

    _opening.creator = creator
    connection = _engine().connect()
    bind_clock(connection, now)
    return connection


@functools.cache
def _engine() -> Engine:
    """One for all databases of the process, so that a statement is compiled once, and not once a connection."""
    # Parameters may be user data with secrets in it; an error's text ends up in logs.
    return create_engine(
        "sqlite+pysqlite://", creator=lambda: _opening.creator(), poolclass=NullPool, hide_parameters=True
    )


class _Opening(threading.local):
    """What the engine connects to in this thread."""

    creator: Callable[[], sqlite3.Connection]


_opening = _Opening()


def raw_sqlite(connection: Connection) -> sqlite3.Connection:
    """The driver's connection below."""
    raw = connection.connection.dbapi_connection
    assert isinstance(raw, sqlite3.Connection)
    return raw


class SqliteWriter:
    """Runs batches on one connection. ``attempt`` runs a batch once and raises what the store itself could not do."""

    def __init__(self, connection: Connection, hooks: CommitHooks | None = None) -> None:
        self.connection = connection
        self.raw = raw_sqlite(connection)
        self._hooks = hooks

    def attempt(self, jobs: list[Job[Any]]) -> None:
        raw = self.raw
        raw.execute("BEGIN IMMEDIATE")
        try:
            some = run_jobs(jobs, self.connection, self._control, _is_store_fault)
            if self._hooks is not None:
                self._hooks.before_commit()
            raw.execute("COMMIT" if some else "ROLLBACK")
        except BaseException:
            if raw.in_transaction:
                raw.execute("ROLLBACK")
            raise
        if self._hooks is not None:
            self._hooks.after_commit()

    def _control(self, statement: str) -> None:
        if not self.raw.in_transaction:
            raise _TransactionLost("the transaction was rolled back by SQLite")
        self.raw.execute(statement)


def _is_store_fault(error: BaseException) -> bool:
    return sqlite_fault(error) is not None


class SqliteDatabase:
    """A database file. ``open``, ``execute`` and ``close`` run in the lane; the rest on the loop's thread."""

    dialect = "sqlite"

    def __init__(
        self,
        path: Path,
        *,
        now: Callable[[], float],
        monotonic: Callable[[], float],
        rng: random.Random,  # noqa: TID251 - the type, of one that the world gave
        wait: Callable[[float], None],
        patience: float,
        reserve: int,
        pragmas: dict[str, int | str],
    ) -> None:
        self.path = path
        self._now = now
        self._monotonic = monotonic
        self._rng = rng
        self._wait = wait
        self._patience = patience
        self._reserve = Reserve(path.with_name(path.name + ".reserve"), reserve)
        self._reserve_at = 0.0
        self._pragmas = pragmas
        self._writer: SqliteWriter | None = None
        self._reader: Connection | None = None
        self._watcher: sqlite3.Connection | None = None
        self._version = -1
        self.journal_mode = ""
        self.retries = 0
        self.faults = 0

    # In the lane.

    def open(self) -> None:
        """Make the file if need be, connect, migrate."""

        def attempt() -> None:
            self._connect_writer()
            assert self._writer is not None
            bring_up_to_date(self._writer.connection, self._writer.raw.execute, str(self.path))

        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise StoreUnavailable(
                f"the store {self.path} cannot be opened: {error.strerror or error}",
                advice="Give the user who runs this the right to write there, or set PELAGOS_HOME to another place.",
            ) from error
        self._patiently(attempt)
        self._reserve.make()

    def execute(self, slot: int, jobs: list[Job[Any]]) -> None:
        """Run a batch; sets every job's outcome."""

        def attempt() -> None:
            if self._writer is None:
                self._connect_writer()
            assert self._writer is not None
            self._writer.attempt(jobs)

        try:
            self._patiently(attempt)
        except StoreUnavailable as error:
            for job in jobs:
                job.error = StoreUnavailable(error.message, advice=error.advice, details=dict(error.details))
            return
        if self._monotonic() >= self._reserve_at:
            self._reserve_at = self._monotonic() + _RESERVE_PAUSE
            self._reserve.make()

    def close(self) -> None:
        """After ``close_readers``, for good."""
        self._close_writer()
        self._reserve.restore()

    def _close_writer(self) -> None:
        if self._writer is not None:
            self._writer.connection.close()
            self._writer = None

    def _connect_writer(self) -> None:
        self._close_writer()
        connection = connect_sqlite(str(self.path), self._now)
        try:
            raw = raw_sqlite(connection)
            self.journal_mode = raw.execute("PRAGMA journal_mode=WAL").fetchone()[0]
            raw.execute("PRAGMA synchronous=FULL")
            raw.execute("PRAGMA journal_size_limit=67108864")
            raw.execute(_CACHE)
            for name, value in self._pragmas.items():
                raw.execute(f"PRAGMA {name}={value}")
        except BaseException:
            connection.close()
            raise
        self._writer = SqliteWriter(connection)

    def _patiently(self, attempt: Callable[[], None]) -> None:
        """Run ``attempt`` until it ends without a fault of the store's, or patience ends with StoreUnavailable."""
        end = self._monotonic() + self._patience
        pause = 0.001
        rescues = [self._empty_log, self._give_up_reserve]
        while True:
            try:
                return attempt()
            except Exception as error:
                fault = self.fault(error)
                if fault is None:
                    raise
                if fault is Fault.BUSY:
                    if self._monotonic() < end:
                        self.retries += 1
                        self._wait(pause * self._rng.uniform(0.5, 1.5))
                        pause = min(pause * 2, _LONGEST_PAUSE)
                        continue
                else:
                    # What is left of a failed connection is not trusted: the next batch opens the file again.
                    self.faults += 1
                    self._close_writer()
                    if fault is Fault.FULL and self._make_room(rescues):
                        continue
                raise unavailable(self.path, fault, error) from error

    def _make_room(self, rescues: list[Callable[[], bool]]) -> bool:
        """Do the next thing that may make room on a full disk; False if nothing is left to be done."""
        while rescues:
            if rescues.pop(0)():
                return True
        return False

    def _empty_log(self) -> bool:
        """Move the log's content into the database, so that the log is written from its beginning again: what only
        changes or deletes rows needs no new space then."""
        try:
            self._connect_writer()
            assert self._writer is not None
            busy, _pages, _moved = self._writer.raw.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
        except sqlite3.Error:
            # No room for this either; the next thing to do is to give up the reserve.
            self._close_writer()
            return False
        return not busy

    def _give_up_reserve(self) -> bool:
        if not self._reserve.release():
            return False
        self._reserve_at = self._monotonic() + _RESERVE_PAUSE
        self._empty_log()
        return True

    # On the loop.

    def fault(self, error: BaseException) -> Fault | None:
        """As :func:`sqlite_fault`, with a look at the disk: not every failure to grow a file is told as what it is."""
        fault = sqlite_fault(error)
        return Fault.FULL if fault is Fault.BROKEN and self._reserve.disk_is_full() else fault

    def make_room_to_read(self) -> bool:
        """A query met a full disk: give up the reserve; False if there is none. The caller then tries once more."""
        return self._reserve.release()

    def read(self, query: Callable[[Connection], Any]) -> Any:
        """Run a query inline, in one read transaction: it sees the last commit, whole."""
        try:
            if self._reader is None:
                reader = connect_sqlite(str(self.path), self._now)
                raw_sqlite(reader).execute("PRAGMA query_only=ON")
                raw_sqlite(reader).execute(_CACHE)
                self._reader = reader
            raw = raw_sqlite(self._reader)
            raw.execute("BEGIN")
            try:
                return query(self._reader)
            finally:
                if raw.in_transaction:
                    raw.execute("ROLLBACK")
        except Exception as error:
            fault = sqlite_fault(error)
            if fault not in (None, Fault.BUSY):
                self._close_reader()
            raise

    def changed(self) -> bool:
        """Whether anything was committed, by whomever, since the last call."""
        try:
            if self._watcher is None:
                self._watcher = sqlite3.connect(str(self.path), timeout=0.0, isolation_level=None)
            version = int(self._watcher.execute("PRAGMA data_version").fetchone()[0])
        except sqlite3.Error:
            # It cannot be said now (busy, or the disk is away): the next look says it. Whoever then reads or writes
            # meets the cause and tells of it.
            if self._watcher is not None:
                self._watcher.close()
                self._watcher = None
                self._version = -1
            return False
        if version == self._version:
            return False
        self._version = version
        return True

    def close_readers(self) -> None:
        self._close_reader()
        if self._watcher is not None:
            self._watcher.close()
            self._watcher = None

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def snapshot(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "journal_mode": self.journal_mode,
            "retries": self.retries,
            "faults": self.faults,
            "reserve": self._reserve.kept,
        }
