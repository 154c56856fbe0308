"""Providers that the drivers of clouds are tried against."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from support.moto_server import MotoServer


@pytest.fixture(scope="session")
def moto_process() -> Iterator[MotoServer]:
    from support.moto_server import moto_server  # the local driver is tested without what other drivers need

    with moto_server() as running:
        yield running


@pytest.fixture
def moto(moto_process: MotoServer) -> MotoServer:
    """moto's server, with nothing in it."""
    moto_process.reset()
    return moto_process
