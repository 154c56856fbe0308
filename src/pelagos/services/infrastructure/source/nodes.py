"""YAML text to a tree of nodes that know their places.

The problem: mistakes must be named with file, line and column; an alias must be recognisable as *that* node, because
the format refers to nodes by alias; and hostile text must neither run code nor eat the machine. Loading into plain
Python values loses places and identity; the round-trip loader keeps both but needs half a minute for ten thousand
nodes. So events of ruamel's parser are composed here into small nodes.

Rules:

- YAML 1.2 core values, as the ancestor's loader had them: ``yes`` and ``no`` are text. Numbers written with leading
  zeros (``0644``), numbers beyond 64 bits and dates stay text, since as numbers they would mean something else
  afterwards.
- Mapping keys are text as written. A key given twice is an error. Merge keys (``<<``) work.
- Only the tags ``!text_import`` and ``!yaml_import`` mean anything; they are resolved while composing, so that an
  imported tree can be anchored, aliased and merged like any other.
- Depth and the *expanded* size (each alias counted as a copy) are bounded, so a billion laughs are an error message.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from pelagos.model.diagnostics import Position
from pelagos.services.infrastructure.source.events import events_of
from pelagos.services.infrastructure.source.problems import Problems, Source

__all__ = ["MAX_DEPTH", "MAX_WEIGHT", "Composer", "Node", "TooLarge", "kind_of"]

MAX_DEPTH = 100
MAX_WEIGHT = 4_000_000
"""Expanded size of a document: one a node, and one more for each 64 characters of a scalar."""

SCALAR, SEQUENCE, MAPPING = "scalar", "sequence", "mapping"

_INT = re.compile(r"[-+]?(?:0|[1-9][0-9_]*)\Z|0o[0-7]+\Z|0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?\Z|[-+]?[0-9]+[eE][-+]?[0-9]+\Z")
_CONSTANTS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_NUMERIC = frozenset("0123456789+-.")
_YAML_TAG = "tag:yaml.org,2002:"
_REFUSED = "refused"


class TooLarge(Exception):
    """The document exceeds a bound; the rest of it is not looked at."""


class Node:
    """A YAML node. ``value``: the Python value of a scalar, a list of nodes, or key text -> (key node, value node)."""

    __slots__ = ("column", "height", "kind", "line", "source", "style", "text", "value", "weight")

    def __init__(self, kind: str, source: Source, line: int, column: int, value: Any, text: str, style: str) -> None:
        self.kind = kind
        self.source = source
        self.line = line
        self.column = column
        self.value = value
        self.text = text
        self.style = style
        """Of a scalar: '' plain, a quote, '|' or '>', 'import' for an imported text, or 'missing' for what stands in
        for something that could not be had, which has been reported."""
        self.weight = 1
        self.height = 1

    @property
    def position(self) -> Position:
        return Position(self.source.name, self.line, self.column)

    def get(self, key: str) -> Node | None:
        """The value of a mapping's key."""
        entry = self.value.get(key)
        return None if entry is None else entry[1]

    def items(self) -> Iterator[tuple[str, Node, Node]]:
        """Of a mapping: key, key node, value node."""
        for key, (key_node, value) in self.value.items():
            yield key, key_node, value

    def plain(self) -> Any:
        """The node as Python values. Aliased parts are the same objects: treat the result as frozen."""
        return _plain(self, {})


def _plain(node: Node, seen: dict[int, Any]) -> Any:
    if node.kind == SCALAR:
        return node.value
    known = seen.get(id(node))
    if known is not None:
        return known
    result: Any
    if node.kind == SEQUENCE:
        result = [_plain(child, seen) for child in node.value]
    else:
        result = {key: _plain(entry[1], seen) for key, entry in node.value.items()}
    seen[id(node)] = result
    return result


def kind_of(node: Node) -> str:
    """What a node is, for messages."""
    if node.kind == SEQUENCE:
        return "a list"
    if node.kind == MAPPING:
        return "a mapping"
    match node.value:
        case None:
            return "nothing"
        case bool():
            return f"the truth value {node.text}"
        case int() | float():
            return f"the number {node.text}"
        case _:
            return f"the text {node.value[:40]!r}" if node.value else "an empty text"


def _scalar(text: str) -> Any:
    """The value of a plain scalar."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if text[0] not in _NUMERIC or len(text) > 40:
        return text
    if _INT.match(text):
        number = int(text.replace("_", ""), 0)
        return number if -(2**63) <= number < 2**63 else text
    if _FLOAT.match(text):
        value = float(text.replace("_", ""))
        return value if abs(value) < float("inf") else text
    return text


def _tagged(tag: str, text: str) -> tuple[bool, Any]:
    """(whether the tag is known and fits, the value) of a scalar with an explicit tag."""
    if not tag.startswith(_YAML_TAG):
        return tag == "!", text
    plain = _scalar(text)
    match tag.removeprefix(_YAML_TAG):
        case "str":
            return True, text
        case "null":
            return plain is None, None
        case "bool":
            return isinstance(plain, bool), plain
        case "int":
            return isinstance(plain, int) and not isinstance(plain, bool), plain
        case "float":
            number = isinstance(plain, int | float) and not isinstance(plain, bool)
            return number, float(plain) if number else plain
        case _:
            return False, text


ImportResolver = Callable[[str, Node], Node | None]
"""(tag, the tagged node) -> what takes its place; None, with an error added, if it cannot be had."""


class _SecondDocument(Exception):
    """Begins at the place that it carries."""


class _Open:
    """A collection whose end has not come yet."""

    __slots__ = ("anchor", "key", "merges", "node", "tag")

    def __init__(self, node: Node, anchor: str | None, tag: str | None) -> None:
        self.node = node
        self.anchor = anchor
        self.tag = tag
        self.key: Node | None = None
        self.merges: list[tuple[Node, Node]] = []


class Composer:
    """Composes one document."""

    def __init__(self, source: Source, problems: Problems, resolve: ImportResolver) -> None:
        self._source = source
        self._problems = problems
        self._resolve = resolve
        self._stack: list[_Open] = []
        self._anchors: dict[str, Node | None] = {}
        self._root: Node | None = None
        self._documents = 0
        self._weight = 0
        problems.know(source)

    def compose(self) -> Node | None:
        """The document's root; None if it is empty or, with errors added, cannot be read."""
        take: dict[str, Callable[[Any], None]] = {
            "ScalarEvent": self._on_scalar,
            "MappingStartEvent": self._on_mapping,
            "SequenceStartEvent": self._on_sequence,
            "MappingEndEvent": self._on_end,
            "SequenceEndEvent": self._on_end,
            "AliasEvent": self._on_alias,
            "DocumentStartEvent": self._on_document,
        }
        try:
            for event in events_of(self._source, self._problems):
                on_event = take.get(type(event).__name__)
                if on_event is not None:
                    on_event(event)
        except _SecondDocument as error:
            self._problems.error(
                "a second YAML document begins here; a file holds one",
                error.args[0],
                "remove the line '---', or split the file",
            )
            return None
        except TooLarge as error:
            self._problems.error(error.args[0], error.args[1])
            return None
        return None if self._stack else self._root

    def _at(self, event: Any) -> Position:
        return Position(self._source.name, event.start_mark.line + 1, event.start_mark.column + 1)

    def _on_document(self, event: Any) -> None:
        self._documents += 1
        if self._documents > 1:
            raise _SecondDocument(self._at(event))

    def _on_scalar(self, event: Any) -> None:
        text = event.value
        style = event.style or ""
        mark = event.start_mark
        name = event.tag
        resolve = None
        if name is None:
            value = text if style else _scalar(text)
        else:
            if name.startswith("!") and name != "!":
                fits, value, resolve = True, text, name
            else:
                fits, value = _tagged(name, text)
            if not fits:
                self._bad_tag(name, event)
                value, text, style = None, "", "missing"
        if style == '"' and not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                self._problems.error("half of a surrogate pair is not a character", self._at(event))
                value = text = "?"
        node = Node(SCALAR, self._source, mark.line + 1, mark.column + 1, value, text, style)
        node.weight += len(text) >> 6
        if event.anchor:
            self._anchors[event.anchor] = None
        if resolve is not None:
            node = self._import(resolve, node)
        if event.anchor:
            self._anchors[event.anchor] = node
        self._add(node)

    def _on_alias(self, event: Any) -> None:
        name = event.anchor
        node = self._anchors.get(name)
        if node is None:
            if name in self._anchors:
                self._problems.error(f"the alias *{name} stands inside of what it means", self._at(event))
            else:
                self._problems.error(
                    f"no anchor &{name} stands before this alias",
                    self._at(event),
                    f"mark what is meant with &{name}, before it is used",
                )
            node = Node(
                SCALAR, self._source, event.start_mark.line + 1, event.start_mark.column + 1, None, "", "missing"
            )
        self._add(node, event)

    def _on_mapping(self, event: Any) -> None:
        self._open(MAPPING, {}, event)

    def _on_sequence(self, event: Any) -> None:
        self._open(SEQUENCE, [], event)

    def _open(self, kind: str, value: Any, event: Any) -> None:
        mark = event.start_mark
        node = Node(kind, self._source, mark.line + 1, mark.column + 1, value, "", "")
        if len(self._stack) >= MAX_DEPTH:
            raise TooLarge(f"nested deeper than {MAX_DEPTH} levels", node.position)
        tag = event.tag
        if tag is not None and not tag.startswith("!") and tag != _YAML_TAG + ("map" if kind == MAPPING else "seq"):
            self._bad_tag(tag, event)
            tag = _REFUSED
        if event.anchor:
            self._anchors[event.anchor] = None
        self._stack.append(_Open(node, event.anchor, tag))

    def _on_end(self, _: Any) -> None:
        top = self._stack.pop()
        node = top.node
        if top.merges:
            self._merge(top)
        if top.tag is _REFUSED:
            node = Node(SCALAR, node.source, node.line, node.column, None, "", "missing")
        elif top.tag is not None and top.tag.startswith("!") and top.tag != "!":
            node = self._import(top.tag, node)
        if top.anchor:
            self._anchors[top.anchor] = node
        self._add(node)

    def _import(self, tag: str, node: Node) -> Node:
        found = self._resolve(tag, node)
        if found is None:
            return Node(SCALAR, node.source, node.line, node.column, None, "", "missing")
        return found

    def _add(self, node: Node, at: Any = None) -> None:
        """Put a finished node where it belongs."""
        self._weight += node.weight if at is not None or node.source is not self._source else 1
        if self._weight > MAX_WEIGHT:
            raise TooLarge("too large once aliases and imports are expanded", self._at(at) if at else node.position)
        if not self._stack:
            self._root = node
            return
        top = self._stack[-1]
        parent = top.node
        if parent.kind == SEQUENCE:
            parent.value.append(node)
        elif top.key is None:
            top.key = node
            return
        else:
            key, top.key = top.key, None
            self._entry(top, key, node)
        parent.weight += node.weight
        if node.height >= parent.height:
            parent.height = node.height + 1
            if len(self._stack) + node.height > MAX_DEPTH:
                raise TooLarge(f"nested deeper than {MAX_DEPTH} levels", self._at(at) if at else node.position)

    def _entry(self, top: _Open, key: Node, value: Node) -> None:
        if key.kind != SCALAR:
            self._problems.error(
                f"a key must be text, not {kind_of(key)}",
                key.position,
                "put templates in quotes: '{{...}}'" if key.kind == MAPPING else "",
            )
            return
        if value.kind == SCALAR and not value.text and not value.style and value.source is key.source:
            value.line, value.column = key.line, key.column  # a parser sees "nothing" where it likes, mostly further on
        name = key.text
        if name == "<<" and not key.style:
            top.merges.append((key, value))
            return
        first = top.node.value.get(name)
        if first is not None:
            self._problems.error(
                f"the key {name!r} is given twice; first at {first[0].position}",
                Position(key.source.name, key.line, key.column),
                "remove one of them",
            )
            return
        top.node.value[name] = (key, value)

    def _merge(self, top: _Open) -> None:
        """Merge keys: what the mapping says itself wins, then the first merged mapping."""
        own = top.node.value
        for _, value in top.merges:
            for mapping in value.value if value.kind == SEQUENCE else [value]:
                if mapping.style == "missing":
                    continue
                if mapping.kind != MAPPING:
                    self._problems.error(f"only mappings can be merged, not {kind_of(mapping)}", mapping.position)
                    continue
                for name, entry in mapping.value.items():
                    own.setdefault(name, entry)

    def _bad_tag(self, tag: str, event: Any) -> None:
        shown = "!!" + tag.removeprefix(_YAML_TAG) if tag.startswith(_YAML_TAG) else tag
        if "python" in tag:
            self._problems.error(f"{shown} would run code; code is never loaded from a description", self._at(event))
        elif hasattr(event, "value") and tag in (_YAML_TAG + name for name in ("int", "float", "bool", "null")):
            self._problems.error(f"{event.value!r} does not fit its tag {shown}", self._at(event))
        else:
            self._problems.error(
                f"the tag {shown} is not allowed here", self._at(event), "allowed are !text_import and !yaml_import"
            )
