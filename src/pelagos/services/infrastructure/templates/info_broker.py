"""``ibget``: the keys of the ancestor's information broker (reference, section 1.4) that templates may ask.

There it answered any key, credentials and whole definitions with their secrets among them. Here it answers what other
functions answer as well: the infrastructure's name, and the instances of its nodes with their addresses; written down
like those answers, so that whoever was told something that is no longer so is known. States are not told: what depends
on a node is made when that is ready, and a state that was true then is a lie soon after, for which nobody should be
made anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pelagos.services.infrastructure.asking import FIND, NodeFunctions, Unresolvable

__all__ = ["NAMED", "OFFERED", "info_broker", "not_offered"]

OFFERED: dict[str, tuple[str, ...]] = {
    "infrastructure.name": ("infra_id",),
    "node.find": ("infra_id", "node_id", "name"),
    "node.find_one": ("infra_id", "node_id", "name"),
    "node.resource.address": ("instance_data",),
    "node.resource.ip_address": ("instance_data",),
}
"""Key -> its arguments, in their order; each may be given by its name, too."""
NAMED = ("node.find", "node.find_one")
"""Keys that need the name of a node."""


def not_offered(key: object) -> str:
    """Why a key is refused, and which are not."""
    return f"ibget({key!r}) is not offered; offered are {', '.join(OFFERED)}"


def info_broker(nodes: NodeFunctions, infra_id: str, infra_name: str) -> Callable[..., Any]:
    """The function, for templates of an infrastructure. It raises Unresolvable."""

    def ibget(key: object = None, /, *positional: Any, **named: Any) -> Any:
        if not isinstance(key, str) or key not in OFFERED:
            raise Unresolvable(not_offered(key))
        given = _bound(key, positional, named)
        if given.get("infra_id", infra_id) != infra_id:
            raise Unresolvable(f"ibget({key!r}) tells of this infrastructure alone")
        if key == "infrastructure.name":
            return infra_name
        if key in NAMED:
            return _instances(nodes, key, given.get("name"), given.get("node_id"))
        return _address(key, given.get("instance_data"))

    return ibget


def _bound(key: str, positional: tuple[Any, ...], named: Mapping[str, Any]) -> dict[str, Any]:
    """Argument -> its value."""
    names = OFFERED[key]
    given = dict(zip(names, positional, strict=False))
    if len(positional) > len(names) or not set(named) <= set(names) - set(given):
        raise Unresolvable(f"ibget({key!r}) takes {', '.join(names)}, each once")
    return {**given, **named}


def _instances(nodes: NodeFunctions, key: str, name: Any, node_id: Any) -> Any:
    """All instances of a node, or one."""
    if name is None:
        raise Unresolvable(f"ibget({key!r}) needs the name of a node")
    if key == "node.find_one" and node_id is None:
        return nodes.ask("find_node_id", name)
    found = [one for one in nodes.ask(FIND, name) if node_id is None or one["node_id"] == node_id]
    if key == FIND:
        return found
    if not found:
        raise Unresolvable(f"the node {name!r} has no instance {node_id!r}")
    return found[0]


def _address(key: str, instance: Any) -> Any:
    """Of an instance as ``node.find`` and ``find_node_id`` tell it: a text, or a list where there are several."""
    kinds = ("resource_address",) if key == "node.resource.address" else ("private_address", "resource_address")
    shown = instance if isinstance(instance, Mapping) else {}
    addresses = next((found for kind in kinds if (found := shown.get(kind))), None)
    if not addresses:
        raise Unresolvable(f"ibget({key!r}) needs an instance with an address, as find_node_id() answers it")
    several = key == "node.resource.address" and len(addresses) > 1
    return addresses if several or isinstance(addresses, str) else addresses[0]
