"""Order and critical path of any graph, against the plainest way to find them."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from pelagos.services.infrastructure.graph import critical_path, dependents_of, topological_order


@st.composite
def graphs(draw, most=7):
    """Node -> its dependees, in any order of description; no cycle."""
    names = [f"n{index}" for index in range(draw(st.integers(0, most)))]
    edges = {
        name: draw(st.lists(st.sampled_from(names[:index]), unique=True)) if index else []
        for index, name in enumerate(names)
    }
    order = draw(st.permutations(names))
    return {name: tuple(edges[name]) for name in order}


def chains(depends_on):
    """All chains, dependee first."""
    found = [[name] for name in depends_on]
    for chain in found:
        found.extend([*chain, name] for name, dependees in depends_on.items() if chain[-1] in dependees)
    return found


@given(graphs())
def test_dependees_come_before_their_dependents(depends_on):
    order = topological_order(depends_on)
    assert sorted(order) == sorted(depends_on)
    position = {name: index for index, name in enumerate(order)}
    for name, dependees in depends_on.items():
        assert all(position[dependee] < position[name] for dependee in dependees)


@given(graphs())
def test_dependents_are_the_edges_turned_round(depends_on):
    turned = dependents_of(depends_on)
    edges = {(name, dependee) for name, dependees in depends_on.items() for dependee in dependees}
    assert {(name, dependee) for dependee, names in turned.items() for name in names} == edges
    described = list(depends_on)
    assert all(names == sorted(names, key=described.index) for names in turned.values())


@given(graphs(), st.data())
def test_the_critical_path_is_the_longest_chain(depends_on, data):
    seconds = {name: float(data.draw(st.integers(0, 5))) for name in depends_on if data.draw(st.booleans())}
    total, path = critical_path(depends_on, seconds)
    lengths = [sum(seconds.get(name, 0.0) for name in chain) for chain in chains(depends_on)]
    assert total == max(lengths, default=0.0)
    assert sum(seconds.get(name, 0.0) for name in path) == total
    for before, after in itertools.pairwise(path):
        assert before in depends_on[after]
    assert bool(path) == bool(depends_on)
    if path:
        assert depends_on[path[0]] == (), "it begins where nothing is waited for"


def test_a_deep_chain_needs_no_recursion():
    depends_on = {f"n{i}": (f"n{i - 1}",) if i else () for i in range(20_000)}
    total, path = critical_path(depends_on, dict.fromkeys(depends_on, 1.0))
    assert total == 20_000.0 and len(path) == 20_000
