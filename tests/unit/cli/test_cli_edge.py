"""What holds for every command: help, exit codes, streams, options in both places, errors, start-up."""

from __future__ import annotations

import errno
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from pelagos.cli.exits import MEANINGS, Exit, exit_of
from pelagos.cli.invocation import Invocation
from pelagos.cli.lazy import Command, LazyGroup
from pelagos.cli.main import ENTRIES, cli, main
from pelagos.model import errors
from pelagos.model.errors import Ambiguous, NotFound, PelagosError
from support.fake_client import FakeServer, Terminal, summary

REFERENCE = Path(__file__).parents[3] / "docs" / "reference" / "commands.md"


def _commands(group: LazyGroup, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Command]]:
    context = click.Context(group, info_name="pelagos")
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        if isinstance(found, LazyGroup):
            yield from _commands(found, (*path, name))
        else:
            assert isinstance(found, Command)
            yield (*path, name), found


COMMANDS = list(_commands(cli))
NAMES = [" ".join(path) for path, _ in COMMANDS]


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=NAMES)
def test_help_has_a_purpose_an_example_and_exit_codes(
    path: tuple[str, ...], command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*path, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"Usage: pelagos {' '.join(path)}")
    assert f"  pelagos {' '.join(path)}" in text or f"pelagos {' '.join(path)}" in text.partition("Examples:")[2]
    codes = re.findall(r"^  (\d+) ", text.partition("Exit codes:")[2], re.MULTILINE)
    assert codes == [str(int(code)) for code in command.exits]
    assert {"0", "64"} <= set(codes)
    assert all(option.get_help_record(click.Context(command)) for option in command.params if _is_option(option))


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=NAMES)
def test_the_reference_has_a_section_with_every_option_and_code(path: tuple[str, ...], command: Command) -> None:
    text = REFERENCE.read_text()
    heading = f"\n## pelagos {' '.join(path)}\n"
    assert heading in text
    section = text.partition(heading)[2].partition("\n## ")[0]
    own = [option for option in command.params if _is_option(option) and option not in command.common]
    for option in own:
        assert f"`{option.opts[-1]}" in section, option.opts
    listed = re.search(r"^Exit codes: (.*)\.$", section, re.MULTILINE)
    assert listed is not None
    assert [int(code) for code in listed[1].split(", ")] == [int(code) for code in command.exits]


def test_the_reference_explains_every_exit_code_and_common_option() -> None:
    text = REFERENCE.read_text()
    for code, meaning in MEANINGS.items():
        assert f"| {int(code)} | {meaning} |" in text
    for option in COMMANDS[0][1].common:
        assert f"`{option.opts[-1]}" in text


def _is_option(parameter: click.Parameter) -> bool:
    return isinstance(parameter, click.Option)


def test_the_groups_help_lists_each_command_with_its_own_first_sentence() -> None:
    context = click.Context(cli)
    for name, entry in ENTRIES.items():
        found = cli.get_command(context, name)
        assert found is not None
        assert found.name == name
        if not entry.hidden:
            assert entry.summary.endswith(".")


class TestUsage:
    @pytest.mark.parametrize(
        "arguments",
        [
            (),
            ("nonsense",),
            ("--nonsense",),
            ("up",),
            ("up", "--strategy", "sideways", "x.yaml"),
            ("status",),
            ("status", "shop", "extra"),
            ("list", "-o", "xml"),
            ("scale", "shop", "web"),
            ("definitions",),
            ("definitions", "nonsense"),
            ("completion",),
        ],
        ids=" ".join,
    )
    def test_mistakes_are_64_on_stderr(self, pelagos: Terminal, arguments: tuple[str, ...]) -> None:
        result = pelagos(*arguments)
        assert result.code == 64
        assert result.out == ""
        assert result.err

    def test_a_misspelt_command_is_told_the_right_one(self, pelagos: Terminal) -> None:
        assert "Did you mean status?" in pelagos("statsu").err

    def test_help_and_version_are_0(self, pelagos: Terminal) -> None:
        assert pelagos("--help").code == 0
        assert pelagos("--version").out.startswith("pelagos ")
        assert pelagos("-h").out == pelagos("--help").out


class TestCommonOptions:
    def test_before_and_after_the_command_after_wins(self, pelagos: Terminal) -> None:
        assert pelagos("-o", "json", "list").json == []
        assert pelagos("list", "-o", "json").json == []
        assert pelagos("-o", "yaml", "list", "-o", "json").json == []
        assert pelagos("definitions", "-o", "json", "list").json == []

    def test_the_variable_is_beaten_by_either(self, pelagos: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PELAGOS_OUTPUT", "json")
        assert pelagos("list").json == []
        assert pelagos("-o", "table", "list").out == ""
        assert pelagos("list", "-o", "table").out == ""
        monkeypatch.setenv("PELAGOS_OUTPUT", "nonsense")
        assert pelagos("list").code == 64

    def test_colours_only_on_a_terminal(
        self, pelagos: Terminal, server: FakeServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server.known = (summary(),)
        assert "\x1b" not in pelagos("list").out
        monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
        assert "\x1b[32mready" in pelagos("list").out
        assert "\x1b" not in pelagos("list", "--no-color").out
        monkeypatch.setenv("NO_COLOR", "1")
        assert "\x1b" not in pelagos("list").out


class TestErrors:
    def test_a_defect_is_70_without_a_traceback(self, pelagos: Terminal, server: FakeServer) -> None:
        server.facts = None  # the fake asserts that there are some
        result = pelagos("doctor")
        assert result.code == 70
        assert "Traceback" not in result.err
        assert "--debug" in result.err
        assert "Traceback" in pelagos("doctor", "--debug").err

    def test_an_expected_error_shows_its_traceback_only_with_debug(self, pelagos: Terminal, server: FakeServer) -> None:
        server.status = NotFound("no")
        assert "Traceback" not in pelagos("status", "x").err
        result = pelagos("status", "x", "--debug")
        assert result.code == 66
        assert "Traceback" in result.err

    def test_an_ambiguous_name_lists_the_ids(self, pelagos: Terminal, server: FakeServer) -> None:
        server.status = Ambiguous("'shop' means 2 infrastructures", details={"ids": ["id-a", "id-b"]})
        result = pelagos("status", "shop")
        assert result.code == 64
        assert "  id-a\n  id-b\n" in result.err

    def test_every_error_of_the_family_has_a_code_that_is_documented(self) -> None:
        family = [getattr(errors, name) for name in errors.__all__]
        for kind in family:
            if isinstance(kind, type) and issubclass(kind, PelagosError) and kind is not PelagosError:
                assert exit_of(kind("x")) in MEANINGS
        assert exit_of(NotFound("x")) is Exit.MISSING

    @pytest.mark.parametrize(
        ("number", "code"), [(errno.ENOSPC, 74), (errno.EACCES, 77), (errno.ENOENT, 66), (errno.ECONNREFUSED, 69)]
    )
    def test_errors_of_the_system(
        self, number: int, code: int, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        def opener(invocation: Invocation) -> object:
            raise OSError(number, "reason", str(tmp_path))

        assert main(["list"], Invocation(opener=opener)) == code  # type: ignore[arg-type]
        assert f"error: reason: {tmp_path}" in capsys.readouterr().err

    def test_of_a_group_the_one_that_matters_is_told(self, capsys: pytest.CaptureFixture[str]) -> None:
        def opener(invocation: Invocation) -> object:
            raise ExceptionGroup("g", [RuntimeError("after-effect"), ExceptionGroup("h", [NotFound("the cause")])])

        assert main(["list"], Invocation(opener=opener)) == 66  # type: ignore[arg-type]
        assert "the cause" in capsys.readouterr().err

    def test_an_interrupt_outside_of_a_run_is_130(self, capsys: pytest.CaptureFixture[str]) -> None:
        def opener(invocation: Invocation) -> object:
            raise KeyboardInterrupt

        assert main(["list"], Invocation(opener=opener)) == 130  # type: ignore[arg-type]
        assert capsys.readouterr().out == ""


def test_a_closed_pipe_ends_quietly() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pelagos", "completion", "bash"],
            stdout=writer,
            stderr=subprocess.PIPE,
            check=False,
        )
    finally:
        os.close(writer)
    assert done.returncode == 141
    assert done.stderr == b""


def test_the_command_collects_seldom_and_the_library_leaves_the_interpreter_as_it_is() -> None:
    code = (
        "import gc, sys; before = gc.get_threshold(); import pelagos.runtime, pelagos.compat, pelagos.cli.main; "
        "print(gc.get_threshold() == before); pelagos.cli.main.main(['--version']); print(gc.get_threshold())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, _, after = done.stdout.splitlines()
    assert (before, after) == ("True", "(20000, 10, 10)")


def test_version_imports_neither_services_nor_clients_nor_rich() -> None:
    code = (
        "import sys; from pelagos.cli.main import main; main(['--version']); "
        "heavy = [m for m in ('asyncio', 'rich', 'msgspec', 'httpx2', 'sqlalchemy', 'starlette', 'pelagos.model', "
        "'pelagos.wire', 'pelagos.clients', 'pelagos.runtime') if m in sys.modules]; "
        "print(' '.join(heavy), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("pelagos ")
    assert done.stderr.strip() == ""


def test_version_starts_about_as_fast_as_python_with_click() -> None:
    """The peer is the least a click program needs, in the same minute; generous, since machines are shared."""

    def seconds(*arguments: str) -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
        return time.perf_counter() - began

    peers, ours = [], []
    for _ in range(5):
        peers.append(seconds("-c", "import click, importlib.metadata"))
        ours.append(seconds("-m", "pelagos", "--version"))
    assert min(ours) < 3 * min(peers) + 0.1, (statistics.median(ours), statistics.median(peers))
