"""Files that a command writes for a person: whole or not at all, and errors that name the path as it was given."""

from __future__ import annotations

import os
from pathlib import Path

from pelagos.model.errors import PelagosError

__all__ = ["OutputFailed", "write_output"]


class OutputFailed(PelagosError):
    """The file of ``--out`` cannot be written. What was there before is there still."""

    code = "output_failed"
    status = 500


def write_output(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Write a file in place of what is there. ``mode`` is less the umask. A device or a pipe is written to as it is.

    Raises OutputFailed."""
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(content)
            return
        # Beside the file that is meant: so it becomes that one at once, wherever a link leads.
        target = path.resolve()
        new = target.with_name(f".{target.name}.{os.getpid()}")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        try:
            with open(descriptor, "wb") as file:
                file.write(content)
            new.replace(target)
        except BaseException:
            new.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OutputFailed(f"{path} cannot be written: {error.strerror or error}", advice=_advice(path)) from error


def _advice(path: Path) -> str:
    if path.is_dir():
        return "Give the name of a file in it."
    if not path.parent.exists():
        return f"There is no directory {path.parent}: make it, or give another path."
    return "Give another path."
