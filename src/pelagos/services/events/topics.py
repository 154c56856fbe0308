"""Topics of events, ``event.<type>.<origin>``, and patterns over them, ``<type>.<origin>`` with ``*`` and ``#``.

An origin's dots part words, as they did in the ancestor, so ``data_block.temperature.*`` is the temperature of every
producer. What would mean something else in a topic (``*``, ``#``, ``%``, blanks, an empty word) is written ``%XX``, in
the topic and, by :func:`origin_words`, in a pattern made for it; so any origin can be told and asked for.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

from pelagos.exchange import topic_matches
from pelagos.model.errors import InvalidInput
from pelagos.services.events.catalogue import Catalogue

__all__ = ["EVERYTHING", "check_patterns", "kinds_of", "matches_any", "origin_words", "topic_of"]

EVERYTHING = ("#",)
_MOST = 180
"""Bytes of an origin in a topic: AMQP's routing keys have 255, and the system's name and the type are in them too."""


@functools.lru_cache(maxsize=4096)
def origin_words(origin: str) -> str:
    """An origin as it stands in topics and patterns. Raises InvalidInput if it is empty or too long."""
    if not origin or len(origin) > 200:
        raise InvalidInput("an event has an origin of 1 to 200 characters", advice="Say what it is about: an id.")
    told = ".".join("".join(_plain(c) for c in word) or "%" for word in origin.split("."))
    if len(told.encode()) > _MOST:
        raise InvalidInput(f"the origin {origin[:40]}... is too long for a topic", advice="Take an id of less.")
    return told


def _plain(character: str) -> str:
    return f"%{ord(character):02X}" if character in "*#%" or character.isspace() else character


def topic_of(event_type: str, origin: str) -> str:
    """``<type>.<origin>`` as patterns see it."""
    return f"{event_type}.{origin_words(origin)}"


def check_patterns(patterns: str | Iterable[str]) -> tuple[str, ...]:
    """Patterns as a tuple; a type alone means all its origins. Raises InvalidInput if there is none or one is empty."""
    given = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    checked = []
    for pattern in given:
        words = pattern.split(".")
        if not pattern or "" in words or any(c.isspace() for c in pattern) or len(pattern.encode()) > 230:
            raise InvalidInput(
                f"{pattern!r} is not a pattern of events",
                advice="Write type.origin, where * is one word and # any number: process_lifecycle.#",
            )
        checked.append(f"{pattern}.#" if len(words) == 1 and pattern not in ("#", "*") else pattern)
        if pattern == "*":
            checked[-1] = "#"
    if not checked or len(checked) > 100:
        raise InvalidInput("a subscription has 1 to 100 patterns", advice="# stands for everything.")
    return tuple(dict.fromkeys(checked))


def matches_any(patterns: Sequence[str], topic: str) -> bool:
    """Whether a topic (without its ``event.``) fits one of the patterns."""
    return any(pattern == "#" or topic_matches(pattern, topic) for pattern in patterns)


def kinds_of(patterns: Sequence[str], catalogue: Catalogue) -> tuple[str, ...] | None:
    """The kinds of rows that patterns can fit, for the query; None: any."""
    kinds: dict[str, None] = {}
    for pattern in patterns:
        first = pattern.partition(".")[0]
        if first in ("*", "#"):
            return None
        kinds.update(dict.fromkeys(catalogue.kinds(first)))
    return tuple(kinds)
