"""Policies in YAML files.

::

    default: allow                          # or deny: for what no rule names
    protected: [stock.delete_item]          # denied unless a rule allows it
    rules:
      - {role: operator, allow: [agent.*, "*.terminate"]}
      - {role: owner, allow: stock.delete_item, resources: {item_ids: item}}
      - [OWNER, stock.rename_item, {5012: item_id}]          # the ancestor's form: kind of resource -> field

Under ``resources``, a field of the argument says which resources of a kind must be the asker's own. Mistakes are
gathered, each with its place, and raised together. A file without a word in it and a pattern that no service can have
are mistakes, too: whoever wrote them believes that something is protected.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pelagos.model.diagnostics import Diagnostic, Position
from pelagos.model.errors import DescriptionError, NotFound
from pelagos.model.policy import ADMIN, ANONYMOUS, AUTHENTICATED, OPERATOR, OWNER, Policy, Rule

__all__ = ["load_policy", "parse_policy"]

_TAG = "tag:yaml.org,2002:"
_PATTERN = re.compile(r"[A-Za-z0-9_*:\-.#]+\.[A-Za-z0-9_*\-]+\Z|\*\Z")
_SERVICE = re.compile(r"[A-Za-z0-9_*:\-#]+(\.[A-Za-z0-9_*\-#]+)*\Z")
"""No dot at an end, no two of them in a row."""
_LOWER = {ANONYMOUS, AUTHENTICATED, OPERATOR, ADMIN, OWNER}


def load_policy(path: Path) -> Policy:
    """Raises :class:`NotFound` without the file and :class:`DescriptionError` for mistakes in it. Blocking."""
    try:
        text = path.read_text("utf-8-sig")
    except FileNotFoundError:
        raise NotFound(f"there is no policy file {path}", advice="Correct the policy interceptor's 'file'.") from None
    except UnicodeDecodeError as error:
        raise DescriptionError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    return parse_policy(text, str(path))


def parse_policy(text: str, name: str) -> Policy:
    """As :func:`load_policy`, of a text; ``name`` is the file's, for messages."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    reader = _Reader(text, name)
    root: Any = None
    try:
        root = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        position = Position(name, mark.line + 1, mark.column + 1) if mark else Position(name, 1)
        reader.mistakes.append(
            Diagnostic(str(error.problem or error.context), position, source=reader.line(position.line))
        )
    except YAMLError as error:
        reader.mistakes.append(Diagnostic(str(error).splitlines()[0], Position(name, 1)))
    if root is None and not reader.mistakes:
        advice = "Write `rules`, `protected` or `default`; for a policy that adds nothing, write rules: []."
        reader.mistakes.append(Diagnostic("the policy file is empty", Position(name, 1), advice=advice))
    policy = reader.policy(root) if root is not None else Policy()
    if reader.mistakes:
        count = len(reader.mistakes)
        raise DescriptionError(
            f"{reader.mistakes[0]}" if count == 1 else f"{name} has {count} mistakes; the first: {reader.mistakes[0]}",
            advice=reader.mistakes[0].advice or "Correct the policy file.",
            diagnostics=tuple(reader.mistakes),
        )
    return policy


class _Reader:
    def __init__(self, text: str, name: str) -> None:
        self.mistakes: list[Diagnostic] = []
        self._lines = text.splitlines()
        self._name = name

    def line(self, number: int) -> str:
        return self._lines[number - 1] if 0 < number <= len(self._lines) else ""

    def policy(self, root: Any) -> Policy:
        if _kind(root) == "seq":
            return Policy(self._rules(root))
        rules: tuple[Rule, ...] = ()
        protected: tuple[str, ...] = ()
        deny = False
        for key, key_node, node in self._mapping(root, "a policy is a mapping, or a list of rules"):
            match key:
                case "rules":
                    rules = self._rules(node)
                case "protected":
                    protected = self._patterns(node)
                case "default":
                    if _text(node) not in ("allow", "deny"):
                        self._mistake(node, "the default is 'allow' or 'deny'")
                    deny = _text(node) == "deny"
                case _:
                    self._mistake(key_node, f"a policy has no {key!r}", "It has rules, protected and default.")
        return Policy(rules, protected, deny)

    def _rules(self, node: Any) -> tuple[Rule, ...]:
        rules: list[Rule] = []
        for item in self._items(node, "rules are a list"):
            rules.extend(self._tuple(item) if _kind(item) == "seq" else self._rule(item))
        return tuple(rules)

    def _rule(self, node: Any) -> list[Rule]:
        role = ""
        patterns: tuple[str, ...] = ()
        resources: tuple[tuple[str, str], ...] = ()
        before = len(self.mistakes)
        for key, key_node, value in self._mapping(node, "a rule is a mapping, or a list [ROLE, pattern, resources]"):
            match key:
                case "role":
                    role = self._role(value)
                case "allow":
                    patterns = self._patterns(value)
                case "resources":
                    resources = tuple((kind, field) for field, kind in self._pairs(value))
                case _:
                    self._mistake(key_node, f"a rule has no {key!r}", "It has role, allow and resources.")
        if len(self.mistakes) == before and not (role and patterns):
            self._mistake(node, f"a rule needs {'allow' if role else 'a role'}")
        return self._made(node, role, patterns, resources)

    def _tuple(self, node: Any) -> list[Rule]:
        items = list(node.value)
        if not 2 <= len(items) <= 3:
            self._mistake(node, "a rule as a list has two or three parts: [ROLE, pattern, {kind: field}]")
            return []
        resources = self._pairs(items[2]) if len(items) == 3 else ()
        return self._made(node, self._role(items[0]), self._patterns(items[1]), resources)

    def _made(
        self, node: Any, role: str, patterns: tuple[str, ...], resources: tuple[tuple[str, str], ...]
    ) -> list[Rule]:
        if role == OWNER and not resources:
            self._mistake(
                node,
                "a rule for owners must say which field names the resources",
                "Add for example resources: {item_ids: item}.",
            )
        if role != OWNER:
            resources = ()  # the ancestor allowed them there, without a meaning
        return [Rule(role, pattern, resources, self._position(node)) for pattern in patterns]

    def _role(self, node: Any) -> str:
        text = _text(node)
        if not text:
            self._mistake(node, "a role is a word", f"For example {', '.join(sorted(_LOWER))}, or a name of your own.")
            return ""
        return text.lower() if text.lower() in _LOWER else text

    def _patterns(self, node: Any) -> tuple[str, ...]:
        nodes = list(node.value) if _kind(node) == "seq" else [node]
        patterns = []
        for item in nodes:
            text = _text(item)
            if text is None or not _PATTERN.match(text):
                self._mistake(item, "a pattern is written service.operation", "For example agent.spawn or '*.ping'.")
            elif not _SERVICE.match(text.rpartition(".")[0] or "*"):
                self._mistake(
                    item,
                    f"the pattern {text!r} matches nothing: {text.rpartition('.')[0]!r} is no name of a service",
                    "Write service.operation, with * for any run of characters: hello.* or '*.ping'.",
                )
            else:
                patterns.append("*.*" if text == "*" else text)
        return tuple(patterns)

    def _pairs(self, node: Any) -> tuple[tuple[str, str], ...]:
        pairs = []
        for key, _, value in self._mapping(node, "resources are a mapping"):
            text = _text(value)
            if not text:
                self._mistake(value, "a word is wanted here")
            else:
                pairs.append((key, text))
        return tuple(pairs)

    def _mapping(self, node: Any, wanted: str) -> list[tuple[str, Any, Any]]:
        if _kind(node) != "map":
            self._mistake(node, wanted)
            return []
        found: dict[str, tuple[str, Any, Any]] = {}
        for key_node, value in node.value:
            key = key_node.value if isinstance(key_node.value, str) else ""
            if key in found:
                self._mistake(key_node, f"the key {key!r} is there twice", "Delete one of them.")
            found[key] = (key, key_node, value)
        return list(found.values())

    def _items(self, node: Any, wanted: str) -> list[Any]:
        if _kind(node) != "seq":
            self._mistake(node, wanted)
            return []
        return list(node.value)

    def _position(self, node: Any) -> Position:
        return Position(self._name, node.start_mark.line + 1, node.start_mark.column + 1)

    def _mistake(self, node: Any, summary: str, advice: str = "") -> None:
        position = self._position(node)
        self.mistakes.append(Diagnostic(summary, position, advice=advice, source=self.line(position.line)))


def _kind(node: Any) -> str:
    return str(node.tag).removeprefix(_TAG)


def _text(node: Any) -> str | None:
    return node.value if _kind(node) in ("str", "int") else None
