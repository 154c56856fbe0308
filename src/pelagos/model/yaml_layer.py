"""A YAML file as plain values with places: what the configuration, apps and releases are read from.

Only mappings, lists and plain scalars are taken: a tag of any other kind is a mistake, so a file never makes objects.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pelagos.model.diagnostics import Diagnostic, Position

if TYPE_CHECKING:
    from ruamel.yaml.nodes import Node

__all__ = ["Layer", "Origin", "PathKey", "did_you_mean", "parse_layer", "parse_scalar", "read_layer"]

Origin = Position | str
"""Where a value came from: a place in a file, or the name of a variable or flag."""
PathKey = tuple[str | int, ...]

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
    return Diagnostic(summary, position, advice=advice, source=source)


def read_layer(path: Path, mistakes: list[Diagnostic]) -> Layer:
    """The file's values. Mistakes are added to the list; raises OSError if it cannot be read."""
    return parse_layer(str(path), path.read_bytes(), mistakes)


def parse_layer(
    name: str, data: bytes, mistakes: list[Diagnostic], *, what: str = "the configuration", list_key: str = ""
) -> Layer:
    """The values of a text that was read from ``name``. Mistakes are added to the list.

    ``what`` it is, for messages. A list at the root is taken as the value of ``list_key``, unless that is empty."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError
    from ruamel.yaml.nodes import MappingNode, SequenceNode

    layer = Layer()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        mistakes.append(Diagnostic(f"the file is not UTF-8: {error.reason} at byte {error.start}", Position(name, 1)))
        return layer
    layer.lines[name] = text.splitlines()
    try:
        root = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        position = Position(name, mark.line + 1, mark.column + 1) if mark else Position(name, 1)
        mistakes.append(at(position, layer.lines, str(error.problem or error.context)))
        return layer
    except YAMLError as error:
        mistakes.append(Diagnostic(str(error).splitlines()[0], Position(name, 1)))
        return layer
    if root is None:
        return layer
    reader = _Reader(name, layer, mistakes)
    layer.origins[()] = Position(name, root.start_mark.line + 1, root.start_mark.column + 1)
    if list_key and isinstance(root, SequenceNode):
        layer.origins[(list_key,)] = layer.origins[()]
        layer.data = {list_key: reader.value(root, (list_key,))}
        return layer
    if not isinstance(root, MappingNode):
        mistakes.append(at(Position(name, 1), layer.lines, f"{what} is not a mapping of keys to values"))
        return layer
    layer.data = reader.mapping(root, ())
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
    close = difflib.get_close_matches(name, sorted(known), 1)
    return f"Did you mean {close[0]!r}?" if close else otherwise


class _Reader:
    def __init__(self, name: str, layer: Layer, mistakes: list[Diagnostic]) -> None:
        from ruamel.yaml import YAML

        self._name = name
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
        try:
            return self._value(node, path)
        finally:
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
            case _:
                self._mistake(node, f"the tag {node.tag} means nothing here", "Use plain values only.")
                return None

    def _position(self, node: Any) -> Position:
        return Position(self._name, node.start_mark.line + 1, node.start_mark.column + 1)

    def _mistake(self, node: Any, summary: str, advice: str = "") -> None:
        self._mistakes.append(at(self._position(node), self._layer.lines, summary, advice))
