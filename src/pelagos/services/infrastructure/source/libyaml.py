"""Events by libyaml's parser in C, for the texts that it takes as ruamel's parser takes them.

The parser in C needs a tenth of the time, but it is another parser: it speaks YAML 1.1 where the two versions differ,
its messages are its own, and PyYAML, which brings it, may have been built without. So it is never the one that judges a
text. Texts with a form that the two take differently (:data:`_PECULIAR`) are not given to it, and where it stops at
something, ruamel's parser goes on, whose events up to there are the same. A test holds the events of both together, on
any text; what it found is the list below.

The places of "nothing", of a key without a value, do differ; the composer has a place of its own for it.

Rejected: to read by it what it can, and to live with what is different then. A description would mean something else,
or be a mistake, on a machine without it.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import re
from collections.abc import Iterator
from typing import Any

__all__ = ["Unread", "events"]

_VERSIONS = frozenset({(0, 2, 5)})
"""Of libyaml, those which the tests have compared."""

_PECULIAR: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (sign, re.compile(pattern, re.MULTILINE))
    # Each is tried only where its sign stands, and none goes over the same characters again and again.
    for sign, pattern in (
        # Characters that break lines or stand for nothing in one version of YAML only; tabs between tokens.
        ("", r"[^\n\r\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"),
        # Anchors and aliases that a colon belongs to.
        ("&", r"&[\w-]+[?:%@`]"),
        ("*", r"\*[\w-]+[?:%@`]"),
        # Tags with handles of their own, and with an end that may be theirs or not.
        ("!", r"![^\s!,\[\]{}]*[!,\[\]{}](?<!!!)|!!+[^A-Za-z]"),
        # Values that touch the colon after a key that is no plain word: in a flow sequence they are none.
        ("[", r""":(?<=[\s'"\]}]:)\S"""),
        # Keys after a question mark: where the nothing that may follow is seen.
        ("?", r"(?:^|[\s\[{,])\?"),
        # Block scalars: a comment that touches the sign, and lines of blanks before the first line of text.
        ("|", r"\|[0-9+-]*#|\|[^|>\r\n]*[\r\n]+[ ]+[\r\n]"),
        (">", r">[0-9+-]*#|>[^|>\r\n]*[\r\n]+[ ]+[\r\n]"),
        # Directives, which may ask for another version of YAML; ends of documents that more follows.
        ("%", r"^%|\r%"),
        ("...", r"^\.\.\.|\r\.\.\."),
    )
)
_COLLECTIONS = frozenset({"MappingStartEvent", "SequenceStartEvent"})


class Unread(Exception):
    """The rest of the text is for the other parser. What has been given out is what that gives first."""


@functools.cache
def _parser() -> tuple[Any, tuple[type[Exception], ...]] | None:
    """The parser's class and what it raises at a text, if there is one here that is known."""
    try:
        extension = importlib.import_module("yaml._yaml")
        said = importlib.import_module("yaml.error").YAMLError
    except ImportError:
        return None
    if tuple(extension.get_version()) not in _VERSIONS:
        return None
    return extension.CParser, (said, ValueError)


def _is_peculiar(text: str) -> bool:
    return any(sign in text and pattern.search(text) is not None for sign, pattern in _PECULIAR)


def events(text: str) -> Iterator[Any]:
    """The events of a text: the names and attributes of their classes are those of ruamel's.

    Raises :class:`Unread` where the other parser is to go on, which may be at once."""
    library = _parser()
    if library is None or _is_peculiar(text):
        raise Unread
    parser, failures = library
    try:
        get_event = parser(text).get_event
        first = [get_event() for _ in range(3)]  # the stream, the document, its root
        if type(first[2]).__name__ not in _COLLECTIONS:
            raise Unread  # a block scalar as a root goes on where one inside of something ends
        found = itertools.chain(first, iter(get_event, None))
        yield from _until_tag_before_anchor(found, text) if "!" in text and "&" in text else found
    except failures as error:
        raise Unread from error


def _until_tag_before_anchor(found: Iterator[Any], text: str) -> Iterator[Any]:
    """Such a node begins at its anchor for the one parser, at its tag for the other."""
    for event in found:
        if getattr(event, "anchor", None) and getattr(event, "tag", None) and text[event.start_mark.index] == "!":
            raise Unread
        yield event
