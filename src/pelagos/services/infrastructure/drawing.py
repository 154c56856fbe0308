"""The dependency graph as people and programs look at it."""

from __future__ import annotations

import msgspec

from pelagos.services.infrastructure.values import CompiledInfrastructure, CompiledNode
from pelagos.wire.infrastructures import GraphNode, GraphView, StatusView

__all__ = ["graph_of"]


def graph_of(compiled: CompiledInfrastructure, status: StatusView | None = None) -> GraphView:
    """Of a description, or with ``status`` of what is built of it, in the description's order."""
    names = {node.name for node in compiled.nodes}
    there = status.nodes if status is not None else {}
    nodes = []
    for node in compiled.nodes:
        seen = there.get(node.name)
        if node.retired and seen is None:
            continue
        nodes.append(
            GraphNode(
                name=node.name,
                type=node.type,
                clouds=_clouds(node, compiled),
                min=node.min,
                max=node.max,
                target=seen.scaling.target if seen is not None else node.min,
                depends_on=tuple(name for name in node.depends_on if name in names),
                ready=sum(one.state == "ready" for one in seen.instances.values()) if seen is not None else None,
                instances=len(seen.instances) if seen is not None else None,
            )
        )
    shown = {node.name for node in nodes}
    kept = tuple(
        node if shown.issuperset(node.depends_on) else _without(node, shown) for node in nodes
    )  # fmt: skip
    return GraphView(name=compiled.name, id=status.id if status is not None else None, nodes=kept)


def _without(node: GraphNode, shown: set[str]) -> GraphNode:
    return msgspec.structs.replace(node, depends_on=tuple(name for name in node.depends_on if name in shown))


def _clouds(node: CompiledNode, compiled: CompiledInfrastructure) -> tuple[str, ...]:
    choices = [compiled.definitions[node.defined_by][index] for index in node.implementations]
    return tuple(dict.fromkeys(item.account_label or item.resource_type for item in choices))
