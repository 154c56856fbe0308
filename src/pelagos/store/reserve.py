"""A reserve of disk space, so that things can be taken down when the disk is full.

A full disk would otherwise stop the very commands that free it, and even those that only look: SQLite's index of the
log is a file that is made by whoever opens the database first. A few megabytes, fewer on a small disk, are kept in a
file beside the database; when the database meets a full disk the file is given up, which makes room for some hundred
transactions. Once there is space it is made again, and whoever gave it up sets aside what is left of it when it
closes the database, so that looking does not use it up.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

__all__ = ["Reserve"]

_SHARE = 4
"""At most this part of what is free is set aside: the reserve must not be what fills the disk."""
_LEAST = 256 * 1024
"""Less than this would not carry a `down`; it is set aside where at least twice as much is free."""
_NOTHING = 64 * 1024
_BLOCK = 4096


class Reserve:
    """The reserve beside one database; several processes may share it. ``size``: most bytes of it; 0: none is kept."""

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._size = size
        self._given_up = 0

    @property
    def kept(self) -> int:
        """How many bytes of it are there to be given up."""
        if self._size == 0:
            return 0
        try:
            return self._path.stat().st_size
        except OSError:
            return 0

    def disk_is_full(self) -> bool:
        """Whether next to nothing is left on its disk, for this user."""
        try:
            return self._free() < _NOTHING
        except OSError:
            return False

    def make(self) -> None:
        """Set it aside, or more of it, as far as there is room; a disk without room is no error."""
        have = self.kept
        if have >= self._size:
            return
        try:
            free = self._free()
        except OSError:
            return
        wanted = min(self._size, max(_LEAST, (free + have) // _SHARE // _BLOCK * _BLOCK))
        if have < wanted and (wanted - have) * 2 <= free:
            self._allocate(have, wanted)

    def release(self) -> bool:
        """Give it up; False if there was nothing to give."""
        have = self.kept
        if have == 0:
            return False
        try:
            self._path.unlink()
        except OSError:
            return False
        self._given_up = max(self._given_up, have)
        return True

    def restore(self) -> None:
        """Set aside again what is left of what was given up here, also where that fills the disk: it was full."""
        wanted, self._given_up = self._given_up, 0
        if wanted == 0:
            return
        self.make()
        have = self.kept
        try:
            wanted = min(wanted, have + self._free() // _BLOCK * _BLOCK)
        except OSError:
            return
        if wanted > have and wanted >= min(self._size, _LEAST):
            self._allocate(have, wanted)

    def _free(self) -> int:
        room = os.statvfs(self._path.parent)
        return room.f_bavail * room.f_frsize

    def _allocate(self, have: int, wanted: int) -> None:
        try:
            descriptor = os.open(self._path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        except OSError:
            return
        try:
            os.posix_fallocate(descriptor, 0, wanted)
        except OSError:
            # No room after all, or a file system that cannot: leave no half of it lying about.
            with contextlib.suppress(OSError):
                if have:
                    os.ftruncate(descriptor, have)
                else:
                    self._path.unlink()
        finally:
            os.close(descriptor)
