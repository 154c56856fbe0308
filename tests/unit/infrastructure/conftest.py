"""What tests of descriptions share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.parsers import PARSERS, read_by


@pytest.fixture(scope="module", params=PARSERS)
def parser(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each test of a module that uses it runs with either parser of YAML."""
    name = str(request.param)
    with read_by(name):
        yield name
