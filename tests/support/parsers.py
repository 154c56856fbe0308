"""Descriptions read by one parser or the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pelagos.services.infrastructure.source import libyaml

__all__ = ["PARSERS", "read_by"]

PARSERS = ("libyaml", "ruamel")


@contextmanager
def read_by(parser: str) -> Iterator[None]:
    """Meanwhile what can be read by ``libyaml`` is; or, with ``ruamel``, it is as if there were none."""
    if parser == "libyaml":
        if libyaml._parser() is None:
            pytest.skip("PyYAML has no libyaml that is known here")
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(libyaml, "_parser", lambda: None)
        yield
