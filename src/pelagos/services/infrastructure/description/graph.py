"""Cycles of the dependency graph, as paths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

__all__ = ["cycles", "dependents_of", "reverse"]


def cycles(depends_on: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Cycles as paths ``[a, b, a]``, each following ``depends_on``; no node is in two of them. Empty: there is none."""
    waiting = {name: len(targets) for name, targets in depends_on.items()}
    dependents = reverse(depends_on)
    free = [name for name, count in waiting.items() if count == 0]
    while free:
        name = free.pop()
        del waiting[name]
        for dependent in dependents[name]:
            waiting[dependent] -= 1
            if waiting[dependent] == 0:
                free.append(dependent)
    # what waits forever is in a cycle or depends on one: walking on along what waits must come back to where it was
    found: list[list[str]] = []
    done: set[str] = set()
    for start in waiting:
        path: list[str] = []
        index: dict[str, int] = {}
        step: str | None = start
        while step is not None and step not in done and step not in index:
            index[step] = len(path)
            path.append(step)
            step = next((target for target in depends_on[step] if target in waiting and target not in done), None)
        if step is not None and step in index:
            found.append([*path[index[step] :], step])
        done.update(path)
    return found


def reverse(depends_on: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Node -> its direct dependents."""
    result: dict[str, list[str]] = {name: [] for name in depends_on}
    for name, targets in depends_on.items():
        for target in targets:
            result[target].append(name)
    return result


def dependents_of(dependents: Mapping[str, Iterable[str]], name: str) -> set[str]:
    """Every node that depends on ``name``, directly or not; ``dependents`` is the reversed graph."""
    seen: set[str] = set()
    stack = [name]
    while stack:
        for other in dependents[stack.pop()]:
            if other not in seen:
                seen.add(other)
                stack.append(other)
    return seen
