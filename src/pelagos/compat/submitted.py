"""Descriptions that were submitted and not yet started (reference, section 2.2), for whichever program starts them.

The ancestor stored a submitted description beside those that were built. Here an infrastructure begins with the run
that builds it, so until then its description is a file of the state directory, which all programs of the user share.
It may hold secrets, so it is the user's alone.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from pelagos.model.errors import StoreUnavailable
from pelagos.runtime.home import prepare_home, write_private
from pelagos.wire.infrastructures import RunRequest

__all__ = ["Submitted"]

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,35}")


class Submitted:
    """Id -> the run that is to build it, in ``home``. All raise StoreUnavailable where the disk refuses."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._directory = home / "submitted"

    def put(self, infra_id: str, request: RunRequest) -> None:
        """Keep it. It is on the disk when this returns."""
        prepare_home(self._home)
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            write_private(self._path(infra_id), msgspec.json.encode(request).decode())
        except OSError as error:
            raise self._failed(infra_id, "kept", error) from error

    def get(self, infra_id: str) -> RunRequest | None:
        """What was kept; None if there is nothing of that id."""
        if not _ID.fullmatch(infra_id):
            return None
        try:
            return msgspec.json.decode(self._path(infra_id).read_bytes(), type=RunRequest)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            raise self._failed(infra_id, "read", error) from error

    def forget(self, infra_id: str) -> bool:
        """Whether there was any."""
        if not _ID.fullmatch(infra_id):
            return False
        try:
            self._path(infra_id).unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._failed(infra_id, "deleted", error) from error
        return True

    def ids(self) -> list[str]:
        """Of all that are kept, sorted."""
        return sorted(path.stem for path in self._directory.glob("*.json") if not path.name.startswith("."))

    def _path(self, infra_id: str) -> Path:
        return self._directory / f"{infra_id}.json"

    def _failed(self, infra_id: str, done: str, error: Exception) -> StoreUnavailable:
        return StoreUnavailable(
            f"the description submitted as {infra_id!r} cannot be {done}: {error}",
            advice=f"See {self._path(infra_id)}.",
        )
