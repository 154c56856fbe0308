"""The benchmarks run: what they measure is theirs to say, that they still can is said here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def test_the_small_ones_run_to_their_end(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--only", "instant", "--only", "plan"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for row in ("plan of 1,000 nodes", "build of 1,000 nodes", "idle pass, 1,000 healthy nodes", "cost of a node more"):
        assert row in done.stdout
