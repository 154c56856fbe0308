"""Removing an instance's files, whatever the instance did to them."""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

__all__ = ["remove_tree"]

FS_IOC_GETFLAGS, FS_IOC_SETFLAGS = 0x80086601, 0x40086602
IMMUTABLE, APPEND_ONLY = 0x10, 0x20


def remove_tree(path: Path) -> None:
    """Remove a directory and all in it, following no symbolic link and crossing into no other file system.

    Directories without permissions (an overlay's work directory) are opened up first, immutable files made mutable.
    """
    try:
        descriptor = _open_directory(os.fspath(path), None)
    except FileNotFoundError:
        return
    try:
        _remove_content(descriptor, os.fstat(descriptor).st_dev)
    finally:
        os.close(descriptor)
    path.rmdir()


def _open_directory(name: str, parent: int | None) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(name, flags, dir_fd=parent)
    except PermissionError:
        os.chmod(name, 0o700, dir_fd=parent)
        return os.open(name, flags, dir_fd=parent)


def _remove_content(directory: int, device: int) -> None:
    if os.fstat(directory).st_mode & 0o700 != 0o700:
        os.fchmod(directory, 0o700)
    for name in os.listdir(directory):
        try:
            os.unlink(name, dir_fd=directory)
            continue
        except FileNotFoundError:
            continue
        except (IsADirectoryError, PermissionError):
            pass
        _make_mutable(name, directory)
        if not stat.S_ISDIR(os.lstat(name, dir_fd=directory).st_mode):
            os.unlink(name, dir_fd=directory)
            continue
        below = _open_directory(name, directory)
        try:
            if os.fstat(below).st_dev != device:
                raise OSError(f"{name} is a mount point")
            _remove_content(below, device)
        finally:
            os.close(below)
        os.rmdir(name, dir_fd=directory)


def _make_mutable(name: str, parent: int) -> None:
    for place, entry in ((parent, None), (parent, name)):
        try:
            descriptor = (
                place if entry is None else os.open(entry, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=place)
            )
        except OSError:
            continue
        try:
            flags = int.from_bytes(fcntl.ioctl(descriptor, FS_IOC_GETFLAGS, bytes(8)), "little")
            if flags & (IMMUTABLE | APPEND_ONLY):
                fcntl.ioctl(descriptor, FS_IOC_SETFLAGS, (flags & ~(IMMUTABLE | APPEND_ONLY)).to_bytes(8, "little"))
        except OSError:  # no such flags on this file system
            pass
        finally:
            if entry is not None:
                os.close(descriptor)
