"""A row of the report: what was measured, beside what in the same run, and whether that is what was aimed at."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Row", "as_line", "as_table", "heading"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """Times in seconds. ``aim`` and ``judged`` have the same unit, whatever it is: seconds or a ratio.

    A row without an aim is there to be compared with others (``shown``)."""

    name: str
    measured: float
    floor: float | None = None
    """The floor or the peer, measured in the same run."""
    floor_name: str = ""
    aim: float | None = None
    aim_text: str = ""
    judged: float | None = None
    """What is held against the aim; None: ``measured``."""
    note: str = ""

    @property
    def ratio(self) -> float | None:
        return self.measured / self.floor if self.floor else None

    @property
    def verdict(self) -> str:
        if self.aim is None:
            return "shown"
        value = self.measured if self.judged is None else self.judged
        return "ok" if value <= self.aim else "short"

    def cells(self) -> tuple[str, ...]:
        """name, measured, floor or peer, ratio, aim, verdict and note, as text."""
        floor = f"{_seconds(self.floor)} {self.floor_name}".strip() if self.floor is not None else "-"
        ratio = f"{self.ratio:.2f} x" if self.ratio is not None else "-"
        return (self.name, _seconds(self.measured), floor, ratio, self.aim_text or "-", self.verdict, self.note)


_HEADINGS = ("what", "measured", "floor or peer", "ratio", "aim", "", "note")
_WIDTHS = (46, 10, 34, 8, 12, 6)


def heading() -> str:
    """The line above the lines."""
    return _line(_HEADINGS)


def as_line(row: Row) -> str:
    """One line for a terminal."""
    return _line(row.cells())


def _line(cells: tuple[str, ...]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, (*_WIDTHS, 0), strict=True)).rstrip()


def as_table(rows: list[Row]) -> str:
    """The rows as a Markdown table, for docs/performance.md."""
    lines = [f"| {' | '.join(_HEADINGS)} |", f"|{'---|' * len(_HEADINGS)}"]
    lines += [f"| {' | '.join(row.cells())} |" for row in rows]
    return "\n".join(lines)


def _seconds(value: float) -> str:
    if value >= 1:
        return f"{value:.2f} s"
    if value >= 1e-3:
        return f"{value * 1e3:.1f} ms"
    return f"{value * 1e6:.1f} us"
