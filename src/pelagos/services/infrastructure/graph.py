"""The dependency graph: order, dependents, critical path. Pure functions on names and numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ["critical_path", "dependents_of", "topological_order"]

Edges = Mapping[str, Sequence[str]]
"""Node -> the nodes it depends on."""


def dependents_of(depends_on: Edges) -> dict[str, list[str]]:
    """Node -> the nodes that depend on it, in the mapping's order."""
    dependents: dict[str, list[str]] = {name: [] for name in depends_on}
    for name, dependees in depends_on.items():
        for dependee in dependees:
            dependents.setdefault(dependee, []).append(name)
    return dependents


def topological_order(depends_on: Edges) -> list[str]:
    """Dependees before dependents, otherwise in the mapping's order. The graph must be free of cycles (compile has
    checked); what lies on a cycle would be missing from the result."""
    dependents = dependents_of(depends_on)
    missing = {name: len(dependees) for name, dependees in depends_on.items()}
    order = [name for name, count in missing.items() if count == 0]
    for name in order:  # grows while it is walked
        for dependent in dependents[name]:
            missing[dependent] -= 1
            if missing[dependent] == 0:
                order.append(dependent)
    return order


def critical_path(depends_on: Edges, seconds: Mapping[str, float]) -> tuple[float, list[str]]:
    """The longest chain when each node takes ``seconds[name]`` (0 if absent): its length and its nodes, first to last.

    On a tie the chain that ends at the node described first is taken, so that the answer does not wander."""
    finish: dict[str, float] = {}
    via: dict[str, str | None] = {}
    for name in topological_order(depends_on):
        start, before = 0.0, None
        for dependee in depends_on[name]:
            if finish[dependee] > start or before is None:
                start, before = finish[dependee], dependee
        finish[name] = start + seconds.get(name, 0.0)
        via[name] = before
    if not finish:
        return 0.0, []
    position = {name: index for index, name in enumerate(depends_on)}
    last: str | None = max(finish, key=lambda name: (finish[name], -position[name]))
    total = finish[last] if last is not None else 0.0
    path: list[str] = []
    while last is not None:
        path.append(last)
        last = via[last]
    path.reverse()
    return total, path
