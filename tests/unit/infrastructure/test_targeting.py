"""A change of some nodes only is sound: nothing waits for what is not made, nothing loses what it depends on."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pelagos.model.errors import Ambiguous, InvalidInput, NotFound
from pelagos.model.states import InstanceState
from pelagos.services.infrastructure.graph import topological_order
from pelagos.services.infrastructure.observed import ObservedInstance
from pelagos.services.infrastructure.targeting import instances_meant, left_out, moves_made, narrowed
from pelagos.services.infrastructure.values import CompiledInfrastructure, CompiledNode, Implementation

NAMES = "abcdef"


def infrastructure(edges, flavor="old", moved=None):
    definition = (Implementation(resource_type="simulated", resource={"flavor": flavor}),)
    nodes = tuple(
        CompiledNode(name=name, type="t", implementations=(0,), depends_on=tuple(dependees), fingerprint=flavor)
        for name, dependees in edges.items()
    )
    return CompiledInfrastructure(name="shop", nodes=nodes, definitions={"t": definition}, moved=moved or {})


def graphs(names=NAMES):
    def edges(order):
        return st.fixed_dictionaries(
            {
                name: st.lists(st.sampled_from(order[:at]), unique=True) if at else st.just([])
                for at, name in enumerate(order)
            }
        )

    return st.lists(st.sampled_from(names), min_size=1, max_size=5, unique=True).flatmap(edges)


@settings(deadline=None)
@given(graphs(), graphs(), st.data())
def test_what_is_left_is_sound(before, after, data):
    old, new = infrastructure(before), infrastructure(after, "new")
    known = sorted({*before, *after})
    only = data.draw(st.lists(st.sampled_from(known), unique=True, max_size=2))
    without = data.draw(st.lists(st.sampled_from(known), unique=True, max_size=2))
    try:
        found, held = narrowed(new, old, only, without)
    except InvalidInput:
        return
    nodes = {node.name: node for node in found.nodes}
    assert len(nodes) == len(found.nodes)
    assert held == {node.name for node in found.nodes if node.fingerprint == "old"} or not (only or without)
    for node in found.nodes:
        assert set(node.depends_on) <= nodes.keys(), "what it depends on is there"
        flavor = found.definitions[node.defined_by][0].resource["flavor"]
        assert flavor == node.fingerprint, "each has its own definition"
        if node.name in without and (only or without):
            assert node.fingerprint == "old", "an excluded node is as it was"
    assert len(topological_order({name: node.depends_on for name, node in nodes.items()})) == len(nodes)
    for name in without:
        assert (name in nodes) is (name in before)
    if only:
        for name, node in nodes.items():
            reached = set(only) - set(without)
            assert node.fingerprint == "old" or _reaches(after, reached, name)
    else:
        assert not without or all(name in nodes for name in before if name in without)


def _reaches(edges, starts, name):
    waiting, seen = [start for start in starts if start in edges], set()
    while waiting:
        here = waiting.pop()
        if here not in seen:
            seen.add(here)
            waiting += edges[here]
    return name in seen


@settings(deadline=None)
@given(graphs(), graphs())
def test_without_a_choice_it_is_the_new_description(before, after):
    new = infrastructure(after, "new")
    assert narrowed(new, infrastructure(before)) == (new, frozenset())


def test_an_unknown_name_is_told():
    with pytest.raises(NotFound, match="no node 'z'"):
        narrowed(infrastructure({"a": []}), None, only=("z",))


@pytest.mark.parametrize("anew", ["b", "b/0001"])
def test_what_is_left_as_it_is_cannot_be_made_anew(anew):
    there = infrastructure({"a": [], "b": [], "c": ["b"]})
    with pytest.raises(InvalidInput, match=rf"'{anew}' cannot be both made anew .*left out \(--exclude\)"):
        narrowed(there, there, without=("b",), anew=(anew,))
    with pytest.raises(InvalidInput, match=rf"'{anew}' cannot be made anew .*leaves 'b' as it is"):
        narrowed(there, there, only=("a",), anew=(anew,))
    # What a target depends on is reached, and so is the rest beside what is excluded.
    assert narrowed(there, there, only=("c",), anew=(anew,)).held == {"a"}
    assert narrowed(there, there, without=("a",), anew=(anew,)).held == {"a"}
    assert narrowed(there, there, anew=(anew,)).held == frozenset()


def test_what_is_wanted_cannot_be_excluded():
    with pytest.raises(InvalidInput, match="'b' cannot be both wanted"):
        narrowed(infrastructure({"a": [], "b": []}), None, only=("a", "b"), without=("b",))


def test_what_is_left_out_is_known():
    new, old = infrastructure({"a": [], "b": ["a"], "c": ["b"], "d": []}), infrastructure({"a": [], "x": []})
    first = narrowed(new, None, without=("b",))
    assert [node.name for node in first.compiled.nodes] == ["a", "d"]
    assert left_out(new, None, first) == ("b", "c"), "c depends on b"
    assert left_out(new, old, narrowed(new, old, without=("a", "x"))) == ("a", "x")
    assert left_out(new, old, narrowed(new, old, only=("d",))) == ("a", "b", "c", "x")
    moved = infrastructure({"b": []}, moved={"a": "b"})
    assert left_out(moved, infrastructure({"a": []}), narrowed(moved, infrastructure({"a": []}), without=("b",))) == (
        "a",
    )


def test_a_circle_over_both_descriptions_is_refused():
    old, new = infrastructure({"a": [], "b": ["a"]}), infrastructure({"b": [], "a": ["b"]}, "new")
    with pytest.raises(InvalidInput, match="in a circle"):
        narrowed(new, old, without=("b",))


def test_moves_are_made_once_and_a_moved_node_may_be_left_out():
    old = infrastructure({"a": [], "w": ["a"]})
    new = infrastructure({"b": [], "w": ["b"]}, "new", {"a": "b"})
    assert moves_made(new, old) == {"a": "b"} and moves_made(new, new) == {}
    left, _ = narrowed(new, old, without=("b",))
    assert [(n.name, n.fingerprint, n.depends_on) for n in left.nodes] == [("a", "old", ()), ("w", "old", ("a",))]
    only, _ = narrowed(new, old, only=("b",))
    assert [(n.name, n.fingerprint, n.depends_on) for n in only.nodes] == [("b", "new", ()), ("w", "old", ("b",))]


def test_instances_are_meant_by_node_and_by_the_beginning_of_an_id():
    seen = [
        ObservedInstance(id=key, node=node, state=InstanceState.READY, created_at=0.0)
        for key, node in (("aa1", "web"), ("aa2", "web"), ("bb1", "db"))
    ]
    assert instances_meant(("web", "db/bb"), seen, "shop") == {"aa1", "aa2", "bb1"}
    with pytest.raises(Ambiguous):
        instances_meant(("web/aa",), seen, "shop")
    with pytest.raises(NotFound, match="no instance 'zz'"):
        instances_meant(("web/zz",), seen, "shop")
    with pytest.raises(NotFound, match="no instance of 'lb'"):
        instances_meant(("lb",), seen, "shop")
