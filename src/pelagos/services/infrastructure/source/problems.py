"""Collects mistakes, so that a reader sees all of them at once and each at its place."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable

from pelagos.model.diagnostics import Diagnostic, Position, Severity
from pelagos.model.errors import DescriptionError

__all__ = ["Problems", "Source", "did_you_mean", "listing"]

_MAX_DIAGNOSTICS = 200
_MAX_COLLECTED = 2 * _MAX_DIAGNOSTICS
"""Of each severity; those found beyond are counted only. More than are shown, so that the first by place are shown."""
_MAX_COMPARED = 500
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
        self._found: dict[Severity, dict[tuple[str, Position | None], Diagnostic]] = {
            severity: {} for severity in Severity
        }
        self._beyond: dict[Severity, set[tuple[str, Position | None]]] = {severity: set() for severity in Severity}
        self._sources: dict[str, Source] = {}
        self.failed = False

    def know(self, source: Source) -> None:
        """Messages at places in this source show its lines."""
        self._sources.setdefault(source.name, source)

    def error(self, summary: str, position: Position | None = None, advice: str | Callable[[], str] = "") -> None:
        """``advice`` may be a function, called only if the mistake may be shown: one that compares many names."""
        self.failed = True
        self._add(Severity.ERROR, summary, position, advice)

    def warning(self, summary: str, position: Position | None = None, advice: str = "") -> None:
        self._add(Severity.WARNING, summary, position, advice)

    def _add(
        self, severity: Severity, summary: str, position: Position | None, advice: str | Callable[[], str]
    ) -> None:
        key = (summary, position)
        found = self._found[severity]
        if key in found:
            return
        if len(found) >= _MAX_COLLECTED:
            self._beyond[severity].add(key)
            return
        line = ""
        if position is not None:
            source = self._sources.get(position.file)
            line = source.line(position.line) if source is not None else ""
        told = advice if isinstance(advice, str) else advice()
        found[key] = Diagnostic(summary=summary, position=position, severity=severity, advice=told, source=line)

    def _count(self, severity: Severity) -> int:
        return len(self._found[severity]) + len(self._beyond[severity])

    def sorted(self) -> tuple[Diagnostic, ...]:
        """All, by file and place; beyond a readable number the rest is only counted, warnings before errors."""

        def place(item: Diagnostic) -> tuple[str, int, int]:
            at = item.position
            return (at.file, at.line, at.column) if at is not None else ("", 0, 0)

        errors, warnings = (
            sorted(self._found[severity].values(), key=place) for severity in (Severity.ERROR, Severity.WARNING)
        )
        total = sum(self._count(severity) for severity in Severity)
        shown = sorted([*errors, *warnings][:_MAX_DIAGNOSTICS], key=place)
        if total <= len(shown):
            return tuple(shown)
        severity = Severity.ERROR if self.failed else Severity.WARNING
        return (*shown, Diagnostic(summary=f"and {total - len(shown)} more", severity=severity))

    def raise_if_failed(self) -> None:
        """Raise :class:`DescriptionError` with everything found, if anything of it is an error."""
        if not self.failed:
            return
        found = self.sorted()
        first = next(item for item in found if item.severity is Severity.ERROR)
        others = self._count(Severity.ERROR) - 1
        message = f"{first} (and {others} more)" if others else str(first)
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
    """``did you mean 'x'?`` if a known name is close, else ``otherwise``.

    Of very many known names only some that begin as it does are compared: the mistake is to be told at once."""
    names = list(known)
    if len(names) > _MAX_COMPARED:
        names = [other for other in names if other[:2] == name[:2]][:_MAX_COMPARED]
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else otherwise
