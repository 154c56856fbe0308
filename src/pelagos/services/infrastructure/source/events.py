"""A text's parser events: by libyaml as far as that reads a text as ruamel does, and by ruamel from there on.

What a text means, and what is said of one that is not YAML, is the same on every installation; only how long it takes
is not.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from pelagos.services.infrastructure.source import libyaml
from pelagos.services.infrastructure.source.problems import Problems, Source

__all__ = ["events_of"]


def events_of(source: Source, problems: Problems) -> Iterator[Any]:
    """The events, of classes with the names and attributes of ruamel's. Ends early, with an error added, at what is not
    YAML."""
    given = 0
    try:
        for event in libyaml.events(source.text):
            yield event
            given += 1
    except libyaml.Unread:
        from pelagos.services.infrastructure.source import ruamels  # which most texts do not need

        yield from itertools.islice(ruamels.events(source, problems), given, None)
