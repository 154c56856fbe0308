"""The prompts of the shell, its completion and its history; what its names do is tested with the commands."""

from __future__ import annotations

import sqlite3
import stat
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pelagos.cli.shell import history
from pelagos.cli.shell.classes import import_classes
from pelagos.cli.shell.execution import Lines
from pelagos.cli.shell.history import history_file
from pelagos.cli.shell.ipython import suggestions
from pelagos.cli.shell.plain import PlainShell
from pelagos.cli.shell.values import Listing, Said
from pelagos.container.control.port import ContainerInfo

KNOWN = ({"hello": ("count", "hello"), "help": ("ask",)}, ("hello", "helper"))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('await call("hel', (["hello", "help"], 3)),
        ("ping('", (["hello", "help"], 0)),
        ('x = await spawn("', (["hello", "helper"], 0)),
        ('client("helper', (["helper"], 6)),
        ('call("service:hel', (["service:hello", "service:help"], 11)),
        ('call("hello", "h', (["hello"], 1)),
        ("call('service:help', '", (["ask"], 0)),
        ('call("hello", ', (['"count"', '"hello"'], 0)),
        ('call("hello",', (['"count"', '"hello"'], 0)),
        ('call("hello", h', (['"hello"'], 1)),
        ('call("moon", "', ([], 0)),
        ("print('hel", None),
        ("hel", None),
        ('call("hello", "hello", "y', None),
    ],
)
def test_completion(line: str, expected: tuple[list[str], int] | None) -> None:
    assert suggestions(line, lambda: KNOWN) == expected


class TestHistory:
    def test_it_is_its_writers_alone(self, tmp_path: Path) -> None:
        path = history_file(tmp_path / "home")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        path.chmod(0o644)
        assert stat.S_IMODE(history_file(tmp_path / "home").stat().st_mode) == 0o600

    def test_it_keeps_the_last_lines(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(history, "MOST_LINES", 3)
        path = history_file(tmp_path)
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE history (session int, line int, source text, source_raw text)")
            rows = [(session, line, "", f"{session}.{line}") for session in (1, 2) for line in (1, 2)]
            connection.executemany("INSERT INTO history VALUES (?, ?, ?, ?)", rows)
            connection.commit()
        history_file(tmp_path)
        with closing(sqlite3.connect(path)) as connection:
            kept = [row[0] for row in connection.execute("SELECT source_raw FROM history ORDER BY session, line")]
        assert kept == ["1.2", "2.1", "2.2"]

    def test_what_is_no_history_does_not_stop_the_shell(self, tmp_path: Path) -> None:
        history_file(tmp_path).write_bytes(b"no database at all" * 100)
        assert history_file(tmp_path).exists()


class TestThePlainPrompt:
    @pytest.fixture
    def lines(self) -> Iterator[Lines]:
        self.shown: list[Any] = []
        found = Lines({}, self.shown.append)
        yield found
        found.close()

    def type(self, lines: Lines, monkeypatch: pytest.MonkeyPatch, *typed: str) -> list[BaseException]:
        told: list[BaseException] = []
        left = iter(typed)

        def read(prompt: str = "") -> str:
            try:
                return next(left)
            except StopIteration:
                raise EOFError from None

        monkeypatch.setattr("builtins.input", read)
        PlainShell(lines, told.append).run("")
        return told

    def test_await_at_the_top(self, lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
        typed = ("import asyncio", "await asyncio.sleep(0, 42)", "_ + 1")
        assert self.type(lines, monkeypatch, *typed) == []
        assert self.shown == [42, 43]

    def test_lines_that_are_not_whole_yet(self, lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
        typed = ("import asyncio", "for n in range(2):", "    await asyncio.sleep(0)", "", "n")
        self.type(lines, monkeypatch, *typed)
        assert self.shown == [1]

    def test_it_goes_on_after_an_error(
        self, lines: Lines, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (told,) = self.type(lines, monkeypatch, "1 +", "1 / 0", "5")
        assert isinstance(told, ZeroDivisionError)
        assert self.shown == [5]
        assert "SyntaxError" in capsys.readouterr().err


def test_values_are_what_they_look_like() -> None:
    listing = Listing([1, 2], "a table")
    assert (listing, repr(listing)) == ([1, 2], "a table")
    assert (Said("done"), repr(Said("done"))) == ("done", "done")


def test_classes_come_from_beside_the_app_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pelagos_shell_probe.py").write_text("class Probe: ...\nclass Outer:\n    class Inner: ...\n")
    (tmp_path / "pelagos_shell_broken.py").write_text("1 / 0\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    classes = {
        "probe": "pelagos_shell_probe:Probe",
        "inner": "pelagos_shell_probe:Outer.Inner",
        "broken": "pelagos_shell_broken:Any",
        "gone": "pelagos_shell_probe:Gone",
    }
    told: list[str] = []
    info = ContainerInfo("c-1", "demo", 1, "0", "memory", 0.0, (str(tmp_path / "app.yaml"),), classes)
    found = import_classes(info, told.append)
    assert {name: cls.__name__ for name, cls in found.items()} == {"probe": "Probe", "inner": "Inner"}
    assert [line.partition(" ")[0] for line in told] == ["pelagos_shell_broken:Any", "pelagos_shell_probe:Gone"]
    assert sys.path[-1] == str(tmp_path)  # at the end, where it hides nothing
