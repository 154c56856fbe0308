"""The tutorial of a service of one's own says the truth: its files and commands work as they stand on the page.

Ids of processes and numbers are compared by shape. The part with two containers needs a broker; it runs under a
system's name of its own there, since others may use the same server.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.brokers import skip_without_broker, throw_away_system
from support.console_pages import (
    SHAPES,
    Command,
    check,
    commands,
    environment_in,
    run_in_one_shell,
    shape,
    write_files,
)

ROOT = Path(__file__).parents[3]
TUTORIAL = ROOT / "docs" / "tutorials" / "hello-service.md"
PELAGOS = Path(sys.executable).parent / "pelagos"
SECONDS = 200
BROKER = "amqp://guest:guest@localhost"
NUMBERS = (
    (r"\b\d\d:\d\d:\d\d\.\d+", "<time>"),
    (r"\b(solo|one|two)\.\d+(-[0-9a-z]+)?", "<process>"),
    (r"\bdead .*", "dead"),
    (r"\b\d+(\.\d+)? ms", "<ms>"),
    (r"(?<![.\d])\d+(\.\d+)*(?![.\d])", "<n>"),
    (r"#<n>", ""),
    *SHAPES,
)

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not TUTORIAL.is_file(), reason="the documents are not beside these tests"),
    pytest.mark.skipif(not PELAGOS.is_file(), reason=f"there is no command {PELAGOS}"),
    pytest.mark.skipif(shutil.which("bash") is None, reason="the tutorial needs bash"),
]


def parts() -> tuple[str, str]:
    """The page without a broker, and with one."""
    alone, heading, together = TUTORIAL.read_text().partition("\n## Two containers\n")
    return alone, "\n" * alone.count("\n") + heading + together


@pytest.fixture
def place() -> Iterator[Path]:
    """A short path: a socket lies in it."""
    with tempfile.TemporaryDirectory(prefix="pelagos-hello-") as name:
        yield Path(name)


@pytest.mark.timeout(SECONDS + 60)
def test_alone(place: Path) -> None:
    page, _ = parts()
    write_files(page, place)
    work = commands(page)
    assert len(work) > 10
    check(work, run_in_one_shell(work, environment_in(place, PELAGOS), place, SECONDS), TUTORIAL.name, NUMBERS)


@pytest.mark.timeout(SECONDS + 60)
def test_the_lines_of_the_shell(place: Path) -> None:
    """They are given to the shell through a pipe, one after the other, with a mark before each."""
    page, _ = parts()
    write_files(page, place)
    (session,) = re.findall(r"```text\n\$ pelagos shell[^\n]*\n(.*?)```", page, re.DOTALL)
    lines: list[Command] = []
    for line in session.splitlines():
        found = re.match(r"In \[\d+\]: (.*)", line)
        if found:
            lines.append(Command(0, found[1]))
        else:
            lines[-1].output.append(line)
    environment = environment_in(place, PELAGOS)
    container = subprocess.Popen(
        [PELAGOS, "container", "--system", "demo", "--id", "solo", "hello.yaml"],
        env=environment,
        cwd=place,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert container.stdout is not None
        assert "is ready" in container.stdout.readline()
        mistake = [PELAGOS, "call", "hello", "hello", "--content", ""]  # as the reader has made it by then
        assert subprocess.run(mistake, env=environment, capture_output=True, check=False).returncode == 64
        typed = "\n".join(f"print('@@ {number}')\n{line.text}" for number, line in enumerate(lines))
        shell = subprocess.run(
            [PELAGOS, "shell"],
            input=typed,
            env=environment,
            cwd=place,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        container.terminate()
        container.communicate(timeout=30)
    assert (shell.returncode, shell.stderr) == (0, "")
    said = re.split(r"^@@ \d+\n", shell.stdout, flags=re.MULTILINE)[1:]
    assert len(said) == len(lines) > 5
    for line, text in zip(lines, said, strict=True):
        shown = [shape(one, NUMBERS) for one in text.splitlines()]
        for expected in line.output:
            assert shape(expected, NUMBERS) in shown, (line.text, text)
    assert container.returncode == 0


@pytest.mark.amqp
@pytest.mark.timeout(SECONDS + 60)
def test_two_containers(place: Path) -> None:
    url = skip_without_broker()

    async def run() -> None:
        async with throw_away_system(url) as system:
            alone, page = parts()
            page = re.sub(r"\bdemo\b", system, page).replace(BROKER, url)
            write_files(alone, place)
            write_files(page, place)
            work = commands(page)
            assert any("kill -KILL" in command.text for command in work)
            check(work, run_in_one_shell(work, environment_in(place, PELAGOS), place, SECONDS), TUTORIAL.name, NUMBERS)
            assert not (place / ".pelagos").exists()

    asyncio.run(run())
