"""As much of Azure Resource Manager as the drivers ask for: a small emulation that keeps its rules.

Creates and deletes are asynchronous: their answers have ``Azure-AsyncOperation`` and ``Location``, and a resource goes
on to its next state after it was read some times. Listings come in pages, with ``nextLink``; that of machines has power
states only with ``statusOnly``, and then little else; that of container groups has none. A DELETE of what is not there
is 204. What was made in a machine's own document goes with it; a network does not while an interface is in it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from pelagos.testing.http_requests import ProxiedRequest
from support.tiny_http import TinyProvider

__all__ = ["GROUP", "SUBSCRIPTION", "TOKEN", "TinyArm"]

SUBSCRIPTION = "11111111-2222-3333-4444-555555555555"
TOKEN = "tiny-bearer"
GROUP = "Shop"
MACHINES = "microsoft.compute/virtualmachines"
DISKS = "microsoft.compute/disks"
INTERFACES = "microsoft.network/networkinterfaces"
ADDRESSES = "microsoft.network/publicipaddresses"
NETWORKS = "microsoft.network/virtualnetworks"
CONTAINERS = "microsoft.containerinstance/containergroups"
_PAGE = 2
_READS = 2
"""How often a resource is read until its operation is done."""


class TinyArm(TinyProvider):
    """``resources`` is its whole truth, by id in lower case; ``asked`` the bodies of all PUTs of resources."""

    def __init__(self) -> None:
        self.resources: dict[str, dict[str, Any]] = {}
        self.groups: dict[str, dict[str, Any]] = {}
        self.asked: list[dict[str, Any]] = []
        self.reads: dict[str, int] = {}
        self._made = 0
        self._operation = ""

    def of(self, kind: str) -> list[dict[str, Any]]:
        """All resources of a kind."""
        return [one for one in self.resources.values() if one["type"].lower() == kind]

    def headers(self, request: ProxiedRequest) -> Mapping[str, str]:
        operation, self._operation = self._operation, ""
        if not operation:
            return {}
        at = f"{self.url}/subscriptions/{SUBSCRIPTION}/providers/operations/{operation}?api-version=2024-07-01"
        return {"Azure-AsyncOperation": at, "Location": at, "Retry-After": "10"}

    def answer(self, request: ProxiedRequest) -> tuple[int, Any]:
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return 401, _error("InvalidAuthenticationToken", "The access token is invalid.")
        if "api-version" not in request.query:
            return 400, _error("MissingApiVersionParameter", "The api-version query parameter is required.")
        path = request.path.strip("/").split("/")
        if path[:2] != ["subscriptions", SUBSCRIPTION]:
            return 404, _error("SubscriptionNotFound", "The subscription could not be found.")
        match [part.lower() for part in path[2:]]:
            case ["resourcegroups", name]:
                return self._group(request, name, path[3])
            case ["providers", space, kind]:
                return self._list(request, f"{space}/{kind}")
            case ["resourcegroups", group, "providers", space, kind, _, *rest]:
                if group not in self.groups:
                    return 404, _error("ResourceGroupNotFound", f"Resource group '{group}' could not be found.")
                id_ = "/" + "/".join(path[:8])
                return self._one(request, f"{space}/{kind}", id_, rest)
            case _:
                return 404, _error("InvalidResourceType", "The resource type could not be found.")

    # -- by verb -------------------------------------------------------------------------------------------------------

    def _group(self, request: ProxiedRequest, key: str, name: str) -> tuple[int, Any]:
        if request.method == "PUT":
            self.groups[key] = {"name": name, **request.json}
            return 201, self.groups[key]
        if key not in self.groups:
            return 404, _error("ResourceGroupNotFound", f"Resource group '{name}' could not be found.")
        return 200, self.groups[key]

    def _list(self, request: ProxiedRequest, kind: str) -> tuple[int, Any]:
        start = int(request.query.get("$skiptoken", 0))
        status = request.query.get("statusOnly") == "true"
        if start == 0 and not status:
            for id_ in list(self.resources):
                if self.resources[id_]["type"].lower() == kind:
                    self._read(id_)
        found = [copy.deepcopy(one) for one in self.of(kind)]
        for one in found:
            view = one["properties"].pop("instanceView", None)
            if status:
                one.pop("tags", None)
                one["properties"] = {"instanceView": view}
        page: dict[str, Any] = {"value": found[start : start + _PAGE]}
        if start + _PAGE < len(found):
            # As it comes to its client, who may talk through a proxy: Azure, too, names the host that was asked.
            host, query = request.headers["host"], f"api-version=x&$skiptoken={start + _PAGE}"
            page["nextLink"] = f"http://{host}{request.path}?{query}" + ("&statusOnly=true" if status else "")
        return 200, page

    def _one(self, request: ProxiedRequest, kind: str, id_: str, rest: list[str]) -> tuple[int, Any]:
        key = id_.lower()
        match request.method, rest:
            case "PUT", []:
                return self._put(request, kind, id_)
            case "DELETE", []:
                return self._delete(kind, key)
            case _ if key not in self.resources:
                return 404, _error("ResourceNotFound", f"The Resource '{id_}' was not found.")
            case "GET", []:
                self._read(key)
                if key not in self.resources:
                    return 404, _error("ResourceNotFound", f"The Resource '{id_}' was not found.")
                found = copy.deepcopy(self.resources[key])
                if kind == MACHINES and request.query.get("$expand") != "instanceView":
                    found["properties"].pop("instanceView", None)
                return 200, found
            case "GET", ["containers", _, "logs"]:
                return 200, {"content": "one line\nanother line\n"}
            case "POST", [verb]:
                return self._switch(kind, key, verb)
            case _:
                return 405, _error("MethodNotAllowed", "not here")

    def _put(self, request: ProxiedRequest, kind: str, id_: str) -> tuple[int, Any]:
        key, body = id_.lower(), copy.deepcopy(request.json)
        self.asked.append(copy.deepcopy(body))
        there = key in self.resources
        if there and request.headers.get("if-none-match") == "*":
            return 412, _error("PreconditionFailed", "The resource exists.")
        resource = {"id": id_, "name": id_.rpartition("/")[2], "type": kind, **body}
        properties = resource["properties"]
        match kind:
            case _ if kind == MACHINES:
                refusal = self._machine(resource)
                if refusal is not None:
                    return refusal
            case _ if kind == CONTAINERS:
                if "cursed" in properties["containers"][0]["properties"]["image"]:
                    return 400, _error("InaccessibleImage", "The image is not accessible.")
                properties["provisioningState"] = "Pending"
                if "ipAddress" in properties:
                    self._made += 1
                    properties["ipAddress"]["ip"] = f"203.0.113.{self._made}"
            case _:
                properties["provisioningState"] = "Succeeded"
        self.resources[key] = resource
        self.reads[key] = 0
        self._begin()
        return (200 if there else 201), resource

    def _machine(self, resource: dict[str, Any]) -> tuple[int, Any] | None:
        """Fill in what Azure makes for a machine; or its refusal."""
        properties = resource["properties"]
        if properties["hardwareProfile"]["vmSize"] == "Standard_Full":
            return 409, _error("SkuNotAvailable", "The requested size is currently not available here.")
        if not properties["hardwareProfile"]["vmSize"].startswith("Standard_"):
            return 400, _error("InvalidParameter", "The value of parameter vmSize is invalid.")
        base = resource["id"].partition("/providers/")[0]
        network = properties.pop("networkProfile")
        wanted = network["networkInterfaceConfigurations"][0]
        address = wanted["properties"]["ipConfigurations"][0]["properties"]
        subnet = address["subnet"]["id"]
        if subnet.partition("/subnets/")[0].lower() not in self.resources:
            return 400, _error("InvalidResourceReference", f"Resource {subnet} was not found.")
        self._made += 1
        given: dict[str, Any] = {"subnet": {"id": subnet}, "privateIPAddress": f"10.0.0.{self._made + 3}"}
        public = address.get("publicIPAddressConfiguration")
        if public is not None:
            at = self._add(base, ADDRESSES, public["name"], {"ipAddress": f"198.51.100.{self._made}"})
            given["publicIPAddress"] = {"id": at}
        at = self._add(base, INTERFACES, wanted["name"], {"ipConfigurations": [{"properties": given}]})
        self._add(base, DISKS, properties["storageProfile"]["osDisk"]["name"], {})
        properties["networkProfile"] = {"networkInterfaces": [{"id": at.upper()}]}
        for secret in ("adminPassword", "customData"):
            properties["osProfile"].pop(secret, None)
        properties["provisioningState"] = "Creating"
        properties["timeCreated"] = f"2026-01-01T00:00:{self._made % 60:02d}.1234567Z"
        return None

    def _delete(self, kind: str, key: str) -> tuple[int, Any]:
        if key not in self.resources:
            return 204, None
        if kind == NETWORKS and any(key in str(one).lower() for one in self.of(INTERFACES)):
            return 400, _error("InUseSubnetCannotBeDeleted", "The subnet is in use and cannot be deleted.")
        if kind == NETWORKS:
            del self.resources[key]
        else:
            self.resources[key]["properties"]["provisioningState"] = "Deleting"
            self.reads[key] = 0
        self._begin()
        return 202, None

    def _switch(self, kind: str, key: str, verb: str) -> tuple[int, Any]:
        runs = {"start": True, "restart": True, "deallocate": False, "stop": False}[verb]
        properties = self.resources[key]["properties"]
        if kind == CONTAINERS:
            if verb == "start" and properties["instanceView"]["state"] == "Running":
                return 409, _error("ContainerGroupTransitioning", "The container group runs.")
            properties["instanceView"]["state"] = "Running" if runs else "Stopped"
            return 204, None
        properties["instanceView"] = _view("running" if runs else "deallocated")
        self._begin()
        return 202, None

    # -- how things go on ----------------------------------------------------------------------------------------------

    def _read(self, key: str) -> None:
        resource = self.resources[key]
        self.reads[key] = self.reads.get(key, 0) + 1
        properties = resource["properties"]
        if self.reads[key] <= _READS:
            return
        match properties["provisioningState"]:
            case "Creating":
                properties["provisioningState"] = "Succeeded"
                properties["instanceView"] = _view("running")
            case "Pending":
                properties["provisioningState"] = "Succeeded"
                properties["instanceView"] = {"state": "Running", "events": []}
            case "Deleting":
                del self.resources[key]
                for suffix, kind in (("-nic", INTERFACES), ("-ip", ADDRESSES), ("-disk", DISKS)):
                    name = f"{resource['name']}{suffix}".lower()
                    for id_ in [id_ for id_, one in self.resources.items() if one["type"] == kind]:
                        if id_.endswith(f"/{name}"):
                            del self.resources[id_]

    def _add(self, base: str, kind: str, name: str, properties: dict[str, Any]) -> str:
        id_ = f"{base}/providers/{kind}/{name}"
        done = {"provisioningState": "Succeeded", **properties}
        self.resources[id_.lower()] = {"id": id_, "name": name, "type": kind, "properties": done}
        return id_

    def _begin(self) -> None:
        self._made += 1
        self._operation = f"operation-{self._made}"


def _view(power: str) -> dict[str, Any]:
    return {"statuses": [{"code": "ProvisioningState/succeeded"}, {"code": f"PowerState/{power}"}]}


def _error(code: str, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message}}
