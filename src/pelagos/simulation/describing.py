"""Descriptions for scenarios: small infrastructures of random shape, as YAML, since the real compiler reads them."""

from __future__ import annotations

import random

import msgspec

__all__ = ["Description", "NodeShape", "describe", "varied"]


class NodeShape(msgspec.Struct, frozen=True):
    """``choices``: accounts of its implementations, in order."""

    name: str
    least: int
    most: int
    depends_on: tuple[str, ...]
    choices: tuple[str, ...]
    flavor: str = "small"
    policy: str = ""
    """The node's policy, as YAML flow text without its braces."""


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
            if node.policy:
                lines.append(f"    policy: {{{node.policy}}}")
            definitions.append(f"'node_def:{node.name}_node':")
            for account in node.choices:
                definitions += [
                    f"  - resource: {{type: simulated, name: {account}, flavor: {node.flavor}}}",
                    "    health_check: {ports: [80], timeout: 20, failures: 2}",
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
            msgspec.structs.replace(node, depends_on=tuple(d for d in node.depends_on if d != gone))
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
