"""Facts about this host: who we are, and whether a holder on this host is dead.

A lease's holder that died here should not block anybody for the rest of its time. What proves a death is the lock on
the holder's own file, which the kernel lets go with the process, however it ended, also when the machine did: the
file's name is the holder's unique id, so a file of that name can only be the holder's. Pids prove less, since they
are used again, so they count only with the process's start time, and only within the same boot and pid namespace (the
boot id carries both). Where neither speaks, the holder is taken to be alive until its lease expires.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from pathlib import Path
from typing import Protocol

from pelagos.store.leases import Holder, LeaseRow

__all__ = ["HostFacts", "SystemHostFacts"]

_STALE_AFTER = 86_400.0


class HostFacts(Protocol):
    """What a lease keeper asks of its host. The simulation has its own: no file is locked there."""

    def hold(self, holder_id: str) -> Holder:
        """Begin to hold the lock that says this incarnation lives, and tell who it is. Raises OSError."""
        ...

    def let_go(self, *, clean: bool) -> None:
        """Give the lock up. ``clean``: no lease names this holder any more, so its proof may go too."""
        ...

    def is_dead(self, row: LeaseRow) -> bool:
        """Whether the holder of ``row`` certainly lives no more. Quick; called inside transactions."""
        ...


class SystemHostFacts:
    """This machine's facts; lock files lie in ``directory`` (``<home>/locks``)."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._descriptor: int | None = None
        self._path: Path | None = None

    def hold(self, holder_id: str) -> Holder:
        pid = os.getpid()
        try:
            lock_path = str(self._lock(holder_id))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            # Things must come down on a full disk too: then pid and start time alone say whether we live.
            lock_path = ""
        return Holder(holder_id, socket.gethostname(), _boot_id(), pid, _started(pid) or "", lock_path)

    def _lock(self, holder_id: str) -> Path:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._directory.resolve() / f"{holder_id}.lock"
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor, self._path = descriptor, path
        return path

    def let_go(self, *, clean: bool) -> None:
        if self._descriptor is not None and self._path is not None:
            if clean:
                with contextlib.suppress(OSError):
                    self._path.unlink()
            os.close(self._descriptor)
            self._descriptor = None

    def is_dead(self, row: LeaseRow) -> bool:
        if row.lock_path:
            free = _lock_is_free(row.lock_path)
            if free is not None:
                return free
        if row.boot_id and row.boot_id == _boot_id():
            started = _started(row.pid)
            return started is None or (bool(row.pid_started) and started != row.pid_started)
        return False

    def sweep(self, now: float) -> None:
        """Remove lock files that dead holders left long ago; their leases have expired since."""
        for path in sorted(self._directory.glob("*.lock")):
            with contextlib.suppress(OSError):
                if now - path.stat().st_mtime > _STALE_AFTER and _lock_is_free(str(path)):
                    path.unlink()


def _lock_is_free(path: str) -> bool | None:
    """Whether nobody holds the lock of a file; None if it cannot be said (no such file here, not ours to open)."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        # Shared, so that two who look at the same time do not take one another for the holder.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _boot_id() -> str:
    """This boot and this pid namespace: within both, a pid and its start time mean one process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}:{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """Start time of a process in clock ticks since boot (field 22 of its stat, proc(5)); None if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The command's name, in parentheses, may hold spaces and parentheses itself.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else fields[19]
