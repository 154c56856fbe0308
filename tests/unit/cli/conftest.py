"""Fixtures: a fake server's answers, a terminal that runs commands against it, two files to name."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.fake_client import FakeServer, Terminal


@pytest.fixture
def server() -> FakeServer:
    return FakeServer()


@pytest.fixture
def pelagos(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(server, capsys)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Two description files; their text does not matter to a fake server."""
    infrastructure = tmp_path / "shop.yaml"
    infrastructure.write_text("infra_name: shop\n")
    nodes = tmp_path / "nodes.yaml"
    nodes.write_text("'node_def:web': []\n")
    return [str(infrastructure), str(nodes)]
