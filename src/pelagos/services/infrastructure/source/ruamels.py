"""ruamel's parser events for a text, faster than stock, with every failure turned into an error at its place.

The pure-Python parser behaves alike on every installation, where the C parsers differ in messages and in the version of
YAML. What it spends on each character and each look-up is trimmed here: the results are the same events.

A description of ten thousand nodes is long because of lines like ``- name: web`` and ``- connection: [web, store]``.
Such a line, recognised whole by one expression, becomes its tokens at once (:meth:`_Scanner._plain_line`); whatever is
the least bit different goes the library's way. A test holds the events of both ways together, on any text.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import FileMark, MarkedYAMLError, YAMLError
from ruamel.yaml.events import ScalarEvent
from ruamel.yaml.parser import Parser
from ruamel.yaml.reader import Reader, ReaderError
from ruamel.yaml.scanner import Scanner
from ruamel.yaml.tokens import (
    BlockEntryToken,
    BlockMappingStartToken,
    BlockSequenceStartToken,
    FlowEntryToken,
    FlowSequenceEndToken,
    FlowSequenceStartToken,
    KeyToken,
    ScalarToken,
    ValueToken,
)

from pelagos.model.diagnostics import Position
from pelagos.services.infrastructure.source.problems import Problems, Source

__all__ = ["events"]

_WORD = "[A-Za-z0-9_][A-Za-z0-9_./-]*"
_LINE = re.compile(
    rf"(?P<indent> *)(?P<dash>-[ ]+)?(?P<key>[A-Za-z_][A-Za-z0-9_]{{0,99}}):"
    rf"(?:[ ]+(?:(?P<word>{_WORD})|\[(?P<words>{_WORD}(?:,[ ]*{_WORD})*)\]))?\n"
    # What follows is the beginning of another line of content, so that no scalar goes on there.
    r"(?=(?P<next> *)[A-Za-z_'\"&-])"
)
_WORDS = re.compile(_WORD)


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
        if not self.tokens or self.possible_simple_keys:
            while self.need_more_tokens():
                self.fetch_more_tokens()
        return bool(self.tokens) and (not choices or isinstance(self.tokens[0], choices))

    def peek_token(self) -> Any:
        return self.tokens[0] if self.check_token() else None

    def get_token(self) -> Any:
        if not self.check_token():
            return None
        self.tokens_taken += 1
        return self.tokens.pop(0)

    def fetch_more_tokens(self) -> Any:
        if self.allow_simple_key and not self.flow_level and not self.possible_simple_keys:
            reader = self.reader
            found = _LINE.match(reader.buffer, reader.pointer - reader.column)
            if found is not None and self._plain_line(found):
                return None
        return super().fetch_more_tokens()

    def _plain_line(self, found: re.Match[str]) -> bool:
        """The tokens of a line ``- key: word`` or ``key: [word, word]`` or ``key:``, as the library would make them.

        False, with nothing done, if it is taken up after its beginning or its value goes on in the next line."""
        indent, dash, key, word, words = found.group("indent", "dash", "key", "word", "words")
        column = len(indent)
        key_column = column + len(dash) if dash else column
        reader = self.reader
        if column < reader.column or (word is not None and len(found["next"]) > key_column):
            return False
        line, name, tokens = reader.line, reader.name, self.tokens
        index = reader.index - reader.column
        origin = found.start()

        def mark(at: int) -> FileMark:
            """Of a place in the line, by its place in the buffer."""
            return FileMark(name, index + at - origin, line, at - origin)

        reader.index, reader.pointer, reader.column = index + column, origin + column, column
        self.unwind_indent(column)
        here = mark(origin + column)
        if dash:
            if self.add_indent(column):
                tokens.append(BlockSequenceStartToken(here, here))
            tokens.append(BlockEntryToken(here, mark(origin + column + 1)))
            here = mark(origin + key_column)
        if self.add_indent(key_column):
            tokens.append(BlockMappingStartToken(here, here))
        colon = mark(found.end("key"))
        tokens += (
            KeyToken(here, here),
            ScalarToken(key, True, here, colon),
            ValueToken(colon, mark(found.end("key") + 1)),
        )
        if word is not None:
            tokens.append(ScalarToken(word, True, mark(found.start("word")), mark(found.end("word"))))
        elif words is not None:
            begin, end = found.span("words")
            tokens.append(FlowSequenceStartToken(mark(begin - 1), mark(begin)))
            last = begin
            for each in _WORDS.finditer(reader.buffer, begin, end):
                if last > begin:
                    tokens.append(FlowEntryToken(mark(last), mark(last + 1)))
                last = each.end()
                tokens.append(ScalarToken(each[0], True, mark(each.start()), mark(last)))
            tokens.append(FlowSequenceEndToken(mark(end), mark(end + 1)))
        reader.pointer = found.end()
        reader.index = index + found.end() - origin
        reader.line += 1
        reader.column = 0
        return True


class _Parser(Parser):
    """ruamel's parser, which looks its scanner up at every token."""

    @functools.cached_property
    def scanner(self) -> Any:
        return self.loader.scanner

    def parse_node(self, block: bool = False, indentless_sequence: bool = False) -> Any:
        if not self.scanner.check_token(ScalarToken):
            return super().parse_node(block, indentless_sequence)
        token = self.scanner.get_token()
        self.state = self.states.pop()
        implicit = (True, False) if token.plain else (False, True)
        return ScalarEvent(
            None,
            None,
            implicit,
            token.value,
            token.start_mark,
            token.end_mark,
            style=token.style,
            comment=token.comment,
        )


def events(source: Source, problems: Problems) -> Iterator[Any]:
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
