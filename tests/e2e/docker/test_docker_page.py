"""The page of the docker cloud: its description is one, and its account is one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "docker.md"


def test_its_description_is_planned_on_its_account(tmp_path: Path) -> None:
    pool, infrastructure, nodes = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    near = pool.partition("  - name: far")[0]
    assert "unix://" in near and "unix://" not in pool.removeprefix(near)
    for name, text in (("pelagos.yaml", near), ("infra.yaml", infrastructure), ("nodes.yaml", nodes)):
        (tmp_path / name).write_text(text)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PELAGOS_")}
    done = subprocess.run(
        [sys.executable, "-m", "pelagos", "plan", "infra.yaml", "nodes.yaml"],
        cwd=tmp_path,
        env=kept | {"PELAGOS_HOME": str(tmp_path / "home"), "PELAGOS_CONFIG": str(tmp_path / "pelagos.yaml")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "3 to create" in done.stdout + done.stderr
