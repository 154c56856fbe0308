"""The ``policy`` of a node: read and checked. Each key has a reader of its own in ``_READERS``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, get_args
from urllib.parse import urlsplit

from pelagos.model.diagnostics import Position
from pelagos.services.infrastructure.description.fields import (
    bool_at,
    check_keys,
    mapping_at,
    number_at,
    require,
    text_at,
    texts_of,
)
from pelagos.services.infrastructure.policies import AutoscalePolicy, Choose, HealPolicy, MetricSource, NodePolicy
from pelagos.services.infrastructure.source.nodes import MAPPING, SEQUENCE, Node
from pelagos.services.infrastructure.source.problems import Problems, did_you_mean, listing

if TYPE_CHECKING:
    from pelagos.services.infrastructure.description.infrastructure import NodeDraft

__all__ = ["measured_inside", "read_policy"]

Reader = Callable[[Node, str, Problems], Any]
"""(the key's value, what it is for messages, problems) -> the field's value; None, with an error added, if there is
none."""

_MOST = 100_000
_SCHEMES = ("http://", "https://")


def read_policy(found: Node | None, what: str, problems: Problems) -> NodePolicy:
    """The policy of the node called ``what``; errors are added, and wrong values read as their defaults."""
    node = mapping_at(found, f"'policy' of {what}", problems)
    if node is None:
        return NodePolicy()
    check_keys(node, _READERS, f"'policy' of {what}", problems)
    return NodePolicy(**_read(node, what, problems, _READERS))


def measured_inside(nodes: Iterable[NodeDraft]) -> dict[str, Position]:
    """Nodes whose metric is measured by commands inside their instances -> where it is described."""
    found = {}
    for node in nodes:
        scaled = node.policy.autoscale
        if scaled is not None and scaled.metric.type in ("cpu", "command"):
            place = node.node
            for key in ("policy", "autoscale", "metric"):
                place = place.get(key) or place
            found[node.name] = place.position
    return found


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


def _amount(least: float, most: float) -> Reader:
    def read(node: Node, what: str, problems: Problems) -> float | None:
        number = number_at(node, what, math.nan, problems, least=least, most=most)
        return None if math.isnan(number) else float(number)

    return read


def _flag(node: Node, what: str, problems: Problems) -> bool:
    return bool_at(node, what, False, problems)


def _labels(node: Node, what: str, problems: Problems) -> dict[str, str] | None:
    mapping = mapping_at(node, what, problems)
    if mapping is None:
        return None
    return {key: text_at(value, f"{key!r} of {what}", problems) for key, _, value in mapping.items()}


def _command(node: Node, what: str, problems: Problems) -> tuple[str, ...] | None:
    if node.kind == SEQUENCE:
        return texts_of(node, what, problems) or None
    text = text_at(node, what, problems)
    return ("/bin/sh", "-c", text) if text else None


def _values(node: Node, what: str, problems: Problems, readers: Mapping[str, Reader]) -> dict[str, Any]:
    """The keys of a mapping by their readers; an error for each other one."""
    check_keys(node, readers, what, problems)
    return _read(node, what, problems, readers)


def _read(node: Node, what: str, problems: Problems, readers: Mapping[str, Reader]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, _, value in node.items():
        reader = readers.get(key)
        if reader is not None and (read := reader(value, f"'{key}' of {what}", problems)) is not None:
            values[key] = read
    return values


def _heal(node: Node, what: str, problems: Problems) -> HealPolicy | None:
    mapping = mapping_at(node, what, problems)
    return None if mapping is None else HealPolicy(**_values(mapping, what, problems, _HEAL))


def _metric(node: Node, what: str, problems: Problems) -> MetricSource | None:
    mapping = mapping_at(node, what, problems)
    if mapping is None:
        return None
    values = _values(mapping, what, problems, _METRIC)
    require(mapping, "type", what, problems)
    kind = values.get("type")
    if kind is None:
        return None
    wanted = {"http": ("url",), "prometheus": ("url",), "command": ("command",), "cpu": ()}[kind]
    for key in wanted:
        if key not in values:
            require(mapping, key, f"{what}, of type {kind!r},", problems)
    if kind == "prometheus" and ("name" in values) == ("query" in values):
        problems.error(f"{what} needs one of 'name' and 'query'", mapping.position)
    for key in ("path", "labels", "name", "query", "url", "command"):
        if key in values and key not in _MEANT[kind]:
            problems.error(f"{key!r} has no meaning for a metric of type {kind!r}", mapping.position)
    url = mapping.get("url")
    if url is not None and values.get("url") and "url" in _MEANT[kind]:
        _check_url(url, f"'url' of {what}", problems)
    if kind in ("cpu", "command") and values.get("of") == "node":
        problems.error(f"a metric of type {kind!r} is of instances", mapping.position, "remove 'of'")
    return MetricSource(**values)


def _autoscale(node: Node, what: str, problems: Problems) -> AutoscalePolicy | None:
    mapping = mapping_at(node, what, problems)
    if mapping is None:
        return None
    values = _values(mapping, what, problems, _AUTOSCALE)
    for key in ("metric", "target"):
        require(mapping, key, what, problems)
    if "metric" not in values or "target" not in values:
        return None
    least, most = values.get("min"), values.get("max")
    if least is not None and most is not None and most < least:
        problems.error(f"'max' of {what} is {most}, less than its 'min' of {least}", mapping.position)
        return None
    cooldown = values.pop("cooldown", {})
    return AutoscalePolicy(**values, **cooldown)


def _cooldown(node: Node, what: str, problems: Problems) -> dict[str, float] | None:
    """One number for both ways, or ``up`` and ``down``."""
    if node.kind == MAPPING:
        read = _values(node, what, problems, {"up": _SECONDS, "down": _SECONDS})
        return {f"{key}_cooldown": value for key, value in read.items()}
    seconds = _SECONDS(node, what, problems)
    return None if seconds is None else {"up_cooldown": seconds, "down_cooldown": seconds}


def _check_url(found: Node, what: str, problems: Problems) -> None:
    """That it is one of HTTP. Of a template, what stands before it is looked at."""
    text = str(found.value)
    literal = text.partition("{")[0]
    start = next((known for known in _SCHEMES if literal.startswith(known) or known.startswith(literal)), None)
    if start is None or (literal == text and not _has_host(text)):
        problems.error(f"{what} must be an address that begins with http:// or https://, not {text!r}", found.position)


def _has_host(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # no such port, no such host
        return False


def _weights(node: Node, what: str, problems: Problems) -> dict[str, float] | None:
    found = mapping_at(node, what, problems)
    if found is None:
        return None
    return {
        key: number_at(value, f"{key!r} in {what}", 1.0, problems, least=0.0, most=_MOST)
        for key, _, value in found.items()
    }


_SECONDS = _amount(0.0, 1e7)
_HEAL: Mapping[str, Reader] = {
    **dict.fromkeys(("shutdown", "failed", "temp_failed"), _one_of("restart", "replace", "keep")),
    **dict.fromkeys(("unreachable", "outdated"), _one_of("replace", "keep")),
    **dict.fromkeys(("unreachable_after", "backoff", "backoff_max", "window"), _SECONDS),
    "restarts": _count,
    "attempts": _count,
}
_METRIC: Mapping[str, Reader] = {
    "type": _one_of("cpu", "http", "prometheus", "command"),
    **dict.fromkeys(("url", "path", "name", "query"), text_at),
    "labels": _labels,
    "command": _command,
    "rate": _flag,
    "of": _one_of("instances", "node"),
    "timeout": _amount(0.001, 3600.0),
}
_MEANT = {
    "cpu": (),
    "http": ("url", "path"),
    "prometheus": ("url", "name", "labels", "query"),
    "command": ("command",),
}
"""Type of a metric -> those of its keys that not all types have."""
_AUTOSCALE: Mapping[str, Reader] = {
    "metric": _metric,
    "target": _amount(1e-9, 1e15),
    "min": _count,
    "max": _count,
    "tolerance": _amount(0.0, 1.0),
    "interval": _amount(0.1, 1e6),
    "cooldown": _cooldown,
    "max_step": _count,
}
_READERS: Mapping[str, Reader] = {
    "change": _one_of("replace", "keep"),
    "max_unavailable": _count,
    "max_surge": _count,
    "on_failure": _one_of("stop", "rollback", "keep"),
    "heal": _heal,
    "scale_down": _one_of("unhealthy", "youngest", "oldest"),
    "protect": _flag,
    "autoscale": _autoscale,
    "choose": _one_of(*get_args(Choose)),
    "weights": _weights,
    "create_patience": _amount(1.0, 1e7),
}
