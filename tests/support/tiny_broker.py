"""As much of a CloudBroker platform as the driver asks for."""

from __future__ import annotations

import base64
from typing import Any
from xml.etree import ElementTree

from pelagos.testing.http_requests import ProxiedRequest
from support.tiny_http import TinyProvider

__all__ = ["DEPLOYMENT", "PASSWORD", "TYPE", "TinyBroker"]

PASSWORD = "broker-password"
DEPLOYMENT = "11111111-deployment"
TYPE = "22222222-type"


class TinyBroker(TinyProvider):
    """``instances`` is its whole truth, by id; their documents as they were sent are in ``asked``."""

    content_type = "application/xml"

    def __init__(self) -> None:
        self.instances: dict[str, dict[str, str]] = {}
        self.asked: list[ElementTree.Element] = []
        self._made = 0

    def add(self, **fields: str) -> str:
        """Make an instance; its id."""
        self._made += 1
        id_ = f"{self._made:08d}-instance"
        self.instances[id_] = {
            "id": id_,
            "status": "running",
            "created-at": f"2026-01-01T00:00:{self._made:02d}Z",
            "external-ip-address": f"198.51.100.{self._made}",
            "internal-ip-address": f"10.0.0.{self._made}",
            "external-host-name": "",
            **fields,
        }
        return id_

    def answer(self, request: ProxiedRequest) -> tuple[int, Any]:
        login = base64.b64encode(f"me@example.org:{PASSWORD}".encode()).decode()
        if request.headers.get("authorization") != f"Basic {login}":
            return 401, _refusal(f"{request.headers.get('authorization')} is nobody", "authentication")
        path = request.path.removesuffix(".xml").strip("/").split("/")
        match request.method, path:
            case "GET", ["instances"]:
                return 200, _listing("instances", "instance", list(self.instances.values()))
            case "GET", ["deployments"]:
                return 200, _listing("deployments", "deployment", [{"id": DEPLOYMENT, "name": "Debian"}])
            case "GET", ["instance_types"]:
                return 200, _listing("instance-types", "instance-type", [{"id": TYPE, "name": "Small"}])
            case "POST", ["instances"]:
                return self._create(ElementTree.fromstring(request.body))
            case "GET", ["instances", id_] if id_ in self.instances:
                return 200, _element("instance", self.instances[id_])
            case "PUT", ["instances", id_, "stop"] if id_ in self.instances:
                if self.instances[id_]["status"] == "halted":
                    return 200, _refusal("The instance cannot be stopped", "wrong status")
                self.instances[id_]["status"] = "halted"
                return 200, _element("instance", self.instances[id_])
            case _:
                return 404, _refusal("Record not found", "")

    def _create(self, wanted: ElementTree.Element) -> tuple[int, Any]:
        if wanted.findtext("deployment-id") != DEPLOYMENT:
            return 422, _refusal("Deployment can't be blank", "")
        self.asked.append(wanted)
        fields = {child.tag: child.text or "" for child in wanted}
        return 201, _element("instance", self.instances[self.add(**fields)])


def _listing(name: str, one: str, values: list[dict[str, str]]) -> ElementTree.Element:
    root = ElementTree.Element(name, type="array")
    root.extend(_element(one, value) for value in values)
    return root


def _element(name: str, values: dict[str, str]) -> ElementTree.Element:
    root = ElementTree.Element(name)
    for key, value in values.items():
        ElementTree.SubElement(root, key).text = value
    return root


def _refusal(message: str, kind: str) -> ElementTree.Element:
    root = _element("errors", {"error": message})
    if kind:
        ElementTree.SubElement(root, "type").text = kind
    return root
