"""What a correct description compiles to."""

from __future__ import annotations

import msgspec
import pytest

from pelagos.services.infrastructure.description import compile_definitions, compile_description
from pelagos.services.infrastructure.values import AttributeMapping, CompiledInfrastructure
from support.usable_types import only

pytestmark = pytest.mark.usefixtures("parser")

DEFINITIONS = """
'node_def:web_node':
  - resource: {type: local, name: here, image: host, size: 1}
    contextualisation:
      type: cloudinit
      context_template: !text_import {url: 'file://web.sh'}
    health_check:
      ports: [80]
      urls: ['http://{{ip}}/ping']
      command: 'test -f /ready'
      timeout: 30
      grace: 1.5
      failures: 2
      probe_timeout: 0.5
  - resource: {type: simulated, size: 2}
  - resource: {type: ec2, endpoint: e, regionname: r, image_id: i, instance_type: t}
'node_def:db_node':
  - resource: {type: local, image: host}
"""
INFRA = """
infra_name: shop
user_id: ann
variables: {tier: test, deep: {a: 1, b: [1, 2]}}
nodes:
  - &DB {name: db, type: db_node}
  - &WEB
    name: web
    type: web_node
    scaling: {min: 2, max: 6}
    variables: {tier: front, deep: {b: [3], c: 0644}}
dependencies:
  - connection: [*WEB, *DB]
    mappings:
      - [fqdn, app.db.host]
      - {attributes: [port, app.db.port], synch: true}
"""
SOURCES = {"shop.yaml": INFRA, "defs/nodes.yaml": DEFINITIONS, "defs/web.sh": "#!/bin/sh\necho {{ getip('db') }}\n"}
ENTRIES = ["shop.yaml", "defs/nodes.yaml"]


def compiled(infra: str = INFRA, definitions: str = DEFINITIONS) -> CompiledInfrastructure:
    sources = {**SOURCES, "shop.yaml": infra, "defs/nodes.yaml": definitions}
    return compile_description(sources, ENTRIES, unusable=only("local", "simulated")).compiled


def test_the_whole() -> None:
    result = compiled()
    assert (result.name, result.user_id) == ("shop", "ann")
    assert [node.name for node in result.nodes] == ["db", "web"]
    db, web = result.nodes
    assert (db.min, db.max, db.depends_on, db.variables) == (1, 1, (), {"tier": "test", "deep": {"a": 1, "b": [1, 2]}})
    assert (web.min, web.max, web.depends_on) == (2, 6, ("db",))
    assert web.variables == {"tier": "front", "deep": {"a": 1, "b": [3], "c": "0644"}}
    assert web.mappings == (
        AttributeMapping(dependee="db", source="fqdn", target="app.db.host"),
        AttributeMapping(dependee="db", source="port", target="app.db.port", synch=True),
    )
    assert str(web.position) == "shop.yaml:7:5"
    first = result.definitions["web_node"][0]
    assert (first.resource_type, first.account_label, first.resource["size"]) == ("local", "here", 1)
    assert first.contextualisation.context_template == SOURCES["defs/web.sh"]
    assert str(first.contextualisation.position) == "defs/web.sh:1:1"
    health = first.health_check
    assert (health.ports, health.urls, health.command) == (
        (80,),
        ("http://{{ip}}/ping",),
        ("/bin/sh", "-c", "test -f /ready"),
    )
    assert (health.timeout, health.grace, health.failures, health.probe_timeout) == (30.0, 1.5, 2, 0.5)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(result), type=CompiledInfrastructure) == result
    assert msgspec.json.decode(msgspec.json.encode(result), type=CompiledInfrastructure) == result


def test_implementations_of_unknown_types_are_passed_over_with_a_warning() -> None:
    result = compile_description(SOURCES, ENTRIES, unusable=only("local", "simulated"))
    assert result.compiled.nodes[1].implementations == (0, 1)
    (warning,) = result.warnings
    assert str(warning.position) == "defs/nodes.yaml:16:5"
    everything = compile_description(SOURCES, ENTRIES)
    assert everything.compiled.nodes[1].implementations == (0, 1, 2)


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [("{type: simulated}", (1,)), ("{size: 1}", (0,)), ("{size: 2, type: simulated}", (1,)), ("{}", (0, 1))],
)
def test_a_filter_chooses_by_equal_values(wanted: str, chosen: tuple[int, ...]) -> None:
    infra = (
        f"infra_name: a\nnodes:\n- {{name: n, type: web_node, filter: {wanted}, variables: {{}}}}\n"
        "- {name: db, type: db_node}\n"
    )
    assert compiled(infra).nodes[0].implementations == chosen


REFERENCES = {
    "alias": "[*W, *D]",
    "name": "[web, db]",
    "alias and name": "[*W, 'db']",
    "copy": "[{name: web, type: web_node}, {type: db_node, name: db}]",
    "mapping with aliases": "{connection: [*W, *D]}",
    "mapping with names": "{connection: [web, db], mappings: []}",
    "merged": "{<<: {connection: [*W, *D]}}",
}


@pytest.mark.parametrize("form", REFERENCES)
def test_every_form_of_reference_means_the_same(form: str) -> None:
    infra = (
        "infra_name: a\nnodes:\n- &W {name: web, type: web_node}\n- &D {name: db, type: db_node}\n"
        f"dependencies:\n- {REFERENCES[form]}\n"
    )
    result = compiled(infra)
    assert [node.depends_on for node in result.nodes] == [("db",), ()]


def test_edges_given_twice_are_one_with_both_mappings() -> None:
    infra = (
        "infra_name: a\nnodes: [{name: web, type: web_node}, {name: db, type: db_node}]\ndependencies:\n"
        "- {connection: [web, db], mappings: [[a, b]]}\n- {connection: [web, db], mappings: [[a, b], [c, d]]}\n"
    )
    web = compiled(infra).nodes[0]
    assert web.depends_on == ("db",)
    assert [(mapping.source, mapping.target) for mapping in web.mappings] == [("a", "b"), ("c", "d")]


@pytest.mark.parametrize(
    ("scaling", "limits"),
    [
        ("{min: 0}", (0, 0)),
        ("{min: 0, max: 3}", (0, 3)),
        ("{min: 5}", (5, 5)),
        ("{max: 4}", (1, 4)),
        ("{max: 0}", (0, 0)),
        ("", (1, 1)),
        ("{}", (1, 1)),
        ("{min: , max: 2}", (1, 2)),
    ],
)
def test_scaling_limits(scaling: str, limits: tuple[int, int]) -> None:
    infra = f"infra_name: a\nnodes:\n- name: n\n  type: db_node\n  scaling: {scaling}\n"
    node = compiled(infra).nodes[0]
    assert (node.min, node.max) == limits


def test_names_that_the_rule_allows() -> None:
    for name in ("a" * 63, "-a", "a-", "A1", "'007'"):
        assert compiled(f"infra_name: {name}\nnodes: []\n").name == name.strip("'")


def test_the_fingerprint_changes_with_what_instances_are_made_from_and_with_nothing_else() -> None:
    before = [node.fingerprint for node in compiled().nodes]
    same = [
        compiled("# moved\n\n" + INFRA),
        compiled(INFRA.replace("min: 2, max: 6", "min: 1, max: 9")),
        compiled(definitions=DEFINITIONS.replace("timeout: 30", "timeout: 40")),
        compiled(INFRA.replace("infra_name: shop", "infra_name: shop2")),
    ]
    for other in same:
        assert [node.fingerprint for node in other.nodes] == before
    web_only = [
        compiled(INFRA.replace("tier: front", "tier: back")),
        compiled(definitions=DEFINITIONS.replace("size: 1", "size: 3")),
        compiled(INFRA.replace("type: web_node\n", "type: web_node\n    filter: {type: local}\n")),
    ]
    for other in web_only:
        assert other.nodes[0].fingerprint == before[0]
        assert other.nodes[1].fingerprint != before[1]
    text = {**SOURCES, "defs/web.sh": "#!/bin/sh\ntrue\n"}
    assert (
        compile_description(text, ENTRIES, unusable=only("local", "simulated")).compiled.nodes[1].fingerprint
        != before[1]
    )


def test_a_node_asked_for_without_a_dependency_is_a_warning_and_an_indirect_one_is_enough() -> None:
    nodes = "infra_name: a\nnodes:\n" + "".join(
        f"- {{name: {name}, type: {kind}}}\n"
        for name, kind in (("web", "web_node"), ("mid", "db_node"), ("db", "db_node"))
    )
    sources = {**SOURCES, "shop.yaml": nodes}
    found = compile_description(sources, ENTRIES, unusable=only("local", "simulated", "ec2")).warnings
    assert [str(item.position) for item in found] == ["defs/web.sh:2:9"]
    assert "does not depend on 'db'" in found[0].summary
    sources["shop.yaml"] += "dependencies: [[web, mid], [mid, db]]\n"
    assert compile_description(sources, ENTRIES, unusable=only("local", "simulated", "ec2")).warnings == ()


def test_a_variable_that_names_no_node_is_named_with_the_function() -> None:
    from pelagos.model.errors import DescriptionError

    sources = {**SOURCES, "defs/web.sh": "echo {{ getip(variables.tier) }}\n"}
    with pytest.raises(DescriptionError) as caught:
        compile_description(sources, ENTRIES, unusable=only("local", "simulated"))
    errors = [item for item in caught.value.diagnostics if item.severity == "error"]
    assert [str(item) for item in errors] == [
        "defs/web.sh:1:9: getip('front') of node 'web': there is no node of that name"
    ]


def test_yaml_values_mean_what_they_say() -> None:
    infra = (
        "infra_name: a\nnodes: []\nvariables:\n"
        "  list: [1, 1.5, true, null, ~, yes, 0644, 2020-01-01, 0x1f, 1_000, -3]\n"
        "  text: !!str 5\n  big: 123456789012345678901234567890\n  80: port\n"
        "  base: &B {x: 1, y: 2}\n  own: {<<: *B, y: 3}\n"
    )
    variables = compiled(infra).variables
    assert variables["list"] == [1, 1.5, True, None, None, "yes", "0644", "2020-01-01", 31, 1000, -3]
    assert variables["text"] == "5"
    assert variables["big"] == "123456789012345678901234567890"
    assert variables["80"] == "port"
    assert variables["own"] == {"y": 3, "x": 1}


def test_an_anchored_import_can_be_merged_and_aliased() -> None:
    sources = {
        "i": "infra_name: a\nnodes: []\nvariables:\n  base: &B !yaml_import {url: 'file://b.yaml'}\n"
        "  more: {<<: *B, z: 1}\n  again: *B\n",
        "b.yaml": "x: 1\n",
    }
    variables = compile_description(sources, ["i"]).compiled.variables
    assert variables == {"base": {"x": 1}, "more": {"z": 1, "x": 1}, "again": {"x": 1}}


def test_windows_line_ends_and_a_byte_order_mark() -> None:
    result = compiled("\ufeff" + INFRA.replace("\n", "\r\n"))
    assert [node.name for node in result.nodes] == ["db", "web"]
    assert str(result.nodes[1].position) == "shop.yaml:7:5"


def test_config_management_is_kept_and_warned_about_where_it_cannot_be_carried_out() -> None:
    text = "node_def:t:\n- resource: {type: local}\n  config_management: {type: chef, endpoint: e, run_list: [a]}\n"
    docker = f"{text}  contextualisation: {{type: docker, env: [A=b]}}\n"
    result = compile_description(
        {"i": "infra_name: a\nnodes: [{name: n, type: t}]\n", "d": text}, ["i", "d"], unusable=only("local")
    )
    (implementation,) = result.compiled.definitions["t"]
    assert implementation.config_management == {"type": "chef", "endpoint": "e", "run_list": ["a"]}
    assert result.warnings == ()
    result = compile_description(
        {"i": "infra_name: a\nnodes: [{name: n, type: t}]\n", "d": docker}, ["i", "d"], unusable=only("local")
    )
    assert [str(item.position) for item in result.warnings] == ["d:2:3"]


def test_definitions_alone() -> None:
    found = compile_definitions(SOURCES, ["defs/nodes.yaml"]).definitions
    assert {name: len(items) for name, items in found.items()} == {"web_node": 3, "db_node": 1}


def test_one_file_may_hold_everything() -> None:
    both = INFRA + DEFINITIONS.replace("!text_import {url: 'file://web.sh'}", "echo")
    result = compile_description({"all.yaml": both}, ["all.yaml"], unusable=only("local"))
    assert len(result.compiled.nodes) == 2
