"""What the guide for operators says of versions is true: its commands work as they stand.

Numbers, ids and times are compared by shape.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.console_pages import SHAPES, check, commands, environment_in, run_in_one_shell

GUIDES = Path(__file__).parents[3] / "docs" / "guides"
PELAGOS = Path(sys.executable).parent / "pelagos"
SECONDS = 90
SHAPES_OF_VERSIONS = (*SHAPES[:1], (r"\b[0-9a-f]{12}\b", "<id>"), (r"\S+Z\b", "<time>"), *SHAPES[1:])

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not GUIDES.is_dir(), reason="the documents are not beside these tests"),
    pytest.mark.skipif(not PELAGOS.is_file(), reason=f"there is no command {PELAGOS}"),
    pytest.mark.skipif(shutil.which("bash") is None, reason="the guide needs bash"),
]


def run(place: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = environment_in(place, PELAGOS)
    return subprocess.run(
        [PELAGOS, *command], env=environment, cwd=place, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.timeout(SECONDS + 120)
def test_the_versions_of_a_description(tmp_path: Path) -> None:
    found = re.search(r"```yaml\n(infra_name: hello\n.*?)```", (GUIDES / "describe.md").read_text(), re.DOTALL)
    section = re.search(
        r"^## Look back and go back\n.*?(?=^## )", (GUIDES / "operate.md").read_text(), re.DOTALL | re.M
    )
    assert found and section
    work = commands(section[0])
    assert {"history", "diff", "rollback"} <= {command.text.split()[1] for command in work}
    description = tmp_path / "hello.yaml"
    try:
        for text in (found[1], found[1].replace("Hello from", "Welcome to")):
            description.write_text(text)
            built = run(tmp_path, "up", "hello.yaml", "--yes")
            assert built.returncode == 0, built.stderr
        environment = environment_in(tmp_path, PELAGOS)
        check(work, run_in_one_shell(work, environment, tmp_path, SECONDS), "operate.md", SHAPES_OF_VERSIONS)
    finally:
        gone = run(tmp_path, "down", "hello", "--yes")
    assert gone.returncode == 0, gone.stderr
