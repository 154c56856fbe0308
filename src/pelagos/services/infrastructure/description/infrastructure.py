"""The infrastructure description (reference 4.1 to 4.5) as drafts: checked in itself, not yet against definitions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pelagos.model.diagnostics import Position
from pelagos.services.infrastructure.description.fields import (
    bool_at,
    check_keys,
    items_at,
    mapping_at,
    name_at,
    number_at,
    plain_mapping_at,
    require,
    text_at,
)
from pelagos.services.infrastructure.description.policies import read_policy
from pelagos.services.infrastructure.policies import NodePolicy
from pelagos.services.infrastructure.source.nodes import MAPPING, SCALAR, SEQUENCE, Node, kind_of
from pelagos.services.infrastructure.source.problems import Problems, did_you_mean, listing
from pelagos.services.infrastructure.values import AttributeMapping

__all__ = ["MAX_INSTANCES", "TOP_LEVEL", "Draft", "Edge", "InfrastructureReader", "NodeDraft"]

TOP_LEVEL = ("infra_name", "user_id", "nodes", "dependencies", "variables")
MAX_INSTANCES = 100_000
"""Most instances of one node; a larger number is taken for a slip."""

_NODE_KEYS = ("name", "type", "scaling", "filter", "variables", "policy")


@dataclass(slots=True)
class NodeDraft:
    """A node of the description."""

    node: Node
    name: str
    type: str
    type_position: Position
    min: int = 1
    max: int = 1
    filter: dict[str, Any] = field(default_factory=dict)
    filter_position: Position | None = None
    variables: dict[str, Any] = field(default_factory=dict)
    policy: NodePolicy = field(default_factory=NodePolicy)


@dataclass(slots=True)
class Edge:
    """``dependent`` is made after ``dependee``, both names of nodes."""

    dependent: str
    dependee: str
    position: Position
    mappings: tuple[AttributeMapping, ...] = ()


@dataclass(slots=True)
class Draft:
    """A description; nodes by name in its order, edges in its order."""

    name: str
    user_id: str
    variables: dict[str, Any]
    nodes: list[NodeDraft]
    edges: list[Edge]


class InfrastructureReader:
    """Reads a description's root."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self._by_name: dict[str, NodeDraft] = {}
        self._by_identity: dict[int, str] = {}
        self._ambiguous: set[int] = set()

    def read(self, root: Node) -> Draft:
        """The draft; errors are added."""
        problems = self._problems
        for key, key_node, _ in root.items():
            if key not in TOP_LEVEL and not key.startswith("node_def:"):
                problems.error(
                    f"a description knows no key {key!r}",
                    key_node.position,
                    did_you_mean(key, TOP_LEVEL, f"known are {listing(TOP_LEVEL)}, and 'node_def:<type>'"),
                )
        name_node = require(root, "infra_name", "the description", problems)
        name = name_at(name_node, "'infra_name'", problems) if name_node is not None else ""
        user = root.get("user_id")
        user_id = ""
        if user is not None:
            if user.kind == SCALAR:
                user_id = user.text
            else:
                problems.error(f"'user_id' must be text, not {kind_of(user)}", user.position)
        variables = plain_mapping_at(root.get("variables"), "'variables'", problems)
        found = require(root, "nodes", "the description", problems)
        if found is not None and found.kind == SCALAR and found.value is None and found.style != "missing":
            problems.error("'nodes' must be a list, not nothing", found.position, "an empty list is written []")
        nodes = [
            draft for item in items_at(found, "'nodes'", problems) if (draft := self._node(item, variables)) is not None
        ]
        edges = [
            edge
            for item in items_at(root.get("dependencies"), "'dependencies'", problems)
            if (edge := self._edge(item)) is not None
        ]
        return Draft(name, user_id, variables, nodes, edges)

    def _node(self, item: Node, inherited: dict[str, Any]) -> NodeDraft | None:
        problems = self._problems
        if item.kind != MAPPING:
            if item.style != "missing":
                problems.error(f"a node must be a mapping, not {kind_of(item)}", item.position)
            return None
        name_node = require(item, "name", "the node", problems)
        name = name_at(name_node, "the node's name", problems) if name_node is not None else ""
        what = f"the node {name!r}" if name else "the node"
        check_keys(item, _NODE_KEYS, what, problems)
        type_node = require(item, "type", what, problems)
        kind = text_at(type_node, f"the type of {what}", problems) if type_node is not None else ""
        least, most = self._scaling(item.get("scaling"), what)
        filter_node = mapping_at(item.get("filter"), f"'filter' of {what}", problems)
        own = plain_mapping_at(item.get("variables"), f"'variables' of {what}", problems)
        draft = NodeDraft(
            item,
            name,
            kind,
            (type_node or item).position,
            least,
            most,
            filter_node.plain() if filter_node is not None else {},
            filter_node.position if filter_node is not None else None,
            _merged(inherited, own) if own else inherited,
            read_policy(item.get("policy"), what, problems),
        )
        if not name:
            return None
        first = self._by_name.get(name)
        if first is not None:
            place = (name_node or item).position
            if first.node is item:
                problems.error(
                    f"the node {name!r} is listed twice: an alias names the same node", place, "give each its own name"
                )
            else:
                problems.error(
                    f"there are two nodes {name!r}; the first is at {(first.node.get('name') or first.node).position}",
                    place,
                    "rename one of them",
                )
            return None
        self._by_name[name] = draft
        self._by_identity[id(item)] = name
        return draft

    def _scaling(self, found: Node | None, what: str) -> tuple[int, int]:
        problems = self._problems
        scaling = mapping_at(found, f"'scaling' of {what}", problems)
        if scaling is None:
            return 1, 1
        check_keys(scaling, ("min", "max"), f"'scaling' of {what}", problems)
        values: dict[str, int] = {}
        for key in ("min", "max"):
            node = scaling.get(key)
            if node is not None and not (node.kind == SCALAR and node.value is None):
                number = number_at(node, f"'{key}' of {what}", -1, problems, least=0, most=MAX_INSTANCES, whole=True)
                if number >= 0:
                    values[key] = int(number)
                else:
                    return 1, 1
        if "min" in values and "max" in values and values["max"] < values["min"]:
            most = scaling.get("max") or scaling
            problems.error(
                f"'max' of {what} is {values['max']}, less than its 'min' of {values['min']}",
                most.position,
                f"write max: {values['min']} or more",
            )
            return 1, 1
        least = values.get("min", min(1, values.get("max", 1)))
        return least, values.get("max", max(least, 1) if "min" not in values else max(least, 0))

    def _edge(self, item: Node) -> Edge | None:
        problems = self._problems
        pair: Node | None
        mappings: Node | None = None
        if item.kind == MAPPING and self._name_of_copy(item) is None:
            pair = require(item, "connection", "the dependency", problems)
            mappings = item.get("mappings")
            for key, key_node, _ in item.items():
                if key not in ("connection", "mappings"):
                    problems.warning(
                        f"the key {key!r} of a dependency has no meaning",
                        key_node.position,
                        did_you_mean(key, ("connection", "mappings")),
                    )
        else:
            pair = item
        if pair is None:
            return None
        if pair.kind != SEQUENCE or len(pair.value) != 2:
            if pair.style != "missing":
                found = f"a list of {len(pair.value)}" if pair.kind == SEQUENCE else kind_of(pair)
                problems.error(
                    f"a dependency must be a pair [dependent, dependee], not {found}",
                    pair.position,
                    "write - [web, db] if web needs db",
                )
            return None
        dependent, dependee = (self._reference(part, pair) for part in pair.value)
        read = tuple(
            mapping
            for part in items_at(mappings, "'mappings'", problems)
            if (mapping := self._mapping(part, dependee or "")) is not None
        )
        if dependent is None or dependee is None:
            return None
        return Edge(dependent, dependee, pair.position, read)

    def _reference(self, node: Node, pair: Node) -> str | None:
        """The name of the node that is meant: an alias means the very node, text a name, a mapping an equal node."""
        problems = self._problems
        known = self._by_identity.get(id(node))
        if known is not None:
            return known
        if node.kind == SCALAR and isinstance(node.value, str):
            name = node.value
        elif node.kind == MAPPING:
            found = self._name_of_copy(node)
            if found is None:
                problems.error("the dependency refers to a mapping that is none of the nodes", pair.position)
                return None
            name = found
            draft = self._by_name.get(name)
            if draft is not None and draft.node.plain() != node.plain():
                problems.error(
                    f"the dependency refers to a node {name!r} that differs from the one at {draft.node.position}",
                    node.position,
                    f"write the name {name!r}, or an alias",
                )
                return None
        else:
            if node.style != "missing" and not (node.kind == SCALAR and node.value is None and not node.text):
                problems.error(f"a dependency refers to nodes by alias or name, not by {kind_of(node)}", node.position)
            elif node.style != "missing":
                problems.error("a dependency refers to nothing here", node.position, "write a node's name or alias")
            return None
        if name not in self._by_name:
            problems.error(
                f"there is no node {name!r}",
                node.position,
                lambda: did_you_mean(name, self._by_name, f"there are: {listing(self._by_name) or 'none'}"),
            )
            return None
        return name

    @staticmethod
    def _name_of_copy(node: Node) -> str | None:
        """The ``name`` of a mapping that looks like a node."""
        if node.kind != MAPPING or "connection" in node.value:
            return None
        name = node.get("name")
        return name.value if name is not None and isinstance(name.value, str) else None

    def _mapping(self, node: Node, dependee: str) -> AttributeMapping | None:
        problems = self._problems
        pair: Node | None = node
        synch = False
        if node.kind == MAPPING:
            pair = require(node, "attributes", "the mapping", problems)
            flag = node.get("synch")
            if flag is not None:
                synch = bool_at(flag, "'synch'", False, problems)
            for key, key_node, _ in node.items():
                if key not in ("attributes", "synch"):
                    problems.warning(
                        f"the key {key!r} of a mapping has no meaning",
                        key_node.position,
                        did_you_mean(key, ("attributes", "synch")),
                    )
        if pair is None:
            return None
        if pair.kind != SEQUENCE or len(pair.value) != 2:
            if pair.style != "missing":
                problems.error(
                    "a mapping must be a pair [source attribute, destination attribute]",
                    pair.position,
                    "write - [ip, app.db.host]",
                )
            return None
        source, target = (text_at(part, "an attribute's name", problems) for part in pair.value)
        if not source or not target:
            return None
        return AttributeMapping(dependee=dependee, source=source, target=target, synch=synch)


def _merged(inherited: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Deep merge, ``own`` wins; lists are replaced. The arguments stay as they are."""
    result = dict(inherited)
    for key, value in own.items():
        base = result.get(key)
        result[key] = _merged(base, value) if isinstance(base, dict) and isinstance(value, dict) else value
    return result
