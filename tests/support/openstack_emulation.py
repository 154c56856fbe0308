"""An OpenStack in a few hundred lines, on loopback: what the driver and its SDK ask of its services.

Bodies and statuses are those that a real one gave (see ``testbeds/openstack``, where the same suite runs). Things take
a moment, as there: servers build, verbs are refused while they change, deleted ones linger.
"""

from __future__ import annotations

import itertools
import json
import re
import threading
import time
import uuid
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

__all__ = ["Emulation", "Refusal"]

MOMENT = 0.05
CONSOLE = "FAKE CONSOLE OUTPUT\nANOTHER\nLAST LINE"
SERVICES = {"compute": "/compute/v2.1", "network": "/network", "volumev3": "/volume/v3", "image": "/image"}


class Refusal(Exception):
    """An answer of 400 or more."""

    def __init__(self, status: int, message: str, kind: str = "error", **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = {kind: {"code": status, "message": message}}
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class Emulation:
    """One cloud, with a project ``demo``; it serves from a thread of its own until :meth:`close`."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.projects = {"p-demo": "demo"}
        self.password = "correct horse"
        self.credential = ("cred-id", "cred-secret")
        self.tokens: set[str] = set()
        self.servers: dict[str, dict[str, Any]] = {}
        self.volumes: dict[str, dict[str, Any]] = {}
        self.ports: dict[str, dict[str, Any]] = {}
        self.addresses: dict[str, dict[str, Any]] = {}
        self.networks = {
            _id(): {"name": "private", "router:external": False},
            _id(): {"name": "public", "router:external": True},
        }
        self.groups = {_id(): {"name": "default"}, _id(): {"name": "web"}}
        self.images = {_id(): {"name": "debian", "size": 5_000_000}}
        self.flavors = {"1": {"name": "m1.tiny", "vcpus": 1, "ram": 512, "disk": 1}}
        self.max_servers = 100
        self.max_volumes = 100
        self.max_addresses = 100
        self.asked: list[tuple[str, str, Any]] = []
        """All requests so far: method, path, body."""
        self.refusals: list[tuple[str, str, Refusal]] = []
        """Answers to come instead: (method, pattern of the path, refusal), each once."""
        self.missing: set[str] = set()
        """Service types that the catalogue lacks."""
        self._hosts = itertools.count(10)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"cloud": self}))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def account(self) -> dict[str, Any]:
        """An account's options, with times fit for tests."""
        return {
            "endpoint": f"{self.url}/identity",
            "username": "ann",
            "password": self.password,
            "project_name": "demo",
            "region": "RegionOne",
            "settle": 0.3,
            "poll_interval": 0.1,
            "build_timeout": 20.0,
            "create_timeout": 10.0,
            "call_timeout": 10.0,
            "socket_timeout": 5.0,
        }

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def id_of(self, things: dict[str, dict[str, Any]], name: str) -> str:
        return next(key for key, thing in things.items() if thing["name"] == name)

    def boot(self, name: str, metadata: dict[str, str] | None = None) -> str:
        """A server as somebody else would make it."""
        with self.lock:
            image = next(iter(self.images))
            body = {"name": name, "flavorRef": "1", "imageRef": image, "networks": "auto", "metadata": metadata or {}}
            return str(self.create_server({"server": body}, {})["server"]["id"])

    def advance(self) -> None:
        """Let what has come due happen."""
        now = time.monotonic()
        for server in list(self.servers.values()):
            if server["next"] and server["next"][0] <= now:
                server["status"], server["task"], server["next"] = server["next"][1], None, None
                if server["status"] == "DELETED":
                    self._remove(server)

    # -- nova ------------------------------------------------------------------------------------------------------

    def create_server(self, body: Any, query: dict[str, str]) -> Any:
        asked = body["server"]
        if asked["flavorRef"] not in self.flavors:
            raise Refusal(400, f"Flavor {asked['flavorRef']} could not be found.", "badRequest")
        if asked.get("imageRef") and asked["imageRef"] not in self.images:
            raise Refusal(400, f"Can not find requested image {asked['imageRef']}", "badRequest")
        if not isinstance(asked.get("metadata", {}), dict) or len(asked.get("user_data", "")) > 65535:
            raise Refusal(400, "Invalid input for field/attribute user_data. is too long", "badRequest")
        if len(self.servers) >= self.max_servers:
            raise Refusal(403, "Quota exceeded for instances: Requested 1, but already used all", "forbidden")
        server = {
            "id": _id(),
            "status": "BUILD",
            "task": None,
            "next": (time.monotonic() + MOMENT, "ACTIVE"),
            "asked": asked,
            "metadata": dict(asked.get("metadata", {})),
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "volumes": [],
        }
        self._plug(server, asked["networks"])
        for mapping in asked.get("block_device_mapping_v2", []):
            if mapping["source_type"] == "volume":
                volume = self.volumes.get(mapping["uuid"])
                if volume is None or volume["status"] != "available":
                    raise Refusal(400, f"Invalid volume: status must be 'available', it is {volume}", "badRequest")
                volume["status"] = "in-use"
                server["volumes"].append(volume["id"])
        self.servers[server["id"]] = server
        return {"server": {"id": server["id"], "links": [], "adminPass": "xxx", "security_groups": []}}

    def _plug(self, server: dict[str, Any], networks: Any) -> None:
        if networks == "none":
            return
        entries = [{"uuid": self.id_of(self.networks, "private")}] if networks == "auto" else networks
        for entry in entries:
            if "port" in entry:
                if entry["port"] not in self.ports:
                    raise Refusal(400, f"Port {entry['port']} could not be found.", "badRequest")
                self.ports[entry["port"]]["device_id"] = server["id"]
            elif entry["uuid"] not in self.networks:
                raise Refusal(400, f"Network {entry['uuid']} could not be found.", "badRequest")
            else:
                self._port({"network_id": entry["uuid"], "device_id": server["id"], "nova": True})

    def _remove(self, server: dict[str, Any]) -> None:
        self.servers.pop(server["id"], None)
        for volume in server["volumes"]:
            self.volumes[volume]["status"] = "available"
        for port in [one for one in self.ports.values() if one["device_id"] == server["id"]]:
            port["device_id"] = ""
            if port.get("nova"):
                self._unplug(port["id"])

    def server_list(self, body: Any, query: dict[str, str]) -> Any:
        return {"servers": [self._shown(server) for server in self.servers.values()]}

    def server_get(self, body: Any, query: dict[str, str], key: str) -> Any:
        return {"server": self._shown(self._server_of(key))}

    def server_delete(self, body: Any, query: dict[str, str], key: str) -> Any:
        server = self._server_of(key)
        if server["task"] != "deleting":
            server["task"], server["next"] = "deleting", (time.monotonic() + MOMENT, "DELETED")

    def server_metadata(self, body: Any, query: dict[str, str], key: str) -> Any:
        server = self._server_of(key)
        server["metadata"].update(body["metadata"])
        return {"metadata": server["metadata"]}

    def server_action(self, body: Any, query: dict[str, str], key: str) -> Any:
        server = self._server_of(key)
        (verb,) = body
        if verb == "os-getConsoleOutput":
            return {"output": CONSOLE}
        needs, task, then = {
            "os-stop": ("ACTIVE", "powering-off", "SHUTOFF"),
            "os-start": ("SHUTOFF", "powering-on", "ACTIVE"),
            "unpause": ("PAUSED", "unpausing", "ACTIVE"),
            "resume": ("SUSPENDED", "resuming", "ACTIVE"),
            "reboot": (server["status"], "reboot_started", "ACTIVE"),
        }[verb]
        if server["status"] != needs or server["task"]:
            state = f"task_state {server['task']}" if server["task"] else f"vm_state {server['status'].lower()}"
            raise Refusal(409, f"Cannot '{verb}' instance {key} while it is in {state}", "conflictingRequest")
        if verb == "reboot":
            server["status"] = "REBOOT"
        server["task"], server["next"] = task, (time.monotonic() + MOMENT, then)
        return None

    def _server_of(self, key: str) -> dict[str, Any]:
        if key not in self.servers:
            raise Refusal(404, f"Instance {key} could not be found.", "itemNotFound")
        return self.servers[key]

    def _shown(self, server: dict[str, Any]) -> dict[str, Any]:
        asked = server["asked"]
        flavor = self.flavors[asked["flavorRef"]]
        networks: dict[str, list[dict[str, Any]]] = {}
        for port in self.ports.values():
            if port["device_id"] == server["id"] and server["status"] != "BUILD":
                name = self.networks[port["network_id"]]["name"]
                fixed = {"addr": port["ip"], "version": 4, "OS-EXT-IPS:type": "fixed"}
                floating = [a["ip"] for a in self.addresses.values() if a["port_id"] == port["id"]]
                shown = [{"addr": ip, "version": 4, "OS-EXT-IPS:type": "floating"} for ip in floating]
                networks.setdefault(name, []).extend([fixed, *shown])
        return {
            "id": server["id"],
            "name": asked["name"],
            "status": server["status"],
            "OS-EXT-STS:task_state": server["task"],
            "metadata": server["metadata"],
            "created": server["created"],
            "addresses": networks,
            "flavor": {"original_name": flavor["name"], "vcpus": 1, "ram": 512, "disk": 1, "extra_specs": {}},
            "image": {"id": asked["imageRef"], "links": []} if asked.get("imageRef") else "",
            **({"fault": server["fault"]} if "fault" in server else {}),
        }

    def flavor_list(self, body: Any, query: dict[str, str]) -> Any:
        return {"flavors": [{"id": key, **flavor} for key, flavor in self.flavors.items()]}

    # -- glance, cinder, neutron -----------------------------------------------------------------------------------

    def image_list(self, body: Any, query: dict[str, str]) -> Any:
        found = [{"id": key, "status": "active", **image} for key, image in self.images.items()]
        return {"images": _named(found, query)}

    def image_get(self, body: Any, query: dict[str, str], key: str) -> Any:
        return {"id": key, "status": "active", **self.images[key]}

    def volume_create(self, body: Any, query: dict[str, str]) -> Any:
        if len(self.volumes) >= self.max_volumes:
            message = "VolumeLimitExceeded: Maximum number of volumes allowed (10) exceeded for quota 'volumes'."
            raise Refusal(413, message, "overLimit", Retry_After="0")
        volume = {"id": _id(), "status": "available", **body["volume"]}
        self.volumes[volume["id"]] = volume
        return {"volume": {**volume, "status": "creating"}}

    def volume_list(self, body: Any, query: dict[str, str]) -> Any:
        return {"volumes": list(self.volumes.values())}

    def volume_get(self, body: Any, query: dict[str, str], key: str) -> Any:
        return {"volume": self._of(self.volumes, key, "volume")}

    def volume_delete(self, body: Any, query: dict[str, str], key: str) -> Any:
        if self._of(self.volumes, key, "volume")["status"] != "available":
            raise Refusal(400, "Invalid volume: Volume status must be available or error", "badRequest")
        del self.volumes[key]

    def network_list(self, body: Any, query: dict[str, str]) -> Any:
        found = [{"id": key, **network} for key, network in self.networks.items()]
        if query.get("router:external") == "True":
            found = [one for one in found if one["router:external"]]
        return {"networks": _named(found, query)}

    def group_list(self, body: Any, query: dict[str, str]) -> Any:
        return {"security_groups": _named([{"id": key, **group} for key, group in self.groups.items()], query)}

    def port_list(self, body: Any, query: dict[str, str]) -> Any:
        wanted = query.get("device_id")
        return {"ports": [p for p in self.ports.values() if wanted is None or p["device_id"] == wanted]}

    def port_get(self, body: Any, query: dict[str, str], key: str) -> Any:
        return {"port": self._of(self.ports, key, "Port")}

    def port_create(self, body: Any, query: dict[str, str]) -> Any:
        return {"port": self._port(body["port"])}

    def port_delete(self, body: Any, query: dict[str, str], key: str) -> Any:
        self._of(self.ports, key, "Port")
        self._unplug(key)

    def _port(self, asked: dict[str, Any]) -> dict[str, Any]:
        fixed = asked.get("fixed_ips")
        ip = fixed[0]["ip_address"] if fixed else f"10.7.0.{next(self._hosts)}"
        port = {"id": _id(), "device_id": "", "description": "", "ip": ip, **asked, "fixed_ips": [{"ip_address": ip}]}
        self.ports[port["id"]] = port
        return port

    def _unplug(self, key: str) -> None:
        del self.ports[key]
        for address in self.addresses.values():
            if address["port_id"] == key:
                address["port_id"] = None

    def address_list(self, body: Any, query: dict[str, str]) -> Any:
        return {"floatingips": list(self.addresses.values())}

    def address_get(self, body: Any, query: dict[str, str], key: str) -> Any:
        return {"floatingip": self._of(self.addresses, key, "Floating IP")}

    def address_create(self, body: Any, query: dict[str, str]) -> Any:
        if len(self.addresses) >= self.max_addresses:
            raise Refusal(409, "Quota exceeded for resources: ['floatingip'].", "NeutronError")
        ip = f"203.0.113.{next(self._hosts)}"
        address = {"id": _id(), "port_id": None, "ip": ip, "floating_ip_address": ip, **body["floatingip"]}
        self.addresses[address["id"]] = address
        return {"floatingip": address}

    def address_update(self, body: Any, query: dict[str, str], key: str) -> Any:
        address = self._of(self.addresses, key, "Floating IP")
        address.update(body["floatingip"])
        return {"floatingip": address}

    def address_delete(self, body: Any, query: dict[str, str], key: str) -> Any:
        del self.addresses[self._of(self.addresses, key, "Floating IP")["id"]]

    def _of(self, things: dict[str, dict[str, Any]], key: str, kind: str) -> dict[str, Any]:
        if key not in things:
            raise Refusal(404, f"{kind} {key} could not be found.", "itemNotFound")
        return things[key]

    # -- keystone --------------------------------------------------------------------------------------------------

    def login(self, body: Any) -> tuple[str, Any]:
        identity = body["auth"]["identity"]
        if "password" in identity["methods"]:
            user = identity["password"]["user"]
            good = (user["name"], user["password"]) == ("ann", self.password)
        else:
            given = identity["application_credential"]
            good = (given["id"], given["secret"]) == self.credential
        if not good:
            raise Refusal(401, "The request you have made requires authentication.")
        scope = body["auth"].get("scope", {}).get("project", {})
        scoped = "application_credential" in identity["methods"] or bool(scope)
        if scope and scope.get("name", "demo") != "demo":
            raise Refusal(401, "The request you have made requires authentication.")
        token = uuid.uuid4().hex
        self.tokens.add(token)
        shown: dict[str, Any] = {
            "methods": identity["methods"],
            "user": {"id": "u-ann", "name": "ann", "domain": {"id": "default", "name": "Default"}},
            "expires_at": "2999-01-01T00:00:00.000000Z",
            "issued_at": "2020-01-01T00:00:00.000000Z",
        }
        if scoped:
            shown["project"] = {"id": "p-demo", "name": "demo", "domain": {"id": "default", "name": "Default"}}
            shown["catalog"] = [self._service(kind) for kind in SERVICES if kind not in self.missing]
        return token, {"token": shown}

    def _service(self, kind: str) -> dict[str, Any]:
        url = self.url + SERVICES[kind]
        endpoint = {"id": kind, "interface": "public", "region": "RegionOne", "region_id": "RegionOne", "url": url}
        return {"id": kind, "name": kind, "type": kind, "endpoints": [endpoint]}

    def project_list(self, body: Any, query: dict[str, str]) -> Any:
        return {"projects": [{"id": key, "name": name, "enabled": True} for key, name in self.projects.items()]}


ROUTES: list[tuple[str, str, int, Callable[..., Any]]] = [
    ("GET", "/identity/v3/auth/projects", 200, Emulation.project_list),
    ("GET", "/compute/v2.1/servers/detail", 200, Emulation.server_list),
    ("POST", "/compute/v2.1/servers", 202, Emulation.create_server),
    ("GET", "/compute/v2.1/servers/([^/]+)", 200, Emulation.server_get),
    ("DELETE", "/compute/v2.1/servers/([^/]+)", 204, Emulation.server_delete),
    ("POST", "/compute/v2.1/servers/([^/]+)/metadata", 200, Emulation.server_metadata),
    ("POST", "/compute/v2.1/servers/([^/]+)/action", 202, Emulation.server_action),
    ("GET", "/compute/v2.1/flavors/detail", 200, Emulation.flavor_list),
    ("GET", "/image/v2/images", 200, Emulation.image_list),
    ("GET", "/image/v2/images/([^/]+)", 200, Emulation.image_get),
    ("POST", "/volume/v3/volumes", 202, Emulation.volume_create),
    ("GET", "/volume/v3/volumes/detail", 200, Emulation.volume_list),
    ("GET", "/volume/v3/volumes/([^/]+)", 200, Emulation.volume_get),
    ("DELETE", "/volume/v3/volumes/([^/]+)", 202, Emulation.volume_delete),
    ("GET", "/network/v2.0/networks", 200, Emulation.network_list),
    ("GET", "/network/v2.0/security-groups", 200, Emulation.group_list),
    ("GET", "/network/v2.0/ports", 200, Emulation.port_list),
    ("POST", "/network/v2.0/ports", 201, Emulation.port_create),
    ("GET", "/network/v2.0/ports/([^/]+)", 200, Emulation.port_get),
    ("DELETE", "/network/v2.0/ports/([^/]+)", 204, Emulation.port_delete),
    ("GET", "/network/v2.0/floatingips", 200, Emulation.address_list),
    ("POST", "/network/v2.0/floatingips", 201, Emulation.address_create),
    ("GET", "/network/v2.0/floatingips/([^/]+)", 200, Emulation.address_get),
    ("PUT", "/network/v2.0/floatingips/([^/]+)", 200, Emulation.address_update),
    ("DELETE", "/network/v2.0/floatingips/([^/]+)", 204, Emulation.address_delete),
]

VERSIONS = {
    "/identity/v3": ("version", "v3.14", "/identity/v3/", {}),
    "/compute/v2.1": ("version", "v2.1", "/compute/v2.1/", {"version": "2.93", "min_version": "2.1"}),
    "/network": ("versions", "v2.0", "/network/v2.0/", {}),
    "/volume/v3": ("versions", "v3.0", "/volume/v3/", {"version": "3.70", "min_version": "3.0"}),
    "/image": ("versions", "v2.15", "/image/v2/", {}),
}


class _Handler(BaseHTTPRequestHandler):
    cloud: Emulation
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        url = urlsplit(self.path)
        path = url.path.rstrip("/")
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        with self.cloud.lock:
            try:
                status, headers, reply = self.serve(path, query, body)
            except Refusal as refusal:
                status, headers, reply = refusal.status, refusal.headers, refusal.body
        data = b"" if reply is None else json.dumps(reply).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Type": "application/json", "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def serve(self, path: str, query: dict[str, str], body: Any) -> tuple[int, dict[str, str], Any]:
        cloud = self.cloud
        cloud.asked.append((self.command, path, body))
        for refusal in cloud.refusals:
            if refusal[0] == self.command and re.fullmatch(refusal[1], path):
                cloud.refusals.remove(refusal)
                raise refusal[2]
        if (self.command, path) == ("POST", "/identity/v3/auth/tokens"):
            token, shown = cloud.login(body)
            return 201, {"X-Subject-Token": token}, shown
        if path in VERSIONS:
            word, name, place, more = VERSIONS[path]
            link = {"rel": "self", "href": f"http://{self.headers['Host']}{place}"}
            version = {"id": name, "status": "CURRENT", "links": [link], **more}
            return 200, {}, {word: version if word == "version" else [version]}
        if self.headers.get("X-Auth-Token") not in cloud.tokens:
            raise Refusal(401, "The request you have made requires authentication.")
        cloud.advance()
        for method, pattern, status, route in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and method == self.command:
                return (
                    status,
                    {"x-openstack-request-id": f"req-{len(cloud.asked)}"},
                    route(cloud, body, query, *match.groups()),
                )
        raise Refusal(404, f"{self.command} {path}: the emulation has no such thing")

    do_GET = do_POST = do_PUT = do_DELETE = answer


def _id() -> str:
    return str(uuid.uuid4())


def _named(found: list[dict[str, Any]], query: dict[str, str]) -> list[dict[str, Any]]:
    return [one for one in found if query.get("name") in (None, one["name"])]
