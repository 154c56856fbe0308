"""What RunInstances is told, and how answers are read. Pure."""

from __future__ import annotations

import base64
from typing import Any
from xml.etree import ElementTree

import pytest

from pelagos.clouds import CloudRejected, PartKind, ServerSpec
from pelagos.clouds.ec2.launch import client_token, resource_of, run_instances
from pelagos.clouds.ec2.parts import parts_of
from pelagos.clouds.ec2.replies import flavor, image, instances, server, volume_part
from pelagos.model.states import ServerState

NEEDED = {"image_id": "ami-1", "instance_type": "t3.small"}


def params(options: dict[str, Any] | None = None, **also: Any) -> dict[str, str]:
    spec = ServerSpec(name="web-1", user_data="#!/bin/sh\n", options={**NEEDED, **(options or {})}, **also)
    return run_instances(spec, resource_of(spec, "r"), "tok", zone="r-1a", firewall="sg-own", root_device="/dev/xvda")


def tags(given: dict[str, str], number: int = 1) -> dict[str, str]:
    prefix = f"TagSpecification.{number}.Tag."
    keys = {name: value for name, value in given.items() if name.startswith(prefix) and name.endswith(".Key")}
    return {value: given[f"{name.removesuffix('Key')}Value"] for name, value in keys.items()}


def test_the_least() -> None:
    given = params()
    assert {name: value for name, value in given.items() if not name.startswith("TagSpecification")} == {
        "ImageId": "ami-1",
        "InstanceType": "t3.small",
        "MinCount": "1",
        "MaxCount": "1",
        "ClientToken": "pelagos-tok",
        "UserData": base64.b64encode(b"#!/bin/sh\n").decode(),
        "SecurityGroupId.1": "sg-own",
        "Placement.AvailabilityZone": "r-1a",
    }
    assert tags(given) == {"Name": "web-1", "pelagos:token": "tok"}
    assert tags(given, 2) == {"Name": "web-1", "pelagos:server": "tok"}


def test_the_most() -> None:
    given = params(
        {
            "subnet_id": "subnet-1",
            "security_group_ids": ["sg-1"],
            "public_address": True,
            "availability_zone": "r-1b",
            "root_volume_size": 30,
            "root_volume_type": "gp3",
            "iam_instance_profile": "arn:aws:iam::1:instance-profile/x",
            "placement_group": "near",
            "spot": True,
            "key_pair": {"name": "k", "public_key": "ssh-ed25519 AAAA"},
            "tags": {"team": "blue"},
            "extra": {"Monitoring.Enabled": True},
        },
        metadata={"infrastructure": "shop", "empty": ""},
    )
    assert given["NetworkInterface.1.SubnetId"] == "subnet-1"
    assert given["NetworkInterface.1.AssociatePublicIpAddress"] == "true"
    assert [given[f"NetworkInterface.1.SecurityGroupId.{n}"] for n in (1, 2)] == ["sg-1", "sg-own"]
    assert "SubnetId" not in given and "SecurityGroupId.1" not in given, "EC2 takes them in one place only"
    assert given["Placement.AvailabilityZone"] == "r-1b"
    assert given["BlockDeviceMapping.1.DeviceName"] == "/dev/xvda"
    assert given["BlockDeviceMapping.1.Ebs.DeleteOnTermination"] == "true"
    assert (given["BlockDeviceMapping.1.Ebs.VolumeSize"], given["KeyName"]) == ("30", "k")
    assert given["IamInstanceProfile.Arn"].startswith("arn:")
    assert (given["InstanceMarketOptions.MarketType"], given["Monitoring.Enabled"]) == ("spot", "true")
    assert tags(given) == {
        "team": "blue",
        "Name": "web-1",
        "pelagos:infrastructure": "shop",
        "pelagos:token": "tok",
        "pelagos:key-pair": "k",
    }


def test_what_the_account_never_takes() -> None:
    spec = ServerSpec(name="x", options={**NEEDED, "regionname": "other"})
    with pytest.raises(CloudRejected, match="other"):
        resource_of(spec, "r")
    with pytest.raises(CloudRejected, match="tags"):
        params({"tags": {f"t{n}": "x" for n in range(60)}})
    for key, value in (("elastic_ip", True), ("volumes", [{"size": 1}]), ("security_group", {})):
        made = ServerSpec(name="x", options={**NEEDED, key: value})
        assert resource_of(made, "r") is not None
        with pytest.raises(CloudRejected, match="no tags"):
            resource_of(made, "r", tagged=False)
    plain = ServerSpec(name="x", options=NEEDED)
    with pytest.raises(CloudRejected, match="too long"):
        run_instances(plain, resource_of(plain, "r"), "t" * 100, tagged=False)


def test_client_tokens_are_stable_and_short() -> None:
    assert client_token("a" * 36) == f"pelagos-{'a' * 36}"
    assert client_token("a" * 99) == client_token("a" * 99) != client_token("b" * 99)
    assert len(client_token("ü")) <= 64 and client_token("ü").isascii()


def test_parts_are_the_same_each_time_and_in_order() -> None:
    options = {**NEEDED, "volumes": [{"size": 1}, {"snapshot_id": "snap-1", "keep": True}], "elastic_ip": True}
    spec = ServerSpec(name="db-1", options=options)
    parts = parts_of(spec, resource_of(spec, "r"))
    assert [(part.key, part.kind, part.keep) for part in parts] == [
        ("volume-1", PartKind.VOLUME, False),
        ("volume-2", PartKind.VOLUME, True),
        ("address", PartKind.ADDRESS, False),
    ]
    assert [part.size_gb for part in parts] == [1, 0, 0], "what a snapshot holds is not known beforehand"
    assert parts == parts_of(spec, resource_of(spec, "r"))


ANSWER = """
<r><reservationSet><item><instancesSet><item>
  <instanceId>i-1</instanceId><imageId>ami-1</imageId><instanceType>t3.small</instanceType>
  <launchTime>2026-01-02T03:04:05.000Z</launchTime><clientToken>%s</clientToken>
  <instanceState><name>%s</name></instanceState><stateReason><message>why</message></stateReason>
  <ipAddress>198.51.100.1</ipAddress><privateIpAddress>10.0.0.1</privateIpAddress>
  <networkInterfaceSet><item>
    <privateIpAddressesSet>
      <item><privateIpAddress>10.0.0.1</privateIpAddress><association><publicIp>198.51.100.1</publicIp></association></item>
      <item><privateIpAddress>10.0.0.2</privateIpAddress></item>
    </privateIpAddressesSet>
    <ipv6AddressesSet><item><ipv6Address>2001:db8::1</ipv6Address></item></ipv6AddressesSet>
  </item></networkInterfaceSet>
  <tagSet>%s</tagSet>
</item></instancesSet></item></reservationSet></r>
"""
TOKEN = "<item><key>pelagos:token</key><value>tok</value></item><item><key>Name</key><value>web-1</value></item>"


def read(client_token: str = "", state: str = "running", tag_set: str = "") -> Any:
    (item,) = instances(ElementTree.fromstring(ANSWER % (client_token, state, tag_set)))
    return server(item)


def test_an_instance_as_a_server() -> None:
    shown = read(tag_set=TOKEN)
    assert (shown.provider_id, shown.name, shown.token, shown.state) == ("i-1", "web-1", "tok", ServerState.ACTIVE)
    assert shown.addresses == ("198.51.100.1", "2001:db8::1")
    assert shown.private_addresses == ("10.0.0.1", "10.0.0.2")
    assert (shown.created_at, shown.flavor, shown.image) == (1767323045.0, "t3.small", "ami-1")
    assert shown.reason == ""


def test_whose_it_is() -> None:
    assert read().token == "" and read().name == "i-1"
    assert read(client_token="somebody-elses").token == ""
    assert read(client_token="pelagos-tok2").token == "tok2"
    assert read(client_token="pelagos-tok2", tag_set=TOKEN).token == "tok"


@pytest.mark.parametrize(
    ("said", "state"),
    [
        ("pending", ServerState.BUILD),
        ("stopping", ServerState.ACTIVE),
        ("stopped", ServerState.STOPPED),
        ("shutting-down", ServerState.DELETING),
        ("terminated", ServerState.DELETED),
        ("hibernating", ServerState.UNKNOWN),
    ],
)
def test_states(said: str, state: ServerState) -> None:
    shown = read(state=said)
    assert (shown.state, shown.reason) == (state, "" if state is ServerState.ACTIVE else "why")


def test_volumes_images_and_types() -> None:
    def volume(status: str) -> Any:
        return volume_part(ElementTree.fromstring(f"<v><volumeId>vol-1</volumeId><status>{status}</status></v>"))

    assert [(volume(s).ready, bool(volume(s).failed)) for s in ("creating", "available", "in-use", "error")] == [
        (False, False),
        (True, False),
        (True, False),
        (False, True),
    ]
    shown = image(ElementTree.fromstring("<i><imageId>ami-1</imageId><creationDate>never</creationDate></i>"))
    assert (shown.id, shown.name, shown.size_bytes, shown.created_at) == ("ami-1", "ami-1", None, None)
    size = flavor(ElementTree.fromstring("<t><instanceType>x9</instanceType></t>"), None)
    assert (size.id, size.vcpus, size.price_per_hour, size.currency) == ("x9", None, None, "")
