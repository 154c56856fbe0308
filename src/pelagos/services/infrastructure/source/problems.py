"""Collects mistakes, so that a reader sees all of them at once and each at its place."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from pelagos.model.diagnostics import Diagnostic, Position, Severity
from pelagos.model.errors import DescriptionError

__all__ = ["Problems", "Source", "did_you_mean", "listing"]

_MAX_DIAGNOSTICS = 200
_MAX_LINE = 400


class Source:
    """A text and the name it was given under; knows its lines for messages."""

    __slots__ = ("_lines", "name", "text")

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text
        self._lines: list[str] | None = None

    def line(self, number: int) -> str:
        """The text of a line, counted from 1; empty where there is none."""
        if self._lines is None:
            self._lines = self.text.split("\n")
        if not 1 <= number <= len(self._lines):
            return ""
        return self._lines[number - 1].rstrip("\r")[:_MAX_LINE]


class Problems:
    """Diagnostics found so far."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, Position | None], Diagnostic] = {}
        self._sources: dict[str, Source] = {}
        self.failed = False

    def know(self, source: Source) -> None:
        """Messages at places in this source show its lines."""
        self._sources.setdefault(source.name, source)

    def error(self, summary: str, position: Position | None = None, advice: str = "") -> None:
        self.failed = True
        self._add(Severity.ERROR, summary, position, advice)

    def warning(self, summary: str, position: Position | None = None, advice: str = "") -> None:
        self._add(Severity.WARNING, summary, position, advice)

    def _add(self, severity: Severity, summary: str, position: Position | None, advice: str) -> None:
        line = ""
        if position is not None:
            source = self._sources.get(position.file)
            line = source.line(position.line) if source is not None else ""
        self._found.setdefault(
            (summary, position),
            Diagnostic(summary=summary, position=position, severity=severity, advice=advice, source=line),
        )

    def sorted(self) -> tuple[Diagnostic, ...]:
        """All, by file and place; beyond a readable number the rest is only counted."""

        def place(item: Diagnostic) -> tuple[str, int, int]:
            at = item.position
            return (at.file, at.line, at.column) if at is not None else ("", 0, 0)

        found = sorted(self._found.values(), key=place)
        if len(found) <= _MAX_DIAGNOSTICS:
            return tuple(found)
        errors = [item for item in found if item.severity is Severity.ERROR]
        shown = sorted((errors + [item for item in found if item not in errors])[:_MAX_DIAGNOSTICS], key=place)
        severity = Severity.ERROR if self.failed else Severity.WARNING
        rest = Diagnostic(summary=f"and {len(found) - _MAX_DIAGNOSTICS} more", severity=severity)
        return (*shown, rest)

    def raise_if_failed(self) -> None:
        """Raise :class:`DescriptionError` with everything found, if anything of it is an error."""
        if not self.failed:
            return
        found = self.sorted()
        errors = [item for item in found if item.severity is Severity.ERROR]
        first = errors[0]
        message = str(first) if len(errors) == 1 else f"{first} (and {len(errors) - 1} more)"
        raise DescriptionError(message, advice=first.advice, diagnostics=found)


def listing(names: Iterable[str], limit: int = 12) -> str:
    """Names for a sentence, in the order given: ``a, b and c``."""
    shown = list(names)
    if len(shown) > limit:
        shown = [*shown[:limit], f"{len(shown) - limit} more"]
    if len(shown) < 2:
        return "".join(shown)
    return f"{', '.join(shown[:-1])} and {shown[-1]}"


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """``did you mean 'x'?`` if a known name is close, else ``otherwise``."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else otherwise
