"""Pictures of a dependency graph: a layered layout, and what SVG, Mermaid and Graphviz say of it. Pure."""

from pelagos.cli.graphs.layout import Layout, Place, lay_out
from pelagos.cli.graphs.svg import svg
from pelagos.cli.graphs.texts import dot, mermaid

__all__ = ["Layout", "Place", "dot", "lay_out", "mermaid", "svg"]
