"""Templates: the ancestor's names and functions, strict names, places of what cannot be rendered, bounds."""

from __future__ import annotations

from typing import Any

import pytest
from ruamel.yaml import YAML

from pelagos.model.errors import DescriptionError
from pelagos.services.infrastructure.description import compile_description
from pelagos.services.infrastructure.source.problems import Source
from pelagos.services.infrastructure.templates import (
    InstanceInfo,
    Rendered,
    TemplateData,
    render_health_check,
    render_implementation,
)
from pelagos.services.infrastructure.templates.dump import dump
from pelagos.services.infrastructure.templates.environment import Runaway, run
from pelagos.services.infrastructure.values import Contextualisation, Implementation
from support.usable_types import only

INSTANCES = {
    "db": [
        InstanceInfo(
            node_id="d1", addresses=["192.0.2.1", "10.0.0.1"], private_addresses=["10.0.0.1"], data={"state": "ready"}
        ),
        InstanceInfo(node_id="d2", addresses=["192.0.2.2"]),
    ],
    "empty": [],
    "homeless": [InstanceInfo(node_id="h1")],
}


def data(**changes: Any) -> TemplateData:
    values: dict[str, Any] = {
        "infra_id": "1f2e",
        "infra_name": "shop",
        "user_id": "ann",
        "node_id": "ABCDEF01-2345",
        "name": "Web-Front",
        "type": "web_node",
        "variables": {"port": 80, "deep": {"a": "x"}, "items": "own", "quote": 'it\'s "so"\nand: so', "in": [1, 2]},
        "scaling": {"min": 1, "max": 3},
        "instances": INSTANCES,
    }
    return TemplateData(**{**values, **changes})


def text_of(template: str, **changes: Any) -> str:
    implementation = Implementation(
        resource_type="local", contextualisation=Contextualisation(type="cloudinit", context_template=template)
    )
    return render_implementation(implementation, data(**changes)).user_data


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ infra_id }} {{ infra_name }} {{ user_id }} {{ node_id }}", "1f2e shop ann ABCDEF01-2345"),
        ("{{ name }} {{ type }} {{ scaling.max }}", "Web-Front web_node 3"),
        ("{{ variables.port }} {{ variables['deep'].a }}", "80 x"),
        ("{{ variables.items }} {{ variables.in[1] }}", "own 2"),
        ("{{ variables.deep.items() | list }}", "[('a', 'x')]"),
        ("{{ getip('db') }}", "192.0.2.1"),
        ("{{ getprivip('db') }}", "10.0.0.1"),
        ("{{ getipall('db') }}", "['192.0.2.1', '192.0.2.2']"),
        ("{% for ip in getipall('db') %}{{ loop.index }}/{{ loop.length }}={{ ip }};{% endfor %}",
         "1/2=192.0.2.1;2/2=192.0.2.2;"),
        ("{{ find_node_id('db').node_id }} {{ find_node_id('db').state }}", "d1 ready"),
        ("{{ find_node_id('db').resource_address[0] }}", "192.0.2.1"),
        ("{{ ibget('infrastructure.name', infra_id) }}{{ ibget('infrastructure.name') }}", "shopshop"),
        ("{{ ibget('node.find', infra_id, name='db') | map(attribute='node_id') | join(' ') }}", "d1 d2"),
        ("{{ ibget('node.find', infra_id, 'd2', 'db')[0].resource_address[0] }}", "192.0.2.2"),
        ("{{ ibget('node.find', infra_id, name='empty') }}", "[]"),
        ("{{ ibget('node.find_one', infra_id, name='db') == find_node_id('db') }}", "True"),
        ("{{ ibget('node.find_one', node_id='d2', name='db').node_id }}", "d2"),
        ("{{ ibget('node.resource.address', find_node_id('db')) }}", "['192.0.2.1', '10.0.0.1']"),
        ("{{ ibget('node.resource.address', ibget('node.find_one', infra_id, 'd2', 'db')) }}", "192.0.2.2"),
        ("{{ ibget('node.resource.ip_address', find_node_id('db')) }}", "10.0.0.1"),
        ("{{ cut('abcdef', 1, 3) }}{{ cut(node_id, 0, 4) }}", "bcABCD"),
        ("{{ 'a' | b64encode }}", "YQ=="),
        ("{{ variables.nosuch | default('d') }}{{ variables.nosuch is defined }}", "dFalse"),
        ("{{ resource is defined }}", "True"),
        ("{{ '{{' }}.Node{{ '}}' }}", "{{.Node}}"),
        ("a\n{{ 1 }}\n", "a\n1\n"),
        ("{% set x = 2 %}{{ x ~ 'y' ~ 1 }}", "2y1"),
        ("{% macro m(a) %}<{{ a }}>{% endmacro %}{{ m(1) }}", "<1>"),
        ("{{ ['a', 'b'] | join('-') }}{{ 'x' | center(3) }}{{ 'a.b'.replace('.', '_') }}", "a-b x a_b"),
        ("{{ range(3) | list }}", "[0, 1, 2]"),
        ("{{ '%s:%03d' % ('a', 7) }}{{ '{}-{}'.format(1, 2) }}", "a:0071-2"),
        ("plain {text} with } braces", "plain {text} with } braces"),
    ],
)  # fmt: skip
def test_names_and_functions(template: str, expected: str) -> None:
    assert text_of(template) == expected


def test_a_command_of_the_host_runs_only_if_allowed() -> None:
    asked: list[Any] = []

    def run_command(argv: Any) -> str:
        asked.append(argv)
        return "out\n"

    with pytest.raises(DescriptionError, match="switched off"):
        text_of("{{ cmd('id') }}", run_command=run_command)
    assert asked == []
    assert text_of("{{ cmd('echo \"a b\" c') }}", run_command=run_command, cmd_allowed=True) == "out\n"
    assert asked == [["echo", "a b", "c"]]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ nosuch }}", "'nosuch' is undefined"),
        ("{{ variables.nosuch }}", "has no attribute 'nosuch'"),
        ("{{ variables.nosuch.deeper }}", "has no attribute 'nosuch'"),
        ("{{ getip('nosuch') }}", "there is no node 'nosuch'"),
        ("{{ getip('empty') }}", "has no instance yet"),
        ("{{ getip('homeless') }}", "has no such address"),
        ("{{ getip(variables.port) }}", "asked for by name, not by 80"),
        (
            "{{ ibget('backends.auth_data', 'resource', {}) }}",
            "is not offered; offered are infrastructure.name",
        ),
        ("{{ ibget(name) }}", "ibget('Web-Front') is not offered"),
        ("{{ ibget() }}", "ibget(None) is not offered"),
        ("{% set ask = ibget %}{{ ask('node.definition', 'db') }}", "is not offered"),
        ("{{ ibget('infrastructure.name', 'another') }}", "of this infrastructure alone"),
        ("{{ ibget('node.find', infra_id, infra_id=infra_id, name='db') }}", "each once"),
        ("{{ ibget('infrastructure.name', infra_id, 1) }}", "takes infra_id, each once"),
        ("{{ ibget('infrastructure.name', secret=1) }}", "takes infra_id, each once"),
        ("{{ ibget('node.find', infra_id) }}", "needs the name of a node"),
        ("{{ ibget('node.find', infra_id, name='nosuch') }}", "there is no node 'nosuch'"),
        ("{{ ibget('node.find_one', infra_id, name='empty') }}", "has no instance yet"),
        ("{{ ibget('node.find_one', infra_id, 'd9', 'db') }}", "the node 'db' has no instance 'd9'"),
        ("{{ ibget('node.resource.address', 'db') }}", "needs an instance with an address"),
        ("{{ ibget('node.resource.address', ibget('node.find_one', name='homeless')) }}", "with an address"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ ''.__class__.__mro__ }}", "access to attribute '__class__'"),
        ("{{ variables.update({'a': 1}) }}", "access to attribute 'update'"),
        ("{% include 'x' %}", "failed"),
    ],
)
def test_what_cannot_be_rendered(template: str, message: str) -> None:
    with pytest.raises(DescriptionError) as caught:
        text_of(template)
    assert message in caught.value.message
    assert len(caught.value.diagnostics) == 1


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(99999999) %}{% endfor %}",
        "{% for i in range(1000) %}{% for j in range(1000) %}{% endfor %}{% endfor %}",
        "{% macro m(n) %}{{ m(n) }}{% endmacro %}{{ m(1) }}",
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
        "{{ 'a' * 99999999999 }}",
        "{{ 2 ** 99999999 }}",
        "{% set x = 'aaaa' %}" + "{% set x = x ~ x %}" * 40,
        "{% set x = 'aaaa' %}" + "{% set x = x + x %}" * 40,
        "{% set x %}aaaa{% endset %}" + "{% set x %}{{ x }}{{ x }}{% endset %}" * 40,
        "{{ '%99999999d' % 1 }}",
        "{{ '{:>99999999}'.format(1) }}",
        "{{ 'a' | center(99999999) }}",
        "{{ 'a'.ljust(99999999) }}",
        "{{ ('a' * 1000) | replace('a', 'b' * 10000) }}",
        "{{ ('a' * 1000).replace('a', 'b' * 10000) }}",
        "{{ (['a' * 1000] * 10000) | join }}",
        "{{ 'a' | indent(99999999, true) }}",
        "{% for i in range(1000) %}" + "x" * 2000 + "{% endfor %}",
    ],
)
def test_a_runaway_template_is_stopped(template: str) -> None:
    with pytest.raises((Runaway, RecursionError)):
        run(template, {})


def rendered(definition: str, variables: str = "{}", **sources: str) -> Rendered:
    infra = (
        "infra_name: a\nnodes: [{name: web, type: t}, {name: db, type: t}]\n"
        f"dependencies: [[web, db]]\nvariables: {variables}\n"
    )
    result = compile_description({"i": infra, "d": definition, **sources}, ["i", "d"], unusable=only("local")).compiled
    node = result.nodes[0]
    made = TemplateData.for_node(node, infra_id="ID", infra_name="a", node_id="0123456789", instances=INSTANCES)
    return render_implementation(result.definitions["t"][0], made)


def test_a_mapping_is_rendered_leaf_by_leaf_and_is_always_yaml() -> None:
    """A value with quotes and line breaks would have broken the ancestor's rendering of the dumped text."""
    definition = """
node_def:t:
- resource: {type: local, image: '{{ variables.image }}', size: 3, name: '{{ name }}-cloud', list: ['{{ name }}', 1]}
  contextualisation:
    type: cloudinit
    context_template:
      write_files:
      - path: /etc/{{ name }}
        content: "{{ variables.text }}\\n"
        permissions: 0644
      - {path: /x, content: '{% for n in variables.list %}{{ n }},{% endfor %}'}
      runcmd:
      - [sh, -c, 'echo {{ variables.text }}']
      '{{ name }}-key': true
    attributes: {app: {id: '{{ node_id }}', n: 5}}
"""
    result = rendered(definition, """{image: host, text: "it's: \\"a\\"\\n - b\\n\\n", list: [1, 2]}""")
    text = 'it\'s: "a"\n - b\n\n'
    assert result.user_data.startswith("#cloud-config\n")
    assert YAML(typ="safe", pure=True).load(result.user_data) == {
        "write_files": [
            {"path": "/etc/web", "content": text + "\n", "permissions": "0644"},
            {"path": "/x", "content": "1,2,"},
        ],
        "runcmd": [["sh", "-c", f"echo {text}"]],
        "web-key": True,
    }
    assert result.options == {"image": "host", "size": 3, "list": ["web", 1]}
    assert (result.account_label, result.endpoint) == ("web-cloud", "")
    assert result.attributes == {"app": {"id": "0123456789", "n": 5}}
    assert result.hostname == "web-01234567"


def test_a_text_must_be_yaml_after_rendering_if_it_is_a_cloud_config() -> None:
    definition = (
        "node_def:t:\n- resource: {type: local}\n  contextualisation:\n    type: cloudinit\n    context_template: |\n"
        '      #cloud-config\n      runcmd:\n      - echo\n      - "{{ variables.text }}"\n'
    )
    assert rendered(definition, "{text: good}").user_data.endswith('- "good"\n')
    with pytest.raises(DescriptionError) as caught:
        rendered(definition, "{text: 'a\"b'}")
    (item,) = caught.value.diagnostics
    assert str(item.position) == "d:6:7"
    assert "(line 4 of the rendered text)" in item.summary
    script = definition.replace("#cloud-config", "#!/bin/sh")
    assert rendered(script, "{text: 'a\"b'}").user_data.startswith("#!/bin/sh\n")


def test_a_docker_context() -> None:
    definition = """
node_def:t:
- resource: {type: local}
  contextualisation:
    type: docker
    env: ['A={{ variables.a }}', 'B={{ host }}', 'C={{ inner.x | b64encode }}']
    command: [sh, -c, 'run {{ getip("db") }}']
    context_variables:
      host: '{{ getip("db") }}'
      inner: {x: 'y'}
"""
    found = rendered(definition, "{a: 1}")
    assert found.env == ("A=1", "B=192.0.2.1", "C=eQ==")
    assert found.command == ("sh", "-c", "run 192.0.2.1")
    assert found.user_data == ""
    as_text = definition.replace("context_variables:\n", "context_variables: |\n")
    assert (
        rendered(
            as_text.replace("'{{ getip", "{{ getip").replace(") }}'\n      inner", ") }}\n      inner"), "{a: 1}"
        ).env
        == found.env
    )


def test_cooked_is_passed_through() -> None:
    definition = (
        "node_def:t:\n- resource: {type: local, image: '{{ not }} a template {% at all'}\n"
        "  contextualisation: {type: cooked, anything: '{{ x'}\n"
    )
    found = rendered(definition)
    assert found.options == {"image": "{{ not }} a template {% at all"}
    assert found.attributes["anything"] == "{{ x"


def test_errors_at_rendering_have_the_place_of_their_template() -> None:
    """Names that only show as missing when rendered: below a condition, so not certain beforehand."""
    definition = (
        'node_def:t:\n- resource: {type: local, image: "{% if true %}{{ variables.x }}{% endif %}"}\n'
        "  contextualisation:\n    type: cloudinit\n    context_template: !text_import {url: 'file://c.sh'}\n"
        "    attributes:\n      a: '{% if 1 %}{{ getip(\"empty\") }}{% endif %}'\n"
    )
    with pytest.raises(DescriptionError) as caught:
        rendered(definition, **{"c.sh": "#!/bin/sh\n\n{% if true %}\necho {{ nothing }}\n{% endif %}\n"})
    assert [str(item.position) for item in caught.value.diagnostics] == ["d:2:35", "c.sh:4:1", "d:7:11"]
    assert "(and 2 more)" in caught.value.message


def test_health_checks() -> None:
    definition = """
node_def:t:
- resource: {type: local}
  health_check:
    ping: false
    urls: ['http://{{ip}}:{{ variables.port }}/{{ node_id }}']
    mysqldbs: [{name: '{{ variables.db }}', user: u, pass: '{{ variables.db | upper }}'}]
    command: [test, '{{ ip }}']
    timeout: 5
"""
    infra = "infra_name: a\nnodes:\n- {name: web, type: t, variables: {port: 8, db: x}}\n"
    result = compile_description({"i": infra, "d": definition}, ["i", "d"], unusable=only("local")).compiled
    implementation = result.definitions["t"][0]
    made = TemplateData.for_node(result.nodes[0], infra_id="ID", infra_name="a", node_id="N")
    check = render_health_check(implementation.health_check, "192.0.2.9", made, implementation)
    assert check.urls == ("http://192.0.2.9:8/N",)
    assert (check.mysqldbs[0].name, check.mysqldbs[0].user, check.mysqldbs[0].password) == ("x", "u", "X")
    assert check.command == ("test", "192.0.2.9")
    assert (check.ping, check.timeout, check.failures) == (False, 5.0, 3)


def test_mappings_are_there() -> None:
    infra = (
        "infra_name: a\nnodes: [{name: web, type: t}, {name: db, type: t}]\n"
        "dependencies: [{connection: [web, db], mappings: [[ip, db.host]]}]\n"
    )
    definition = "node_def:t:\n- resource: {type: local}\n"
    result = compile_description({"i": infra, "d": definition}, ["i", "d"], unusable=only("local")).compiled
    made = TemplateData.for_node(result.nodes[0], infra_id="ID", infra_name="a", node_id="N")
    assert made.mappings == {"inbound": {"db": [{"attributes": ["ip", "db.host"], "synch": False}]}, "outbound": {}}


@pytest.mark.parametrize(
    "text",
    ["a\nb", "a\nb\n", "a\n\n", "\na\n", " a\nb\n", "a\n \nb\n", "a\tb\n c\n",
        "# x\ny\n", "---\na\n", "a: b\n- c\n", "é\n☃\n", "x\r\ny\n", "\x85\n", "a\n  b\n c\n"],
)  # fmt: skip
def test_texts_survive_the_dump(text: str) -> None:
    value = {"a": [{"k": text, text[:3]: 1}, text], "b": {"c": {"d": text}}}
    assert YAML(typ="safe", pure=True).load(dump(value)) == value


def test_a_sources_lines() -> None:
    source = Source("x", "a\r\nb\n")
    assert [source.line(number) for number in range(5)] == ["", "a", "b", "", ""]
