"""A reserve of disk space, so that things can be taken down when the disk is full.

A full disk would otherwise stop the very commands that free it. A few megabytes are kept in a file beside the
database; when the database meets a full disk the file is given up, which makes room for some hundred transactions,
and it is made again once there is space.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

__all__ = ["Reserve"]

_MARGIN = 4
"""The reserve is made again only where this many times its size is free: it must not be what fills the disk."""
_NOTHING = 64 * 1024


class Reserve:
    """The reserve beside one database; several processes may share it. ``size`` 0: none is kept."""

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._size = size

    @property
    def kept(self) -> bool:
        """Whether it is there to be given up."""
        try:
            return self._size > 0 and self._path.stat().st_size >= self._size
        except OSError:
            return False

    def disk_is_full(self) -> bool:
        """Whether next to nothing is left on its disk, for this user."""
        try:
            room = os.statvfs(self._path.parent)
        except OSError:
            return False
        return room.f_bavail * room.f_frsize < _NOTHING

    def make(self) -> None:
        """Set it aside if it is not there and there is room; a disk without room is no error."""
        if self._size == 0 or self.kept:
            return
        try:
            room = os.statvfs(self._path.parent)
            if room.f_bavail * room.f_frsize < self._size * _MARGIN:
                return
            descriptor = os.open(self._path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, self._size)
            finally:
                os.close(descriptor)
        except OSError:
            # No room after all, or a file system that cannot: leave no half of it lying about.
            with contextlib.suppress(OSError):
                self._path.unlink()

    def release(self) -> bool:
        """Give it up; False if there was nothing to give."""
        if self._size == 0:
            return False
        try:
            self._path.unlink()
        except OSError:
            return False
        return True
