"""What a driver's error means for the store: whose fault it is, and what a person can do about it."""

from __future__ import annotations

import enum
import sqlite3

from sqlalchemy.exc import DBAPIError

from pelagos.model.errors import StoreUnavailable

__all__ = ["Fault", "driver_error", "sqlite_fault", "unavailable"]


class Fault(enum.Enum):
    """Why the store could not do its part. None of these is the transaction's own fault."""

    BUSY = "another process is writing"
    FULL = "the disk is full"
    READ_ONLY = "it may not be written"
    BROKEN = "it cannot be read or written"


_BY_PREFIX = (
    ("SQLITE_BUSY", Fault.BUSY),
    ("SQLITE_LOCKED", Fault.BUSY),
    ("SQLITE_PROTOCOL", Fault.BUSY),
    ("SQLITE_FULL", Fault.FULL),
    ("SQLITE_READONLY", Fault.READ_ONLY),
    ("SQLITE_PERM", Fault.READ_ONLY),
    ("SQLITE_AUTH", Fault.READ_ONLY),
    # The log's index could not be given its size, which only a full disk or a quota refuses.
    ("SQLITE_IOERR_SHMSIZE", Fault.FULL),
    ("SQLITE_IOERR", Fault.BROKEN),
    ("SQLITE_CANTOPEN", Fault.BROKEN),
    ("SQLITE_CORRUPT", Fault.BROKEN),
    ("SQLITE_NOTADB", Fault.BROKEN),
    ("SQLITE_NOMEM", Fault.BROKEN),
)

_ADVICE = {
    Fault.BUSY: "Another pelagos process holds the store for long; see which with `fuser`, or try again.",
    Fault.FULL: "Free some space on the disk that holds it, then run the command again; nothing is lost.",
    Fault.READ_ONLY: "Give the user who runs this the right to write the file and its directory.",
    Fault.BROKEN: "Check the disk and the file's permissions (`pelagos doctor`), then run the command again.",
}


def driver_error(error: BaseException) -> BaseException:
    """The driver's own exception below SQLAlchemy's."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        return error.orig
    return error


def sqlite_fault(error: BaseException) -> Fault | None:
    """The store's fault that ``error`` tells of; None if it is the transaction's own error."""
    origin = driver_error(error)
    if not isinstance(origin, sqlite3.Error):
        return None
    name = getattr(origin, "sqlite_errorname", None) or ""
    return next((fault for prefix, fault in _BY_PREFIX if name.startswith(prefix)), None)


def unavailable(where: object, fault: Fault, error: BaseException) -> StoreUnavailable:
    """What callers get for a fault."""
    return StoreUnavailable(
        f"the store {where} is unavailable: {fault.value} ({driver_error(error)})",
        advice=_ADVICE[fault],
        details={"fault": fault.name.lower()},
    )
