"""Collects the files of a description into a bundle ``{name: text}``.

A server opens no file of its clients. So the client reads what the user named, and what those files import, and sends
the texts under the names the user knows them by; the server parses them under those names, so that messages say the
same ``file:line`` with and without a daemon.

Imports are found by scanning tokens, not by parsing: what is wrong with the YAML is for the compiler to say, all at
once. Only files below the common directory of those named are read, symbolic links resolved, so that a description
from elsewhere cannot make its reader send other files away.
"""

from __future__ import annotations

import os
import posixpath
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pelagos.model.diagnostics import Diagnostic, Position
from pelagos.model.errors import DescriptionError, InvalidInput

__all__ = ["MAX_FILE", "read_bundle"]

MAX_FILE = 4 << 20
"""Most bytes of one file."""
MAX_FILES = 1000
MAX_TOTAL = 32 << 20

_IMPORTS = ("!text_import", "!yaml_import")
_HINT = re.compile(r"!(?:text|yaml)_import")


def read_bundle(paths: Sequence[str | Path]) -> tuple[dict[str, str], list[str]]:
    """(name -> text, the names of the files the user named): what is sent to be compiled.

    Raises :class:`InvalidInput` if a named file cannot be read, is too large or is not UTF-8, and
    :class:`DescriptionError`, with places, if imported ones cannot."""
    if not paths:
        raise InvalidInput("no file was named", advice="Name the file of a description.")
    named = [os.fspath(path) for path in paths]
    base = Path(os.path.commonpath([Path(name).resolve().parent for name in named]))
    collected = _Collected(base)
    entries = []
    for given in named:
        name = posixpath.normpath(Path(given).as_posix())
        if name not in collected.sources:
            collected.add(name, None)
        if name not in entries:
            entries.append(name)
    while collected.waiting:
        collected.follow(collected.waiting.pop(0))
    if collected.problems:
        first = collected.problems[0]
        raise DescriptionError(str(first), advice=first.advice, diagnostics=tuple(collected.problems))
    return collected.sources, entries


class _Collected:
    """Texts read so far, and names of those whose imports are still to be looked for."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.sources: dict[str, str] = {}
        self.waiting: list[str] = []
        self.problems: list[Diagnostic] = []
        self._total = 0

    def add(self, name: str, importer: Diagnostic | None) -> None:
        """Read a file. Of an imported one, what is wrong becomes a diagnostic at ``importer``'s place."""
        try:
            text = self._read(name)
        except InvalidInput as error:
            if importer is None:
                raise
            self.problems.append(
                Diagnostic(
                    summary=error.message, position=importer.position, advice=error.advice, source=importer.source
                )
            )
            return
        self.sources[name] = text
        if _HINT.search(text):
            self.waiting.append(name)

    def _read(self, name: str) -> str:
        path = Path(name)
        if len(self.sources) >= MAX_FILES:
            raise InvalidInput(f"more than {MAX_FILES} files")
        try:
            if path.is_dir():
                raise InvalidInput(f"{name} is a directory, not a file", advice="Name the files in it.")
            if not stat.S_ISREG(path.stat().st_mode):
                # A pipe or a device may never end, or never begin.
                raise InvalidInput(f"{name} is not a regular file", advice="Write the text to a file, and name that.")
            with path.open("rb") as file:
                data = file.read(MAX_FILE + 1)
        except FileNotFoundError:
            raise InvalidInput(f"there is no file {name}") from None
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise InvalidInput(f"{name} cannot be read: {reason}") from error
        if len(data) > MAX_FILE:
            raise InvalidInput(f"{name} is larger than {MAX_FILE >> 20} MiB")
        self._total += len(data)
        if self._total > MAX_TOTAL:
            raise InvalidInput(f"the files are larger than {MAX_TOTAL >> 20} MiB together")
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise InvalidInput(f"{name}:{line}: this is not UTF-8", advice="Save the file as UTF-8.") from None

    def follow(self, name: str) -> None:
        """Read what the file imports. An import that the compiler refuses anyway is left to it."""
        text = self.sources[name]
        lines = text.split("\n")
        for url, line, column in _imported(text):
            scheme, separator, path = url.partition("://")
            if scheme != "file" or not separator or not path or path.startswith("/"):
                continue
            target = posixpath.normpath(posixpath.join(posixpath.dirname(name), path))
            if target in self.sources:
                continue
            importer = Diagnostic(
                summary="", position=Position(name, line, column), source=lines[line - 1].rstrip("\r")[:400]
            )
            try:
                inside = Path(target).resolve().is_relative_to(self.base)
            except (OSError, ValueError, RuntimeError):
                inside = False
            if inside:
                self.add(target, importer)
            else:
                self.problems.append(
                    Diagnostic(
                        summary=f"{path!r} leads out of the directory of the files named",
                        position=importer.position,
                        advice="move the file below that directory, or name a file in a directory above both",
                        source=importer.source,
                    )
                )


def _imported(text: str) -> Iterator[tuple[str, int, int]]:
    """(url, line, column) of each import; ends early where the text is not YAML."""
    from ruamel.yaml import YAML, tokens
    from ruamel.yaml.error import YAMLError

    tagged = False
    key: str | None = None
    is_key = False
    scan: Iterator[Any] = YAML(typ="safe", pure=True).scan(text)
    try:
        for token in scan:
            match token:
                case tokens.TagToken():
                    tagged = "".join(part or "" for part in _tag_parts(token.value)) in _IMPORTS
                    key = None
                case tokens.KeyToken():
                    is_key = True
                case tokens.ValueToken():
                    is_key = False
                case tokens.ScalarToken() if tagged:
                    if is_key:
                        key = token.value
                    elif key == "url":
                        yield token.value, token.start_mark.line + 1, token.start_mark.column + 1
                        tagged = False
                case tokens.BlockEndToken() | tokens.FlowMappingEndToken():
                    tagged = False
                case _:
                    pass
    except (YAMLError, ValueError, OverflowError):
        return


def _tag_parts(value: Any) -> tuple[str | None, str | None]:
    """Handle and suffix of a tag token, in the forms that ruamel's releases give it."""
    if isinstance(value, tuple):
        handle, suffix = value[0], value[1]
        return handle, suffix
    return getattr(value, "handle", None), getattr(value, "suffix", None)
