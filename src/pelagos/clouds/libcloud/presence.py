"""Whether Libcloud is there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pelagos.clouds.port import Library
from pelagos.model.errors import Unsupported

__all__ = ["LIBCLOUD", "needs_libcloud"]

LIBCLOUD = Library("libcloud", "libcloud")


@contextlib.contextmanager
def needs_libcloud(driver: str) -> Iterator[None]:
    """Around imports of modules that import Libcloud. If that or what it needs is missing, raises Unsupported."""
    try:
        yield
    except ImportError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", "pelagos"):
            raise
        raise Unsupported(
            f"the cloud driver {driver!r} needs the Python package {missing!r}, which is not installed",
            advice="pip install 'pelagos[libcloud]'",
            details={"package": missing, "extra": "libcloud"},
        ) from error
