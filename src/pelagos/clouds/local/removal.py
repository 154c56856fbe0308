"""Removing an instance's files, whatever the instance did to them."""

from __future__ import annotations

import contextlib
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
    Somebody else may be removing the same tree at the same time.
    """
    try:
        descriptor = _open_directory(os.fspath(path), None)
    except FileNotFoundError:
        return
    try:
        _remove_content(descriptor, os.fstat(descriptor).st_dev)
    finally:
        os.close(descriptor)
    with contextlib.suppress(FileNotFoundError):
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
        with contextlib.suppress(FileNotFoundError):
            _remove(name, directory, device)


def _remove(name: str, directory: int, device: int) -> None:
    try:
        os.unlink(name, dir_fd=directory)
        return
    except (IsADirectoryError, PermissionError):
        pass
    _make_mutable(name, directory)
    if not stat.S_ISDIR(os.lstat(name, dir_fd=directory).st_mode):
        os.unlink(name, dir_fd=directory)
        return
    below = _open_directory(name, directory)
    try:
        if os.fstat(below).st_dev != device:
            raise OSError(f"{name} is a mount point")
        _remove_content(below, device)
    finally:
        os.close(below)
    os.rmdir(name, dir_fd=directory)


def _make_mutable(name: str, parent: int) -> None:
    """Take the flags off that forbid removal (chattr +i, +a), of the entry and of the directory it is in."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    _clear_flags(parent)
    try:
        descriptor = os.open(name, flags, dir_fd=parent)
    except OSError:  # a link, a device, or not readable: the removal itself will tell
        return
    try:
        _clear_flags(descriptor)
    finally:
        os.close(descriptor)


def _clear_flags(descriptor: int) -> None:
    try:
        flags = int.from_bytes(fcntl.ioctl(descriptor, FS_IOC_GETFLAGS, bytes(8)), "little")
        if flags & (IMMUTABLE | APPEND_ONLY):
            fcntl.ioctl(descriptor, FS_IOC_SETFLAGS, (flags & ~(IMMUTABLE | APPEND_ONLY)).to_bytes(8, "little"))
    except OSError:  # no such flags on this file system, or no right to change them
        pass
