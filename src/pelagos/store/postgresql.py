"""The PostgreSQL engine: serializable batches, run again on conflict, and an honest answer when a commit is cut off.

Every batch is one SERIALIZABLE transaction. When the server finds a conflict (40001, 40P01) the whole batch is run
again after a pause with full jitter; after its second conflict its jobs are run one by one, so that two jobs that
cannot go together do not hold up the rest. SERIALIZABLE and not row locks by hand: transactions are written once for
both engines, and on SQLite nothing ever interleaves.

A connection that is lost before COMMIT was sent has written nothing, so the batch is run again on a new one until
patience ends. Lost while COMMIT was under way, it may have been committed. The server knows: each batch learns its
transaction id before it commits, and after a reconnection `pg_xact_status` tells what became of it. Only if the
server cannot be asked in time, or is another one (a new timeline: a replica was promoted, whose transaction ids mean
something else), do the callers get DeadlineExceeded, whose retry class says that it may have been done; since
requests carry ids, they look and ask again.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Connection, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from pelagos.model.errors import DeadlineExceeded, InternalError, InvalidInput, PelagosError, StoreUnavailable
from pelagos.store.batcher import Job
from pelagos.store.events import EVENTS_LOCKED
from pelagos.store.faults import driver_error
from pelagos.store.jobs import run_jobs
from pelagos.store.migrating import bring_up_to_date

__all__ = ["CHANNEL", "PostgresqlDatabase"]

CHANNEL = "pelagos_commit"
_LONGEST_PAUSE = 0.25
_BEGIN_WRITE = "BEGIN ISOLATION LEVEL SERIALIZABLE"
_BEGIN_READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_SEAL = (
    "SELECT x::text, CASE WHEN x IS NULL THEN NULL ELSE pg_notify(%s, %s)::text END "
    "FROM pg_current_xact_id_if_assigned() AS x"
)
_TIMELINE = "SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)"


class _Fault(enum.Enum):
    CONFLICT = "other transactions are in its way"
    LOST = "the server does not answer"
    FULL = "the server's disk is full"
    READ_ONLY = "the server takes no writes"
    BROKEN = "the server cannot read or write its files"


_ADVICE = {
    _Fault.CONFLICT: "Try again; if it happens often, give the store more patience.",
    _Fault.LOST: "Check that the PostgreSQL server runs and can be reached, then run the command again.",
    _Fault.FULL: "Free some space on the database server, then run the command again; nothing is lost.",
    _Fault.READ_ONLY: "Name the primary server, not a standby.",
    _Fault.BROKEN: "Look at the database server's log.",
}


def _fault(error: BaseException) -> _Fault | None:
    """The store's fault that an error tells of; None if it is the transaction's own error."""
    origin = driver_error(error)
    if not isinstance(origin, psycopg.Error):
        return None
    state = origin.sqlstate
    if state is None:
        return _Fault.LOST if isinstance(origin, (psycopg.OperationalError, psycopg.InterfaceError)) else None
    match state[:2], state:
        case _, "40001" | "40P01" | "55P03":
            return _Fault.CONFLICT
        case ("08", _) | (_, "57P01" | "57P02" | "57P03" | "57P05" | "25P03" | "53300"):
            return _Fault.LOST
        case _, "53100":
            return _Fault.FULL
        case _, "25006":
            return _Fault.READ_ONLY
        case ("53" | "58", _) | (_, "XX001" | "XX002"):
            return _Fault.BROKEN
    return None


def _is_store_fault(error: BaseException) -> bool:
    return _fault(error) is not None


class _CommitCutOff(Exception):
    """The connection was lost while COMMIT was under way."""

    def __init__(self, xid: str | None, timeline: str, error: BaseException) -> None:
        super().__init__(str(error))
        self.xid = xid
        self.timeline = timeline
        self.error = error


class _Session:
    """One connection, with the transaction commands sent below SQLAlchemy."""

    def __init__(self, conninfo: str) -> None:
        def creator() -> psycopg.Connection[Any]:
            return psycopg.connect(conninfo, autocommit=True, connect_timeout=5, application_name="pelagos")

        self.connection: Connection = create_engine(
            "postgresql+psycopg://", creator=creator, poolclass=NullPool, hide_parameters=True
        ).connect()
        raw = self.connection.connection.dbapi_connection
        assert isinstance(raw, psycopg.Connection)
        self.raw: psycopg.Connection[Any] = raw
        row = self.raw.execute(_TIMELINE).fetchone() if not self._in_recovery() else None
        self.timeline: str = row[0] if row else ""

    def _in_recovery(self) -> bool:
        row = self.raw.execute("SELECT pg_is_in_recovery()").fetchone()
        return bool(row and row[0])

    def control(self, statement: str) -> str:
        return self.raw.execute(statement, prepare=False).statusmessage or ""

    def undone(self) -> None:
        self.connection.info.pop(EVENTS_LOCKED, None)

    def close(self) -> None:
        self.connection.invalidate()
        self.connection.close()
        self.raw.close()


class PostgresqlDatabase:
    """A database on a server. Its methods run in lanes: slot ``n`` of one lane uses session ``n`` of that lane."""

    dialect = "postgresql"

    def __init__(
        self,
        url: str,
        *,
        store_id: str,
        monotonic: Callable[[], float],
        rng: random.Random,  # noqa: TID251 - the type, of one that the world gave
        wait: Callable[[float], None],
        patience: float,
        slots: int,
    ) -> None:
        self.conninfo = "postgresql://" + url.partition("://")[2]
        try:
            parts = conninfo_to_dict(self.conninfo)
        except psycopg.Error:
            parts = {}
        if not parts or "@" in f"{parts.get('host', '')}{parts.get('dbname', '')}":
            # Without a word of it, and without the driver's: what was cut in the wrong place may be of the password.
            raise StoreUnavailable(
                "the store's URL is not one, or a user or password in it has a character of URLs",
                advice="Write postgresql://user@host:port/database, with / # ? @ : % of a user or password as "
                "%2F %23 %3F %40 %3A %25; or use a password file (PGPASSFILE).",
            )
        self.where = f"postgresql://{parts.get('host', '')}/{parts.get('dbname', '')}"
        self._store_id = store_id
        self._monotonic = monotonic
        self._rng = rng
        self._wait = wait
        self._patience = patience
        self._writers: list[_Session | None] = [None] * slots
        self._readers: list[_Session | None] = [None] * slots
        self.conflicts = 0
        self.reconnections = 0

    def open(self) -> None:
        """Connect and migrate; raises StoreUnavailable at once if nobody answers."""
        try:
            session = self._session(self._writers, 0)
            bring_up_to_date(session.connection, session.control, self.where)
        except Exception as error:
            fault = _fault(error)
            if fault is None:
                raise
            raise self._unavailable(fault, error) from error

    def close(self, slot: int) -> None:
        """Close both sessions of a slot."""
        self._discard(self._writers, slot)
        self._discard(self._readers, slot)

    # Writing.

    def execute(self, slot: int, jobs: list[Job[Any]]) -> None:
        """Run a batch; sets every job's outcome."""
        groups = [jobs]
        end = self._monotonic() + self._patience
        tries, pause = 0, 0.002
        while groups:
            group = groups[0]
            try:
                self._commit(slot, group, end)
            except PelagosError as error:
                _fail(group, error)
            except Exception as error:
                fault = _fault(error)
                if fault is None:
                    raise
                if fault is not _Fault.CONFLICT:
                    self._discard(self._writers, slot)
                if fault not in (_Fault.CONFLICT, _Fault.LOST) or self._monotonic() >= end:
                    _fail(group, self._unavailable(fault, error))
                else:
                    tries += 1
                    if fault is _Fault.CONFLICT:
                        self.conflicts += 1
                        if tries >= 2 and len(group) > 1:
                            groups[:1] = [[job] for job in group]
                    else:
                        self.reconnections += 1
                    self._wait(self._rng.uniform(0.0, pause))
                    pause = min(pause * 2, _LONGEST_PAUSE)
                    continue
            groups.pop(0)
            tries, pause = 0, 0.002

    def _commit(self, slot: int, jobs: list[Job[Any]], end: float) -> None:
        try:
            self._attempt(slot, jobs)
        except _CommitCutOff as cut:
            self._discard(self._writers, slot)
            if not self._was_committed(slot, cut, end):
                raise cut.error from None

    def _attempt(self, slot: int, jobs: list[Job[Any]]) -> None:
        session = self._session(self._writers, slot)
        session.control(_BEGIN_WRITE)
        session.undone()
        try:
            some = run_jobs(jobs, session.connection, session.control, _is_store_fault, session.undone)
            for job in jobs:
                origin = None if job.error is None else driver_error(job.error)
                if isinstance(origin, psycopg.DataError):
                    # As a NUL in a text, which SQLite takes: the caller's mistake, and no defect of a service.
                    job.error = InvalidInput(f"the store cannot hold this: {str(origin).strip()}")
            if not some:
                session.control("ROLLBACK")
                return
            row = session.raw.execute(_SEAL, (CHANNEL, self._store_id)).fetchone()
        except BaseException:
            self._roll_back(slot, session)
            raise
        xid = row[0] if row else None
        try:
            status = session.control("COMMIT")
        except psycopg.Error as error:
            if _fault(error) is _Fault.LOST:
                raise _CommitCutOff(xid, session.timeline, error) from error
            self._roll_back(slot, session)
            raise
        if status != "COMMIT":
            raise InternalError(f"a transaction ended with {status} instead of COMMIT")

    def _was_committed(self, slot: int, cut: _CommitCutOff, end: float) -> bool:
        """Ask the server what became of a transaction. Raises DeadlineExceeded if it cannot be known."""
        if cut.xid is None:
            # Nothing had been written: there is nothing that could have been lost.
            return True
        pause = 0.01
        while True:
            try:
                session = self._session(self._writers, slot)
                if session.timeline != cut.timeline:
                    break
                row = session.raw.execute("SELECT pg_xact_status(%s::xid8)", (cut.xid,)).fetchone()
                status = row[0] if row else None
                if status in ("committed", "aborted"):
                    self.reconnections += 1
                    return bool(status == "committed")
                if status is None:
                    break
            except (psycopg.Error, DBAPIError) as error:
                if _fault(error) is not _Fault.LOST:
                    break
                self._discard(self._writers, slot)
            if self._monotonic() >= end:
                break
            self._wait(self._rng.uniform(0.0, pause))
            pause = min(pause * 2, _LONGEST_PAUSE)
        raise DeadlineExceeded(
            f"the store {self.where} did not answer while committing; it may have been done ({cut})",
            advice="Look whether it was done before asking again; a repeat with the same request id is safe.",
        ) from cut.error

    def _roll_back(self, slot: int, session: _Session) -> None:
        try:
            session.control("ROLLBACK")
        except psycopg.Error:
            # The connection is gone, and its transaction with it.
            self._discard(self._writers, slot)

    # Reading.

    def read(self, slot: int, jobs: list[Job[Any]]) -> None:
        """Run queries, each in a snapshot of its own; sets every job's outcome."""
        for job in jobs:
            end = self._monotonic() + self._patience
            pause = 0.002
            while True:
                try:
                    job.value = self._query(slot, job)
                    break
                except Exception as error:  # noqa: BLE001 - forwarded to the query's caller
                    fault = _fault(error)
                    if fault is _Fault.READ_ONLY:
                        job.error = InternalError(f"a query tried to write ({driver_error(error)})")
                        break
                    if fault is None:
                        job.error = error
                        break
                    if fault is not _Fault.CONFLICT:
                        self._discard(self._readers, slot)
                    if fault not in (_Fault.CONFLICT, _Fault.LOST) or self._monotonic() >= end:
                        job.error = self._unavailable(fault, error)
                        break
                    self._wait(self._rng.uniform(0.0, pause))
                    pause = min(pause * 2, _LONGEST_PAUSE)

    def _query(self, slot: int, job: Job[Any]) -> Any:
        session = self._session(self._readers, slot)
        session.control(_BEGIN_READ)
        try:
            return job.transaction(session.connection)
        finally:
            if not session.raw.closed:
                session.control("ROLLBACK")

    # Sessions.

    def _session(self, sessions: list[_Session | None], slot: int) -> _Session:
        session = sessions[slot]
        if session is not None and (session.raw.closed or session.connection.invalidated):
            self._discard(sessions, slot)
            session = None
        if session is None:
            session = sessions[slot] = _Session(self.conninfo)
        return session

    def _discard(self, sessions: list[_Session | None], slot: int) -> None:
        session = sessions[slot]
        sessions[slot] = None
        if session is not None:
            session.close()

    def _unavailable(self, fault: _Fault, error: BaseException) -> StoreUnavailable:
        return StoreUnavailable(
            f"the store {self.where} is unavailable: {fault.value} ({str(driver_error(error)).strip()})",
            advice=_ADVICE[fault],
            details={"fault": fault.name.lower()},
        )


def _fail(jobs: list[Job[Any]], error: PelagosError) -> None:
    for job in jobs:
        job.error = type(error)(error.message, advice=error.advice, details=dict(error.details))
