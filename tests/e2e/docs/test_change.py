"""What the guide to changes says is true: its files and commands work as they stand."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from support.console_pages import SHAPES, check, commands, environment_in, run_in_one_shell, write_files

GUIDES = Path(__file__).parents[3] / "docs" / "guides"
PELAGOS = Path(sys.executable).parent / "pelagos"
SECONDS = 240

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not GUIDES.is_dir(), reason="the documents are not beside these tests"),
    pytest.mark.skipif(not PELAGOS.is_file(), reason=f"there is no command {PELAGOS}"),
    pytest.mark.skipif(shutil.which("bash") is None, reason="the guide needs bash"),
]


@pytest.mark.timeout(SECONDS + 60)
def test_the_page_works_as_it_stands(tmp_path: Path) -> None:
    page = (GUIDES / "change.md").read_text()
    write_files(page, tmp_path)
    work = commands(page)
    assert {"up", "plan", "apply", "graph", "down"} <= {command.text.split()[1] for command in work}
    check(work, run_in_one_shell(work, environment_in(tmp_path, PELAGOS), tmp_path, SECONDS), "change.md", SHAPES)
