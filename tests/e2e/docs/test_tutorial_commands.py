"""The tutorial says the truth: its commands run as they stand on the page, and say what the page says they do.

Each `console` block is a list of commands (`$ ...`, with `# exit code N` where it is not 0) and of lines that their
output must hold. Ids, addresses, times and numbers of seconds are compared by shape, runs of blanks as one.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TUTORIAL = ROOT / "docs" / "tutorials" / "guestbook.md"
PELAGOS = Path(sys.executable).parent / "pelagos"
SECONDS = 100

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not TUTORIAL.is_file(), reason="the documents are not beside these tests"),
    pytest.mark.skipif(not PELAGOS.is_file(), reason=f"there is no command {PELAGOS}"),
    *(
        pytest.mark.skipif(shutil.which(name) is None, reason=f"the tutorial needs {name}")
        for name in ("bash", "curl", "pkill")
    ),
]

SHAPES = (
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


def commands() -> list[Command]:
    found: list[Command] = []
    inside = False
    for number, line in enumerate(TUTORIAL.read_text().splitlines(), 1):
        if line.startswith("```"):
            inside = line == "```console"
        elif inside and line.startswith("$ "):
            text, _, comment = line[2:].partition("   # exit code ")
            found.append(Command(number, text, int(comment or 0)))
        elif inside:
            found[-1].output.append(line)
    return found


def shape(line: str) -> str:
    for pattern, name in SHAPES:
        line = re.sub(pattern, name, line)
    return line.strip()


def script(work: list[Command]) -> str:
    """One shell for all, as the reader has one; after each command a line that says its exit code."""
    return "\n".join(f"{command.text}\nprintf '\\n@@ %s %s\\n' {index} $?" for index, command in enumerate(work))


def environment_in(place: Path) -> dict[str, str]:
    return {
        "PATH": f"{PELAGOS.parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(place),
        "LANG": "C.UTF-8",
        "PELAGOS_HOME": str(place / ".pelagos"),
        **{name: os.environ[name] for name in ("TMPDIR", "PYTHONPATH") if name in os.environ},
    }


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
    environment = environment_in(tmp_path)
    work = commands()
    process = subprocess.Popen(
        ["bash", "-c", script(work)],
        env=environment,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        transcript, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        transcript, _ = process.communicate()
        pytest.fail(f"the tutorial takes longer than {SECONDS} s:\n{transcript}")
    finally:
        with contextlib.suppress(ProcessLookupError):  # a daemon that the script did not come to stop
            os.killpg(process.pid, signal.SIGKILL)
        if (tmp_path / ".pelagos" / "pelagos.db").exists():
            destroy(environment, tmp_path)

    parts = re.split(r"^@@ (\d+) (\d+)\n", transcript, flags=re.MULTILINE)
    said = {
        int(index): (text, int(code)) for text, index, code in zip(parts[0::3], parts[1::3], parts[2::3], strict=False)
    }
    assert sorted(said) == list(range(len(work))), transcript
    for index, command in enumerate(work):
        text, code = said[index]
        place = f"{TUTORIAL.name}:{command.line}: $ {command.text}"
        assert code == command.exit_code, f"{place}\nexit code {code}, expected {command.exit_code}\n{text}"
        missing = Counter(map(shape, command.output)) - Counter(map(shape, text.splitlines()))
        assert not missing, f"{place}\nnot in the output: {list(missing)}\n{text}"
    assert not (tmp_path / ".pelagos").exists()


def test_the_guides_first_description_is_built_and_answers(tmp_path: Path) -> None:
    guide = ROOT / "docs" / "guides" / "describe.md"
    found = re.search(r"```yaml\n(infra_name: hello\n.*?)```", guide.read_text(), re.DOTALL)
    assert found
    (tmp_path / "hello.yaml").write_text(found[1])
    environment = environment_in(tmp_path)

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
    work = commands()
    assert len(work) > 20
    assert {"plan", "up", "status", "scale", "maintain", "explain", "serve", "down"} <= {
        command.text.split()[1] for command in work if command.text.startswith("pelagos ")
    }
    assert any(command.exit_code == 65 for command in work)
