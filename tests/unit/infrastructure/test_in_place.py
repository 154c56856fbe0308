"""What of a change can be made in place, and what forces a replacement; how the journal tells what an instance is."""

from __future__ import annotations

import pytest

from pelagos.model.states import OperationState
from pelagos.services.compute.facts import UpdateFacts
from pelagos.services.infrastructure.in_place import as_updated, difference

CAN = frozenset({"size", "limit"})


def source(variables=None, context="", config=None, **resource):
    made = {"resource": {"type": "x", **resource}}
    if variables:
        made["variables"] = variables
    if context:
        made["contextualisation"] = {"type": "cloudinit", "context_template": context}
    if config:
        made["config_management"] = config
    return made


def found(old, new, can=CAN):
    one = difference(old, new, can)
    return [c.path for c in one.changes], [c.path for c in one.forces], one.keys, one.touched


def test_only_keys_that_the_cloud_changes_differ():
    assert found(source(size=1, limit=2), source(size=3, limit=2)) == (
        ["resource.size"],
        [],
        ("limit", "size"),
        ("size",),
    )


def test_another_key_forces_it_and_is_named_alone():
    old, new = source(size=1, image="a"), source(size=2, image="b")
    assert found(old, new)[:2] == (["resource.image", "resource.size"], ["resource.image"])
    assert found(old, new, can=frozenset()) == (["resource.image", "resource.size"],) * 2 + ((), ())


@pytest.mark.parametrize(("old", "new"), [(source(), source(size=1)), (source(size=1), source())])
def test_a_key_that_comes_or_goes_forces_it(old, new):
    assert found(old, new)[1] == ["resource.size"]


def test_variables_count_by_who_looks_at_them():
    def one(a, b, context=""):
        return source({"a": a, "b": {"c": b}}, context, size="{{ variables.a }}", limit="{{ variables.b.c }}")

    assert found(one(1, 1), one(2, 1)) == (["variables.a"], [], ("limit", "size"), ("size",))
    assert found(one(1, 1), one(1, 2)) == (["variables.b.c"], [], ("limit", "size"), ("limit",))
    assert found(one(1, 1, "{{ variables.b }}"), one(2, 2, "{{ variables.b }}"))[1] == ["variables.b.c"]
    assert found(one(1, 1, "{% for v in variables %}{% endfor %}"), one(2, 1, "{% for v in variables %}{% endfor %}"))[
        1
    ] == ["variables.a"]


def test_other_sections_always_force_it():
    assert found(source(size=1), {**source(size=2), "scaling": {"max": 2}})[1] == ["scaling"]
    assert found(source(context="a", size=1), source(context="b", size=1))[1] == ["contextualisation.context_template"]
    assert found(source(config={"x": 1}, size=1), source(config={"x": 2}, size=1))[1] == ["config_management.x"]


def test_the_type_of_the_resource_is_nobodys_to_change():
    old, new = source(size=1), source(size=1)
    new["resource"]["type"] = "y"
    assert found(old, new)[1] == ["resource.type"]


@pytest.mark.parametrize("state", OperationState)
def test_what_an_instance_is_made_from_after_its_last_change(state):
    update = UpdateFacts(request="r", label="new", former="old", state=state)
    expected = ("new", "") if state is OperationState.SUCCEEDED else ("old", "new")
    assert as_updated("old", update) == expected
    assert as_updated("new", update) == ("new", ""), "taken note of, or described under another name since"
    assert as_updated("old", None) == ("old", "")
    back = UpdateFacts(request="r", label="old", former="old", state=state)
    assert as_updated("old", back) == ("old", "" if state is OperationState.SUCCEEDED else "old")
