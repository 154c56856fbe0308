"""The state directory, and who serves it.

The home is the user's alone (0700), and is made so: the mode is given when it is made, never put right afterwards while
others may look; only an empty directory is closed when it is taken over. A daemon keeps the lock file ``daemon.lock``
locked for as long as it lives; the kernel lets the lock go with the process, however it ends. So a socket file without
a lock is a dead daemon's and may be replaced, and a process id in the file names a daemon only while the lock is held.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from pathlib import Path

from pelagos.model.errors import Conflict, StoreUnavailable

__all__ = ["DaemonLock", "daemon_pid", "home_problem", "prepare_home", "write_private"]

LOCK_NAME = "daemon.lock"
_FLOCK = "hhqqi"
"""Linux's struct flock: type, whence, start, length, pid."""


def prepare_home(home: Path) -> None:
    """Make the home, if it is not there, for this user alone.

    Raises StoreUnavailable if it cannot be made, is somebody else's, or may be read by others and cannot be closed."""
    try:
        _make_private(home)
        _close_if_new(home)
    except OSError as error:
        raise StoreUnavailable(
            f"the state directory {home} cannot be made: {error.strerror or error}",
            advice="Set PELAGOS_HOME to a directory that you may write to.",
            details={"home": str(home)},
        ) from error
    problem = home_problem(home)
    if problem is not None:
        raise StoreUnavailable(
            f"the state directory {home} {problem}",
            advice="Set PELAGOS_HOME to a directory of your own that nobody else may enter (chmod 700).",
            details={"home": str(home)},
        )


def _close_if_new(home: Path) -> None:
    """A directory somebody has just made for us (`mkdir`) is closed to others. Any other thing is left as it is: a
    mistyped PELAGOS_HOME=/ or =/dev/null must not change the machine."""
    found = home.lstat()
    mode = stat.S_IMODE(found.st_mode)
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and mode & 0o077 and not mode & stat.S_ISVTX:
        with os.scandir(home) as entries:
            if next(entries, None) is None:
                home.chmod(0o700)


def _make_private(directory: Path) -> None:
    missing = []
    while not directory.exists():
        missing.append(directory)
        directory = directory.parent
    for path in reversed(missing):
        # mkdir's mode is narrowed by the umask and never widened: nobody else can look in between.
        path.mkdir(mode=0o700, exist_ok=True)


def home_problem(home: Path) -> str | None:
    """What is wrong with the home, as the end of a sentence that begins with it, or None."""
    try:
        found = home.stat()
    except FileNotFoundError:
        return "does not exist yet"
    except OSError as error:
        return f"cannot be looked at: {error.strerror}"
    if not stat.S_ISDIR(found.st_mode):
        return "is not a directory"
    if found.st_uid != os.geteuid():
        return f"belongs to user {found.st_uid}, not to you ({os.geteuid()})"
    if stat.S_IMODE(found.st_mode) & 0o077:
        return f"may be read by others (mode {stat.S_IMODE(found.st_mode):04o})"
    if not os.access(home, os.W_OK | os.X_OK):
        return "cannot be written to"
    return None


def write_private(path: Path, text: str) -> None:
    """Write a file that nobody else could read at any moment, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


class DaemonLock:
    """Held by the one daemon of a home."""

    def __init__(self, home: Path) -> None:
        self._path = home / LOCK_NAME
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Raises Conflict, naming its pid, if a daemon of this home lives; StoreUnavailable if there is no writing."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise StoreUnavailable(f"the lock {self._path} cannot be opened: {error.strerror}") from error
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _lock_request(fcntl.F_WRLCK))
        except (BlockingIOError, PermissionError):
            pid = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise Conflict(
                f"a daemon serves {self._path.parent} already: process {pid}",
                advice="Use that one, stop it, or set PELAGOS_HOME to another directory.",
                details={"pid": int(pid) if pid.isdigit() else None, "home": str(self._path.parent)},
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        """Idempotent. The file stays: removing it would let two daemons lock two files of one name."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None


def daemon_pid(home: Path) -> int | None:
    """The process id of the daemon that lives on this home, or None."""
    try:
        descriptor = os.open(home / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        found = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _lock_request(fcntl.F_WRLCK))
        if struct.unpack(_FLOCK, found)[0] == fcntl.F_UNLCK:
            return None
        text = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
        return int(text) if text.isdigit() else None
    finally:
        os.close(descriptor)


def _lock_request(kind: int) -> bytes:
    return struct.pack(_FLOCK, kind, os.SEEK_SET, 0, 0, 0)
