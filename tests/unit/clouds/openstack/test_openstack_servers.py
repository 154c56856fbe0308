"""Servers and their parts between nova's terms and the port's."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest
from openstack.compute.v2.server import Server

from pelagos.clouds.errors import CloudRejected
from pelagos.clouds.openstack.catalogue import timestamp
from pelagos.clouds.openstack.options import Network, Wanted
from pelagos.clouds.openstack.parts import parts_of
from pelagos.clouds.openstack.servers import USER_DATA_LIMIT, attributes, check, describe, state_of
from pelagos.clouds.values import PartKind, ServerSpec
from pelagos.model.states import ServerState

SPEC = ServerSpec(name="shop-web-1", hostname="web-1", user_data="#!/bin/sh\n", metadata={"pelagos_node": "web"})
WANTED = Wanted(image="debian", flavor="m1.tiny")
RECORDED: dict[str, Any] = {
    "id": "0f3e1c9a-6a3d-4c8e-9d7b-0f6a1f3f2b11",
    "name": "shop-web-1",
    "status": "ACTIVE",
    "tenant_id": "5d7b",
    "user_id": "77aa",
    "metadata": {"pelagos_token": "t-1", "pelagos_node": "web"},
    "hostId": "a1",
    "image": {"id": "d0c5", "links": [{"rel": "bookmark", "href": "http://127.0.0.1:8774/images/d0c5"}]},
    "flavor": {
        "vcpus": 1,
        "ram": 64,
        "disk": 1,
        "ephemeral": 0,
        "swap": 0,
        "original_name": "m1.tiny",
        "extra_specs": {},
    },
    "created": "2026-11-28T11:02:03Z",
    "updated": "2026-11-28T11:02:09Z",
    "addresses": {
        "private": [
            {
                "version": 6,
                "addr": "fd00::7",
                "OS-EXT-IPS:type": "fixed",
                "OS-EXT-IPS-MAC:mac_addr": "fa:16:3e:00:00:01",
            },
            {
                "version": 4,
                "addr": "10.7.0.7",
                "OS-EXT-IPS:type": "fixed",
                "OS-EXT-IPS-MAC:mac_addr": "fa:16:3e:00:00:01",
            },
            {
                "version": 4,
                "addr": "203.0.113.9",
                "OS-EXT-IPS:type": "floating",
                "OS-EXT-IPS-MAC:mac_addr": "fa:16:3e:00:00:01",
            },
        ]
    },
    "accessIPv4": "",
    "accessIPv6": "",
    "links": [],
    "OS-DCF:diskConfig": "MANUAL",
    "progress": 0,
    "OS-EXT-AZ:availability_zone": "nova",
    "config_drive": "",
    "key_name": None,
    "OS-SRV-USG:launched_at": "2026-11-28T11:02:09.000000",
    "OS-SRV-USG:terminated_at": None,
    "security_groups": [{"name": "default"}],
    "OS-EXT-STS:task_state": None,
    "OS-EXT-STS:vm_state": "active",
    "OS-EXT-STS:power_state": 1,
    "os-extended-volumes:volumes_attached": [],
    "locked": False,
    "description": None,
    "tags": [],
}


def shown(**changes: Any) -> Server:
    return Server.existing(**{**RECORDED, **changes})


def asked(wanted: Wanted = WANTED, spec: ServerSpec = SPEC, **more: Any) -> dict[str, Any]:
    ids = [f"id-of-{network.network}" for network in wanted.networks]
    return attributes(spec, wanted, "t-1", flavor_id="f-1", image_id="i-1", network_ids=ids, **more)


# -- what nova says ------------------------------------------------------------------------------------------------


def test_a_recorded_server() -> None:
    server = describe(shown())
    assert (server.provider_id, server.name, server.state) == (RECORDED["id"], "shop-web-1", ServerState.ACTIVE)
    assert (server.token, server.flavor, server.image) == ("t-1", "m1.tiny", "d0c5")
    assert server.addresses == ("203.0.113.9", "10.7.0.7", "fd00::7")
    assert server.private_addresses == ("10.7.0.7", "fd00::7")
    assert server.created_at == 1795863723.0
    assert server.reason == ""


def test_a_server_without_image_metadata_and_addresses() -> None:
    server = describe(shown(image="", metadata={}, addresses={}, status="BUILD"))
    assert (server.image, server.token, server.addresses) == ("", "", ())


def test_an_access_address_comes_first() -> None:
    assert describe(shown(accessIPv4="198.51.100.1")).addresses[0] == "198.51.100.1"


def test_why_it_failed() -> None:
    failed = describe(shown(status="ERROR", fault={"code": 500, "message": "No valid host was found."}))
    assert (failed.state, failed.reason) == (ServerState.ERROR, "No valid host was found.")
    assert describe(shown(status="ERROR")).reason != ""


@pytest.mark.parametrize(
    ("status", "task", "expected"),
    [
        ("", "", ServerState.UNKNOWN),
        ("BUILD", "spawning", ServerState.BUILD),
        ("BUILD", "deleting", ServerState.DELETING),
        ("ACTIVE", "", ServerState.ACTIVE),
        ("ACTIVE", "powering-off", ServerState.ACTIVE),
        ("ACTIVE", "rebooting", ServerState.REBOOT),
        ("ACTIVE", "reboot_started_hard", ServerState.REBOOT),
        ("ACTIVE", "deleting", ServerState.DELETING),
        ("SHUTOFF", "powering-on", ServerState.STOPPED),
        ("PAUSED", "", ServerState.STOPPED),
        ("SHELVED_OFFLOADED", "", ServerState.STOPPED),
        ("HARD_REBOOT", "", ServerState.REBOOT),
        ("VERIFY_RESIZE", "", ServerState.ACTIVE),
        ("SOFT_DELETED", "", ServerState.DELETED),
        ("error", "", ServerState.ERROR),
        ("UNKNOWN", "", ServerState.UNKNOWN),
        ("LEVITATING", "", ServerState.UNKNOWN),
    ],
)
def test_states(status: str, task: str, expected: ServerState) -> None:
    assert state_of(status, task) is expected


def test_states_that_need_a_word() -> None:
    assert "SUSPENDED" in describe(shown(status="SUSPENDED")).reason
    assert "LEVITATING" in describe(shown(status="LEVITATING")).reason
    assert describe(shown(status="SHUTOFF")).reason == ""


def test_timestamps() -> None:
    assert timestamp("2026-11-28T11:02:03Z") == timestamp("2026-11-28T11:02:03.000000") == 1795863723.0
    assert timestamp(None) is None and timestamp("") is None and timestamp("yesterday") is None


# -- what nova is asked for ------------------------------------------------------------------------------------------


def test_the_least_that_is_asked_for() -> None:
    assert asked(spec=ServerSpec(name="one")) == {
        "name": "one",
        "flavor_id": "f-1",
        "image_id": "i-1",
        "metadata": {"pelagos_token": "t-1"},
        "networks": "auto",
    }


def test_everything_that_can_be_asked_for() -> None:
    wanted = Wanted(
        image="debian",
        flavor="m1.tiny",
        networks=(Network(network="a"), Network(network="b", fixed_ip="10.0.0.7")),
        key_name="ann",
        security_groups=("web",),
        server_name="shop",
        availability_zone="az1",
        config_drive=True,
        metadata={"cost": "42"},
        scheduler_hints={"group": "g"},
    )
    given = asked(wanted, hostname=True)
    assert given["name"] == "shop" and given["hostname"] == "web-1"
    assert base64.b64decode(given["user_data"]) == b"#!/bin/sh\n"
    assert given["metadata"] == {"cost": "42", "pelagos_node": "web", "pelagos_token": "t-1"}
    assert given["networks"] == [{"uuid": "id-of-a"}, {"uuid": "id-of-b", "fixed_ip": "10.0.0.7"}]
    assert given["security_groups"] == [{"name": "web"}]
    assert (given["key_name"], given["availability_zone"], given["config_drive"]) == ("ann", "az1", True)
    assert given["scheduler_hints"] == {"group": "g"}
    assert "hostname" not in asked(wanted)


def test_boot_sources() -> None:
    assert asked()["image_id"] == "i-1"
    made = asked(msgspec.structs.replace(WANTED, volume_size=0, volume_type="fast"), volume_gb=3)
    assert "image_id" not in made
    assert made["block_device_mapping"] == [
        {
            "boot_index": 0,
            "uuid": "i-1",
            "source_type": "image",
            "destination_type": "volume",
            "volume_size": 3,
            "delete_on_termination": True,
            "volume_type": "fast",
        }
    ]
    kept = asked(msgspec.structs.replace(WANTED, volume_size=0, volume_persist=True), volume_gb=3)
    assert kept["block_device_mapping"][0]["delete_on_termination"] is False
    spec = msgspec.structs.replace(SPEC, parts={"boot-volume": "v-1"})
    given = asked(msgspec.structs.replace(WANTED, volume_size=5), spec)
    assert given["block_device_mapping"] == [
        {
            "boot_index": 0,
            "uuid": "v-1",
            "source_type": "volume",
            "destination_type": "volume",
            "delete_on_termination": False,
        }
    ]


def test_a_part_that_was_not_made_is_missed() -> None:
    with pytest.raises(CloudRejected):
        asked(msgspec.structs.replace(WANTED, volume_size=5))


def test_user_data_is_measured_before_anything_is_sent() -> None:
    check(msgspec.structs.replace(SPEC, user_data="x" * USER_DATA_LIMIT), WANTED)
    assert len(base64.b64encode(b"x" * USER_DATA_LIMIT)) <= 65_535 < len(base64.b64encode(b"x" * (USER_DATA_LIMIT + 1)))
    with pytest.raises(CloudRejected):
        check(msgspec.structs.replace(SPEC, user_data="ä" * (USER_DATA_LIMIT // 2 + 1)), WANTED)


def test_metadata_is_measured_too() -> None:
    with pytest.raises(CloudRejected) as caught:
        check(SPEC, msgspec.structs.replace(WANTED, metadata={"long": "x" * 256}))
    assert "long" in caught.value.message


# -- parts -------------------------------------------------------------------------------------------------------------


def test_most_servers_need_no_parts() -> None:
    assert parts_of(SPEC, WANTED) == []
    assert parts_of(SPEC, msgspec.structs.replace(WANTED, volume_size=0, networks=(Network(network="a"),))) == []


def test_parts_in_the_order_of_making() -> None:
    wanted = Wanted(
        image="debian",
        flavor="m1.tiny",
        networks=(
            Network(network="a"),
            Network(network="b", security_groups=("db",), fixed_ip="10.0.0.7"),
            Network(network="c", port_security=False),
            Network(network="d", port_security=True),
        ),
        security_groups=("web",),
        address=True,
        address_network="public",
        volume_size=5,
        volume_type="fast",
        volume_persist=True,
        volume_availability_zone="az1",
    )
    found = parts_of(SPEC, wanted)
    assert [(part.key, part.kind, part.keep) for part in found] == [
        ("boot-volume", PartKind.VOLUME, True),
        ("port-1", PartKind.PORT, False),
        ("port-2", PartKind.PORT, False),
        ("port-3", PartKind.PORT, False),
        ("address", PartKind.ADDRESS, False),
    ]
    assert [part.size_gb for part in found] == [5, 0, 0, 0, 0]
    assert all(part.name.startswith("shop-web-1-") for part in found)
    options = {part.key: part.options for part in found}
    assert options["boot-volume"] == {"size": 5, "image": "debian", "type": "fast", "availability_zone": "az1"}
    assert options["port-1"] == {"network": "b", "fixed_ip": "10.0.0.7", "security_groups": ["db"]}
    assert options["port-2"] == {"network": "c", "fixed_ip": "", "port_security": False}
    assert options["port-3"] == {
        "network": "d",
        "fixed_ip": "",
        "security_groups": ["web"],
        "port_security": True,
    }
    assert options["address"] == {"network": "public"}
    spec = msgspec.structs.replace(SPEC, parts={key: f"id-of-{key}" for key in options})
    assert asked(wanted, spec)["networks"] == [
        {"uuid": "id-of-a"},
        {"port": "id-of-port-1"},
        {"port": "id-of-port-2"},
        {"port": "id-of-port-3"},
    ]
