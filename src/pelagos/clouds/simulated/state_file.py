"""A simulated cloud's reality in a file, so that it survives from one command to the next.

Each access takes the file's lock, reads it if somebody else wrote it, and replaces it whole if something changed. The
lock is held for the milliseconds of one access and never over an await, so it is taken on the loop's thread: a thread
would cost more than the wait. The file is not synced to the disk: what it holds is a pretence, and after a power cut
the machine's simulated servers may well be gone too.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from pelagos.clouds.errors import CloudError
from pelagos.clouds.simulated.records import Reality

__all__ = ["RealityFile"]

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Reality).decode


class RealityFile:
    """The file ``cloud.msgpack`` in ``folder``; the folder is made as needed."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "cloud.msgpack"
        self._lock = folder / "cloud.lock"
        self._known: tuple[int, int, int] | None = None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else reads or writes meanwhile."""
        self._lock.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def read(self) -> Reality | None:
        """The reality, or None if it is the one read or written last. Call it under the lock."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return Reality() if self._known is not None else None
        if self._signature(status) == self._known:
            return None
        try:
            reality = _decode(self.path.read_bytes())
        except msgspec.DecodeError as error:
            raise CloudError(
                f"{self.path} does not hold the state of a simulated cloud: {error}",
                advice="Remove the file: the servers in it were only simulated.",
            ) from error
        self._known = self._signature(status)
        return reality

    def write(self, reality: Reality) -> None:
        """Replace the file, readable for its owner only: user data may hold secrets. Call it under the lock.

        If that fails, raises OSError, and the next :meth:`read` gives what the file held before."""
        self._known = (0, 0, 0)
        draft = self.path.with_suffix(".new")
        with open(draft, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(_encode(reality))
        draft.replace(self.path)
        self._known = self._signature(self.path.stat())

    @staticmethod
    def _signature(status: os.stat_result) -> tuple[int, int, int]:
        return status.st_ino, status.st_mtime_ns, status.st_size
