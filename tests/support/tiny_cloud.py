"""A cloud of a few lines with a JSON API over HTTP, and Libcloud drivers for it, as a provider would bring them.

Two drivers, for the two ways in which a server can carry its token: ``tiny-meta`` takes metadata, user data and a key
name with the create and can start and stop; ``tiny-name`` takes a name, size and image, and no more. Making a server is
one request, but for ``tiny-meta`` with ``ex_second_step``, which sends a second one after it.
"""

from __future__ import annotations

import json
from typing import Any

from libcloud.common.base import ConnectionKey, JsonResponse
from libcloud.common.types import InvalidCredsError
from libcloud.compute.base import Node, NodeDriver, NodeImage, NodeLocation, NodeSize
from libcloud.compute.providers import DRIVERS
from libcloud.compute.types import NodeState

from pelagos.testing.http_requests import ProxiedRequest
from support.tiny_http import TinyProvider

__all__ = ["GOOD_KEY", "TinyCloud", "TinyMeta", "TinyName", "register"]

GOOD_KEY = "tiny-secret-key"
STATES = {"running": NodeState.RUNNING, "stopped": NodeState.STOPPED, "building": NodeState.PENDING}


class TinyCloud(TinyProvider):
    """``servers`` is its whole truth, by id."""

    def __init__(self) -> None:
        self.servers: dict[str, dict[str, Any]] = {}
        self._made = 0

    def add(self, **fields: Any) -> str:
        """Make a server; its id."""
        self._made += 1
        id_ = str(self._made)
        self.servers[id_] = {"id": id_, "status": "running", "ip": f"10.0.0.{self._made}", **fields}
        return id_

    def answer(self, request: ProxiedRequest) -> tuple[int, Any]:
        if request.headers.get("x-key") != GOOD_KEY:
            return 401, {"error": f"the key {request.headers.get('x-key')} is not known"}
        path = request.path.strip("/").split("/")
        match request.method, path:
            case "GET", ["servers"]:
                return 200, list(self.servers.values())
            case "POST", ["servers"]:
                fields = request.json
                if fields["image"] == "cursed":
                    return 422, {"error": "no server is made of that image"}
                return 201, self.servers[self.add(**fields)]
            case "DELETE", ["servers", id_]:
                return (200, {}) if self.servers.pop(id_, None) is not None else (404, {"error": "no such server"})
            case "POST", ["servers", id_, ("start" | "stop" | "reboot" | "label") as verb] if id_ in self.servers:
                wanted = {"start": "running", "reboot": "running", "stop": "stopped"}.get(verb)
                if wanted:
                    self.servers[id_]["status"] = wanted
                return 200, {}
            case _:
                return 404, {"error": "no such server"}


class _Response(JsonResponse):
    def parse_error(self) -> Any:
        if self.status == 401:
            raise InvalidCredsError(self.body)
        return self.parse_body().get("error", "") if self.body else ""


class _Connection(ConnectionKey):
    responseCls = _Response

    def add_default_headers(self, headers: dict[str, str]) -> dict[str, str]:
        headers["X-Key"] = self.key
        headers["Content-Type"] = "application/json"
        return headers


class TinyName(NodeDriver):
    """Name, size, image."""

    name = website = type = "tiny-name"
    connectionCls = _Connection

    def list_nodes(self) -> list[Node]:
        return [self._node(one) for one in self.connection.request("/servers").object]

    def list_sizes(self) -> list[NodeSize]:
        return [NodeSize(str(n), f"size-{n}", 512 * n, 10 * n, None, 0.01 * n, self) for n in (1, 2)]

    def list_images(self) -> list[NodeImage]:
        return [NodeImage(f"im-{name}", name, self) for name in ("plain", "twice", "cursed")] + [
            NodeImage("im-again", "twice", self)
        ]

    def create_node(self, name: str, size: NodeSize, image: NodeImage) -> Node:
        return self._create(name=name, size=size.id, image=image.name)

    def destroy_node(self, node: Node) -> bool:
        self.connection.request(f"/servers/{node.id}", method="DELETE")
        return True

    def _create(self, **fields: Any) -> Node:
        return self._node(self.connection.request("/servers", method="POST", data=json.dumps(fields)).object)

    def _node(self, one: dict[str, Any]) -> Node:
        extra = {"metadata": one.get("metadata") or {}}
        return Node(one["id"], one["name"], STATES[one["status"]], [one["ip"]], [], self, extra=extra)


class TinyMeta(TinyName):
    """With metadata, user data, keys, locations and power."""

    name = website = type = "tiny-meta"

    def list_locations(self) -> list[NodeLocation]:
        return [NodeLocation("here", "Here", "XX", self)]

    def create_node(
        self,
        name: str,
        size: NodeSize,
        image: NodeImage,
        location: NodeLocation | None = None,
        ex_metadata: dict[str, str] | None = None,
        ex_userdata: str | None = None,
        ex_keyname: str | None = None,
        ex_colour: str | None = None,
        ex_second_step: bool = False,
    ) -> Node:
        node = self._create(
            name=name,
            size=size.id,
            image=image.name,
            metadata=ex_metadata,
            user_data=ex_userdata,
            key=ex_keyname,
            colour=ex_colour,
            location=location.id if location else None,
        )
        if ex_second_step:
            self.connection.request(f"/servers/{node.id}/label", method="POST", data="{}")
        return node

    def start_node(self, node: Node) -> bool:
        return self._verb(node, "start")

    def ex_stop_node(self, node: Node) -> bool:
        return self._verb(node, "stop")

    def reboot_node(self, node: Node) -> bool:
        return self._verb(node, "reboot")

    def _verb(self, node: Node, verb: str) -> bool:
        self.connection.request(f"/servers/{node.id}/{verb}", method="POST", data="{}")
        return True


def register() -> None:
    """Make both known to Libcloud. Repeatable."""
    DRIVERS["tiny-name"] = (__name__, "TinyName")
    DRIVERS["tiny-meta"] = (__name__, "TinyMeta")
