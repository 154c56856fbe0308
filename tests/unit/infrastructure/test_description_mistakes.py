"""Each mistake a description can have, with the exact place at which it is named."""

from __future__ import annotations

from typing import Any

import pytest

from pelagos.model.diagnostics import Diagnostic, Position, Severity
from pelagos.model.errors import DescriptionError
from pelagos.services.infrastructure.description import compile_definitions, compile_description
from pelagos.services.infrastructure.source.problems import Problems
from pelagos.services.infrastructure.values import ResourceProblem, StoredDefinition
from support.usable_types import only

pytestmark = pytest.mark.usefixtures("parser")

DEFINITION = "node_def:t:\n- resource: {type: local, image: host}\n"
GOOD = "infra_name: a\nnodes:\n- {name: n, type: t}\n"


def mistakes(infra: str, definition: str = DEFINITION, **more: str) -> list[Diagnostic]:
    """The errors of compiling a description with one definition file."""
    sources = {
        "infra.yaml": infra,
        "nodes.yaml": definition,
        **{name.replace("__", "."): t for name, t in more.items()},
    }
    with pytest.raises(DescriptionError) as caught:
        compile_description(sources, ["infra.yaml", "nodes.yaml"], unusable=only("local", "simulated"))
    return [item for item in caught.value.diagnostics if item.severity is Severity.ERROR]


def places(found: list[Diagnostic]) -> list[str]:
    return [str(item.position) for item in found]


INFRA_MISTAKES = {
    "no infra_name": ("nodes: []\n", "infra.yaml:1:1", "no 'infra_name'"),
    "no nodes": ("infra_name: a\n", "infra.yaml:1:1", "no 'nodes'"),
    "nodes empty": ("infra_name: a\nnodes:\n", "infra.yaml:2:1", "not nothing"),
    "nodes a mapping": ("infra_name: a\nnodes: {}\n", "infra.yaml:2:8", "must be a list, not a mapping"),
    "name with a dot": ("infra_name: a.b\nnodes: []\n", "infra.yaml:1:13", "contains a dot"),
    "name too long": (f"infra_name: {'a' * 64}\nnodes: []\n", "infra.yaml:1:13", "64 characters long"),
    "name with a newline": ('infra_name: "a\\n"\nnodes: []\n', "infra.yaml:1:13", "contains '\\n'"),
    "name a number": ("infra_name: 5\nnodes: []\n", "infra.yaml:1:13", "must be text, not the number 5"),
    "unknown key": (GOOD + "dependancies: []\n", "infra.yaml:4:1", "no key 'dependancies'"),
    "node without name": ("infra_name: a\nnodes:\n- type: t\n", "infra.yaml:3:3", "has no 'name'"),
    "node without type": ("infra_name: a\nnodes:\n- name: n\n", "infra.yaml:3:3", "node 'n' has no 'type'"),
    "node not a mapping": ("infra_name: a\nnodes:\n- n\n", "infra.yaml:3:3", "a node must be a mapping"),
    "node name": ("infra_name: a\nnodes:\n- {name: a_b, type: t}\n", "infra.yaml:3:10", "contains '_'"),
    "node key": ("infra_name: a\nnodes:\n- {name: n, type: t, scale: 1}\n", "infra.yaml:3:22", "no key 'scale'"),
    "same name twice": (
        "infra_name: a\nnodes:\n- {name: n, type: t}\n- {name: n, type: t}\n",
        "infra.yaml:4:10",
        "the first is at infra.yaml:3:10",
    ),
    "same node twice": (
        "infra_name: a\nnodes:\n- &N {name: n, type: t}\n- *N\n",
        "infra.yaml:3:13",
        "listed twice",
    ),
    "unknown type": (
        "infra_name: a\nnodes:\n- {name: n, type: tt}\n",
        "infra.yaml:3:19",
        "no node definition 'node_def:tt'",
    ),
    "scaling text": (
        "infra_name: a\nnodes:\n- name: n\n  type: t\n  scaling: {min: two}\n",
        "infra.yaml:5:18",
        "must be a whole number, not the text 'two'",
    ),
    "scaling truth": (
        "infra_name: a\nnodes:\n- name: n\n  type: t\n  scaling: {min: true}\n",
        "infra.yaml:5:18",
        "must be a whole number",
    ),
    "scaling negative": (
        "infra_name: a\nnodes:\n- name: n\n  type: t\n  scaling: {min: -1}\n",
        "infra.yaml:5:18",
        "must be from 0 to 100000",
    ),
    "scaling upside down": (
        "infra_name: a\nnodes:\n- name: n\n  type: t\n  scaling:\n    min: 3\n    max: 2\n",
        "infra.yaml:7:10",
        "'max' of the node 'n' is 2, less than its 'min' of 3",
    ),
    "scaling key": (
        "infra_name: a\nnodes:\n- name: n\n  type: t\n  scaling: {maximum: 3}\n",
        "infra.yaml:5:13",
        "no key 'maximum'",
    ),
    "filter a list": (
        "infra_name: a\nnodes:\n- {name: n, type: t, filter: [a]}\n",
        "infra.yaml:3:30",
        "must be a mapping",
    ),
    "filter fits none": (
        "infra_name: a\nnodes:\n- {name: n, type: t, filter: {type: ec2}}\n",
        "infra.yaml:3:30",
        "no implementation of 't' fits the filter",
    ),
    "variables a list": (GOOD + "variables: [a]\n", "infra.yaml:4:12", "'variables' must be a mapping"),
    "user a list": (GOOD + "user_id: [a]\n", "infra.yaml:4:10", "'user_id' must be text"),
    "unknown reference": (GOOD + "dependencies:\n- [n, m]\n", "infra.yaml:5:7", "there is no node 'm'"),
    "unknown alias": (GOOD + "dependencies:\n- [n, *M]\n", "infra.yaml:5:7", "no anchor &M"),
    "not a pair": (GOOD + "dependencies:\n- [n]\n", "infra.yaml:5:3", "a pair [dependent, dependee], not a list of 1"),
    "no connection": (GOOD + "dependencies:\n- mappings: []\n", "infra.yaml:5:3", "has no 'connection'"),
    "dependencies a mapping": (GOOD + "dependencies: {a: b}\n", "infra.yaml:4:15", "must be a list"),
    "reference a number": (
        GOOD + "dependencies:\n- [n, 5]\n",
        "infra.yaml:5:7",
        "by alias or name, not by the number 5",
    ),
    "reference to no node": (
        GOOD + "variables: &V {a: b}\ndependencies:\n- [n, *V]\n",
        "infra.yaml:6:3",
        "a mapping that is none of the nodes",
    ),
    "copy that differs": (
        GOOD + "dependencies:\n- [n, {name: n, type: other}]\n",
        "infra.yaml:5:7",
        "differs from the one at infra.yaml:3:3",
    ),
    "mapping of one": (
        "infra_name: a\nnodes: [{name: n, type: t}, {name: m, type: t}]\n"
        "dependencies:\n- connection: [n, m]\n  mappings: [[ip]]\n",
        "infra.yaml:5:14",
        "a pair [source attribute, destination attribute]",
    ),
    "depends on itself": (GOOD + "dependencies:\n- [n, n]\n", "infra.yaml:5:3", "'n' depends on itself"),
    "key twice": (GOOD + "infra_name: b\n", "infra.yaml:4:1", "'infra_name' is given twice; first at infra.yaml:1:1"),
    "tab": ("infra_name: a\nnodes:\n\t- x\n", "infra.yaml:3:1", "not YAML"),
    "unclosed": ("infra_name: [a\nnodes:\n", "infra.yaml:2:6", "not YAML"),
    "control character": ("infra_name: a\nnodes: []\nuser_id: a\x07b\n", "infra.yaml:3:11", "U+0007"),
    "a list": ("- a\n", "infra.yaml:1:1", "must hold a mapping, not a list"),
    "empty": ("", "infra.yaml:1:1", "the file is empty"),
    "two documents": (GOOD + "---\na: b\n", "infra.yaml:4:1", "a second YAML document"),
    "python object": (
        "infra_name: !!python/object/apply:os.system [id]\nnodes: []\n",
        "infra.yaml:1:13",
        "would run code",
    ),
    "python import": (GOOD + "variables: {a: !python_import [os]}\n", "infra.yaml:4:16", "code is never imported"),
    "unknown tag": (GOOD + "variables: {a: !text_imprt {url: 'file://x'}}\n", "infra.yaml:4:16", "!text_imprt is not"),
    "import without url": (GOOD + "variables: {a: !text_import {}}\n", "infra.yaml:4:16", "needs a 'url'"),
    "import by http": (
        GOOD + "variables: {a: !text_import {url: 'http://x/y'}}\n",
        "infra.yaml:4:35",
        "only the scheme file://",
    ),
    "import of nothing": (
        GOOD + "variables: {a: !text_import {url: 'file://x.txt'}}\n",
        "infra.yaml:4:35",
        "'x.txt' is not among the files given",
    ),
    "import of an absolute path": (
        GOOD + "variables: {a: !text_import {url: 'file:///etc/passwd'}}\n",
        "infra.yaml:4:35",
        "not a path relative to the importing file",
    ),
    "import from outside": (
        GOOD + "variables: {a: !yaml_import {url: 'file://../x.yaml'}}\n",
        "infra.yaml:4:35",
        "leads out of the bundle",
    ),
    "import of itself": (
        GOOD + "variables: !yaml_import {url: 'file://infra.yaml'}\n",
        "infra.yaml:4:31",
        "infra.yaml -> infra.yaml",
    ),
    "alias inside of itself": (GOOD + "variables: &V {a: *V}\n", "infra.yaml:4:19", "inside of what it means"),
    "merge of text": (GOOD + "variables: {<<: text}\n", "infra.yaml:4:17", "only mappings can be merged"),
    "key that is a template": (GOOD + "variables: {a: {{b}}}\n", "infra.yaml:4:17", "a key must be text"),
    "surrogate": (GOOD + 'variables: {a: "\\ud800"}\n', "infra.yaml:4:16", "half of a surrogate pair"),
    "second description": (
        "infra_name: a\nnodes: []\n",
        "nodes.yaml:1:1",
        "a second infrastructure description; the first is at infra.yaml:1:1",
    ),
}


@pytest.mark.parametrize("case", INFRA_MISTAKES)
def test_a_mistake_in_a_description_is_named_at_its_place(case: str) -> None:
    text, place, summary = INFRA_MISTAKES[case]
    found = mistakes(text, GOOD if case == "second description" else DEFINITION)
    assert place in places(found), [str(item) for item in found]
    item = next(item for item in found if str(item.position) == place)
    assert summary in item.summary


def test_only_the_one_mistake_is_reported() -> None:
    """No mistake drags others behind it."""
    for case, (text, _, _) in INFRA_MISTAKES.items():
        if case in ("node not a mapping", "tab", "unclosed"):
            continue
        found = mistakes(text, GOOD if case == "second description" else DEFINITION)
        assert len(found) == 1, (case, [str(item) for item in found])


RESOURCE = "node_def:t:\n- resource: {type: local, image: host}\n  "
DEFINITION_MISTAKES = {
    "no list": ("node_def:t: {resource: {type: local}}\n", "nodes.yaml:1:13", "must be a list of implementations"),
    "no implementation": ("node_def:t: []\n", "nodes.yaml:1:13", "lists no implementation"),
    "no resource": ("node_def:t:\n- health_check: {ping: false}\n", "nodes.yaml:2:3", "has no 'resource'"),
    "no type": ("node_def:t:\n- resource: {image: host}\n", "nodes.yaml:2:13", "'resource' has no 'type'"),
    "section": (RESOURCE + "contextualization: {}\n", "nodes.yaml:3:3", "no key 'contextualization'"),
    "no prefix": (DEFINITION + "nodedef:u: []\n", "nodes.yaml:3:1", "no key 'nodedef:u'"),
    "twice": (DEFINITION + "? 'node_def:t'\n: []\n", "nodes.yaml:3:3", "given twice; first at nodes.yaml:1:1"),
    "context type": (
        RESOURCE + "contextualisation: {type: cloudint}\n",
        "nodes.yaml:3:29",
        "no contextualisation of type",
    ),
    "context without template": (
        RESOURCE + "contextualisation: {type: cloudinit}\n",
        "nodes.yaml:3:22",
        "has no 'context_template'",
    ),
    "context key": (
        RESOURCE + "contextualisation: {type: cloudinit, context_template: x, env: []}\n",
        "nodes.yaml:3:61",
        "no key 'env'",
    ),
    "template a list": (
        RESOURCE + "contextualisation: {type: cloudinit, context_template: [x]}\n",
        "nodes.yaml:3:58",
        "must be text or a mapping",
    ),
    "docker without env": (
        RESOURCE + "contextualisation: {type: docker, command: x}\n",
        "nodes.yaml:3:22",
        "has no 'env'",
    ),
    "config type": (
        RESOURCE + "config_management: {type: ansible}\n",
        "nodes.yaml:3:29",
        "no config_management of type",
    ),
    "config key": (
        RESOURCE + "config_management: {type: chef, endpoint: x}\n",
        "nodes.yaml:3:22",
        "has no 'run_list'",
    ),
    "health key": (RESOURCE + "health_check: {pings: true}\n", "nodes.yaml:3:18", "no key 'pings'"),
    "ping a word": (
        RESOURCE + "health_check: {ping: no}\n",
        "nodes.yaml:3:24",
        "must be true or false, not the text 'no'",
    ),
    "port text": (RESOURCE + "health_check: {ports: [http]}\n", "nodes.yaml:3:26", "a port must be a whole number"),
    "port too large": (RESOURCE + "health_check: {ports: [80, 70000]}\n", "nodes.yaml:3:30", "from 1 to 65535"),
    "urls text": (RESOURCE + "health_check: {urls: http://x}\n", "nodes.yaml:3:24", "'urls' must be a list"),
    "timeout text": (RESOURCE + "health_check: {timeout: 5s}\n", "nodes.yaml:3:27", "must be a number"),
    "mysql key": (
        RESOURCE + "health_check: {mysqldbs: [{name: a, user: b}]}\n",
        "nodes.yaml:3:29",
        "has no 'pass'",
    ),
    "health type": (RESOURCE + "health_check: {type: deep}\n", "nodes.yaml:3:24", "no health check of type 'deep'"),
}


@pytest.mark.parametrize("case", DEFINITION_MISTAKES)
def test_a_mistake_in_a_definition_is_named_at_its_place(case: str) -> None:
    text, place, summary = DEFINITION_MISTAKES[case]
    found = mistakes(GOOD, text)
    assert places(found) == [place], [str(item) for item in found]
    assert summary in found[0].summary


CONTEXT = (
    RESOURCE + "contextualisation:\n    type: cloudinit\n    context_template: |\n      #cloud-config\n      runcmd:\n"
)
TEMPLATE_MISTAKES = {
    "unclosed": ("      - echo {{variables.x\n", "nodes.yaml:8:1", "syntax error"),
    "unknown tag": ("      - ok\n      - {% fi %}\n", "nodes.yaml:9:1", "syntax error"),
    "unknown filter": ("      - '{{ 1 | nosuch }}'\n", "nodes.yaml:8:1", "nosuch"),
    "unknown function": ("      - echo {{getips('n')}}\n", "nodes.yaml:8:16", "the function 'getips'"),
    "unknown name": ("      - echo {{infraid}}\n", "nodes.yaml:8:16", "the name 'infraid'"),
    "no variable": ("      - echo {{variables.y}}\n", "nodes.yaml:8:26", "'n' has no variable 'y'"),
    "no such node": ("      - echo {{getip('m')}}\n", "nodes.yaml:8:16", "there is no node of that name"),
    "include": ("      - '{% include \"x\" %}'\n", "nodes.yaml:8:1", "cannot include"),
    "ibget": (
        "      - '{{ ibget(\"backends.auth_data\") }}'\n",
        "nodes.yaml:8:13",
        "ibget('backends.auth_data') is not offered; offered are infrastructure.name, node.find,",
    ),
    "ibget not certainly": (
        "      - '{% if name %}{{ ibget(\"node.state\", 1) }}{% endif %}'\n",
        "nodes.yaml:8:26",
        "ibget('node.state') is not offered",
    ),
    "ibget of something": ("      - '{{ ibget(name) }}'\n", "nodes.yaml:8:13", "must be a text that stands there"),
    "ibget of all": ("      - '{{ ibget(*name) }}'\n", "nodes.yaml:8:13", "must be a text that stands there"),
    "ibget of no node": (
        "      - '{{ ibget(\"node.find\", infra_id) }}'\n",
        "nodes.yaml:8:13",
        "needs the name of a node",
    ),
    "ibget of a strange node": (
        '      - \'{{ ibget("node.find", infra_id, None, "m") }}\'\n',
        "nodes.yaml:8:13",
        "there is no node of that name",
    ),
}


@pytest.mark.parametrize("case", TEMPLATE_MISTAKES)
def test_a_mistake_in_a_template_is_named_at_its_place(case: str) -> None:
    text, place, summary = TEMPLATE_MISTAKES[case]
    found = mistakes(GOOD, CONTEXT + text)
    assert [item.position.line for item in found if item.position] == [int(place.split(":")[1])], found
    assert summary in found[0].summary
    if not place.endswith(":1"):
        assert places(found) == [place]


def test_what_a_template_asks_for_conditionally_is_no_mistake() -> None:
    text = CONTEXT + (
        "      - '{% if variables.y is defined %}{{ variables.y }}{{ getip(variables.y) }}{% endif %}'\n"
        "      - '{{ variables.z | default(1) }}{{ variables.get(\"q\") }}'\n"
        "      - '{% for k, v in variables.items() %}{{ k }}={{ v }}{% endfor %}'\n"
        "      - '{% set own = 5 %}{{ own }}'\n"
    )
    result = compile_description({"i": GOOD, "n": text}, ["i", "n"], unusable=only("local"))
    assert result.warnings == ()


def test_a_mistake_in_an_imported_text_is_named_in_that_file() -> None:
    definition = (
        RESOURCE
        + "contextualisation:\n    type: cloudinit\n    context_template: !text_import {url: 'file://boot/c.sh'}\n"
    )
    sources = {
        "infra.yaml": GOOD,
        "defs/nodes.yaml": definition,
        "defs/boot/c.sh": "#!/bin/sh\necho {{ name }}\n  echo {{ variables.port }}\n",
    }
    with pytest.raises(DescriptionError) as caught:
        compile_description(sources, ["infra.yaml", "defs/nodes.yaml"], unusable=only("local"))
    (item,) = caught.value.diagnostics
    assert str(item.position) == "defs/boot/c.sh:3:21"
    assert item.source == "  echo {{ variables.port }}"


def test_a_mistake_in_an_imported_mapping_is_named_in_that_file() -> None:
    sources = {
        "infra.yaml": "infra_name: a\nnodes:\n- !yaml_import {url: 'file://sub/n.yaml'}\n",
        "sub/n.yaml": "name: n\ntype: t\nvariables: !yaml_import\n  url: file://v.yaml\n",
        "sub/v.yaml": "a: 1\na: 2\n",
        "nodes.yaml": DEFINITION,
    }
    with pytest.raises(DescriptionError) as caught:
        compile_description(sources, ["infra.yaml", "nodes.yaml"], unusable=only("local"))
    assert [str(item) for item in caught.value.diagnostics] == [
        "sub/v.yaml:2:1: the key 'a' is given twice; first at sub/v.yaml:1:1"
    ]


def test_imports_in_a_circle_are_named_with_the_path() -> None:
    sources = {
        "infra.yaml": GOOD + "variables: !yaml_import {url: 'file://a.yaml'}\n",
        "a.yaml": "x: !yaml_import {url: 'file://b.yaml'}\n",
        "b.yaml": "y: !yaml_import {url: 'file://./a.yaml'}\n",
        "nodes.yaml": DEFINITION,
    }
    with pytest.raises(DescriptionError) as caught:
        compile_description(sources, ["infra.yaml", "nodes.yaml"], unusable=only("local"))
    assert [str(item) for item in caught.value.diagnostics] == [
        "b.yaml:1:23: the imports run in a circle: a.yaml -> b.yaml -> a.yaml"
    ]


def test_a_cycle_is_named_with_its_path() -> None:
    nodes = "".join(f"- {{name: {name}, type: t}}\n" for name in "abcde")
    found = mistakes(
        f"infra_name: x\nnodes:\n{nodes}dependencies:\n- [a, b]\n- [b, c]\n- [c, d]\n- [d, b]\n- connection: [e, e]\n"
    )
    assert [str(item) for item in found] == [
        "infra.yaml:10:3: the dependencies run in a circle: b -> c -> d -> b",
        "infra.yaml:13:15: the node 'e' depends on itself",
    ]


def test_all_mistakes_are_reported_at_once_in_order_of_their_places() -> None:
    infra = (
        "infra_name: a.b\n"
        "nodes:\n"
        "- {name: n, type: t, scaling: {min: 2, max: 1}}\n"
        "- {name: n, type: nosuch}\n"
        "dependencies:\n"
        "- [n, m]\n"
        "extra: 1\n"
    )
    definition = "node_def:t:\n- resource: {type: local, image: host}\n  health_check: {ping: maybe, ports: [0]}\n"
    found = mistakes(infra, definition)
    assert places(found) == [
        "infra.yaml:1:13",
        "infra.yaml:3:45",
        "infra.yaml:4:10",
        "infra.yaml:6:7",
        "infra.yaml:7:1",
        "nodes.yaml:3:24",
        "nodes.yaml:3:39",
    ]


def test_a_type_that_no_cloud_has_is_told_where_a_node_uses_it() -> None:
    found = mistakes(GOOD, "node_def:t:\n- resource: {type: ec3, endpoint: x}\n")
    assert places(found) == ["infra.yaml:3:19"]
    assert found[0].summary == "node 'n' cannot be made here: the pool has no account of driver 'ec3'"
    assert found[0].advice == "add a ec3"


def test_the_drivers_check_is_asked_and_its_problems_have_places() -> None:
    asked = []

    def check(kind: str, section: dict[str, object]) -> list[ResourceProblem]:
        asked.append((kind, section))
        return [
            ResourceProblem("image", "'image' is unknown"),
            ResourceProblem(None, "'size' is missing"),
            ResourceProblem("memory", "'memory' must be a number"),
        ]

    definition = (
        "node_def:t:\n- resource:\n    type: local\n    name: here\n    endpoint: e\n    image: x\n"
        "    memory: '{{ variables.m }}'\n"
    )
    with pytest.raises(DescriptionError) as caught:
        compile_definitions({"d": definition}, ["d"], check_resource=check)
    section = {"type": "local", "name": "here", "endpoint": "e", "image": "x", "memory": "{{ variables.m }}"}
    assert asked == [("local", section)]
    assert [str(item) for item in caught.value.diagnostics] == ["d:3:5: 'size' is missing", "d:6:5: 'image' is unknown"]


def test_only_definitions_can_be_imported_alone() -> None:
    with pytest.raises(DescriptionError) as caught:
        compile_definitions({"d": GOOD + DEFINITION}, ["d"])
    assert [str(item.position) for item in caught.value.diagnostics] == ["d:1:1", "d:2:1"]


def test_stored_definitions_are_used_where_the_bundle_has_none() -> None:
    stored = StoredDefinition(
        file="lib/t.yaml",
        sources={
            "lib/t.yaml": RESOURCE
            + "contextualisation: {type: cloudinit, context_template: !text_import {url: 'file://x'}}\n",
            "lib/x": "#!/bin/sh\n",
        },
    )
    result = compile_description({"i": GOOD}, ["i"], stored={"t": stored}, unusable=only("local"))
    (implementation,) = result.compiled.definitions["t"]
    assert implementation.contextualisation.context_template == "#!/bin/sh\n"
    own = compile_description({"i": GOOD, "d": DEFINITION}, ["i", "d"], stored={"t": stored}, unusable=only("local"))
    assert own.compiled.definitions["t"][0].contextualisation.context_template == ""


def test_a_billion_laughs_are_refused() -> None:
    lines = ["variables:", "  l0: &l0 lol"]
    lines += [f"  l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]" for i in range(1, 10)]
    found = mistakes(GOOD + "\n".join(lines) + "\n")
    assert [str(item) for item in found] == ["infra.yaml:12:22: too large once aliases and imports are expanded"]


def test_deep_nesting_is_refused() -> None:
    assert "nested deeper than 100 levels" in mistakes(GOOD + f"variables: {'[' * 5000}\n")[0].summary
    lines = ["variables:", "  a0: &a0 [x]"] + [f"  a{i}: &a{i} [*a{i - 1}]" for i in range(1, 200)]
    assert "nested deeper than 100 levels" in mistakes(GOOD + "\n".join(lines) + "\n")[0].summary


def test_very_many_mistakes_are_counted_and_told_soon() -> None:
    nodes = "".join(f"- {{name: n{i}, type: t, x{i}: 1}}\n" for i in range(2000))
    edges = "".join(f"- {{connection: [n{i}, m{i}]}}\n" for i in range(2000))
    found = mistakes(f"infra_name: a\nnodes:\n{nodes}dependencies:\n{edges}")
    assert len(found) == 201
    assert found[-1].summary == "and 3800 more"
    assert places(found)[:2] == ["infra.yaml:3:23", "infra.yaml:4:23"]


def test_errors_are_shown_before_warnings_where_there_are_too_many() -> None:
    problems = Problems()
    for number in range(500):
        problems.warning(f"w{number}", Position("a", number + 1))
        problems.error("e", Position("a", number + 1)) if number % 5 == 0 else None
    found = problems.sorted()
    assert sum(item.severity is Severity.ERROR for item in found) == 100 + 1
    assert sum(item.severity is Severity.WARNING for item in found) == 100
    assert found[-1].summary == "and 400 more"
    with pytest.raises(DescriptionError, match="e \\(and 99 more\\)"):
        problems.raise_if_failed()


CMD = """'node_def:t':
  - resource: {type: local}
    contextualisation:
      type: cloudinit
      context_template:
        runcmd:
          - "echo {{ %s }}"
  - resource: {type: local}
"""


def commanded(expression: str, definition: str = CMD, **options: Any) -> list[Diagnostic]:
    """What is said of a definition whose template has that expression."""
    sources = {"infra.yaml": GOOD, "nodes.yaml": definition % expression}
    try:
        result = compile_description(sources, ["infra.yaml", "nodes.yaml"], **options)
    except DescriptionError as error:
        return list(error.diagnostics)
    return list(result.warnings)


def test_commands_are_told_where_they_are_switched_off() -> None:
    (found,) = commanded("cmd('date')", commands=False)
    assert found.severity is Severity.ERROR
    assert found.summary == "cmd() runs commands on the control plane's host and is switched off"
    assert "commands: allowed" in found.advice
    assert str(found.position) == "nodes.yaml:7:22"
    assert commanded("cmd('date')") == [], "allowed"


def test_a_command_that_may_not_be_reached_is_a_warning() -> None:
    (found,) = commanded("cmd('date') if name == 'other' else 'x'", commands=False)
    assert found.severity is Severity.WARNING and "where this is reached" in found.summary


def test_commands_of_what_no_node_is_made_from_are_nobodys_mistake() -> None:
    other = CMD.replace("node_def:t", "node_def:unused") + "'node_def:t':\n  - resource: {type: local}\n"
    assert commanded("cmd('date')", other, commands=False) == []
