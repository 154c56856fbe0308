"""Mistakes in files as values: severity, place, the line itself, and what to do.

Modelled on what OpenTofu and Rust do: parsing and checking never stop at the first mistake; they collect diagnostics,
and whoever asked raises once, with all of them.
"""

from __future__ import annotations

import enum

import msgspec

__all__ = ["Diagnostic", "Position", "Severity", "render"]


class Severity(enum.StrEnum):
    ERROR = "error"
    WARNING = "warning"


class Position(msgspec.Struct, frozen=True):
    """A place in a file. ``line`` and ``column`` count from 1; ``file`` is the name the file was given under."""

    file: str
    line: int
    column: int = 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class Diagnostic(msgspec.Struct, frozen=True, omit_defaults=True):
    """One mistake. ``summary`` is one sentence; ``advice`` says what to do; ``source`` is the text of the line."""

    summary: str
    position: Position | None = None
    severity: Severity = Severity.ERROR
    advice: str = ""
    source: str = ""

    def __str__(self) -> str:
        return f"{self.position}: {self.summary}" if self.position else self.summary


def render(diagnostic: Diagnostic) -> str:
    """The diagnostic for a terminal, several lines: place and summary, the line with a caret, the advice."""
    lines = [f"{diagnostic.severity.value}: {diagnostic.summary}"]
    if diagnostic.position is not None:
        position = diagnostic.position
        lines.append(f"  --> {position}")
        if diagnostic.source:
            number = str(position.line)
            pad = " " * len(number)
            lines.append(f"{pad} |")
            lines.append(f"{number} | {diagnostic.source}")
            lines.append(f"{pad} | {' ' * (position.column - 1)}^")
    if diagnostic.advice:
        lines.append(f"  help: {diagnostic.advice}")
    return "\n".join(lines)
