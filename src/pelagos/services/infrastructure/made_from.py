"""What an instance is made from: everything of a description that reaches it, and nothing else. Pure.

The problem: a description changes somewhere; which instances have to be made anew? Comparing whole nodes replaces too
much, since a variable that no template of a node mentions, a fallback for another cloud or a higher limit reach none of
its instances. So an instance is compared with its *source*: the implementation it was made from, with those variables
(and the few other names) that the implementation's templates may look at. Its digest is kept with the instance, and the
source itself once a digest, so that years later the keys that differ can still be named.

What other nodes told it at its creation is no part of its source: see :mod:`pelagos.services.infrastructure.asking`.
The node's own name is none either, so that a node may be renamed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from pelagos.services.infrastructure.attributes import managed
from pelagos.services.infrastructure.values import CompiledInfrastructure, CompiledNode, Implementation

__all__ = ["Source", "Sources", "looks_at_attributes", "pruned", "renamed", "texts"]

Source = dict[str, Any]
"""Section -> what it says: ``resource``, ``contextualisation``, ``config_management``, ``variables``, ..."""

_OF_NODE = ("type", "filter", "scaling", "mappings", "attributes", "user_id", "health_check")
"""Names that templates may look at besides variables, and that may change."""
_FUNCTION = r"((?:getip|getprivip|getipall|find_node_id)\(\s*|ibget\([^()]*,\s*(?:name\s*=\s*)?)(['\"]){name}\2"


class Sources:
    """The sources of a description's nodes; each is found once, however many nodes share it."""

    def __init__(self, compiled: CompiledInfrastructure) -> None:
        self._compiled = compiled
        self._uses: dict[tuple[str, int], tuple[frozenset[str], frozenset[tuple[str, ...]]]] = {}
        self._known: dict[tuple[Any, ...], tuple[str, Source]] = {}

    def digest(self, node: CompiledNode, index: int) -> str:
        """Of what an instance of the node is made from by its implementation of that index."""
        return self._find(node, index)[0]

    def value(self, node: CompiledNode, index: int) -> Source:
        """The source itself. Treat it as frozen."""
        return self._find(node, index)[1]

    def _find(self, node: CompiledNode, index: int) -> tuple[str, Source]:
        key = (node.fingerprint or node.name, node.defined_by, index, node.min, node.max, node.mappings)
        found = self._known.get(key)
        if found is None:
            source = self._source(node, index)
            encoded = msgspec.msgpack.encode(source, order="deterministic")
            found = self._known[key] = (hashlib.sha256(encoded).hexdigest(), source)
        return found

    def _source(self, node: CompiledNode, index: int) -> Source:
        implementation = self._compiled.definitions[node.defined_by][index]
        uses = self._uses.get((node.defined_by, index))
        if uses is None:
            uses = self._uses[node.defined_by, index] = _uses_of(implementation)
        names, paths = uses
        source: Source = {"resource": implementation.resource}
        context = _told(implementation.contextualisation)
        if context != {"type": "basic"}:
            source["contextualisation"] = context
        if implementation.config_management:
            source["config_management"] = implementation.config_management
        variables = pruned(node.variables, paths)
        if variables:
            source["variables"] = variables
        for name in _OF_NODE:
            if name in names and (name != "attributes" or node.mappings):
                source[name] = self._of_node(node, name, implementation)
        return source

    def _of_node(self, node: CompiledNode, name: str, implementation: Implementation) -> Any:
        match name:
            case "type":
                return node.type
            case "filter":
                return node.filter
            case "scaling":
                return {"min": node.min, "max": node.max}
            case "mappings":
                return [msgspec.structs.asdict(mapping) for mapping in node.mappings]
            case "attributes":
                return [{"dependee": m.dependee, "source": m.source, "target": m.target} for m in node.mappings]
            case "health_check":
                return {"ports": list(implementation.health_check.ports)}
            case _:
                return self._compiled.user_id


def looks_at_attributes(implementation: Implementation) -> bool:
    """Whether attributes of dependees may be in what an instance is made from."""
    return "attributes" in _uses_of(implementation)[0]


def renamed(source: Source, names: Mapping[str, str]) -> Source:
    """The source with nodes under their new names where its templates ask for them."""
    if not names:
        return source
    patterns = [(re.compile(_FUNCTION.format(name=re.escape(old))), new) for old, new in names.items()]

    def text(value: str) -> str:
        for pattern, new in patterns:
            value = pattern.sub(rf"\g<1>\g<2>{new}\g<2>", value)
        return value

    def walk(value: Any) -> Any:
        if isinstance(value, str):
            return text(value) if "(" in value else value
        if isinstance(value, dict):
            return {text(key): walk(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [walk(item) for item in value]
        return value

    result: Source = walk(source)
    for section in ("mappings", "attributes"):
        for mapping in result.get(section, ()):
            mapping["dependee"] = names.get(mapping["dependee"], mapping["dependee"])
    return result


def digest_of(source: Source) -> str:
    """The digest by which :class:`Sources` would know it."""
    return hashlib.sha256(msgspec.msgpack.encode(source, order="deterministic")).hexdigest()


def _told(context: Any) -> dict[str, Any]:
    plain = msgspec.to_builtins(context)
    plain.pop("position", None)
    return {"type": context.type, **plain}


def _uses_of(implementation: Implementation) -> tuple[frozenset[str], frozenset[tuple[str, ...]]]:
    """Names, and paths below ``variables``, that the implementation's templates may look at."""
    context = implementation.contextualisation
    given = frozenset({"attributes"}) if managed(implementation) else frozenset()
    if context.type == "cooked":
        return given, frozenset()
    if isinstance(context.context_variables, str):
        # A text that is a mapping only after rendering: what it looks at is its own, and may be anything.
        return frozenset(_OF_NODE), frozenset({()})
    names: set[str] = set(given)
    paths: set[tuple[str, ...]] = set()
    templates = [
        text
        for root in (implementation.resource, implementation.config_management, _told(context))
        for text in texts(root)
        if "{" in text
    ]
    if templates:
        from pelagos.services.infrastructure.templates.facts import is_template, uses_of

        for text in templates:
            if is_template(text):
                uses = uses_of(text)
                names |= uses.names
                paths |= uses.paths
    return frozenset(names), frozenset(paths)


def texts(value: Any) -> Iterator[str]:
    """All texts in plain values, keys among them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from texts(item)


def pruned(variables: Mapping[str, Any], paths: frozenset[tuple[str, ...]]) -> dict[str, Any]:
    """What of the variables lies on the paths."""
    if () in paths:
        return dict(variables)
    result: dict[str, Any] = {}
    for path in sorted(paths):
        _take(variables, path, result)
    return result


def _take(value: Mapping[str, Any], path: tuple[str, ...], result: dict[str, Any]) -> None:
    key, rest = path[0], path[1:]
    if key not in value:
        if hasattr(dict, key):  # a method: variables.get('x') may look at any
            result.update(value)
        return
    inner = value[key]
    if not rest or not isinstance(inner, Mapping):
        result[key] = inner
        return
    below = result.get(key)
    if not isinstance(below, dict):
        below = {}
    below = dict(below)
    _take(inner, rest, below)
    result[key] = below
