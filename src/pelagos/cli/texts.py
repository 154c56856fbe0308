"""How values look in tables and sentences: ages, plural forms, aligned columns, states in colour.

Tables are plain aligned columns on a terminal and in a pipe alike, so that ``awk`` sees what a person sees; rich is
imported for live progress only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import click

__all__ = ["age", "clean", "count", "duration", "join", "printable", "short", "state", "table"]

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")
_COLORS = {
    "ready": "green",
    "succeeded": "green",
    "pending": "yellow",
    "building": "yellow",
    "changing": "yellow",
    "running": "yellow",
    "rolling_back": "yellow",
    "temp_failed": "yellow",
    "uncertain": "yellow",
    "degraded": "yellow",
    "destroying": "magenta",
    "suspended": "blue",
    "detached": "blue",
    "shutdown": "blue",
    "failed": "red",
    "ok": "green",
    "limited": "yellow",
    "draining": "yellow",
    "removed": "magenta",
    "unreachable": "red",
    "failing": "red",
    "refused": "red",
    "broken": "red",
    "cancelled": "red",
}


def age(seconds: float) -> str:
    """``4s``, ``2m``, ``3h``, ``5d``: one unit, rounded down. A clock that went back gives ``0s``."""
    whole = max(0, int(seconds))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if whole >= size:
            return f"{whole // size}{unit}"
    return f"{whole}s"


def duration(seconds: float) -> str:
    """``0.4 s``, ``12 s``, ``2 min 5 s``, ``1 h 3 min``: how long something takes, for sentences."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        minutes, rest = divmod(whole, 60)
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def count(number: int, noun: str, plural: str | None = None) -> str:
    """``1 instance``, ``2 instances``."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def join(words: Sequence[str], last: str = "and") -> str:
    """``a, b and c``."""
    return f" {last} ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def short(identifier: str) -> str:
    """An id's first eight characters, enough to tell instances of one infrastructure apart."""
    return identifier[:8]


def clean(text: str) -> str:
    """One line without control characters: what a cloud answered must not steer a terminal."""
    return printable(text).strip()


def printable(text: str) -> str:
    """``text`` with each control character but the tab as a space."""
    return _CONTROL.sub(" ", text)


def state(value: str) -> str:
    """A state in its colour (stripped again where the stream is no terminal)."""
    color = _COLORS.get(value)
    return click.style(value, fg=color) if color else value


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Aligned columns, two spaces apart, ``-`` for what is empty. Cells may carry styles; columns in which every cell
    is empty are left out."""
    cells = [[cell or "-" for cell in row] for row in rows]
    kept = [i for i in range(len(headers)) if any(row[i] != "-" for row in cells) or not cells]
    picked = [[headers[i] for i in kept], *([row[i] for i in kept] for row in cells)]
    widths = [max(len(click.unstyle(row[i])) for row in picked) for i in range(len(kept))]
    lines = []
    for row in picked:
        padded = [cell + " " * (width - len(click.unstyle(cell))) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)
