"""The layered layout: everything has a place of its own, edges go down, and the order has few crossings."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pelagos.cli.graphs import lay_out

GRAPHS = st.integers(0, 12).flatmap(
    lambda size: st.tuples(
        *(st.lists(st.integers(0, at - 1), unique=True, max_size=3) if at else st.just([]) for at in range(size))
    ).map(lambda rows: {f"n{at}": [f"n{other}" for other in row] for at, row in enumerate(rows)})
)


@settings(deadline=None)
@given(GRAPHS)
def test_everything_has_its_place_and_edges_go_down(graph):
    layout = lay_out(graph)
    assert layout.places.keys() == graph.keys()
    assert len(set(layout.places.values())) == len(graph), "no two in one place"
    assert layout.edges.keys() == {(name, dependee) for name in graph for dependee in graph[name]}
    for (name, dependee), route in layout.edges.items():
        assert route[0] == layout.places[name] and route[-1] == layout.places[dependee]
        assert [place.layer for place in route] == list(range(route[0].layer, route[-1].layer - 1, -1))
        assert not set(route[1:-1]) & set(layout.places.values()), "no edge goes through a node"
    for place in layout.places.values():
        assert 0 <= place.x <= layout.columns - 1 and 0 <= place.layer < layout.layers


def test_edges_that_need_not_cross_do_not():
    layout = lay_out({"a": [], "b": [], "x": ["b"], "y": ["a"]})
    places = layout.places
    assert (places["a"].x < places["b"].x) is (places["y"].x < places["x"].x)


def test_the_same_graph_is_drawn_the_same():
    graph = {"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c", "a"]}
    assert lay_out(graph) == lay_out(graph)
