"""CloudBroker's XML: what is sent, and what an answer says. Pure.

The platform's names are spelled with hyphens (``deployment-id``); an attribute that has no value is an empty element.
An error is a document ``errors`` with one ``error`` or more and perhaps a ``type``; it may come with any status.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from xml.etree import ElementTree

import msgspec

from pelagos.clouds.cloudbroker.options import CloudBrokerResource
from pelagos.clouds.errors import CloudAuthFailed, CloudBusy, CloudError, CloudRejected
from pelagos.clouds.libcloud.nodes import named, split
from pelagos.clouds.values import CloudFlavor, CloudImage, CloudServer, ServerSpec
from pelagos.model.states import ServerState

__all__ = ["NAME_LIMIT", "Refusal", "flavors", "images", "instance", "parse", "refusal", "server", "servers"]

NAME_LIMIT = 128
_STATES = {
    "running": ServerState.ACTIVE,
    "starting": ServerState.BUILD,
    "initializing": ServerState.BUILD,
    "preparing": ServerState.BUILD,
    "stopping": ServerState.DELETING,
    "halted": ServerState.DELETED,
}
"""An instance that was stopped is gone for good; it stays in the listing for its bill."""
_PUBLIC = ("external-host-name", "external-dns-name", "external-ip-address")
_PRIVATE = ("internal-host-name", "internal-dns-name", "internal-ip-address")
_KINDS: Mapping[str, type[CloudError]] = {
    "authentication": CloudAuthFailed,
    "missing rights": CloudAuthFailed,
    "wrong status": CloudBusy,
}


class Refusal(msgspec.Struct, frozen=True):
    """What a document ``errors`` says."""

    kind: type[CloudError] | None
    """The error of the family that its type stands for; None: it has none that is known."""
    text: str


def instance(spec: ServerSpec, token: str) -> bytes:
    """The document that asks for an instance. Raises CloudRejected if the options are none of this cloud's."""
    try:
        resource = msgspec.convert(dict(spec.options), CloudBrokerResource, strict=False)
    except msgspec.ValidationError as error:
        raise CloudRejected(f"the resource is wrong: {error}", advice="See the keys of `type: cloudbroker`.") from error
    values: dict[str, Any] = {"disable_autostop": True, "isolated": True, **resource.description}
    if resource.start_in_vpc is not None:
        values["start_in_vpc"] = resource.start_in_vpc
    values["name"] = named(spec.name, token, NAME_LIMIT)
    if spec.user_data:
        values["cloud_init"] = base64.b64encode(spec.user_data.encode()).decode()
    root = ElementTree.Element("instance")
    _fill(root, values)
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text


def parse(content: bytes) -> ElementTree.Element | None:
    """The root of a document; None for what is none."""
    try:
        return ElementTree.fromstring(content)  # noqa: S314 - expat bounds what entities may grow to
    except ElementTree.ParseError:
        return None


def refusal(root: ElementTree.Element | None) -> Refusal | None:
    """What the platform refuses; None if the document is no refusal."""
    found = None if root is None else root if root.tag == "errors" else root.find("errors")
    if found is None:
        return None
    texts = [(error.text or "").strip() for error in found.iter("error")]
    kind = (found.findtext("type") or "").strip().lower()
    return Refusal(kind=_KINDS.get(kind), text="; ".join(filter(None, texts)) or kind or "no reason given")


def servers(root: ElementTree.Element) -> list[CloudServer]:
    """All instances of a listing, but those that are gone."""
    found = [server(one) for one in root.iter("instance")]
    return [one for one in found if one.provider_id and one.state is not ServerState.DELETED]


def server(one: ElementTree.Element) -> CloudServer:
    """An instance as the platform shows it."""
    token, name = split(_text(one, "name"))
    status = _text(one, "status").lower()
    state = _STATES.get(status, ServerState.UNKNOWN)
    return CloudServer(
        provider_id=_text(one, "id"),
        name=name,
        state=state,
        token=token,
        addresses=_addresses(one, _PUBLIC),
        private_addresses=_addresses(one, _PRIVATE),
        reason=f"CloudBroker calls it {status or 'nothing'}" if state is ServerState.UNKNOWN else "",
        created_at=_time(_text(one, "created-at")),
        flavor=_text(one, "instance-type-id"),
        image=_text(one, "deployment-id"),
    )


def images(root: ElementTree.Element) -> list[CloudImage]:
    """A listing of deployments: what instances are made of."""
    return [CloudImage(id=_text(one, "id"), name=_text(one, "name")) for one in root.iter("deployment")]


def flavors(root: ElementTree.Element) -> list[CloudFlavor]:
    """A listing of instance types."""
    return [CloudFlavor(id=_text(one, "id"), name=_text(one, "name")) for one in root.iter("instance-type")]


def _fill(parent: ElementTree.Element, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        child = ElementTree.SubElement(parent, key.replace("_", "-"))
        match value:
            case dict():
                _fill(child, value)
            case bool():
                child.text = "true" if value else "false"
            case None:
                child.text = ""
            case _:
                child.text = str(value)


def _text(one: ElementTree.Element, name: str) -> str:
    return (one.findtext(name) or "").strip()


def _addresses(one: ElementTree.Element, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(filter(None, (_text(one, name) for name in names))))


def _time(text: str) -> float | None:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()
