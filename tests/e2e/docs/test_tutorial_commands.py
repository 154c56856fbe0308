"""The tutorial says the truth: its commands run as they stand on the page, and say what the page says they do.

Ids, addresses, times and numbers of seconds are compared by shape, runs of blanks as one.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.console_pages import check, commands, environment_in, run_in_one_shell

ROOT = Path(__file__).parents[3]
TUTORIAL = ROOT / "docs" / "tutorials" / "guestbook.md"
PELAGOS = Path(sys.executable).parent / "pelagos"
SECONDS = 240

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not TUTORIAL.is_file(), reason="the documents are not beside these tests"),
    pytest.mark.skipif(not PELAGOS.is_file(), reason=f"there is no command {PELAGOS}"),
    *(
        pytest.mark.skipif(shutil.which(name) is None, reason=f"the tutorial needs {name}")
        for name in ("bash", "curl", "pkill")
    ),
]


def destroy(environment: dict[str, str], place: Path) -> None:
    subprocess.run(
        [PELAGOS, "down", "guestbook", "--yes"],
        env=environment,
        cwd=place,
        capture_output=True,
        timeout=60,
        check=False,
    )


@pytest.mark.timeout(SECONDS + 60)
def test_the_tutorials_commands_do_what_it_says(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    environment = environment_in(tmp_path, PELAGOS)
    work = commands(TUTORIAL.read_text())
    try:
        transcript = run_in_one_shell(work, environment, tmp_path, SECONDS)
    finally:
        if (tmp_path / ".pelagos" / "pelagos.db").exists():
            destroy(environment, tmp_path)
    check(work, transcript, TUTORIAL.name)
    assert not (tmp_path / ".pelagos").exists()


def test_the_guides_first_description_is_built_and_answers(tmp_path: Path) -> None:
    guide = ROOT / "docs" / "guides" / "describe.md"
    found = re.search(r"```yaml\n(infra_name: hello\n.*?)```", guide.read_text(), re.DOTALL)
    assert found
    (tmp_path / "hello.yaml").write_text(found[1])
    environment = environment_in(tmp_path, PELAGOS)

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )

    try:
        built = run(str(PELAGOS), "up", "hello.yaml")
        assert built.returncode == 0, built.stderr
        address = re.search(r"^Try: (http://\S+)", built.stdout, re.MULTILINE)
        assert address, built.stdout
        page = run("curl", "--silent", "--show-error", "--fail", address[1] + "index.html")
        assert page.stdout == "Hello from web", page.stderr
    finally:
        gone = run(str(PELAGOS), "down", "hello", "--yes")
    assert gone.returncode == 0, gone.stderr


def test_the_tutorial_is_read_as_it_is_meant() -> None:
    work = commands(TUTORIAL.read_text())
    assert len(work) > 20
    assert {"plan", "up", "status", "scale", "maintain", "explain", "serve", "down"} <= {
        command.text.split()[1] for command in work if command.text.startswith("pelagos ")
    }
    assert any(command.exit_code == 65 for command in work)
