"""A graph as SVG: boxes with name, type and how many are ready; curves from each node down to what it depends on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from xml.sax.saxutils import escape, quoteattr

from pelagos.cli.graphs.layout import Place, lay_out
from pelagos.wire.infrastructures import GraphNode, GraphView

__all__ = ["svg"]

_WIDTH, _HEIGHT = 168, 56
_GAP_X, _GAP_Y = 36, 64
_MARGIN = 24
_TITLE = 28
_LONGEST = 20
_COLORS = {"ready": "#2e7d32", "changing": "#e0a800", "missing": "#c62828", "described": "#546e7a"}


def svg(graph: GraphView) -> str:
    """The document; it stands for itself, with the text's own font and no script."""
    layout = lay_out({node.name: node.depends_on for node in graph.nodes})
    width = max(1, layout.columns) * (_WIDTH + _GAP_X) - _GAP_X + 2 * _MARGIN
    height = max(1, layout.layers) * (_HEIGHT + _GAP_Y) - _GAP_Y + 2 * _MARGIN + _TITLE

    def center(place: Place) -> tuple[float, float]:
        x = _MARGIN + place.x * (_WIDTH + _GAP_X) + _WIDTH / 2
        y = _MARGIN + _TITLE + (layout.layers - 1 - place.layer) * (_HEIGHT + _GAP_Y) + _HEIGHT / 2
        return x, y

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
        f' role="img" aria-label={quoteattr(f"the nodes of {graph.name} and what they depend on")}>',
        "<style>text{font-family:sans-serif;text-anchor:middle}.n{font-weight:bold;font-size:14px}"
        ".d{font-size:11px;fill:#455a64}.e{fill:none;stroke:#78909c;stroke-width:1.5}</style>",
        '<defs><marker id="to" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z" fill="#78909c"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text class="n" x="{width / 2:g}" y="{_MARGIN}">{escape(graph.name)}</text>',
    ]
    for (name, dependee), route in layout.edges.items():
        points = [center(place) for place in route]
        title = escape(f"{name} depends on {dependee}")
        lines.append(f'<path class="e" d="{_curve(points)}" marker-end="url(#to)"><title>{title}</title></path>')
    for node in graph.nodes:
        lines += _box(node, *center(layout.places[node.name]))
    return "\n".join([*lines, "</svg>"]) + "\n"


def _curve(points: Sequence[tuple[float, float]]) -> str:
    """From the lower edge of the first box to the upper edge of the last, through the bends between."""
    (x, y), (end_x, end_y) = points[0], points[-1]
    way = [(x, y + _HEIGHT / 2), *points[1:-1], (end_x, end_y - _HEIGHT / 2)]
    parts = [f"M{way[0][0]:g},{way[0][1]:g}"]
    for (x1, y1), (x2, y2) in pairwise(way):
        middle = (y1 + y2) / 2
        parts.append(f"C{x1:g},{middle:g} {x2:g},{middle:g} {x2:g},{y2:g}")
    return " ".join(parts)


def _box(node: GraphNode, x: float, y: float) -> list[str]:
    color = _COLORS[state_of(node)]
    left, top = x - _WIDTH / 2, y - _HEIGHT / 2
    return [
        f"<g><title>{escape(f'{node.name}: {node.type}, {told(node)}')}</title>",
        f'<rect x="{left:g}" y="{top:g}" width="{_WIDTH}" height="{_HEIGHT}" rx="8" fill="#f7f9fa" stroke="{color}"'
        ' stroke-width="2"/>',
        f'<text class="n" x="{x:g}" y="{y - 6:g}">{escape(_short(node.name))}</text>',
        f'<text class="d" x="{x:g}" y="{y + 10:g}">{escape(_short(node.type, 26))}</text>',
        f'<text class="d" x="{x:g}" y="{y + 23:g}">{escape(told(node))}</text></g>',
    ]


def state_of(node: GraphNode) -> str:
    """``described`` (nothing is built), ``ready``, ``changing`` (not all ready, some are there) or ``missing``."""
    if node.ready is None:
        return "described"
    if node.ready >= node.target:
        return "ready"
    return "changing" if node.instances else "missing"


def told(node: GraphNode) -> str:
    """How many instances there are, or are described."""
    if node.ready is not None:
        return f"{node.ready} of {node.target} ready"
    return f"{node.min}" if node.min == node.max else f"{node.min} to {node.max}"


def _short(text: str, longest: int = _LONGEST) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"
