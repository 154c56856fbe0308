"""Texts that would eat the machine are mistakes with a place; whoever waits can end the reading."""

from __future__ import annotations

from pathlib import Path

import pytest

from pelagos.model.diagnostics import Diagnostic
from pelagos.model.yaml_layer import MAX_BYTES, did_you_mean, parse_layer, read_bounded


def mistakes_of(text: str) -> list[Diagnostic]:
    mistakes: list[Diagnostic] = []
    parse_layer("x.yaml", text.encode(), mistakes)
    return mistakes


def bomb(levels: int) -> str:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    for before, name in zip("abcdefgh", "bcdefghi"[: levels - 1], strict=False):
        lines.append(f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]")
    return "\n".join(lines)


def test_aliases_count_as_what_they_stand_for() -> None:
    assert mistakes_of(bomb(4)) == []
    (mistake,) = mistakes_of(bomb(8))
    assert "more than 100000 values" in mistake.summary
    assert mistake.position is not None and mistake.position.file == "x.yaml"


def test_many_values_without_an_alias_are_too_many_as_well() -> None:
    (mistake,) = mistakes_of("a: [" + "1," * 100_001 + "]")
    assert "more than 100000 values" in mistake.summary
    assert mistake.source == "", "a line nobody can read is not shown"


def test_depth() -> None:
    assert mistakes_of("a: " + "[" * 90 + "]" * 90) == []
    (mistake,) = mistakes_of("a: " + "[" * 5000 + "]" * 5000)
    assert "deeper than 100 levels" in mistake.summary


def test_depth_by_aliases() -> None:
    text = "a: &a " + "[" * 60 + "]" * 60 + "\nb: " + "[" * 60 + "*a" + "]" * 60
    (mistake,) = mistakes_of(text)
    assert "deeper than 100 levels" in mistake.summary


def test_no_more_is_read_of_a_file_than_is_needed_to_refuse_it(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    path.write_bytes(b"#" * (MAX_BYTES * 2))
    data = read_bounded(path)
    assert len(data) == MAX_BYTES + 1
    mistakes: list[Diagnostic] = []
    parse_layer(str(path), data, mistakes)
    assert [mistake.summary for mistake in mistakes] == ["the file is larger than 4 MiB"]


def test_whoever_waits_ends_it() -> None:
    class Enough(Exception):
        pass

    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise Enough

    with pytest.raises(Enough):
        parse_layer("x.yaml", ("a: [" + "1," * 5000 + "]").encode(), [], check=check)
    assert calls == 3


def test_names_that_are_alike_and_names_that_are_not() -> None:
    assert did_you_mean("helo", ["hello", "echo"]) == "Did you mean 'hello'?"
    assert did_you_mean("greting", ["greeting"]) == "Did you mean 'greeting'?"
    assert did_you_mean("tga", ["tag"]) == "Did you mean 'tag'?"
    assert did_you_mean("nothere", ["noperm"], "There are: noperm.") == "There are: noperm."
