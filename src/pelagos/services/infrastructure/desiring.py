"""Small rules of what is wanted: nodes that stay until they are gone, targets as text, why something is degraded."""

from __future__ import annotations

import msgspec

from pelagos.services.infrastructure.values import CompiledInfrastructure

__all__ = ["lacking", "not_as_described", "scaled_target", "with_retired"]


def with_retired(new: CompiledInfrastructure, old: CompiledInfrastructure, alive: set[str]) -> CompiledInfrastructure:
    """``new`` with the nodes of ``old`` that it no longer describes but of which instances live, as retired ones."""
    described = {node.name for node in new.nodes}
    retired = tuple(
        msgspec.structs.replace(node, retired=True, min=0, max=0, implementations=(), mappings=())
        for node in old.nodes
        if node.name not in described and node.name in alive
    )
    return msgspec.structs.replace(new, nodes=new.nodes + retired) if retired else new


def scaled_target(text: str, current: int) -> int:
    """``3``, ``+1`` or ``-1`` applied to the current target. Raises ValueError for anything else."""
    value = int(text)
    return current + value if text.strip()[:1] in "+-" else value


def lacking(nodes: list[str]) -> str:
    """Why an infrastructure is degraded."""
    shown = ", ".join(nodes[:5]) + (", …" if len(nodes) > 5 else "")
    return f"not as many ready instances as wanted: {shown}"


def not_as_described(nodes: list[str]) -> str:
    """Why an infrastructure is degraded whose last change did not come to its end."""
    shown = ", ".join(nodes[:5]) + (", …" if len(nodes) > 5 else "")
    return f"instances are not as described: {shown}"
