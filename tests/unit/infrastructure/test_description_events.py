"""The trimmed parser of ruamel gives the library's own events, for any text."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from pelagos.services.infrastructure.source.problems import Problems, Source
from pelagos.services.infrastructure.source.ruamels import events


def seen(event: Any) -> tuple[Any, ...]:
    """All of an event that anyone could look at."""
    marks = [(mark.index, mark.line, mark.column) for mark in (event.start_mark, event.end_mark)]
    names = ("anchor", "value", "style", "implicit", "flow_style", "explicit", "comment")
    tag = None if getattr(event, "ctag", None) is None else str(event.ctag)
    return type(event).__name__, marks, tag, *(getattr(event, name, None) for name in names)


def stock(text: str) -> tuple[list[Any], str]:
    """The library's events, and what it says of the text in the end."""
    found: list[Any] = []
    try:
        for event in YAML(typ="safe", pure=True).parse(text):
            found.append(seen(event))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{mark.line + 1}:{mark.column + 1}" if mark is not None else "1:1"
        return found, " ".join(str(part) for part in (place, error.context, error.problem) if part)
    except (YAMLError, AssertionError, IndexError, ValueError, AttributeError) as error:
        return found, type(error).__name__
    return found, ""


def ours(text: str) -> tuple[list[Any], str]:
    problems = Problems()
    found = [seen(event) for event in events(Source("x.yaml", text), problems)]
    said = ""
    for problem in problems.sorted():
        assert problem.position is not None
        place = f"{problem.position.line}:{problem.position.column}"
        said = f"{place} {problem.summary.removeprefix('this is not YAML: ')}"
    return found, said


def assert_same(text: str) -> None:
    """The same events and the same words. Where a text fails, the one way may have come a little further before."""
    our_events, we_say = ours(text)
    its_events, it_says = stock(text)
    both = min(len(our_events), len(its_events)) if it_says else None
    assert our_events[:both] == its_events[:both]
    if " " in it_says:
        assert we_say == it_says
    else:
        assert bool(we_say) == bool(it_says)


LINES = st.sampled_from(
    [
        "nodes:",
        "- name: web",
        "-   name: web",
        "name: web",
        "type: a/b.c-d",
        "- connection: [web, store]",
        "- connection: [web,store,  lb]",
        "connection: [web]",
        "key: [a: b]",
        "key: [a, ]",
        "key: two words",
        "key: 'quoted'",
        'key: "also\\nso"',
        "'quoted': word",
        "going on",
        "- going on",
        "-",
        "- - name: web",
        "? name: web",
        "key: &anchor",
        "&anchor name: web",
        "- *anchor",
        "- !tag name: web",
        "key: |",
        "key: >-",
        "# a comment",
        "key: word # a comment",
        "key: word  ",
        "key:word",
        "key: 12",
        "",
        "---",
        "--- name: web",
        "...",
        "%YAML 1.1",
        "{name: web,",
        "[name: web",
        "}",
        "]",
        "key: [web,",
        "\tname: web",
        "\ufeffname: web",
        "k" * 1100 + ": word",
        ": word",
        "yes: no",
    ]
)
TEXTS = st.lists(
    st.tuples(st.integers(0, 5), LINES, st.sampled_from(["\n", "\n", "\n", "\n", "\r\n", "\r", "\n\n"])), max_size=14
).map(lambda lines: "".join(" " * indent + line + end for indent, line, end in lines))


@settings(max_examples=1500, deadline=None)
@given(TEXTS)
def test_any_lines(text: str) -> None:
    assert_same(text)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab: -[],\n#'\"&*!|>?{}%.\t", max_size=60))
def test_any_text(text: str) -> None:
    assert_same(text)


@pytest.mark.parametrize("dash", ["", "  "])
def test_a_description_in_the_usual_form(dash: str) -> None:
    names = [f"node-{index}" for index in range(30)]
    lines = ["infra_name: x", "user_id: u", "", "nodes:"]
    for name in names:
        lines += [f"{dash}- &{name}", f"{dash}  name: {name}", f"{dash}  type: bench", f"{dash}  scaling:"]
        lines += [f"{dash}    min: 1", f"{dash}    max: 2"]
    lines.append("dependencies:")
    lines += [f"{dash}- connection: [{a}, {b}]" for a, b in itertools.pairwise(names)]
    text = "\n".join(lines) + "\n"
    events, said = ours(text)
    assert not said and len(events) > 500
    assert (events, said) == stock(text)
