"""Loads documents out of a bundle of texts and resolves their imports inside it. No file is ever opened."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping

from pelagos.model.diagnostics import Position
from pelagos.services.infrastructure.source.nodes import MAPPING, SCALAR, Composer, Node, kind_of
from pelagos.services.infrastructure.source.problems import Problems, Source, did_you_mean, listing

__all__ = ["Bundle"]

_IMPORTS = ("!text_import", "!yaml_import")


class Bundle:
    """The texts a description consists of, by name; ``load`` composes them, each once."""

    def __init__(self, sources: Mapping[str, str], problems: Problems) -> None:
        self._sources = sources
        self._problems = problems
        self._loaded: dict[str, Node | None] = {}
        self._texts: dict[str, Source] = {}
        self._loading: list[str] = []

    def load(self, name: str) -> Node | None:
        """The root of that document; None if it is empty or cannot be read (errors are added)."""
        if name in self._loaded:
            return self._loaded[name]
        self._loading.append(name)
        root = Composer(self._source(name), self._problems, self._resolve).compose()
        self._loading.pop()
        self._loaded[name] = root
        return root

    def __contains__(self, name: str) -> bool:
        return name in self._sources

    def _source(self, name: str) -> Source:
        source = self._texts.get(name)
        if source is None:
            source = self._texts[name] = Source(name, self._sources[name])
            self._problems.know(source)
        return source

    def _resolve(self, tag: str, node: Node) -> Node | None:
        at = node.position
        if tag == "!python_import":
            self._problems.error(
                "!python_import would run code; code is never imported by a description",
                at,
                "remove it: drivers and other plug-ins are installed as packages",
            )
            return None
        if tag not in _IMPORTS:
            self._problems.error(
                f"the tag {tag} is not allowed here",
                at,
                did_you_mean(tag, _IMPORTS, "allowed are !text_import and !yaml_import"),
            )
            return None
        found = self._target(tag, node)
        if found is None:
            return None
        target, where = found
        if tag == "!text_import":
            source = self._source(target)
            text = Node(SCALAR, source, 1, 1, source.text, source.text, "import")
            text.weight += len(source.text) >> 6
            return text
        if target in self._loading:
            path = [*self._loading[self._loading.index(target) :], target]
            self._problems.error(f"the imports run in a circle: {' -> '.join(path)}", where)
            return None
        if len(self._loading) > 20:
            self._problems.error("imports nested deeper than 20 files", where)
            return None
        root = self.load(target)
        if root is None:
            source = self._source(target)
            return Node(SCALAR, source, 1, 1, None, "", "" if not source.text.strip() else "missing")
        return root

    def _target(self, tag: str, node: Node) -> tuple[str, Position] | None:
        """The name in the bundle that an import means, and the place of its url."""
        if node.kind != MAPPING:
            self._problems.error(
                f"{tag} needs a mapping with the key 'url', not {kind_of(node)}",
                node.position,
                f"write {tag} {{url: 'file://name.yaml'}}",
            )
            return None
        for key, key_node, _ in node.items():
            if key != "url":
                self._problems.error(f"{tag} knows no key {key!r}, only 'url'", key_node.position)
        url = node.get("url")
        if url is None or url.kind != SCALAR or not isinstance(url.value, str):
            self._problems.error(
                f"{tag} needs a 'url'", (url or node).position, f"write {tag} {{url: 'file://name.yaml'}}"
            )
            return None
        at = url.position
        scheme, separator, path = url.value.partition("://")
        if not separator or scheme != "file" or not path:
            self._problems.error(
                f"only the scheme file:// can be imported, not {url.value!r}", at, "write url: 'file://name.yaml'"
            )
            return None
        if path.startswith("/") or "\\" in path or "\0" in path:
            self._problems.error(
                f"{path!r} is not a path relative to the importing file",
                at,
                "put the file beside the importing one and name it relative to that",
            )
            return None
        target = posixpath.normpath(posixpath.join(posixpath.dirname(node.source.name), path))
        if target not in self._sources:
            if target == ".." or target.startswith("../"):
                self._problems.error(
                    f"{path!r} leads out of the bundle",
                    at,
                    "only files that were given, or lie below their common directory, can be imported",
                )
            else:
                there = listing(sorted(self._sources))
                self._problems.error(
                    f"{target!r} is not among the files given",
                    at,
                    did_you_mean(target, self._sources, f"there are: {there}"),
                )
            return None
        return target, at
