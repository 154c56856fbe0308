"""Attributes of instances, and how dependents know them (reference, sections 4.4 and 4.10). Pure.

A mapping ``[source, target]`` of a dependency makes the dependee's attribute ``source`` known to the dependent as
``target``, whatever its contextualiser: templates read ``attributes.<target>``, configuration managers get it as one of
their own. There are three kinds:

1. what Pelagos knows of any instance that has an address (:data:`BUILT_IN`);
2. what the definition declares, under ``attributes`` of ``contextualisation`` and ``config_management``;
3. what the instance itself reports, in the JSON file :data:`FILE` inside it, once it knows: a generated password, a
   join token. It is read by a command, on clouds that can run one.

With ``synch: true`` the dependee is not ready before it has reported the attribute.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from pelagos.services.infrastructure.asking import InstanceInfo
from pelagos.services.infrastructure.values import Implementation

__all__ = [
    "BUILT_IN",
    "FILE",
    "MISSING",
    "built_in",
    "constant",
    "declared_in",
    "look_up",
    "made_up",
    "managed",
    "place",
    "reported_by",
    "told_at_once",
]

FILE = "/var/lib/pelagos/attributes.json"
"""Where an instance reports: a mapping, nested or with dotted keys."""
BUILT_IN = ("ip", "ipaddress", "private_ip", "hostname", "fqdn", "node_id", "cloud")
"""``ip`` and ``ipaddress`` are the first address, ``hostname`` and ``fqdn`` the name by which others find it."""
MISSING: Any = object()


def look_up(values: Mapping[str, Any], name: str) -> Any:
    """The attribute of a dotted name; :data:`MISSING` if there is none."""
    if name in values:
        return values[name]
    head, dot, rest = name.partition(".")
    while dot:
        inner = values.get(head)
        if isinstance(inner, Mapping) and (found := look_up(inner, rest)) is not MISSING:
            return found
        more, dot, rest = rest.partition(".")
        head = f"{head}.{more}"
    return MISSING


def place(into: dict[str, Any], name: str, value: Any) -> None:
    """Set the attribute of a dotted name in nested mappings. A plain value on the way gives way."""
    *path, last = name.split(".")
    for step in path:
        inner = into.get(step)
        if not isinstance(inner, dict):
            inner = into[step] = {}
        into = inner
    into[last] = value


def built_in(instance: InstanceInfo) -> dict[str, str]:
    """The values of :data:`BUILT_IN`."""
    host = str(instance.data.get("hostname", ""))
    address = instance.addresses[0] if instance.addresses else ""
    return {
        "ip": address,
        "ipaddress": address,
        "private_ip": instance.private_addresses[0] if instance.private_addresses else address,
        "hostname": host,
        "fqdn": host,
        "node_id": instance.node_id,
        "cloud": str(instance.data.get("cloud", "")),
    }


def declared_in(attributes: Any, config_management: Mapping[str, Any]) -> dict[str, Any]:
    """What a definition declares: those of the contextualisation, and over them those of the configuration manager,
    which may be a mapping or a list of mappings."""
    result: dict[str, Any] = {}
    given = config_management.get("attributes")
    for part in (attributes, *(given if isinstance(given, list) else [given])):
        if isinstance(part, Mapping):
            _merge(result, part)
    return result


def _merge(into: dict[str, Any], more: Mapping[str, Any]) -> None:
    for key, value in more.items():
        inner = into.get(key)
        if isinstance(value, Mapping):
            copy: dict[str, Any] = dict(inner) if isinstance(inner, dict) else {}
            _merge(copy, value)
            into[key] = copy
        else:
            into[key] = value


def told_at_once(name: str, implementation: Implementation | None) -> bool:
    """Whether an attribute is known without asking the instance. One that stands in for what was described reports
    nothing; there, what nobody knows is made up (see :func:`made_up`)."""
    if name in BUILT_IN:
        return True
    if implementation is None:
        return False
    if implementation.built_on:
        return True
    declared = declared_in(implementation.contextualisation.attributes, implementation.config_management)
    return look_up(declared, name) is not MISSING


def managed(implementation: Implementation) -> bool:
    """Whether a configuration manager is given all mapped attributes."""
    kind = implementation.config_management.get("type", "dummy")
    return kind != "dummy" and implementation.contextualisation.type != "docker"


def constant(name: str, node: str, implementation: Implementation) -> Any:
    """An attribute that every instance of the implementation has alike; :data:`MISSING` if each has its own."""
    declared = declared_in(implementation.contextualisation.attributes, implementation.config_management)
    value = look_up(declared, name)
    if value is MISSING:
        return made_up(node, name) if implementation.built_on else MISSING
    return MISSING if _holds_template(value) else value


def _holds_template(value: Any) -> bool:
    if isinstance(value, str):
        return "{" in value
    if isinstance(value, Mapping):
        return any(_holds_template(item) for pair in value.items() for item in pair)
    return isinstance(value, list | tuple) and any(_holds_template(item) for item in value)


def made_up(node: str, name: str) -> str:
    """In place of what an instance would have reported if it were what was described."""
    return f"{node}.{name}"


def reported_by(text: str) -> dict[str, Any]:
    """What the file of an instance says. Raises ValueError with what is wrong with it."""
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise ValueError(f"{FILE} is not a JSON object: {error}") from error
