"""What the shell's names answer: lists that look like tables, sentences, and both may be awaited.

``ps()`` is done when it returns, since the connection lives in another thread. ``await ps()`` is the same, so nobody
has to remember which names want an ``await``.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from types import CoroutineType
from typing import Any, Generic, Self, TypeVar

__all__ = ["Listing", "Said", "unawaited"]

T = TypeVar("T")


class Listing(list[T], Generic[T]):
    """A list that is shown as the text it was made with."""

    def __init__(self, items: Iterable[T], text: str) -> None:
        super().__init__(items)
        self._text = text

    def __repr__(self) -> str:
        return self._text

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(self._text)

    def __await__(self) -> Generator[None, None, Self]:
        return self
        yield


def unawaited(work: CoroutineType[Any, Any, Any]) -> str:
    """What is told of a coroutine that a line leaves behind. It never runs: closed here, it is not warned about."""
    work.close()
    return f"{work.__name__} has not been called: write await before it."


class Said(str):
    """A sentence that is shown without quotes."""

    def __repr__(self) -> str:
        return str(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))

    def __await__(self) -> Generator[None, None, Self]:
        return self
        yield
