"""Descriptions for scenarios: small infrastructures of random shape, as YAML, since the real compiler reads them."""

from __future__ import annotations

import random
from typing import Any

import msgspec

__all__ = ["Description", "NodeShape", "adorned", "changed", "describe", "varied", "with_parts"]


class NodeShape(msgspec.Struct, frozen=True):
    """``choices``: accounts of its implementations, in order; ``told``: nodes whose addresses it is told."""

    name: str
    least: int
    most: int
    depends_on: tuple[str, ...]
    choices: tuple[str, ...]
    flavor: str = "small"
    told: tuple[str, ...] = ()
    change: str = "replace"
    max_unavailable: int = 0
    on_failure: str = "rollback"
    health: str = "ok"
    volumes: int = 0
    address: bool = False
    keeping: str = ""
    """More of the node's policy, as YAML flow text without its braces."""

    @property
    def policy(self) -> str:
        """As YAML; nothing if it is the default."""
        values = (("change", "replace"), ("max_unavailable", 0), ("on_failure", "rollback"))
        told = [f"{name}: {getattr(self, name)}" for name, default in values if getattr(self, name) != default]
        told += [self.keeping] if self.keeping else []
        return f"{{{', '.join(told)}}}" if told else ""

    @property
    def resource(self) -> str:
        """More keys of its resource sections."""
        return (f", volumes: {self.volumes}" if self.volumes else "") + (", address: true" if self.address else "")


class Description(msgspec.Struct, frozen=True):
    name: str
    nodes: tuple[NodeShape, ...]

    @property
    def sources(self) -> dict[str, str]:
        """The bundle: an infrastructure and its node definitions."""
        lines = [f"infra_name: {self.name}", "user_id: sim", "nodes:"]
        definitions: list[str] = []
        for node in self.nodes:
            lines += [
                f"  - &{node.name.upper()}",
                f"    name: {node.name}",
                f"    type: {node.name}_node",
                f"    scaling: {{min: {node.least}, max: {node.most}}}",
            ]
            lines += [f"    policy: {node.policy}"] if node.policy else []
            health = f", health: {node.health}" if node.health != "ok" else ""
            definitions.append(f"'node_def:{node.name}_node':")
            for account in node.choices:
                definitions += [
                    f"  - resource: {{type: simulated, name: {account}, flavor: {node.flavor}{node.resource}{health}}}",
                    "    health_check: {ports: [80], timeout: 20, failures: 2}",
                ]
                if node.told:
                    asked = " ".join(f"{{{{ getipall('{name}') | join(' ') }}}}" for name in node.told)
                    definitions += [
                        "    contextualisation:",
                        "      type: cloudinit",
                        f'      context_template: "#!/bin/sh {asked}"',
                    ]
        edges = [(node.name, dependee) for node in self.nodes for dependee in node.depends_on]
        if edges:
            lines.append("dependencies:")
            lines += [f"  - connection: [*{node.upper()}, *{dependee.upper()}]" for node, dependee in edges]
        return {"infra.yaml": "\n".join(lines) + "\n", "nodes.yaml": "\n".join(definitions) + "\n"}

    @property
    def entries(self) -> tuple[str, ...]:
        return ("infra.yaml", "nodes.yaml")

    def node(self, name: str) -> NodeShape:
        return next(node for node in self.nodes if node.name == name)


def adorned(rng: random.Random, old: Description) -> Description:  # noqa: TID251
    """The same with policies, and with nodes that are told of those they depend on."""
    nodes = [
        msgspec.structs.replace(
            node,
            told=tuple(name for name in node.depends_on if rng.random() < 0.7),
            change="keep" if rng.random() < 0.15 else "replace",
            max_unavailable=rng.choice((0, 0, 0, 1, 2)),
            on_failure=rng.choice(("rollback", "rollback", "stop", "keep")),
        )
        for node in old.nodes
    ]
    return Description(old.name, tuple(nodes))


def changed(rng: random.Random, old: Description, **changes: Any) -> Description:  # noqa: TID251
    """One node described differently: by ``changes``, else by another flavor."""
    index = rng.randrange(len(old.nodes))
    node = old.nodes[index]
    wanted = changes or {"flavor": rng.choice([f for f in ("small", "large", "huge") if f != node.flavor])}
    nodes = list(old.nodes)
    nodes[index] = msgspec.structs.replace(node, **wanted)
    return Description(old.name, tuple(nodes))


def with_parts(rng: random.Random, description: Description) -> Description:  # noqa: TID251
    """The same, most of whose nodes need volumes or addresses."""
    nodes = [
        msgspec.structs.replace(node, volumes=rng.choice((0, 1, 2)), address=rng.random() < 0.5)
        for node in description.nodes
    ]
    return msgspec.structs.replace(description, nodes=tuple(nodes))


_NAMES = ("store", "web", "lb", "cache", "mail")


def describe(rng: random.Random, accounts: tuple[str, ...], *, name: str = "shop", most: int = 4) -> Description:  # noqa: TID251
    """An infrastructure of 1 to ``most`` nodes; each may depend on those before it."""
    nodes: list[NodeShape] = []
    for index in range(rng.randint(1, most)):
        before = [node.name for node in nodes]
        depends_on = tuple(other for other in before if rng.random() < 0.5)
        least = rng.choice((1, 1, 1, 2, 3))
        choices = tuple(rng.sample(accounts, rng.randint(1, len(accounts))))
        nodes.append(NodeShape(_NAMES[index], least, least + rng.randint(0, 3), depends_on, choices))
    return Description(name, tuple(nodes))


def varied(rng: random.Random, old: Description, accounts: tuple[str, ...]) -> Description:  # noqa: TID251
    """Another description of the same infrastructure: nodes come, go, and have other limits or flavors."""
    nodes = list(old.nodes)
    if len(nodes) > 1 and rng.random() < 0.4:
        gone = rng.choice(nodes).name
        nodes = [
            msgspec.structs.replace(
                node,
                depends_on=tuple(d for d in node.depends_on if d != gone),
                told=tuple(name for name in node.told if name != gone),
            )
            for node in nodes
            if node.name != gone
        ]
    elif rng.random() < 0.5:
        free = [name for name in _NAMES if all(node.name != name for node in nodes)]
        if free:
            depends_on = tuple(node.name for node in nodes if rng.random() < 0.5)
            nodes.append(NodeShape(free[0], rng.randint(1, 2), 3, depends_on, (rng.choice(accounts),)))
    index = rng.randrange(len(nodes))
    least = rng.randint(1, 3)
    nodes[index] = msgspec.structs.replace(
        nodes[index], least=least, most=least + rng.randint(0, 2), flavor=rng.choice(("small", "large"))
    )
    return Description(old.name, tuple(nodes))
