"""Pages whose commands are run: the commands of `console` blocks, and the output that they must hold.

Each block is a list of commands (`$ ...`, with `# exit code N` where it is not 0) and of lines that their output must
hold, compared by shape.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

__all__ = [
    "SHAPES",
    "Command",
    "check",
    "commands",
    "environment_in",
    "parts_with_and_without_broker",
    "run_in_one_shell",
    "shape",
    "write_files",
]

SHAPES: tuple[tuple[str, str], ...] = (
    (r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "<uuid>"),
    (r"\b\d{1,3}(\.\d{1,3}){3}\b", "<address>"),
    (r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?Z", "<time>"),
    (r"(?<=/)[0-9a-f]{8}\b|\b[0-9a-f]{8}(?= )", "<id>"),
    (r"\b\d+(\.\d+)? ?[sm]\b", "<seconds>"),
    (r'"(pid|position)":\d+', "<number>"),
    (r"\s+", " "),
)


@dataclass
class Command:
    line: int
    text: str
    exit_code: int = 0
    output: list[str] = field(default_factory=list)


def commands(page: str) -> list[Command]:
    found: list[Command] = []
    inside = False
    for number, line in enumerate(page.splitlines(), 1):
        if line.startswith("```"):
            inside = line == "```console"
        elif inside and line.startswith("$ "):
            text, _, comment = line[2:].partition("   # exit code ")
            found.append(Command(number, text, int(comment or 0)))
        elif inside:
            found[-1].output.append(line)
    return found


def write_files(page: str, place: Path) -> None:
    """The blocks with a caption are files of that name."""
    for name, text in re.findall(r"```\{code-block\} \w+\n:caption: (\S+)\n\n(.*?)```", page, re.DOTALL):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)


def environment_in(place: Path, program: Path) -> dict[str, str]:
    """Of a reader who works in ``place`` with ``program`` on the path, and has configured nothing."""
    return {
        "PATH": f"{program.parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(place),
        "LANG": "C.UTF-8",
        "PELAGOS_HOME": str(place / ".pelagos"),
        **{name: os.environ[name] for name in ("TMPDIR", "PYTHONPATH") if name in os.environ},
    }


def parts_with_and_without_broker(page: str) -> tuple[str, str]:
    """The page up to the first heading that speaks of a broker, and the rest; line numbers stay."""
    found = re.search(r"^## .*\bbroker\b", page, re.MULTILINE)
    if found is None:
        return page, ""
    return page[: found.start()], "\n" * page.count("\n", 0, found.start()) + page[found.start() :]


def shape(line: str, shapes: tuple[tuple[str, str], ...] = SHAPES) -> str:
    for pattern, name in shapes:
        line = re.sub(pattern, name, line)
    return line.strip()


def _script(work: list[Command]) -> str:
    """One shell for all, as the reader has one; after each command a line that says its exit code."""
    return "\n".join(f"{command.text}\nprintf '\\n@@ %s %s\\n' {index} $?" for index, command in enumerate(work))


def run_in_one_shell(work: list[Command], environment: dict[str, str], place: Path, seconds: float) -> str:
    """The transcript. Whatever the commands have left running is killed."""
    process = subprocess.Popen(
        ["bash", "-c", _script(work)],
        env=environment,
        cwd=place,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        transcript, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        transcript, _ = process.communicate()
        pytest.fail(f"the page takes longer than {seconds} s:\n{transcript}")
    finally:
        with contextlib.suppress(ProcessLookupError):  # a daemon that the script did not come to stop
            os.killpg(process.pid, signal.SIGKILL)
    return transcript


def check(work: list[Command], transcript: str, page: str, shapes: tuple[tuple[str, str], ...] = SHAPES) -> None:
    """Each command ended with its exit code, and its output holds its lines."""
    parts = re.split(r"^@@ (\d+) (\d+)\n", transcript, flags=re.MULTILINE)
    said = {
        int(index): (text, int(code)) for text, index, code in zip(parts[0::3], parts[1::3], parts[2::3], strict=False)
    }
    assert sorted(said) == list(range(len(work))), transcript
    for index, command in enumerate(work):
        text, code = said[index]
        place = f"{page}:{command.line}: $ {command.text}"
        assert code == command.exit_code, f"{place}\nexit code {code}, expected {command.exit_code}\n{text}"
        expected = Counter(shape(line, shapes) for line in command.output)
        missing = expected - Counter(shape(line, shapes) for line in text.splitlines())
        assert not missing, f"{place}\nnot in the output: {list(missing)}\n{text}"
