"""The hello examples say the truth: the commands in each module's docstring work as they stand there.

The first one starts a container, in the background; when it is ready, the others follow in the same shell.
"""

from __future__ import annotations

import ast
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.console_pages import Command, check, environment_in, run_in_one_shell

HELLO = Path(__file__).parents[3] / "examples" / "hello"
PELAGOS = Path(sys.executable).parent / "pelagos"
EXAMPLES = sorted(folder.name for folder in HELLO.iterdir() if folder.is_dir()) if HELLO.is_dir() else []
SECONDS = 150

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not HELLO.is_dir(), reason="the examples are not beside these tests"),
    pytest.mark.skipif(not PELAGOS.is_file(), reason=f"there is no command {PELAGOS}"),
    pytest.mark.skipif(shutil.which("bash") is None, reason="the commands need bash"),
]


@pytest.fixture
def place() -> Iterator[Path]:
    """A short path: a socket lies in it."""
    with tempfile.TemporaryDirectory(prefix="pelagos-ex-") as name:
        yield Path(name)


def commands_of(module: Path) -> list[Command]:
    found = []
    for number, line in enumerate(
        (ast.get_docstring(ast.parse(module.read_text()), clean=False) or "").splitlines(), 1
    ):
        if line.startswith("    "):
            text, _, comment = line.strip().partition("   # exit code ")
            found.append(Command(number, text, int(comment or 0)))
    return found


@pytest.mark.timeout(SECONDS + 30)
@pytest.mark.parametrize("example", EXAMPLES)
def test_the_commands_of_the_docstring_work(example: str, place: Path) -> None:
    shutil.copytree(HELLO / example, place / example)
    module = place / example / f"{example}.py"
    start, *work = commands_of(module)
    assert "pelagos container " in start.text
    assert work
    waiting = (
        f"{start.text} > {place}/log 2>&1 & until grep -q 'is ready' {place}/log; do kill -0 $! && sleep 0.1; done"
    )
    whole = [Command(start.line, waiting), *work, Command(0, "kill -INT $! && wait $!")]
    transcript = run_in_one_shell(whole, environment_in(place, PELAGOS), place / example, SECONDS)
    check(whole, transcript, module.name)


def test_each_example_is_whole_and_listed() -> None:
    listed = (HELLO.parent / "README.md").read_text()
    for example in EXAMPLES:
        files = {file.name for file in (HELLO / example).iterdir()}
        assert {f"{example}.py", f"{example}.yaml", f"test_{example}.py"} <= files
        assert f"(hello/{example}/{example}.py)" in listed
        assert len((HELLO / example / f"{example}.py").read_text().splitlines()) <= 100
