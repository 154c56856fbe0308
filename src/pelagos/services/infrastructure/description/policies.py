"""The ``policy`` of a node: read and checked. Each key has a reader of its own in ``_READERS``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, get_args

from pelagos.services.infrastructure.description.fields import check_keys, mapping_at, number_at, text_at
from pelagos.services.infrastructure.policies import Choose, NodePolicy
from pelagos.services.infrastructure.source.nodes import Node
from pelagos.services.infrastructure.source.problems import Problems, did_you_mean, listing

__all__ = ["read_policy"]

Reader = Callable[[Node, str, Problems], Any]
"""(the key's value, what it is for messages, problems) -> the field's value; None, with an error added, if there is
none."""

_MOST = 100_000


def read_policy(found: Node | None, what: str, problems: Problems) -> NodePolicy:
    """The policy of the node called ``what``; errors are added, and wrong values read as their defaults."""
    node = mapping_at(found, f"'policy' of {what}", problems)
    if node is None:
        return NodePolicy()
    check_keys(node, _READERS, f"'policy' of {what}", problems)
    values: dict[str, Any] = {}
    for key, _, value in node.items():
        reader = _READERS.get(key)
        if reader is not None and (read := reader(value, f"'{key}' of {what}", problems)) is not None:
            values[key] = read
    return NodePolicy(**values)


def _one_of(*known: str) -> Reader:
    def read(node: Node, what: str, problems: Problems) -> str | None:
        text = text_at(node, what, problems)
        if text and text not in known:
            problems.error(
                f"{what} must be one of {listing(known)}, not {text!r}", node.position, did_you_mean(text, known)
            )
        return text if text in known else None

    return read


def _count(node: Node, what: str, problems: Problems) -> int | None:
    number = number_at(node, what, -1, problems, least=0, most=_MOST, whole=True)
    return int(number) if number >= 0 else None


def _weights(node: Node, what: str, problems: Problems) -> dict[str, float] | None:
    found = mapping_at(node, what, problems)
    if found is None:
        return None
    return {
        key: number_at(value, f"{key!r} in {what}", 1.0, problems, least=0.0, most=_MOST)
        for key, _, value in found.items()
    }


_READERS: Mapping[str, Reader] = {
    "change": _one_of("replace", "keep"),
    "max_unavailable": _count,
    "max_surge": _count,
    "on_failure": _one_of("stop", "rollback", "keep"),
    "choose": _one_of(*get_args(Choose)),
    "weights": _weights,
}
