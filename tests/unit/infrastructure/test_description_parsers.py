"""A description is the same by either parser: values, places, identities, and every word about its mistakes."""

from __future__ import annotations

import contextlib
import gc
import importlib
import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelagos.model.errors import DescriptionError
from pelagos.services.infrastructure.description import compile_description
from pelagos.services.infrastructure.source import libyaml
from pelagos.services.infrastructure.source.bundle import Bundle
from pelagos.services.infrastructure.source.nodes import MAPPING, SCALAR, Node
from pelagos.services.infrastructure.source.problems import Problems
from support.parsers import read_by

ROOT = Path(__file__).parents[3]
CORPUS = Path(os.environ.get("PELAGOS_TEST_OCCOPUS", ROOT.parent / "shared" / "corpus" / "occopus"))
GOOD = "infra_name: a\nnodes:\n- {name: n, type: t}\n'node_def:t':\n- resource: {type: local, image: host}\n"


def seen(node: Node | None, known: dict[int, int]) -> Any:
    """All of a tree that anyone could look at; of a node that was there before, only that it is the same one."""
    if node is None:
        return None
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = len(known)
    value: Any = node.value
    if node.kind == MAPPING:
        value = [(key, seen(at, known), seen(child, known)) for key, at, child in node.items()]
    elif node.kind != SCALAR:
        value = [seen(child, known) for child in node.value]
    place = (node.source.name, node.line, node.column)
    return node.kind, place, type(value), value, node.text, node.style, node.weight, node.height


def read(text: str, parser: str) -> tuple[Any, list[Any]]:
    """The tree, and what is said of the text."""
    problems = Problems()
    with read_by(parser):
        root = Bundle({"x.yaml": text, "i.yaml": "key: [word]\n", "t": "some\ntext"}, problems).load("x.yaml")
    return seen(root, {}), [(item, item.position, item.advice, item.source) for item in problems.sorted()]


def assert_same(text: str) -> None:
    assert read(text, "libyaml") == read(text, "ruamel")


def given_by_libyaml(text: str) -> bool:
    """Whether it reads the text to its end."""
    try:
        return sum(1 for _ in libyaml.events(text)) > 0
    except libyaml.Unread:
        return False


@pytest.fixture(autouse=True)
def parser_in_c() -> Iterator[None]:
    """Nothing here means anything where there is none."""
    with read_by("libyaml"):
        yield


FRAGMENTS = [
    *("a", "b: ", "key: ", "- ", "-", "? ", "?", ": ", ":", "\n", "\n", "\n", "\n  ", "\n    ", " ", "  ", "{", "}"),
    *("[", "]", ",", ", ", "&a ", "&b", "*a", "*a ", "*b", "!t ", "!!str ", "!!int ", "!!", "! ", "!", "!<x> ", "'"),
    *("''", '"', '""', "\\n", "\\x41", "\\u00e9", "\\ud83d\\udca5", "\\/", "\\\n", "\\ ", "|", "|\n", "|-\n  "),
    *(">\n  ", ">+\n ", "|2\n", "#", " # c", "\n# c\n", "---", "--- ", "\n---\n", "...", "\n...\n", "%YAML 1.1\n"),
    *("%", "@", "`", "é", "💥", "0", "12", "0o17", "1.5", "1e3", "true", "yes", "~", "<<: ", "<<", "x y", "http://a/b"),
    *("a:b", "c#d", "- - ", "? a\n: b\n", "'q'", '"q"', "k: v\n", "- i\n", "k:\n", "  k: v\n", "  - i\n"),
    *("key: |\n  text\n   more\n\n  end\n", "key: >\n  text\n   more\n\n  end\n", "- >-\n  a\n  b\n", "k: # c\n"),
    *("{{x}}", "'{{x}}'", "!text_import {url: 'file://t'}\n", "!yaml_import\n", "  url: file://i.yaml\n"),
    *("\t", " \t", "\r", "\r\n", "\x85", "\u2028", "\ufeff", "\x7f", "\xa0", "\ud800", "\x00", "\x07", "\ufffe"),
]


@settings(max_examples=3000, deadline=None)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=16).map("".join))
def test_any_text_of_fragments(text: str) -> None:
    assert_same(text)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40))
def test_any_text(text: str) -> None:
    assert_same(text)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(GOOD)), st.sampled_from(FRAGMENTS), st.integers(0, 3))
def test_a_good_text_with_a_change(at: int, fragment: str, without: int) -> None:
    assert_same(GOOD[:at] + fragment + GOOD[at + without :])


DIFFERENT = {
    "a colon after an anchor": "a:\n- &b:\n",
    "a colon after an alias": "a:\n- &b c\n- *b:\n",
    "a colon after an alias as a key": "a: &b c\n*b: d\n",
    "an anchor after a tag": "a: !!str &b c\nd: *b\n",
    "an anchor after a tag at the root": "!!map &a\nb: c\n",
    "an anchor after a tag, in the next line": "a: ! # why\n  &b\n",
    "a tag handle without a directive": "a: !e!b c\n",
    "three exclamation marks": "a: !!! b\n",
    "a tag that a comma follows": "a: [!, b]\n",
    "a colon after a quoted text in a list": "a: ['b':c]\n",
    "a colon after a tag in a list": "a: [! :2]\n",
    "a key that is nothing": "a: {? }\n",
    "a key that is nothing, in brackets": "a: [?, b]\n",
    "a question mark alone": "?",
    "a comment that touches a block": "a: |# b\n  c\n",
    "blanks before a folded block": "a: >\n   \n    b\n",
    "blanks before a block, with other ends of lines": "a: | # b\r\n   \r\n    c\r\n",
    "a block as the root": "|\n# a\n",
    "a block as the root after a mark": "--- >\na\n",
    "ends of a document": "a: b\n...\n...\n",
    "another version": "%YAML 1.1\n---\na: yes\n",
    "a tag directive": "%TAG ! tag:yaml.org,2002:\n---\na: !int 3\n",
    "a directive for nothing": "\r%X\n---\na: b\n",
    "a tab after a key": "a:\tb\n",
    "a tab before a comment": "a: b\t# c\n",
    "tabs in brackets": "a: [b\tc]\n",
    "next line": "a: b\x85c: d\n",
    "line separator": "a: b\u2028c: d\n",
    "a byte order mark in the middle": "a: b\n\ufeffc: d\n",
    "a byte order mark at the beginning": "\ufeffa: b\n",
    "half of a surrogate pair": "a: '\ud800'\n",
    "an anchor that is no word": "a: &é b\nc: *é\n",
    "an escaped surrogate pair": 'a: "\\ud83d\\udca5"\n',
}


@pytest.mark.parametrize("text", DIFFERENT.values(), ids=DIFFERENT)
def test_what_the_parsers_take_differently_is_left_to_one(text: str) -> None:
    assert not given_by_libyaml(text)
    assert_same(text)


ORDINARY = {
    "places": "a: 1\nb:\n  - c: [d, {e: f}]\n  -\n    g: h\n  - i\n",
    "nothings": "a:\nb:\n  -\n  - ~\n  -   # c\nd: {e, f: }\ng: []\n",
    "nothing at the end": "a:",
    "nothing merged": "a: b\n<<:\nc: d\n",
    "numbers and truth values": "- [yes, true, False, 0644, 0o17, 0x1f, 1_000, 1e3, .5, 1:30, 2024-01-01, ~]\n",
    "tags": "- [!!str 1, !!int '3', !!float 1, !!null '', !!bool true, ! 5]\n- !!map {a: b}\n- !!seq [c]\n",
    "tags that do not fit": "- !!int x\n- !!python/object:os.system x\n- !other x\n- !!set {a}\n- !!map [b]\n",
    "aliases": "a: &A {b: c}\nd: *A\ne: [*A, *A]\nf: *none\n",
    "an alias inside of itself": "a: &A [*A]\n",
    "merge keys": "a: &A {b: c, d: e}\nf: {<<: *A, d: g}\nh: {<<: [*A, {i: j}]}\nk: {<<: l}\n",
    "a key twice": "a: b\nc: d\na:\n",
    "keys that are no text": "[a, b]: c\n{{d}}: e\n",
    "texts": "a: 'it''s'\nb: \"c\\td\\n\\\n  e\"\nf: g\n  h\n\n  i\nj: \"k\n  l\"\n",
    "blocks": "a: |\n  b\n    c\n\n  d # e\nf: >-\n  g\n  h\n\n   i\nj: |+\n  k\n\nl: |2-\n    m\n",
    "a script": 'a: |\n  #!/bin/sh\n  if [ ! -f x ] && [ $y != z ]; then echo "$?" > /dev/null 2>&1 | cat; fi\n',
    "imports": "a: !text_import {url: 'file://t'}\nb: !yaml_import\n  url: file://i.yaml\nc: !yaml_import {url: file://no}\n",
    "other letters": 'a: é💥\nb: "ü\\u00e9"\né: c\n',
    "other ends of lines": "a: b\r\nc: |\r\n  d\r\n  e\r\nf:\r- g\r",
    "one document with its marks": "# a\n---\nb: c\n",
    "a second document": "a: b\n---\nc: d\n",
    "no last end of line": "a: |\n  b",
    "JSON": '{"a": [1, 2.5, true, null, "b\\n"], "c": {"d": []}}',
}


@pytest.mark.parametrize("text", ORDINARY.values(), ids=ORDINARY)
def test_what_is_ordinary_is_read_in_c(text: str) -> None:
    assert given_by_libyaml(text)
    assert_same(text)


MISTAKEN = {
    "a tab": "a:\n\tb: c\n",
    "an indentation": "a:\n  b: c\n d: e\n",
    "a colon": "a: b: c\n",
    "an open bracket": "a: [b, c\n",
    "an open quote": "a: 'b\n",
    "a sign": "a: @b\n",
    "an escape": 'a: "\\y"\n',
    "after other mistakes": "a: b\na: c\nd: *e\nf: [\n",
    "a control character": "a: \x07\n",
}


@pytest.mark.parametrize("text", MISTAKEN.values(), ids=MISTAKEN)
def test_what_is_no_yaml_is_told_in_the_same_words(text: str) -> None:
    tree, said = read(text, "libyaml")
    assert any("this is not YAML" in item.summary for item, *_ in said)
    assert (tree, said) == read(text, "ruamel")


@pytest.mark.parametrize("depth", [99, 100, 101, 3000])
@pytest.mark.parametrize(("opens", "closes"), [("[", "]"), ("{a: ", "}"), ("- ", "\n")])
def test_depth(opens: str, closes: str, depth: int) -> None:
    assert_same(opens * depth + "b" + closes * depth)


def test_a_billion_laughs() -> None:
    lines = ["a0: &a0 [b, b, b, b, b, b, b, b, b, b]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    text = "\n".join(lines) + "\n"
    tree, said = read(text, "libyaml")
    assert tree is None
    assert "too large" in said[0][0].summary
    assert (tree, said) == read(text, "ruamel")


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "piece", ["!", "!a", "! #", "! &", "&a", "*", "? ", "| #", "| ", "|\r", "> #", "|\n", "%", "...", ":", "' :", "\\"]
)
def test_looking_for_what_is_peculiar_does_not_take_longer_a_character(piece: str) -> None:
    """A text of a megabyte; what is looked at again from each place in it would take hours."""
    with contextlib.suppress(libyaml.Unread):
        next(libyaml.events("a: " + piece * (1_000_000 // len(piece))))
    with contextlib.suppress(libyaml.Unread):
        next(libyaml.events("a: '" + piece.replace("'", "") * (1_000_000 // len(piece)) + "'"))


def files() -> list[Path]:
    folders = [ROOT / "examples", ROOT / "tests", ROOT / "testbeds", CORPUS]
    return [path for folder in folders for ending in ("yaml", "yml") for path in sorted(folder.rglob(f"*.{ending}"))]


@pytest.mark.parametrize("path", files(), ids=lambda path: "/".join(path.parts[-3:]))
def test_the_files_that_there_are(path: Path) -> None:
    assert_same(path.read_text(encoding="utf-8"))


def test_a_large_description_is_read_in_c_and_compiles_to_the_same() -> None:
    names = [f"node-{index}" for index in range(300)]
    nodes = "".join(f"  - name: {name}\n    type: t\n    scaling: {{min: 1, max: 2}}\n" for name in names)
    edges = "".join(f"  - connection: [{later}, {sooner}]\n" for sooner, later in itertools.pairwise(names))
    definition = "node_def:t:\n- resource: {type: local, image: host}\n"
    text = f"infra_name: a\nnodes:\n{nodes}dependencies:\n{edges}{definition}"
    assert given_by_libyaml(text)
    assert_same(text)
    results = []
    for parser in ("libyaml", "ruamel"):
        with read_by(parser):
            results.append(compile_description({"x": text}, ["x"]))
    assert results[0] == results[1]


@pytest.fixture
def looked_for_again(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    libyaml._parser.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    libyaml._parser.cache_clear()


@pytest.mark.parametrize("name", ["yaml", "yaml._yaml"])
def test_without_libyaml_all_is_read_the_same(looked_for_again: pytest.MonkeyPatch, name: str) -> None:
    expected = compile_description({"x": GOOD}, ["x"])
    libyaml._parser.cache_clear()
    looked_for_again.delitem(sys.modules, "yaml._yaml", raising=False)
    looked_for_again.setitem(sys.modules, name, None)
    assert not given_by_libyaml(GOOD)
    assert compile_description({"x": GOOD}, ["x"]) == expected


def test_a_release_of_libyaml_that_was_not_compared_is_not_used(looked_for_again: pytest.MonkeyPatch) -> None:
    extension = importlib.import_module("yaml._yaml")
    other = SimpleNamespace(CParser=extension.CParser, get_version=lambda: (0, 3, 0))
    looked_for_again.setitem(sys.modules, "yaml._yaml", other)
    assert not given_by_libyaml(GOOD)


def test_the_collector_of_cycles_is_on_again_afterwards() -> None:
    assert gc.isenabled()
    compile_description({"x": GOOD}, ["x"])
    assert gc.isenabled()
    with pytest.raises(DescriptionError):
        compile_description({"x": "a: ["}, ["x"])
    assert gc.isenabled()
    gc.disable()
    try:
        compile_description({"x": GOOD}, ["x"])
        assert not gc.isenabled()
    finally:
        gc.enable()
