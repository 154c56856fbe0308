"""What a server may need besides: volumes, an elastic address, a security group of its own, a key pair.

Volumes, addresses and groups are parts in the port's sense: each is one journaled step with a token of its own, tagged
with it from its first moment, deleted after the server is gone. EC2 attaches volumes and addresses to running instances
only, so that is done in ``finish_server``, again and again until it is so.

A key pair is shared by name, and parts are one server's. So it is imported by the create that misses it, tagged as
ours, and deleted by the delete that finds no other living instance with it. EC2 reads it only when an instance is
launched: deleting it takes nothing from those that run, and a launch that loses the race is told so before it made
anything, and is sent again.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec

from pelagos.clouds.ec2.client import Ec2Client, Params, filters, items, text
from pelagos.clouds.ec2.launch import client_token, tag_specification, token_tags
from pelagos.clouds.ec2.options import Ec2Firewall, Ec2KeyPair, Ec2Resource, Ec2Rule, Ec2Volume
from pelagos.clouds.ec2.replies import (
    TOKEN_TAG,
    address_part,
    attached_to,
    firewall_part,
    instances,
    tags_of,
    volume_part,
)
from pelagos.clouds.errors import CloudBusy, CloudError, CloudRejected, CloudUncertain
from pelagos.clouds.values import CloudPart, PartKind, PartSpec, ServerSpec
from pelagos.model.errors import PelagosError

__all__ = [
    "create_part",
    "delete_part",
    "ensure_key_pair",
    "finish",
    "list_parts",
    "parts_of",
    "release_key_pair",
    "zone_of_volumes",
]

ADDRESS, FIREWALL, VOLUME = "address", "security-group", "volume"
_KEY_TAG = "pelagos:key"
_ALIVE = ["pending", "running", "stopping", "stopped"]


def parts_of(spec: ServerSpec, resource: Ec2Resource) -> list[PartSpec]:
    """What the server needs made before it."""
    parts = []
    if resource.security_group is not None:
        options = {**_plain(resource.security_group), "subnet_id": resource.subnet_id}
        parts.append(PartSpec(key=FIREWALL, kind=PartKind.NETWORK, name=spec.name, options=options))
    for number, volume in enumerate(resource.volumes, 1):
        options = {
            **_plain(volume),
            "subnet_id": resource.subnet_id,
            "availability_zone": resource.availability_zone,
        }
        key = f"{VOLUME}-{number}"
        parts.append(
            PartSpec(
                key=key,
                kind=PartKind.VOLUME,
                name=f"{spec.name}-{key}",
                options=options,
                size_gb=volume.size or 0,
                keep=volume.keep,
            )
        )
    if resource.elastic_ip:
        parts.append(PartSpec(key=ADDRESS, kind=PartKind.ADDRESS, name=spec.name))
    return parts


def _plain(struct: msgspec.Struct) -> dict[str, Any]:
    """As it comes back from a journal: lists, no tuples."""
    plain: dict[str, Any] = msgspec.msgpack.decode(msgspec.msgpack.encode(struct))
    return plain


# -- making and deleting -----------------------------------------------------------------------------------------------


def create_part(client: Ec2Client, part: PartSpec, token: str) -> CloudPart:
    """Make a part that carries ``token`` from its first moment on."""
    match part.kind:
        case PartKind.VOLUME:
            return _create_volume(client, part, token)
        case PartKind.ADDRESS:
            root = client.call(
                "AllocateAddress",
                {"Domain": "vpc", **tag_specification("elastic-ip", token_tags(part.name, token))},
                effect=True,
            )
            made = address_part(root)
            return msgspec.structs.replace(made, name=part.name, token=token)
        case PartKind.NETWORK:
            return _create_firewall(client, part, token)
        case _:
            raise CloudRejected(f"EC2 makes no {part.kind.value} for a server")


def list_parts(client: Ec2Client) -> list[CloudPart]:
    """All parts that carry a token."""
    ours = filters({"tag-key": TOKEN_TAG})
    volumes = [
        volume_part(item)
        for root in client.pages("DescribeVolumes", ours)
        for item in items(root, "volumeSet")
        if text(item, "status") not in ("deleting", "deleted")
    ]
    addresses = [address_part(item) for item in items(client.call("DescribeAddresses", ours), "addressesSet")]
    groups = [
        firewall_part(item)
        for root in client.pages("DescribeSecurityGroups", ours)
        for item in items(root, "securityGroupInfo")
    ]
    return [*volumes, *addresses, *groups]


def delete_part(client: Ec2Client, part: CloudPart) -> None:
    """Delete it; what is gone is no error."""
    match part.kind:
        case PartKind.VOLUME:
            action, params = "DeleteVolume", {"VolumeId": part.provider_id}
        case PartKind.ADDRESS:
            action, params = "ReleaseAddress", {"AllocationId": part.provider_id}
        case PartKind.NETWORK:
            action, params = "DeleteSecurityGroup", {"GroupId": part.provider_id}
        case _:
            raise CloudRejected(f"EC2 has no {part.kind.value} of ours")
    try:
        client.call(action, params, effect=True)
    except CloudRejected as error:
        if not _code(error).endswith((".NotFound", ".Malformed")):
            raise


def _create_volume(client: Ec2Client, part: PartSpec, token: str) -> CloudPart:
    options = dict(part.options)
    subnet, zone = str(options.pop("subnet_id", "")), str(options.pop("availability_zone", ""))
    volume = msgspec.convert(options, Ec2Volume)
    params: Params = {
        "AvailabilityZone": zone or _zone(client, subnet),
        "ClientToken": client_token(token),
        **tag_specification("volume", token_tags(part.name, token)),
    }
    given = {
        "Size": volume.size,
        "VolumeType": volume.type,
        "Iops": volume.iops,
        "Throughput": volume.throughput,
        "SnapshotId": volume.snapshot_id,
        "Encrypted": "true" if volume.encrypted else "",
    }
    params |= {key: str(value) for key, value in given.items() if value}
    made = volume_part(client.call("CreateVolume", params, effect=True))
    return msgspec.structs.replace(made, name=part.name, token=token)


def _zone(client: Ec2Client, subnet: str) -> str:
    """Where a server of that subnet, or of none, can be: the first zone by name, so that all its volumes are there."""
    if subnet:
        found = items(client.call("DescribeSubnets", {"SubnetId.1": subnet}), "subnetSet")
        zones = [text(item, "availabilityZone") for item in found]
    else:
        root = client.call("DescribeAvailabilityZones", filters({"state": "available"}))
        zones = sorted(text(item, "zoneName") for item in items(root, "availabilityZoneInfo"))
    if not zones:
        raise CloudRejected("the cloud names no availability zone", advice="Give `availability_zone` in the resource.")
    return zones[0]


def zone_of_volumes(client: Ec2Client, parts: Sequence[str]) -> str:
    """The zone that these volumes are in; empty if there is none."""
    if not parts:
        return ""
    params = {f"VolumeId.{number}": part for number, part in enumerate(parts, 1)}
    zones = {text(item, "availabilityZone") for item in items(client.call("DescribeVolumes", params), "volumeSet")}
    return zones.pop() if len(zones) == 1 else ""


def _create_firewall(client: Ec2Client, part: PartSpec, token: str) -> CloudPart:
    """The group, then its rules. A rule that fails is a step after an effect: the group is there, and is swept."""
    options = dict(part.options)
    subnet = str(options.pop("subnet_id", ""))
    firewall = msgspec.convert(options, Ec2Firewall)
    params: Params = {
        "GroupName": f"{part.name[:200]}-{hashlib.sha256(token.encode()).hexdigest()[:8]}",
        "GroupDescription": firewall.description or f"of the server {part.name}",
        **tag_specification("security-group", token_tags(part.name, token)),
    }
    vpc = firewall.vpc_id or (_vpc(client, subnet) if subnet else "")
    if vpc:
        params["VpcId"] = vpc
    group = text(client.call("CreateSecurityGroup", params, effect=True), "groupId")
    if firewall.ingress:
        rules = {"GroupId": group, **_permissions(firewall.ingress)}
        try:
            client.call("AuthorizeSecurityGroupIngress", rules, effect=True)
        except PelagosError as error:
            _undo_firewall(client, group, error)
            raise
    return CloudPart(provider_id=group, kind=PartKind.NETWORK, name=params["GroupName"], token=token)


def _undo_firewall(client: Ec2Client, group: str, error: PelagosError) -> None:
    """A group without its rules is of no use. If it cannot be taken back, it is one that may have been made."""
    try:
        client.call("DeleteSecurityGroup", {"GroupId": group}, effect=True)
    except PelagosError as left:
        raise CloudUncertain(f"the security group {group} was made, and its rules were not: {error}") from left


def _vpc(client: Ec2Client, subnet: str) -> str:
    found = items(client.call("DescribeSubnets", {"SubnetId.1": subnet}), "subnetSet")
    return text(found[0], "vpcId") if found else ""


def _permissions(rules: Sequence[Ec2Rule]) -> Params:
    params: Params = {}
    for number, rule in enumerate(rules, 1):
        first, last = rule.range()
        params[f"IpPermissions.{number}.IpProtocol"] = "-1" if rule.protocol == "all" else rule.protocol
        params[f"IpPermissions.{number}.FromPort"] = str(first)
        params[f"IpPermissions.{number}.ToPort"] = str(last)
        kind, name = ("Ipv6Ranges", "CidrIpv6") if ":" in rule.cidr else ("IpRanges", "CidrIp")
        params[f"IpPermissions.{number}.{kind}.1.{name}"] = rule.cidr
    return params


# -- once the server runs ----------------------------------------------------------------------------------------------


def finish(client: Ec2Client, provider_id: str, spec: ServerSpec, resource: Ec2Resource) -> None:
    """Attach its volumes and its address; what is attached already is left alone. Repeatable."""
    for number, volume in enumerate(resource.volumes, 1):
        part = spec.parts.get(f"{VOLUME}-{number}")
        if part:
            device = volume.device or f"/dev/sd{chr(ord('f') + number - 1)}"
            _attach(client, provider_id, part, device)
    address = spec.parts.get(ADDRESS)
    if address and resource.elastic_ip:
        client.call(
            "AssociateAddress",
            {"AllocationId": address, "InstanceId": provider_id, "AllowReassociation": "true"},
            effect=True,
        )


def _attach(client: Ec2Client, provider_id: str, volume: str, device: str) -> None:
    found = items(client.call("DescribeVolumes", {"VolumeId.1": volume}), "volumeSet")
    holder = attached_to(found[0]) if found else ""
    if holder == provider_id:
        return
    if holder:
        raise CloudBusy(f"the volume {volume} is attached to {holder}")
    client.call("AttachVolume", {"VolumeId": volume, "InstanceId": provider_id, "Device": device}, effect=True)


# -- key pairs ---------------------------------------------------------------------------------------------------------


def ensure_key_pair(client: Ec2Client, pair: Ec2KeyPair) -> None:
    """Import it if there is none of its name. One of ours with another key, raises CloudRejected; one of somebody
    else's is used as it is."""
    print_ = hashlib.sha256(" ".join(pair.public_key.split()[:2]).encode()).hexdigest()
    existing = _key_pair(client, pair.name)
    if existing is not None:
        known = tags_of(existing).get(_KEY_TAG, print_)
        if known != print_:
            raise CloudRejected(
                f"there is a key pair {pair.name} with another key",
                advice="Give the key pair another name, or let the servers that use it go first.",
            )
        return
    material = base64.b64encode(pair.public_key.strip().encode()).decode()
    params = {"KeyName": pair.name, "PublicKeyMaterial": material, **tag_specification("key-pair", {_KEY_TAG: print_})}
    try:
        client.call("ImportKeyPair", params)
    except CloudRejected as error:
        if _code(error) != "InvalidKeyPair.Duplicate":  # another create imported it a moment ago
            raise


def release_key_pair(client: Ec2Client, name: str, leaving: str) -> None:
    """Delete the key pair if it is ours and no instance but ``leaving`` has it."""
    pair = _key_pair(client, name)
    if pair is None or _KEY_TAG not in tags_of(pair):
        return
    users = client.pages("DescribeInstances", filters({"key-name": name, "instance-state-name": _ALIVE}))
    if all(text(item, "instanceId") == leaving for root in users for item in instances(root)):
        client.call("DeleteKeyPair", {"KeyName": name})


def _key_pair(client: Ec2Client, name: str) -> Any:
    found = items(client.call("DescribeKeyPairs", filters({"key-name": name})), "keySet")
    return found[0] if found else None


def _code(error: CloudError) -> str:
    return str(error.details.get("code", ""))
