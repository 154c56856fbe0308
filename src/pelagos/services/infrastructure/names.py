"""Names that are made of a node's."""

from __future__ import annotations

import re

from pelagos.services.infrastructure.values import CompiledNode

__all__ = ["hostname_of"]


def hostname_of(node: CompiledNode, ordinal: int) -> str:
    """An RFC 1123 label: the node's name; numbered where the node may have several instances."""
    label = re.sub(r"[^a-z0-9-]+", "-", node.name.lower()).strip("-") or "instance"
    return label if node.max == 1 else f"{label[:50]}-{ordinal}"
