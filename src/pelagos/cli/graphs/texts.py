"""A graph as text that other programs draw: Mermaid (in Markdown, on many sites) and Graphviz' dot."""

from __future__ import annotations

from pelagos.cli.graphs.svg import state_of, told
from pelagos.wire.infrastructures import GraphView

__all__ = ["dot", "mermaid"]

_FILLS = {"ready": "#e8f5e9", "changing": "#fff8e1", "missing": "#ffebee", "described": "#eceff1"}


def mermaid(graph: GraphView) -> str:
    """A flowchart, from each node down to what it depends on."""
    keys = {node.name: f"n{index}" for index, node in enumerate(graph.nodes)}
    lines = ["flowchart TD"]
    for node in graph.nodes:
        label = f"{_quoted(node.name)}<br/>{_quoted(node.type)}<br/>{told(node)}"
        lines.append(f'    {keys[node.name]}["{label}"]:::{state_of(node)}')
    lines += [f"    {keys[node.name]} --> {keys[dependee]}" for node in graph.nodes for dependee in node.depends_on]
    lines += [f"    classDef {state} fill:{fill}" for state, fill in _FILLS.items()]
    return "\n".join(lines) + "\n"


def dot(graph: GraphView) -> str:
    """A digraph for Graphviz, with edges from each node to what it depends on."""
    lines = [
        f"digraph {_string(graph.name)} {{",
        '    node [shape=box, style="rounded,filled", fontname="sans-serif"];',
    ]
    for node in graph.nodes:
        label = "\n".join((node.name, node.type, told(node)))
        lines.append(f'    {_string(node.name)} [label={_string(label)}, fillcolor="{_FILLS[state_of(node)]}"];')
    lines += [
        f"    {_string(node.name)} -> {_string(dependee)};" for node in graph.nodes for dependee in node.depends_on
    ]
    return "\n".join([*lines, "}"]) + "\n"


def _quoted(text: str) -> str:
    """Inside of a Mermaid label, which knows HTML's entities by number."""
    return "".join(f"#{ord(c)};" if c in '"<>&#`[]{}()|' else c for c in text)


def _string(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
