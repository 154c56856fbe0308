"""Libcloud's dummy provider, with servers that keep the name they were made with and ids that are never used twice.

The original calls every server ``dummy-N`` and gives an id again once a server is destroyed, so no server could be
found by its token; and each object of it is a world of its own. Here all that are made with the same credentials share
one, which lives as long as the process. Its two first nodes are as they were: somebody else's.
"""

from __future__ import annotations

import threading
from typing import Any

from libcloud.compute.base import Node
from libcloud.compute.drivers.dummy import DummyNodeDriver
from libcloud.compute.types import NodeState

__all__ = ["NamedDummy"]


class _World:
    def __init__(self, nodes: list[Any]) -> None:
        self.lock = threading.Lock()
        self.nodes = nodes
        self.made = len(nodes)


_worlds: dict[str, _World] = {}
_making = threading.Lock()


class NamedDummy(DummyNodeDriver):
    """``creds``: which world."""

    def __init__(self, creds: Any = "") -> None:
        super().__init__(str(creds) if not str(creds).isdigit() else f"dummy {creds}")  # type: ignore[no-untyped-call]
        with _making:
            self._world = _worlds.setdefault(self.creds, _World(self.nl))

    def list_nodes(self) -> list[Any]:
        with self._world.lock:
            return list(self._world.nodes)

    def create_node(self, name: str, size: Any, image: Any) -> Any:  # type: ignore[override]  # as the original
        """A node of that name, running at once."""
        world = self._world
        with world.lock:
            world.made += 1
            address = f"127.{world.made >> 16 & 255}.{world.made >> 8 & 255}.{world.made & 255}"
            node = Node(
                id=str(world.made),
                name=name,
                state=NodeState.RUNNING,
                public_ips=[address],
                private_ips=[],
                driver=self,
                size=size,
                image=image,
            )
            world.nodes.append(node)
            return node

    def destroy_node(self, node: Any) -> bool:
        """It is gone; also if it was."""
        world = self._world
        with world.lock:
            node.state = NodeState.TERMINATED
            world.nodes[:] = [one for one in world.nodes if one.id != node.id]
        return True

    def start_node(self, node: Any) -> bool:
        return self._switch(node, NodeState.RUNNING)

    def stop_node(self, node: Any) -> bool:
        return self._switch(node, NodeState.STOPPED)

    def reboot_node(self, node: Any) -> bool:
        return self._switch(node, NodeState.RUNNING)

    def _switch(self, node: Any, state: Any) -> bool:
        with self._world.lock:
            node.state = state
        return True
