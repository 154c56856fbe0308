"""As much of Rackspace's identity service and of Nova's API as Libcloud's driver asks for, over HTTP."""

from __future__ import annotations

from typing import Any

from pelagos.testing.http_requests import ProxiedRequest
from support.tiny_http import TinyProvider

__all__ = ["API_KEY", "TinyNova"]

API_KEY = "rackspace-api-key"
TOKEN = "a-token-of-the-identity-service"


class TinyNova(TinyProvider):
    """``servers`` is its whole truth, by id."""

    def __init__(self) -> None:
        self.servers: dict[str, dict[str, Any]] = {}
        self.log_ins = 0
        self._made = 0

    def add(self, **fields: Any) -> dict[str, Any]:
        """Make a server; as Nova shows it."""
        self._made += 1
        id_ = f"server-{self._made}"
        made = {
            "id": id_,
            "status": "ACTIVE",
            "addresses": {"public": [{"version": 4, "addr": f"198.51.100.{self._made}"}], "private": []},
            "metadata": {},
            "flavor": {"id": "2"},
            "image": {"id": "image-1"},
            "created": "2026-01-01T00:00:00Z",
            "updated": "2026-01-01T00:00:00Z",
            "links": [{"rel": "self", "href": f"{self.url}/v2/1/servers/{id_}"}],
            "tenant_id": "1",
            "user_id": "1",
            "hostId": "",
            **fields,
        }
        self.servers[id_] = made
        return made

    def answer(self, request: ProxiedRequest) -> tuple[int, Any]:
        path = request.path.strip("/").split("/")
        if path == ["v2.0", "tokens"]:
            given = request.json["auth"]["RAX-KSKEY:apiKeyCredentials"]
            if given["apiKey"] != API_KEY:
                return 401, {"unauthorized": {"code": 401, "message": "no such key"}}
            self.log_ins += 1
            return 200, self._access(request.headers["host"])
        if request.headers.get("x-auth-token") != TOKEN:
            return 401, {"unauthorized": {"code": 401, "message": "no token"}}
        match request.method, path[2:]:
            case "GET", ["servers", "detail"]:
                return 200, {"servers": list(self.servers.values())}
            case "GET", ["servers", id_] if id_ in self.servers:
                return 200, {"server": self.servers[id_]}
            case "GET", ["flavors", "detail"]:
                flavor = {"id": "2", "name": "512MB", "ram": 512, "disk": 20, "vcpus": 1, "swap": "", "links": []}
                return 200, {"flavors": [flavor]}
            case "GET", ["images", "detail"]:
                image = {"id": "image-1", "name": "Debian", "updated": "", "created": "", "status": "ACTIVE"}
                return 200, {"images": [{**image, "progress": 100, "metadata": {}, "minDisk": 0, "minRam": 0}]}
            case "POST", ["servers"]:
                wanted = request.json["server"]
                if wanted["name"].startswith("bad"):
                    return 400, {"badRequest": {"code": 400, "message": "no such name"}}
                made = self.add(**{key: wanted[key] for key in ("name", "metadata", "user_data") if key in wanted})
                return 202, {"server": made}
            case "DELETE", ["servers", id_]:
                return (204, None) if self.servers.pop(id_, None) is not None else (404, {})
            case "POST", ["servers", id_, "action"] if id_ in self.servers:
                verb = next(iter(request.json))
                self.servers[id_]["status"] = "SHUTOFF" if verb == "os-stop" else "ACTIVE"
                return 202, None
            case _:
                return 404, {"itemNotFound": {"code": 404, "message": "not here"}}

    def _access(self, host: str) -> dict[str, Any]:
        endpoints = [{"region": "DFW", "publicURL": f"http://{host}/v2/1", "tenantId": "1"}]
        return {
            "access": {
                "token": {"id": TOKEN, "expires": "2099-01-01T00:00:00.000Z", "tenant": {"id": "1", "name": "1"}},
                "user": {"id": "1", "name": "tester", "roles": []},
                "serviceCatalog": [{"name": "cloudServersOpenStack", "type": "compute", "endpoints": endpoints}],
            }
        }
