"""Answers of EC2 as the port's values. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pelagos.clouds.ec2.client import items, text
from pelagos.clouds.values import CloudFlavor, CloudImage, CloudPart, CloudServer, PartKind
from pelagos.model.states import ServerState

__all__ = [
    "CLIENT_TOKEN_PREFIX",
    "KEY_PAIR_TAG",
    "TOKEN_TAG",
    "address_part",
    "attached_to",
    "firewall_part",
    "flavor",
    "image",
    "instances",
    "server",
    "tags_of",
    "volume_part",
]

TOKEN_TAG = "pelagos:token"  # noqa: S105 - the name of a tag
KEY_PAIR_TAG = "pelagos:key-pair"
"""Of an instance: name of the key pair that it was launched with, if that is one of ours."""
CLIENT_TOKEN_PREFIX = "pelagos-"  # noqa: S105 - no secret
_STATES = {
    "pending": ServerState.BUILD,
    "running": ServerState.ACTIVE,
    "stopping": ServerState.ACTIVE,
    "stopped": ServerState.STOPPED,
    "shutting-down": ServerState.DELETING,
    "terminated": ServerState.DELETED,
}
"""An instance that is stopping still is what it was: the next listing says stopped."""


def tags_of(item: Any) -> dict[str, str]:
    """The tags of a thing."""
    return {text(tag, "key"): text(tag, "value") for tag in items(item, "tagSet")}


def instances(root: Any) -> list[Any]:
    """The instance elements of a DescribeInstances answer."""
    return [item for reservation in items(root, "reservationSet") for item in items(reservation, "instancesSet")]


def server(item: Any) -> CloudServer:
    """An instance. Its token is its tag's, or else that of the client token that made it."""
    tags = tags_of(item)
    public, private = _addresses(item)
    state = _STATES.get(text(item, "instanceState/name"), ServerState.UNKNOWN)
    reason = text(item, "stateReason/message") or text(item, "reason")
    return CloudServer(
        provider_id=text(item, "instanceId"),
        name=tags.get("Name") or text(item, "instanceId"),
        state=state,
        token=token_of(item, tags),
        addresses=public,
        private_addresses=private,
        reason=reason if state is not ServerState.ACTIVE else "",
        created_at=_time(text(item, "launchTime")),
        flavor=text(item, "instanceType"),
        image=text(item, "imageId"),
    )


def token_of(item: Any, tags: dict[str, str]) -> str:
    """The token that a thing carries; empty if it is not ours."""
    tagged = tags.get(TOKEN_TAG, "")
    if tagged:
        return tagged
    sent = text(item, "clientToken")
    return sent.removeprefix(CLIENT_TOKEN_PREFIX) if sent.startswith(CLIENT_TOKEN_PREFIX) else ""


def _addresses(item: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Public and private ones, the primary first, each once."""
    public, private = [text(item, "ipAddress")], [text(item, "privateIpAddress")]
    for interface in items(item, "networkInterfaceSet"):
        for address in items(interface, "privateIpAddressesSet"):
            public.append(text(address, "association/publicIp"))
            private.append(text(address, "privateIpAddress"))
        public.extend(text(address, "ipv6Address") for address in items(interface, "ipv6AddressesSet"))
    return tuple(dict.fromkeys(filter(None, public))), tuple(dict.fromkeys(filter(None, private)))


def volume_part(item: Any) -> CloudPart:
    """A volume."""
    tags = tags_of(item)
    status = text(item, "status")
    return CloudPart(
        provider_id=text(item, "volumeId"),
        kind=PartKind.VOLUME,
        name=tags.get("Name", ""),
        token=tags.get(TOKEN_TAG, ""),
        ready=status in ("available", "in-use"),
        failed="the cloud could not make the volume" if status == "error" else "",
    )


def attached_to(item: Any) -> str:
    """The instance that a volume is attached to; empty if none."""
    states = ((text(one, "status"), text(one, "instanceId")) for one in items(item, "attachmentSet"))
    return next((instance for state, instance in states if state not in ("detached", "detaching")), "")


def address_part(item: Any) -> CloudPart:
    """An elastic address."""
    tags = tags_of(item)
    return CloudPart(
        provider_id=text(item, "allocationId"),
        kind=PartKind.ADDRESS,
        name=tags.get("Name", ""),
        token=tags.get(TOKEN_TAG, ""),
        address=text(item, "publicIp"),
    )


def firewall_part(item: Any) -> CloudPart:
    """A security group."""
    tags = tags_of(item)
    return CloudPart(
        provider_id=text(item, "groupId"),
        kind=PartKind.NETWORK,
        name=text(item, "groupName"),
        token=tags.get(TOKEN_TAG, ""),
    )


def image(item: Any) -> CloudImage:
    """An image."""
    size = sum(int(text(mapping, "ebs/volumeSize") or 0) for mapping in items(item, "blockDeviceMapping"))
    return CloudImage(
        id=text(item, "imageId"),
        name=text(item, "name") or text(item, "imageId"),
        size_bytes=size << 30 or None,
        created_at=_time(text(item, "creationDate")),
    )


def flavor(item: Any, price: float | None) -> CloudFlavor:
    """An instance type."""
    name = text(item, "instanceType")
    cpus, memory = text(item, "vCpuInfo/defaultVCpus"), text(item, "memoryInfo/sizeInMiB")
    disk = text(item, "instanceStorageInfo/totalSizeInGB")
    return CloudFlavor(
        id=name,
        name=name,
        vcpus=float(cpus) if cpus else None,
        ram_mb=int(memory) if memory else None,
        disk_gb=float(disk) if disk else None,
        price_per_hour=price,
        currency="USD" if price is not None else "",
    )


def _time(text: str) -> float | None:
    """Seconds since the epoch, of an ISO time in UTC."""
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
    except ValueError:
        return None
