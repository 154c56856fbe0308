"""Message sequence charts: Mermaid text, for documents and issues, and SVG, for eyes, drawn without any program.

Labels come from outside (names of operations and services, texts of errors), so both forms escape all they write: an
operation called ``</text><script>`` is a word on the chart and nothing else.
"""

from __future__ import annotations

import re
from html import escape

import msgspec

from pelagos.exchange.envelope import Performative, Status
from pelagos.exchange.sequences import Row, Sequence

__all__ = ["mermaid", "svg"]

_UNSAFE = re.compile(r"[^\w .,:()/@+=?!'*\-]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")

_COLUMN, _ROW, _MARGIN, _HEAD = 190, 34, 24, 34
_LABEL = 26
"""Characters of a participant that fit into a column."""


def caption(row: Row) -> str:
    """``hello``, ``hello: refuse forbidden (3.1 ms)``: what stands on an arrow."""
    took = "" if row.took is None else f" ({_milliseconds(row.took)})"
    if not row.is_answer:
        said = row.op if row.performative is Performative.REQUEST else f"{row.op}: {row.performative}"
    else:
        said = f"{row.op}: {row.performative}"
    code = f" {row.error}" if row.error and row.error != "refused" else ""
    return f"{said}{code}{took}"


def mermaid(sequence: Sequence, *, title: str = "") -> str:
    """A Mermaid ``sequenceDiagram``. A broken arrow (``-x``) is a failure, a dashed one an answer."""
    lines = ["---", f"title: {msgspec.json.encode(_visible(title)).decode()}", "---"] if title else []
    lines.append("sequenceDiagram")
    short = {one.address: f"p{number}" for number, one in enumerate(sequence.participants, 1)}
    lines.extend(f"    participant {short[one.address]} as {_mermaid_text(one.label)}" for one in sequence.participants)
    for row in sequence.rows:
        bad = _is_bad(row)
        if row.is_answer:
            arrow = "--x" if bad else "-->>"
        elif row.performative is Performative.REQUEST:
            arrow = "-x" if bad else "->>"
        else:
            arrow = "-x" if bad else "-)"
        lines.append(f"    {short[row.source]}{arrow}{short[row.target]}: {_mermaid_text(caption(row))}")
    if sequence.participants:
        lines.extend(f"    Note over p1: {_mermaid_text(note)}" for note in sequence.notes)
    return "\n".join(lines) + "\n"


def svg(sequence: Sequence, *, title: str = "") -> str:
    """A whole SVG document. Times on the left are seconds since the first message."""
    participants = sequence.participants
    left = _MARGIN + 64
    at = {one.address: left + _COLUMN // 2 + _COLUMN * number for number, one in enumerate(participants)}
    top = _MARGIN + (24 if title else 0)
    first_row = top + _HEAD + 30
    width = left + _COLUMN * max(1, len(participants)) + _MARGIN
    bottom = first_row + _ROW * len(sequence.rows)
    height = bottom + _MARGIN + 18 * len(sequence.notes)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img" font-family="system-ui, sans-serif" font-size="12">',
        f"<title>{_xml(title or 'Messages')}</title>",
        "<defs>"
        '<marker id="full" markerWidth="9" markerHeight="8" refX="8" refY="4" orient="auto">'
        '<path d="M0,0 L9,4 L0,8 z" fill="context-stroke"/></marker>'
        '<marker id="open" markerWidth="9" markerHeight="8" refX="8" refY="4" orient="auto">'
        '<path d="M0,0 L9,4 L0,8" fill="none" stroke="context-stroke"/></marker>'
        "</defs>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    if title:
        parts.append(f'<text x="{_MARGIN}" y="{_MARGIN + 6}" font-size="15" fill="#1b2733">{_xml(title)}</text>')
    for one in participants:
        x = at[one.address]
        parts.append(
            f'<line x1="{x}" y1="{top + _HEAD}" x2="{x}" y2="{bottom}" stroke="#b6c2cd" stroke-dasharray="4 4"/>'
        )
        parts.append(
            f'<rect x="{x - _COLUMN // 2 + 8}" y="{top}" width="{_COLUMN - 16}" height="{_HEAD}" rx="5" '
            f'fill="#e8f0f7" stroke="#5b7f9f"/>'
        )
        parts.append(
            f'<text x="{x}" y="{top + _HEAD // 2 + 4}" text-anchor="middle" fill="#1b2733">'
            f"<title>{_xml(one.address)}</title>{_xml(_clip(one.label))}</text>"
        )
    start = sequence.rows[0].at if sequence.rows else 0.0
    for number, row in enumerate(sequence.rows):
        parts.extend(_arrow(row, first_row + _ROW * number, at, start))
    for number, note in enumerate(sequence.notes):
        y = bottom + 18 * (number + 1)
        parts.append(f'<text x="{_MARGIN}" y="{y}" fill="#b3261e">{_xml(note)}</text>')
    if not sequence.rows:
        parts.append(f'<text x="{_MARGIN}" y="{top + 14}" fill="#5a6b7b">No message was seen.</text>')
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def _arrow(row: Row, y: int, at: dict[str, int], start: float) -> list[str]:
    color = "#b3261e" if _is_bad(row) else "#20527a" if row.is_answer else "#1b2733"
    dash = ' stroke-dasharray="6 4"' if row.is_answer else ""
    end = "open" if row.performative in (Performative.INFORM, Performative.CANCEL) else "full"
    x1, x2 = at[row.source], at[row.target]
    if x1 == x2:
        path = f"M{x1},{y - 8} h36 v14 h-34"
        middle, anchor = x1 + 42, "start"
    else:
        path = f"M{x1},{y} L{x2 - 2 if x2 > x1 else x2 + 2},{y}"
        middle, anchor = (x1 + x2) // 2, "middle"
    told = f"{row.performative} in {row.conv_id}, {row.bytes} bytes" + (f", {row.content}" if row.content else "")
    return [
        f'<text x="{_MARGIN}" y="{y + 4}" fill="#5a6b7b" font-size="11">{max(0.0, row.at - start):.3f}</text>',
        f'<path d="{path}" fill="none" stroke="{color}"{dash} marker-end="url(#{end})">'
        f"<title>{_xml(told)}</title></path>",
        f'<text x="{middle}" y="{y - 5}" text-anchor="{anchor}" fill="{color}" stroke="#ffffff" stroke-width="3" '
        f'paint-order="stroke">{_xml(caption(row))}</text>',
    ]


def _is_bad(row: Row) -> bool:
    return bool(row.error) or row.status is Status.ERROR or row.performative is Performative.REFUSE


def _milliseconds(value: float) -> str:
    return f"{value:.1f} ms" if value < 100 else f"{value:.0f} ms" if value < 10_000 else f"{value / 1000:.0f} s"


def _clip(label: str) -> str:
    return label if len(label) <= _LABEL else f"{label[: _LABEL - 1]}…"


def _xml(text: str) -> str:
    return escape(_visible(text))


def _mermaid_text(text: str) -> str:
    """Mermaid reads ``#``, ``;`` and markup in its labels; its own entities are numbers."""
    return _UNSAFE.sub(lambda found: f"#{ord(found[0])};", _visible(text)).strip() or "-"


def _visible(text: str) -> str:
    return _CONTROL.sub(" ", text)
