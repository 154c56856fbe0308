"""What can be told of a template without rendering it: its syntax, the names it needs, the nodes it asks for.

Only what is *certainly* evaluated is reported as needed: not the inside of an ``if``, of a loop, of the right side of
``and`` and ``or``, nor what ``is defined`` or ``default`` asks about. A name found missing there would be no mistake.
"""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

from jinja2 import TemplateSyntaxError, meta, nodes

from pelagos.services.infrastructure.templates.environment import FUNCTIONS, NODE_FUNCTIONS, environment
from pelagos.services.infrastructure.templates.info_broker import OFFERED

__all__ = ["Facts", "InfoQuestion", "NodeReference", "Uses", "column_of", "facts_of", "is_template", "uses_of"]

_MARKER = re.compile(r"\{\{|\{%|\{#")
_GUARD_TESTS = ("defined", "undefined")
_GUARD_FILTERS = ("default", "d")


class NodeReference(NamedTuple):
    """``function`` is called with a node's name: ``name`` if constant, else what the variables at ``path`` say."""

    function: str
    name: str
    path: tuple[str, ...]
    line: int


class InfoQuestion(NamedTuple):
    """``ibget`` is called with a ``key``, None if that is no text that stands there; ``named``: a node may be named."""

    key: str | None
    named: bool
    line: int


class Facts(NamedTuple):
    """``error`` is (message, line in the template) if it cannot be compiled; then the rest is empty."""

    error: tuple[str, int] | None = None
    names: tuple[tuple[str, int], ...] = ()
    """Names certainly read that the template does not set itself, with lines."""
    calls: tuple[tuple[str, int], ...] = ()
    """Names called as functions anywhere that the template does not set itself."""
    certain: tuple[tuple[str, int], ...] = ()
    """Those of the ``calls`` that are certainly made."""
    paths: tuple[tuple[tuple[str, ...], int], ...] = ()
    """Paths below ``variables`` certainly read."""
    nodes: tuple[NodeReference, ...] = ()
    """Nodes certainly asked for."""
    includes: tuple[int, ...] = ()
    """Lines that include other templates."""
    info: tuple[InfoQuestion, ...] = ()
    """What is asked of ``ibget`` anywhere."""


class Uses(NamedTuple):
    """What a template may look at, certainly or not: whatever else changes, its text stays the same."""

    names: frozenset[str] = frozenset()
    """Names that it does not set itself."""
    paths: frozenset[tuple[str, ...]] = frozenset()
    """Paths below ``variables``; the empty one stands for all of them."""


def is_template(text: str) -> bool:
    """Whether there is anything to render in it."""
    return "{" in text and _MARKER.search(text) is not None


def column_of(text: str, line: int, word: str) -> int:
    """The column, from 1, where ``word`` first stands in that line of the template; 1 if it does not."""
    lines = text.split("\n")
    if not 1 <= line <= len(lines):
        return 1
    found = re.search(rf"(?<![\w]){re.escape(word)}(?![\w])", lines[line - 1])
    return found.start() + 1 if found is not None else 1


@functools.lru_cache(maxsize=4096)
def facts_of(text: str) -> Facts:
    """The facts of a template."""
    made = environment()
    try:
        template = made.parse(text)
        undeclared = meta.find_undeclared_variables(template)
        made.compile(template)
    except TemplateSyntaxError as error:
        return Facts(error=(error.message or "syntax error", error.lineno))
    except RecursionError:
        return Facts(error=("nested too deeply", 1))
    except Exception as error:  # noqa: BLE001 - Jinja's compiler on hostile text; what it trips over is reported
        return Facts(error=(f"{type(error).__name__}: {error}", 1))
    walker = _Walker(undeclared)
    walker.visit(template, True)
    return Facts(
        names=tuple(walker.names),
        calls=tuple(walker.calls),
        certain=tuple(walker.certain),
        paths=tuple(walker.paths),
        nodes=tuple(walker.references),
        includes=tuple(walker.includes),
        info=tuple(walker.info),
    )


@functools.lru_cache(maxsize=4096)
def uses_of(text: str) -> Uses:
    """What the template may look at. Of one that cannot be compiled: everything."""
    try:
        template = environment().parse(text)
        names = frozenset(meta.find_undeclared_variables(template))
    except (TemplateSyntaxError, RecursionError):
        return Uses(frozenset({"variables"}), frozenset({()}))
    paths: set[tuple[str, ...]] = set()
    if "variables" in names:
        _collect_paths(template, paths)
    return Uses(names, frozenset(paths))


def _collect_paths(node: nodes.Node, paths: set[tuple[str, ...]]) -> None:
    path = _path_of(node)
    if path is None:
        for child in node.iter_child_nodes():
            _collect_paths(child, paths)
    elif path[0] == "variables":
        paths.add(path[1:])


def _path_of(node: nodes.Node) -> tuple[str, ...] | None:
    """``a.b['c']`` as (a, b, c); None if it is anything else."""
    parts: list[str] = []
    while True:
        match node:
            case nodes.Getattr():
                parts.append(node.attr)
                node = node.node
            case nodes.Getitem(arg=nodes.Const(value=str() as key)):
                parts.append(key)
                node = node.node
            case nodes.Name():
                return (node.name, *reversed(parts))
            case _:
                return None


class _Walker:
    def __init__(self, undeclared: set[str]) -> None:
        self._undeclared = undeclared
        self.names: list[tuple[str, int]] = []
        self.calls: list[tuple[str, int]] = []
        self.certain: list[tuple[str, int]] = []
        self.paths: list[tuple[tuple[str, ...], int]] = []
        self.references: list[NodeReference] = []
        self.includes: list[int] = []
        self.info: list[InfoQuestion] = []

    def visit(self, node: nodes.Node, certain: bool) -> None:
        match node:
            case nodes.If():
                self.visit(node.test, certain)
                self._all([*node.body, *node.elif_, *node.else_], False)
            case nodes.CondExpr():
                self.visit(node.test, certain)
                self._all([node.expr1, *([node.expr2] if node.expr2 is not None else [])], False)
            case nodes.For():
                self.visit(node.iter, certain)
                self._all([*node.body, *node.else_, *([node.test] if node.test is not None else [])], False)
            case nodes.And() | nodes.Or():
                self.visit(node.left, certain)
                self.visit(node.right, False)
            case nodes.Macro() | nodes.CallBlock() | nodes.Block():
                self._all(list(node.iter_child_nodes()), False)
            case nodes.Include() | nodes.Import() | nodes.FromImport() | nodes.Extends():
                self.includes.append(node.lineno)
            case nodes.Test() if node.name in _GUARD_TESTS:
                self._guarded(node.node, certain)
            case nodes.Filter() if node.name in _GUARD_FILTERS and node.node is not None:
                self._guarded(node.node, certain)
                self._all(node.args, False)
            case nodes.Call():
                self._call(node, certain)
            case nodes.Getattr() | nodes.Getitem() | nodes.Name():
                self._read(node, certain)
            case _:
                self._all(list(node.iter_child_nodes()), certain)

    def _all(self, children: list[nodes.Node] | list[nodes.Expr], certain: bool) -> None:
        for child in children:
            self.visit(child, certain)

    def _guarded(self, node: nodes.Node, certain: bool) -> None:
        """The last step of a path may be missing; what it is a step of may not."""
        if isinstance(node, nodes.Getattr | nodes.Getitem):
            self.visit(node.node, certain)
        elif not isinstance(node, nodes.Name):
            self.visit(node, certain)

    def _read(self, node: nodes.Node, certain: bool) -> None:
        path = _path_of(node)
        if path is None:
            self._all(list(node.iter_child_nodes()), certain)
        elif certain and path[0] in self._undeclared and not (isinstance(node, nodes.Name) and node.ctx != "load"):
            self.names.append((path[0], node.lineno))
            if path[0] == "variables" and len(path) > 1:
                self.paths.append((path[1:], node.lineno))

    def _call(self, node: nodes.Call, certain: bool) -> None:
        self._all([*node.args, *(pair.value for pair in node.kwargs)], certain)
        callee = node.node
        if not isinstance(callee, nodes.Name):
            # of a method only what it belongs to is read: variables.get('x') needs no variable 'get'
            self.visit(callee.node if isinstance(callee, nodes.Getattr) else callee, certain)
            return
        if callee.name not in self._undeclared:
            return
        self.calls.append((callee.name, node.lineno))
        if certain:
            self.certain.append((callee.name, node.lineno))
        if callee.name in NODE_FUNCTIONS and node.args and certain:
            self._reference(callee.name, node.args[0], node.lineno)
        elif callee.name == "ibget" and node.dyn_args is None and node.dyn_kwargs is None:
            self._info(node, certain)
        elif callee.name == "ibget":
            self.info.append(InfoQuestion(None, True, node.lineno))

    def _info(self, node: nodes.Call, certain: bool) -> None:
        first = node.args[0] if node.args else None
        key = first.value if isinstance(first, nodes.Const) and isinstance(first.value, str) else None
        named = next((pair.value for pair in node.kwargs if pair.key == "name"), None)
        if named is None and key is not None and "name" in OFFERED.get(key, ()):
            named = next(iter(node.args[1 + OFFERED[key].index("name") :]), None)
        if isinstance(named, nodes.Const) and named.value is None:
            named = None
        self.info.append(InfoQuestion(key, named is not None, node.lineno))
        if named is not None and certain:
            self._reference("ibget", named, node.lineno)

    def _reference(self, function: str, argument: nodes.Node, line: int) -> None:
        if isinstance(argument, nodes.Const) and isinstance(argument.value, str):
            self.references.append(NodeReference(function, argument.value, (), line))
        else:
            path = _path_of(argument)
            if path is not None and len(path) > 1 and path[0] == "variables" and "variables" in self._undeclared:
                self.references.append(NodeReference(function, "", path[1:], line))


assert set(NODE_FUNCTIONS) <= set(FUNCTIONS)
