"""What was launched, in a file of the state directory: written before and after each step, whole or not at all.

The file is the truth of what is to be terminated, whatever has become of the plan. Its lock says that somebody works on
the launch; it goes with its holder, so nothing has to be broken by hand.
"""

from __future__ import annotations

import enum
import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from pelagos.model.errors import LeaseHeld, StoreUnavailable
from pelagos.runtime.home import write_private

__all__ = ["LaunchRecord", "PartRecord", "PartState", "RecordFile", "boot_token"]


class PartState(enum.StrEnum):
    BOOTING = "booting"
    """Begun: something of it may be there."""
    READY = "ready"
    FAILED = "failed"
    STOPPING = "stopping"


class PartRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One part as it stands. Times in seconds since the epoch."""

    name: str
    level: int
    kind: str
    state: PartState
    token: str = ""
    """In the environment of what ``run`` started, so that it is found also by whoever comes after a crash."""
    pid: int = 0
    infrastructure: str = ""
    """The id, once it is known; before that the name."""
    stop: tuple[str, ...] = ()
    """The program of its termination, rendered."""
    stop_timeout: float = 10.0
    directory: str = ""
    environment: dict[str, str] = {}
    outputs: dict[str, Any] = {}
    error: str = ""
    booted_at: float = 0.0
    ready_at: float = 0.0


def boot_token(token: str) -> str:
    """That of a part's ``boot``, which must not run twice at the same time either."""
    return f"{token}.boot"


class LaunchRecord(msgspec.Struct, frozen=True, kw_only=True):
    launch: str
    plan: str
    """Path of the plan's file."""
    parts: tuple[PartRecord, ...] = ()


class RecordFile:
    """The record of one launch, held by whoever works on it. A context manager.

    Entering raises LeaseHeld if somebody else has it, StoreUnavailable if there is no writing."""

    def __init__(self, home: Path, name: str) -> None:
        self.name = name
        self.directory = home / "launches"
        self.path = self.directory / f"{name}.json"
        self._lock: int | None = None
        self._parts: dict[str, PartRecord] = {}
        self._plan = ""

    def __enter__(self) -> Self:
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._lock = os.open(self.directory / f".{self.name}.lock", flags, 0o600)
        except OSError as error:
            raise StoreUnavailable(f"{self.directory} cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise LeaseHeld(
                f"somebody else works on the launch {self.name!r} now", advice="Wait for it, and try again."
            ) from None
        found = self.read()
        if found is not None:
            self._parts = {part.name: part for part in found.parts}
            self._plan = found.plan
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def read(self) -> LaunchRecord | None:
        """As the file has it now; None if nothing was launched. Raises StoreUnavailable."""
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=LaunchRecord)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            raise StoreUnavailable(
                f"the record {self.path} cannot be read: {error}", advice="It is JSON; mend it, or move it away."
            ) from error

    @property
    def parts(self) -> list[PartRecord]:
        return list(self._parts.values())

    def get(self, name: str) -> PartRecord | None:
        return self._parts.get(name)

    def put(self, part: PartRecord, plan: str = "") -> None:
        """Remember a part as it is now. Raises StoreUnavailable."""
        self._parts[part.name] = part
        self._plan = plan or self._plan
        self._write()

    def remove(self, name: str) -> None:
        """Forget a part; with the last one the file goes."""
        del self._parts[name]
        if self._parts:
            self._write()
        else:
            self.path.unlink(missing_ok=True)

    def _write(self) -> None:
        record = LaunchRecord(launch=self.name, plan=self._plan, parts=tuple(self._parts.values()))
        data = msgspec.json.format(msgspec.json.encode(record), indent=2).decode()
        try:
            write_private(self.path, data)
        except OSError as error:
            raise StoreUnavailable(f"the record {self.path} cannot be written: {error.strerror}") from error
