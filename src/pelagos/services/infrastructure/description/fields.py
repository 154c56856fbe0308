"""Checked reading of mappings: each reader takes a node, adds what is wrong with it, and returns a usable value anyway.

A wrong value is reported once and read as its default, so that the check goes on and finds the rest.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from pelagos.model.names import name_problem
from pelagos.services.infrastructure.source.nodes import MAPPING, SCALAR, SEQUENCE, Node, kind_of
from pelagos.services.infrastructure.source.problems import Problems, did_you_mean, listing

__all__ = [
    "bool_at",
    "check_keys",
    "items_at",
    "mapping_at",
    "name_at",
    "number_at",
    "plain_mapping_at",
    "require",
    "text_at",
    "texts_of",
]


def check_keys(node: Node, known: Collection[str], what: str, problems: Problems) -> None:
    """An error for each key of the mapping that is not known."""
    for key, key_node, _ in node.items():
        if key not in known:
            problems.error(
                f"{what} knows no key {key!r}",
                key_node.position,
                did_you_mean(key, known, f"known are {listing(known, 30)}"),
            )


def require(node: Node, key: str, what: str, problems: Problems) -> Node | None:
    """The value of a key that must be there."""
    value = node.get(key)
    if value is None:
        problems.error(f"{what} has no {key!r}", node.position, f"add '{key}:'")
    return value


def _wrong(what: str, expected: str, node: Node, problems: Problems, advice: str = "") -> None:
    if node.style != "missing":  # an import that failed has been reported
        problems.error(f"{what} must be {expected}, not {kind_of(node)}", node.position, advice)


def text_at(node: Node, what: str, problems: Problems) -> str:
    """Text; numbers and truth values are an error, since they would lose how they were written."""
    if node.kind == SCALAR and isinstance(node.value, str):
        return node.value
    advice = f"put it in quotes: '{node.text}'" if node.kind == SCALAR and node.text else ""
    _wrong(what, "text", node, problems, advice)
    return ""


def name_at(node: Node, what: str, problems: Problems) -> str:
    """A name by the name rule; empty with an error if it is not one."""
    name = text_at(node, what, problems)
    if node.kind == SCALAR and isinstance(node.value, str):
        problem = name_problem(name)
        if problem is not None:
            problems.error(f"{what} {name[:80]!r} {problem}", node.position)
            return ""
    return name


def bool_at(node: Node, what: str, default: bool, problems: Problems) -> bool:
    if node.kind == SCALAR and isinstance(node.value, bool):
        return node.value
    _wrong(what, "true or false", node, problems)
    return default


def number_at(
    node: Node,
    what: str,
    default: float,
    problems: Problems,
    *,
    least: float,
    most: float,
    whole: bool = False,
) -> float:
    """A number within bounds, both allowed."""
    value = node.value if node.kind == SCALAR else None
    kinds = int if whole else (int, float)
    if not isinstance(value, kinds) or isinstance(value, bool) or not math.isfinite(value):
        _wrong(what, "a whole number" if whole else "a number", node, problems)
        return default
    if not least <= value <= most:
        problems.error(f"{what} must be from {least:g} to {most:.15g}, not {node.text}", node.position)
        return default
    return value


def mapping_at(node: Node | None, what: str, problems: Problems) -> Node | None:
    """The node if it is a mapping; None if it is absent, empty (``key:``) or, with an error, something else."""
    if node is None or (node.kind == SCALAR and node.value is None and node.style != "missing"):
        return None
    if node.kind == MAPPING:
        return node
    _wrong(what, "a mapping", node, problems)
    return None


def plain_mapping_at(node: Node | None, what: str, problems: Problems) -> dict[str, Any]:
    """The mapping as Python values; empty if absent."""
    mapping = mapping_at(node, what, problems)
    return mapping.plain() if mapping is not None else {}


def items_at(node: Node | None, what: str, problems: Problems) -> list[Node]:
    """The items of a list; none if it is absent or empty."""
    if node is None or (node.kind == SCALAR and node.value is None and node.style != "missing"):
        return []
    if node.kind == SEQUENCE:
        return list(node.value)
    _wrong(what, "a list", node, problems)
    return []


def texts_of(node: Node | None, what: str, problems: Problems) -> tuple[str, ...]:
    """A list of texts; numbers are taken as they are written."""
    result = []
    for item in items_at(node, what, problems):
        if item.kind != SCALAR or item.value is None:
            _wrong(f"an item of {what}", "text", item, problems)
        else:
            result.append(item.value if isinstance(item.value, str) else item.text)
    return tuple(result)
