"""What an instance is made from: all that reaches it, and nothing else."""

from __future__ import annotations

import pytest

from pelagos.services.infrastructure.comparing import differences
from pelagos.services.infrastructure.description import compile_description
from pelagos.services.infrastructure.made_from import Sources, digest_of, renamed
from pelagos.services.infrastructure.templates.facts import uses_of


def compiled(node: str = "", context: str = "", variables: str = "{}", **resource: str):
    keys = "".join(f", {key}: {value}" for key, value in resource.items())
    text = f"infra_name: shop\nvariables: {variables}\nnodes:\n  - {{name: web, type: t{node}}}\n"
    text += "  - {name: db, type: d}\n"
    definitions = "'node_def:d':\n  - resource: {type: simulated}\n'node_def:t':\n"
    definitions += f"  - resource: {{type: simulated{keys}}}\n"
    if context:
        definitions += f"    contextualisation: {{type: cloudinit, context_template: {{run: [{context!r}]}}}}\n"
    return compile_description({"i": text, "n": definitions}, ["i", "n"]).compiled


def source(of):
    return Sources(of).value(of.nodes[0], 0)


def test_variables_that_no_template_mentions_are_no_part_of_it():
    variables = "{used: {a: 1, b: 2}, unused: 3}"
    assert source(compiled(context="{{ variables.used.a }}", variables=variables))["variables"] == {"used": {"a": 1}}
    assert "variables" not in source(compiled(variables=variables))
    assert source(compiled(context="{{ variables.used }}", variables=variables))["variables"] == {
        "used": {"a": 1, "b": 2}
    }


@pytest.mark.parametrize("context", ["{% for k in variables %}{{ k }}{% endfor %}", "{{ variables.get('a') }}"])
def test_a_template_that_looks_at_all_variables_depends_on_all(context):
    assert source(compiled(context=context, variables="{a: 1, b: 2}"))["variables"] == {"a": 1, "b": 2}


def test_paths_in_branches_that_may_not_be_taken_count():
    uses = uses_of("{% if variables.x %}{{ variables.y.z | default(variables['w']) }}{% endif %}")
    assert uses.paths == {("x",), ("y", "z"), ("w",)}
    assert uses_of("{{ unclosed").paths == {()}, "of what cannot be compiled: everything"


def test_limits_count_only_where_a_template_looks_at_them():
    small, large = (compiled(f", scaling: {{min: 1, max: {most}}}") for most in (2, 3))
    assert source(small) == source(large)
    small, large = (compiled(f", scaling: {{min: 1, max: {most}}}", context="{{ scaling.max }}") for most in (2, 3))
    assert source(small) != source(large) and small.nodes[0].fingerprint != large.nodes[0].fingerprint


def mapped(context: str, *attributes: str, config: str = "", database: str = "db"):
    """A web that is told attributes of a database."""
    mappings = ", ".join(f"[{one}, own.{one}]" for one in attributes)
    text = f"infra_name: shop\nnodes:\n  - &W {{name: web, type: t}}\n  - &D {{name: {database}, type: d}}\n"
    text += f"dependencies:\n  - connection: [*W, *D]\n    mappings: [{mappings}]\n"
    definitions = "'node_def:d':\n  - resource: {type: simulated}\n'node_def:t':\n  - resource: {type: simulated}\n"
    definitions += f"    contextualisation: {{type: cloudinit, context_template: {{run: [{context!r}]}}}}\n{config}"
    return compile_description({"i": text, "n": definitions}, ["i", "n"]).compiled


def test_mappings_count_where_their_attributes_are_looked_at():
    less, more = (mapped("echo", *names) for names in (["ip"], ["ip", "port"]))
    assert source(less) == source(more) and less.nodes[0].fingerprint == more.nodes[0].fingerprint
    less, more = (mapped("{{ attributes.own.ip }}", *names) for names in (["ip"], ["ip", "port"]))
    assert source(less) != source(more) and less.nodes[0].fingerprint != more.nodes[0].fingerprint
    chef = "    config_management: {type: chef, endpoint: 'https://chef.example.org', run_list: ['recipe[x]']}\n"
    less, more = (mapped("echo", *names, config=chef) for names in (["ip"], ["ip", "port"]))
    assert source(less) != source(more) and less.nodes[0].fingerprint != more.nodes[0].fingerprint
    assert "attributes" not in source(mapped("{{ attributes }}"))


def test_mappings_follow_a_renamed_node():
    before, now = (mapped("{{ attributes.own.ip }}", "ip", database=name) for name in ("db", "base"))
    assert source(before) != source(now)
    assert renamed(source(before), {"db": "base"}) == source(now)


def test_the_digest_is_the_sources_and_the_names_are_not_in_it():
    one = compiled(context="use {{ getip('db') }}", flavor="small")
    book = Sources(one)
    assert book.digest(one.nodes[0], 0) == digest_of(book.value(one.nodes[0], 0))
    assert "web" not in str(book.value(one.nodes[0], 0))


def test_the_keys_that_differ_are_named():
    before, after = (
        source(compiled(context="{{ variables.p }}", variables=f"{{p: {p}}}", flavor=f))
        for p, f in ((1, "s"), (2, "l"))
    )
    assert [(c.path, c.old, c.new) for c in differences(before, after)] == [
        ("resource.flavor", "s", "l"),
        ("variables.p", 1, 2),
    ]


def test_renaming_a_node_renames_it_where_templates_ask_for_it_and_nowhere_else():
    told = "{{ getip('db') }} {{ getipall( \"db\" ) }} db getip('dbx') mygetip(db)"
    assert renamed({"context": {"run": [told]}}, {"db": "store"}) == {
        "context": {"run": ["{{ getip('store') }} {{ getipall( \"store\" ) }} db getip('dbx') mygetip(db)"]}
    }
    told = "{{ ibget('node.find', infra_id, None, 'db') }} {{ ibget('node.find_one', name = \"db\") }}"
    assert renamed({"run": told}, {"db": "store"}) == {
        "run": "{{ ibget('node.find', infra_id, None, 'store') }} {{ ibget('node.find_one', name = \"store\") }}"
    }
    assert renamed({"a": "getip('db')"}, {}) == {"a": "getip('db')"}
