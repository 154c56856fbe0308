"""As much of CloudSigma's API 2.0 as the driver asks for."""

from __future__ import annotations

import base64
from typing import Any

from pelagos.testing.http_requests import ProxiedRequest
from support.tiny_http import TinyProvider

__all__ = ["PASSWORD", "TinySigma"]

PASSWORD = "sigma-password"
LIBRARY = "11111111-library"


class TinySigma(TinyProvider):
    """``servers`` and ``drives`` are its whole truth, by uuid."""

    def __init__(self) -> None:
        self.servers: dict[str, dict[str, Any]] = {}
        self.drives: dict[str, dict[str, Any]] = {}
        self._made = 0

    def add_server(self, **fields: Any) -> dict[str, Any]:
        uuid = self._uuid("server")
        nic = {"interface_type": "public", "ip_v4": {"uuid": f"198.51.100.{self._made}"}}
        self.servers[uuid] = {"uuid": uuid, "status": "stopped", "runtime": {"nics": [nic]}, "meta": {}, **fields}
        return self.servers[uuid]

    def add_drive(self, name: str) -> dict[str, Any]:
        uuid = self._uuid("drive")
        self.drives[uuid] = {"uuid": uuid, "name": name, "status": "unmounted", "size": 1 << 30}
        return self.drives[uuid]

    def answer(self, request: ProxiedRequest) -> tuple[int, Any]:
        login = base64.b64encode(f"me@example.org:{PASSWORD}".encode()).decode()
        if request.headers.get("authorization") != f"Basic {login}":
            return 401, [_error("permission", "who are you?")]
        path = request.path.removeprefix("/api/2.0").strip("/").split("/")
        match request.method, path:
            case "GET", ["servers", "detail"]:
                return 200, {"objects": list(self.servers.values())}
            case "GET", ["drives", "detail"]:
                return 200, {"objects": list(self.drives.values())}
            case "GET", ["libdrives"]:
                return 200, {"objects": [{"uuid": LIBRARY, "name": "Debian", "size": 1 << 30}]}
            case "POST", ["libdrives", source, "action"]:
                if source != LIBRARY:
                    return 404, [_error("notexist", "no such drive")]
                return 202, {"objects": [self.add_drive(request.json["name"])]}
            case "POST", ["servers"]:
                return self._create(request.json)
            case "POST", ["servers", uuid, "action"] if uuid in self.servers:
                return self._switch(self.servers[uuid], request.query["do"])
            case method, ["servers" | "drives" as kind, uuid] if method in ("GET", "DELETE"):
                return self._one(method, self.servers if kind == "servers" else self.drives, uuid)
            case _:
                return 404, [_error("notexist", "not here")]

    def _create(self, wanted: dict[str, Any]) -> tuple[int, Any]:
        for drive in wanted["drives"]:
            if drive["drive"] not in self.drives:
                return 400, [_error("validation", "no such drive")]
            self.drives[drive["drive"]]["status"] = "mounted"
        return 201, {"objects": [self.add_server(**wanted)]}

    def _switch(self, server: dict[str, Any], verb: str) -> tuple[int, Any]:
        wanted = {"start": "running", "stop": "stopped"}[verb]
        if server["status"] == wanted:
            return 400, [_error("validation", f"cannot {verb} a guest that is {wanted}")]
        server["status"] = wanted
        return 202, {"action": verb, "uuid": server["uuid"]}

    def _one(self, method: str, things: dict[str, dict[str, Any]], uuid: str) -> tuple[int, Any]:
        if uuid not in things:
            return 404, [_error("notexist", "no such thing")]
        if method == "GET":
            return 200, things[uuid]
        if things[uuid]["status"] == "running":
            return 400, [_error("validation", "cannot delete a guest that runs")]
        gone = things.pop(uuid)
        for drive in gone.get("drives", []):
            self.drives[drive["drive"]]["status"] = "unmounted"
        return 204, None

    def _uuid(self, kind: str) -> str:
        self._made += 1
        return f"{self._made:08d}-{kind}"


def _error(kind: str, message: str) -> dict[str, Any]:
    return {"error_type": kind, "error_message": message, "error_point": None}
