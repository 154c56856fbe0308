"""Whatever text is given, the compiler answers with a value or with a DescriptionError, and in bounded time."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from pelagos.model.errors import DescriptionError
from pelagos.services.infrastructure.description import compile_description
from pelagos.services.infrastructure.templates import TemplateData, render_implementation
from pelagos.services.infrastructure.templates.dump import dump
from support.usable_types import only

pytestmark = pytest.mark.usefixtures("parser")

FRAGMENTS = [
    *("infra_name", "nodes", "name", "type", "scaling", "min", "max", "filter", "variables", "dependencies"),
    *("connection", "mappings", "attributes", "node_def:t", "resource", "contextualisation", "health_check", "ping"),
    *(
        "context_template",
        "cloudinit",
        "docker",
        "env",
        "command",
        "local",
        "t",
        "n",
        "user_id",
        "<<",
        "config_management",
    ),
    *(": ", ":\n  ", "\n", "\n- ", "- ", "  ", "[", "]", "{", "}", ", ", "&a ", "*a", "!text_import ", "!yaml_import "),
    *("url: 'file://x'", "url: file://i", "!!python/object:os.x ", "!!int ", "'", '"', "|\n", ">\n", "#", "%", "---\n"),
    *(
        "\\ud800",
        "\t",
        "\r",
        "?",
        "@",
        "`",
        "{{ variables.x }}",
        "{% for %}",
        "0",
        "1e9",
        "true",
        "~",
        "\ufeff",
        "é",
        "💥",
    ),
]
YAMLISH = st.lists(st.sampled_from(FRAGMENTS), max_size=40).map("".join)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
KEYS = st.sampled_from([item for item in FRAGMENTS[:27] if item.strip()]) | st.text(max_size=4)
TREES = st.recursive(
    SCALARS | st.sampled_from(FRAGMENTS[:27]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=6),
    max_leaves=20,
)


def attempt(sources: dict[str, str], entries: list[str]) -> None:
    try:
        result = compile_description(sources, entries, unusable=only("local"))
    except DescriptionError as error:
        assert error.diagnostics
        for item in error.diagnostics:
            if item.position is not None:
                assert item.position.line >= 1
                assert item.position.column >= 1
    else:
        assert result.compiled.name


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(YAMLISH, YAMLISH)
def test_any_text_of_fragments(infra: str, other: str) -> None:
    attempt({"i": infra, "x": other}, ["i", "x"])


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60))
def test_any_text(text: str) -> None:
    attempt({"i": text}, ["i"])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TREES, TREES, TREES)
def test_any_shape(nodes: object, dependencies: object, definition: object) -> None:
    """Well-formed YAML of every shape at every place."""
    infra = dump({"infra_name": "a", "nodes": nodes, "dependencies": dependencies, "node_def:t": definition})
    attempt({"i": infra}, ["i"])


@settings(max_examples=300, deadline=None)
@given(TREES)
def test_what_is_dumped_is_read_back_the_same(value: object) -> None:
    result = compile_description(
        {"i": dump({"infra_name": "a", "nodes": [], "variables": {"value": value}})}, ["i"]
    ).compiled.variables["value"]
    assert result == _as_read(value)
    YAML(typ="safe", pure=True).load("#cloud-config\n" + dump({"value": value}))


def _as_read(value: object) -> object:
    """Keys are text, numbers beyond 64 bits too."""
    if isinstance(value, dict):
        return {str(key): _as_read(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_read(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**63:
        return str(value)
    if isinstance(value, float) and abs(value) == float("inf"):
        return str(value)
    return value


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                *(
                    "{{",
                    "}}",
                    "{%",
                    "%}",
                    " for i in range(3) ",
                    " endfor ",
                    " if x ",
                    " endif ",
                    "variables",
                    ".a",
                    "|",
                ),
                *(
                    "getip(",
                    "'n'",
                    ")",
                    "cut(",
                    "[",
                    "]",
                    "~",
                    "*",
                    "10**9",
                    " set y = ",
                    " macro m() ",
                    " endmacro ",
                    "m()",
                ),
                *(
                    "upper",
                    "join",
                    "range(9)",
                    "not",
                    " is defined",
                    "loop.index",
                    "{#",
                    "#}",
                    "raw",
                    "''",
                    "self",
                    "__class__",
                ),
            ]
        ),
        max_size=15,
    ).map("".join)
)
def test_any_template(text: str) -> None:
    """Compiling and rendering end in a value or a DescriptionError."""
    definition = dump({"node_def:t": [{"resource": {"type": "local"}, "contextualisation": _context(text)}]})
    try:
        result = compile_description(
            {"i": "infra_name: a\nnodes: [{name: n, type: t}]\n", "d": definition}, ["i", "d"], unusable=only("local")
        ).compiled
        data = TemplateData.for_node(result.nodes[0], infra_id="i", infra_name="a", node_id="1")
        render_implementation(result.definitions["t"][0], data)
    except DescriptionError as error:
        assert error.diagnostics


def _context(text: str) -> dict[str, object]:
    return {"type": "cloudinit", "context_template": text, "attributes": {"a": text}}
