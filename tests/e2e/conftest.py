"""Short paths: a control socket lies in a home, and the system bounds how long its path may be."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="pel-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
