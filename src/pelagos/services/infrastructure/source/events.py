"""ruamel's parser events for a text, faster than stock, with every failure turned into an error at its place.

The pure-Python parser behaves alike on every installation, where the C parsers differ in messages and in the version of
YAML. What it spends on each character and each look-up is trimmed here: the results are the same events.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import FileMark, MarkedYAMLError, YAMLError
from ruamel.yaml.parser import Parser
from ruamel.yaml.reader import Reader, ReaderError
from ruamel.yaml.scanner import Scanner

from pelagos.model.diagnostics import Position
from pelagos.services.infrastructure.source.problems import Problems, Source

__all__ = ["events_of"]


class _Reader(Reader):
    """ruamel's reader for a whole text, without its work on every character and its heavy marks."""

    def forward(self, length: int = 1) -> None:
        end = self.pointer + length
        chunk = self.buffer[self.pointer : end]
        if "\n" in chunk or "\r" in chunk or "\ufeff" in chunk or end >= len(self.buffer):
            super().forward(length)
            return
        self.pointer = end
        self.index += length
        self.column += length

    def prefix(self, length: int = 1) -> str:
        return str(self.buffer[self.pointer : self.pointer + length])

    def get_mark(self) -> FileMark:
        return FileMark(self.name, self.index, self.line, self.column)


class _Scanner(Scanner):
    """ruamel's scanner, asking less often whether a simple key has become stale: only if one could be next."""

    scanner_processing_version = (1, 2)

    @functools.cached_property
    def reader(self) -> Any:
        return self.loader.reader

    def need_more_tokens(self) -> bool:
        if self.done:
            return False
        if not self.tokens:
            return True
        taken = self.tokens_taken
        if all(key.token_number > taken for key in self.possible_simple_keys.values()):
            return False
        self.stale_possible_simple_keys()
        return bool(self.next_possible_simple_key() == taken)

    def check_token(self, *choices: Any) -> bool:
        while self.need_more_tokens():
            self.fetch_more_tokens()
        return bool(self.tokens) and (not choices or isinstance(self.tokens[0], choices))


class _Parser(Parser):
    """ruamel's parser, which looks its scanner up at every token."""

    @functools.cached_property
    def scanner(self) -> Any:
        return self.loader.scanner


def events_of(source: Source, problems: Problems) -> Iterator[Any]:
    """The parser's events. Ends early, with an error added, at what is not YAML."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Reader = _Reader
    yaml.Scanner = _Scanner
    yaml.Parser = _Parser
    try:
        yield from yaml.parse(source.text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
        what = " ".join(str(part) for part in (error.context, error.problem) if part)
        problems.error(f"this is not YAML: {what}", Position(source.name, line, column), _advice(str(error.problem)))
    except ReaderError as error:
        line = source.text.count("\n", 0, error.position) + 1
        column = error.position - source.text.rfind("\n", 0, error.position)
        problems.error(
            f"this is not YAML: the character U+{int(error.character):04X} is not allowed",
            Position(source.name, line, column),
        )
    except YAMLError as error:
        problems.error(f"this is not YAML: {error}", Position(source.name, 1, 1))
    except Exception as error:  # noqa: BLE001 - a library on hostile text; what it trips over is reported as a mistake
        reader = yaml.reader
        problems.error(
            f"this is not YAML: {type(error).__name__} {error}".rstrip(),
            Position(source.name, reader.line + 1, reader.column + 1),
        )


def _advice(problem: str) -> str:
    if "'\\t'" in problem:
        return "indent with spaces; YAML allows no tabs there"
    if "mapping values are not allowed" in problem or "expected <block end>" in problem:
        return "check the indentation, and put texts that contain ': ' in quotes"
    if "cannot start any token" in problem:
        return "put the text in quotes"
    return ""
