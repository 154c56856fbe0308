"""A YAML file as plain values with places: what the configuration, apps and releases are read from.

Only mappings, lists and plain scalars are taken: a tag of any other kind is a mistake, so a file never makes objects.
Who reads the files of another program names the tags that it knows, and what plain value each stands for.
A file is bounded in bytes, in depth and in values, each alias counted as a copy of what it means: a few lines of
aliases of aliases would fill the memory otherwise. Whoever waits can end it meanwhile (``check``).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pelagos.model.diagnostics import Diagnostic, Position

if TYPE_CHECKING:
    from ruamel.yaml.nodes import Node

__all__ = [
    "MAX_BYTES",
    "Layer",
    "Origin",
    "PathKey",
    "Tag",
    "did_you_mean",
    "parse_layer",
    "parse_scalar",
    "read_bounded",
    "read_layer",
]

MAX_BYTES = 4 * 1024 * 1024
_MAX_VALUES = 100_000
"""Of a file, keys included, each alias counted as a copy."""
_MAX_DEPTH = 100
_CHECK_EVERY = 256
_MAX_LINE = 400

Origin = Position | str
"""Where a value came from: a place in a file, or the name of a variable or flag."""
PathKey = tuple[str | int, ...]
Tag = Callable[[Any], Any]
"""What makes a plain value of the mapping, list or text that a tag stands before; raises ValueError where it cannot."""

_TAG = "tag:yaml.org,2002:"


class Layer:
    """One source of settings: plain values, where each came from, the text of its lines."""

    def __init__(self, data: dict[str, Any] | None = None, origins: dict[PathKey, Origin] | None = None) -> None:
        self.data: dict[str, Any] = data or {}
        self.origins: dict[PathKey, Origin] = origins or {}
        self.lines: dict[str, list[str]] = {}

    def origin(self, path: PathKey) -> Origin:
        """Where the value at a path came from, or the nearest thing around it."""
        while path and path not in self.origins:
            path = path[:-1]
        return self.origins.get(path, "the configuration")

    def diagnostic(self, path: PathKey, summary: str, advice: str = "") -> Diagnostic:
        origin = self.origin(path)
        if isinstance(origin, str):
            return Diagnostic(f"{origin}: {summary}", advice=advice)
        return at(origin, self.lines, summary, advice)


def at(position: Position, lines: dict[str, list[str]], summary: str, advice: str = "") -> Diagnostic:
    text = lines.get(position.file, [])
    source = text[position.line - 1] if 0 < position.line <= len(text) else ""
    if len(source) > _MAX_LINE:
        source = ""  # nobody finds a place in it by eye
    return Diagnostic(summary, position, advice=advice, source=source)


def read_layer(
    path: Path,
    mistakes: list[Diagnostic],
    *,
    what: str = "the configuration",
    texts: bool = False,
    tags: Mapping[str, Tag] | None = None,
) -> Layer:
    """The file's values. Mistakes are added to the list; raises OSError if it cannot be read.

    ``texts``: whether ``!text_import {url: file://name}`` stands for the text of the file ``name`` beside it, or in a
    directory below. ``tags``: see :func:`parse_layer`."""
    directory = path.parent if texts else None
    return parse_layer(str(path), read_bounded(path), mistakes, what=what, directory=directory, tags=tags)


def read_bounded(path: Path) -> bytes:
    """The file's bytes; of one that is larger than allowed, so many that :func:`parse_layer` says so."""
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


def parse_layer(
    name: str,
    data: bytes,
    mistakes: list[Diagnostic],
    *,
    what: str = "the configuration",
    list_key: str = "",
    directory: Path | None = None,
    check: Callable[[], None] | None = None,
    tags: Mapping[str, Tag] | None = None,
) -> Layer:
    """The values of a text that was read from ``name``. Mistakes are added to the list.

    ``what`` it is, for messages. A list at the root is taken as the value of ``list_key``, unless that is empty.
    ``directory`` is where ``!text_import`` finds texts; without it, that is a tag like any other.
    ``check`` is called every now and then, and ends the work by raising. ``tags`` are known besides YAML's own:
    ``!name`` -> what makes a plain value of the tagged one."""
    from ruamel.yaml.error import MarkedYAMLError, YAMLError
    from ruamel.yaml.nodes import MappingNode, SequenceNode

    layer = Layer()
    if len(data) > MAX_BYTES:
        advice = "Write it as several files."
        mistakes.append(
            Diagnostic(f"the file is larger than {MAX_BYTES // 1024**2} MiB", Position(name, 1), advice=advice)
        )
        return layer
    budget = _Budget(check)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        mistakes.append(Diagnostic(f"the file is not UTF-8: {error.reason} at byte {error.start}", Position(name, 1)))
        return layer
    layer.lines[name] = text.splitlines()
    try:
        root = _compose(text, budget)
    except _TooMuch as error:
        mistakes.append(error.mistake(name, layer))
        return layer
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        position = Position(name, mark.line + 1, mark.column + 1) if mark else Position(name, 1)
        mistakes.append(at(position, layer.lines, str(error.problem or error.context)))
        return layer
    except YAMLError as error:
        mistakes.append(Diagnostic(str(error).splitlines()[0], Position(name, 1)))
        return layer
    if root is None:
        layer.origins[()] = Position(name, 1)  # of what an empty file lacks
        return layer
    reader = _Reader(name, layer, mistakes, _Budget(check), directory, tags or {})
    layer.origins[()] = Position(name, root.start_mark.line + 1, root.start_mark.column + 1)
    try:
        if list_key and isinstance(root, SequenceNode):
            layer.origins[(list_key,)] = layer.origins[()]
            layer.data = {list_key: reader.value(root, (list_key,))}
            return layer
        if not isinstance(root, MappingNode):
            mistakes.append(at(Position(name, 1), layer.lines, f"{what} is not a mapping of keys to values"))
            return layer
        layer.data = reader.mapping(root, ())
    except _TooMuch as error:
        mistakes.append(error.mistake(name, layer))
    return layer


def parse_scalar(text: str) -> Any:
    """What YAML makes of a short text, such as an environment variable's; the text itself if it makes nothing of it."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError):
        return text


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """Advice for a name that is not known: the nearest one that is, else ``otherwise``."""
    # At the usual 0.6 "nothere" would be near "noperm"; two letters of three in another order are 0.67.
    close = difflib.get_close_matches(name, sorted(known), 1, 0.65)
    return f"Did you mean {close[0]!r}?" if close else otherwise


class _TooMuch(Exception):
    """The text has too many values, or is nested too deeply."""

    def __init__(self, mark: Any, summary: str) -> None:
        super().__init__(summary)
        self._mark = mark

    def mistake(self, name: str, layer: Layer) -> Diagnostic:
        position = Position(name, self._mark.line + 1, self._mark.column + 1)
        return at(position, layer.lines, str(self), "Write it as several files, without aliases of aliases.")


class _Budget:
    """How much of a text may still be read."""

    def __init__(self, check: Callable[[], None] | None) -> None:
        self._check = check
        self._values = 0
        self._depth = 0

    def enter(self, mark: Any) -> None:
        """One value more, inside of those that were not left. Raises :class:`_TooMuch`, and what the check raises."""
        self._values += 1
        self._depth += 1
        if self._values > _MAX_VALUES:
            raise _TooMuch(mark, f"the file has more than {_MAX_VALUES} values (an alias counts as what it stands for)")
        if self._depth > _MAX_DEPTH:
            raise _TooMuch(mark, f"nested deeper than {_MAX_DEPTH} levels")
        if self._check is not None and self._values % _CHECK_EVERY == 0:
            self._check()

    def leave(self) -> None:
        self._depth -= 1


def _compose(text: str, budget: _Budget) -> Any:
    """The root node of a text; None for an empty one. Raises YAMLError and what the budget raises."""
    from ruamel.yaml import YAML
    from ruamel.yaml.composer import Composer

    class Bounded(Composer):
        def compose_node(self, parent: Any, index: Any) -> Any:
            budget.enter(self.parser.peek_event().start_mark)
            node = super().compose_node(parent, index)
            budget.leave()
            return node

    yaml = YAML(typ="safe", pure=True)
    yaml.Composer = Bounded
    return yaml.compose(text)


class _Reader:
    def __init__(
        self,
        name: str,
        layer: Layer,
        mistakes: list[Diagnostic],
        budget: _Budget,
        directory: Path | None,
        tags: Mapping[str, Tag],
    ) -> None:
        from ruamel.yaml import YAML

        self._name = name
        self._directory = directory
        self._tags = tags
        self._budget = budget
        self._layer = layer
        self._mistakes = mistakes
        self._constructor: Any = YAML(typ="safe", pure=True).constructor
        self._open: set[int] = set()

    def mapping(self, node: Any, path: PathKey) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value if key_node.tag == f"{_TAG}str" else None
            if not isinstance(key, str):
                self._mistake(key_node, "a key must be text", "Put it in quotes.")
                continue
            if key in values:
                self._mistake(key_node, f"the key {key!r} is there twice", "Delete one of them.")
                continue
            self._layer.origins[(*path, key)] = self._position(key_node)
            values[key] = self.value(value_node, (*path, key))
        return values

    def value(self, node: Node, path: PathKey) -> Any:
        if id(node) in self._open:
            self._mistake(node, "an alias that contains itself")
            return None
        self._open.add(id(node))
        self._budget.enter(node.start_mark)
        try:
            return self._value(node, path)
        finally:
            self._budget.leave()
            self._open.discard(id(node))

    def _value(self, node: Any, path: PathKey) -> Any:
        kind = str(node.tag).removeprefix(_TAG)
        match kind:
            case "map":
                return self.mapping(node, path)
            case "seq":
                items = []
                for index, item in enumerate(node.value):
                    self._layer.origins[(*path, index)] = self._position(item)
                    items.append(self.value(item, (*path, index)))
                return items
            case "str" | "timestamp":
                return node.value
            case "int" | "float" | "bool" | "null":
                try:
                    return getattr(self._constructor, f"construct_yaml_{kind}")(node)
                except ValueError as error:
                    self._mistake(node, str(error))
                    return None
            case "!text_import" if self._directory is not None:
                return self._text(node, self._directory)
            case _ if kind in self._tags:
                return self._tagged(node, path, self._tags[kind])
            case _:
                self._mistake(node, f"the tag {node.tag} means nothing here", "Use plain values only.")
                return None

    def _tagged(self, node: Any, path: PathKey, tag: Tag) -> Any:
        """A value with a known tag: what it is without it, made plain."""
        if isinstance(node.value, str):
            value: Any = node.value
        elif node.id == "mapping":
            value = self.mapping(node, path)
        else:
            value = [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        try:
            return tag(value)
        except ValueError as error:
            self._mistake(node, str(error))
            return None

    def _text(self, node: Any, directory: Path) -> str | None:
        """The text of the file that a ``!text_import`` names."""
        pairs = node.value if isinstance(node.value, list) else []
        urls = [value.value for key, value in (pair for pair in pairs if isinstance(pair, tuple)) if key.value == "url"]
        scheme, separator, rest = (str(urls[0]) if len(urls) == 1 else "").partition("://")
        if scheme != "file" or not separator or not rest or len(pairs) != 1:
            self._mistake(node, "!text_import needs {url: file://name}", "Name a file in the directory of this one.")
            return None
        path = (directory / rest).resolve()
        if not path.is_relative_to(directory.resolve()):
            self._mistake(node, f"{rest!r} leads out of the directory of this file", "Move the file there.")
            return None
        try:
            data = read_bounded(path)
            if len(data) > MAX_BYTES:
                raise ValueError(f"it is larger than {MAX_BYTES // 1024**2} MiB")
            return data.decode()
        except (OSError, ValueError) as error:
            said = error.strerror if isinstance(error, OSError) else str(error)
            self._mistake(node, f"{rest!r} cannot be read: {said}")
            return None

    def _position(self, node: Any) -> Position:
        return Position(self._name, node.start_mark.line + 1, node.start_mark.column + 1)

    def _mistake(self, node: Any, summary: str, advice: str = "") -> None:
        self._mistakes.append(at(self._position(node), self._layer.lines, summary, advice))
