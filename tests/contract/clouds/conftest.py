"""Providers that the drivers of clouds are tried against."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.moto_server import MotoServer, moto_server


@pytest.fixture(scope="session")
def moto_process() -> Iterator[MotoServer]:
    with moto_server() as running:
        yield running


@pytest.fixture
def moto(moto_process: MotoServer) -> MotoServer:
    """moto's server, with nothing in it."""
    moto_process.reset()
    return moto_process
