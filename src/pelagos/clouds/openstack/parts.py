"""What is made beside a server: its boot volume, ports that nova cannot make, its floating address.

Each carries the token of its call from its first moment on: a volume in its metadata, ports and addresses in their
description (neutron takes no tags in a create call). What :func:`parts_of` says is pure; the rest runs in the account's
threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, assert_never

from pelagos.clouds.errors import CloudBusy
from pelagos.clouds.openstack.catalogue import Lookup
from pelagos.clouds.openstack.connection import Client, Network
from pelagos.clouds.openstack.errors import gone_is_fine
from pelagos.clouds.openstack.options import Wanted
from pelagos.clouds.openstack.servers import BOOT_VOLUME, TOKEN, part_of, port_key
from pelagos.clouds.values import CloudPart, PartKind, PartSpec, ServerSpec
from pelagos.model.errors import Unsupported

if TYPE_CHECKING:
    from openstack.block_storage.v3.volume import Volume
    from openstack.network.v2.floating_ip import FloatingIP
    from openstack.network.v2.port import Port

__all__ = ["ADDRESS", "associate", "create_part", "delete_part", "list_parts", "parts_of"]

ADDRESS = "address"
"""Key of the part that is the floating address."""

_MARK = f"{TOKEN}="
_MOVING = ("attaching", "creating", "detaching", "downloading", "in-use", "maintenance", "reserved", "uploading")


def parts_of(spec: ServerSpec, wanted: Wanted) -> Sequence[PartSpec]:
    """What the server needs beside itself, in the order of making. Pure."""
    made: list[PartSpec] = []
    if wanted.volume_size:
        made.append(
            PartSpec(
                key=BOOT_VOLUME,
                kind=PartKind.VOLUME,
                name=f"{spec.name}-{BOOT_VOLUME}",
                options={
                    "size": wanted.volume_size,
                    "image": wanted.image,
                    "type": wanted.volume_type,
                    "availability_zone": wanted.volume_availability_zone,
                },
                size_gb=wanted.volume_size,
                keep=wanted.volume_persist,
            )
        )
    for index, network in enumerate(wanted.networks):
        if network.needs_port:
            groups = wanted.security_groups if network.security_groups is None else network.security_groups
            options: dict[str, Any] = {"network": network.network, "fixed_ip": network.fixed_ip}
            if network.port_security is not False:
                options["security_groups"] = list(groups)
            if network.port_security is not None:
                options["port_security"] = network.port_security
            made.append(
                PartSpec(
                    key=port_key(index), kind=PartKind.PORT, name=f"{spec.name}-{port_key(index)}", options=options
                )
            )
    if wanted.address:
        made.append(
            PartSpec(
                key=ADDRESS,
                kind=PartKind.ADDRESS,
                name=f"{spec.name}-{ADDRESS}",
                options={"network": wanted.address_network},
            )
        )
    return made


def create_part(client: Client, lookup: Lookup, part: PartSpec, token: str) -> CloudPart:
    """Make it; one request with an effect."""
    options = part.options
    match part.kind:
        case PartKind.VOLUME:
            volume: dict[str, Any] = {
                "name": part.name,
                "size": options["size"],
                "image_id": lookup.image(options["image"]),
                "metadata": {TOKEN: token},
            }
            if options.get("type"):
                volume["volume_type"] = options["type"]
            if options.get("availability_zone"):
                volume["availability_zone"] = options["availability_zone"]
            return _volume(client.block_storage().create_volume(**volume))
        case PartKind.PORT:
            port: dict[str, Any] = {
                "name": part.name,
                "network_id": lookup.network(options["network"]),
                "description": _MARK + token,
            }
            if options.get("fixed_ip"):
                port["fixed_ips"] = [{"ip_address": options["fixed_ip"]}]
            if options.get("security_groups"):
                port["security_group_ids"] = [lookup.security_group(one) for one in options["security_groups"]]
            if "port_security" in options:
                port["is_port_security_enabled"] = options["port_security"]
                if not options["port_security"]:
                    port["security_group_ids"] = []
            return _port(client.network().create_port(**port))
        case PartKind.ADDRESS:
            network = lookup.external_network(options["network"])
            return _address(client.network().create_ip(floating_network_id=network, description=_MARK + token))
        case PartKind.NETWORK:
            raise Unsupported("the OpenStack driver makes no networks for servers")
        case _:
            assert_never(part.kind)


def list_parts(client: Client) -> Sequence[CloudPart]:
    """All that carry a token. A service that the cloud does not have, has none."""
    return [part for part in _all(client) if part.token]


def delete_part(client: Client, part: CloudPart) -> None:
    """Delete it; raises CloudBusy while a server has it (neutron itself would take it away from the server)."""
    match part.kind:
        case PartKind.VOLUME:
            storage = client.block_storage()
            with gone_is_fine():
                status = str(storage.get_volume(part.provider_id).status)
                if status in _MOVING:
                    raise CloudBusy(f"the volume {part.provider_id} is {status}")
                if status != "deleting":
                    storage.delete_volume(part.provider_id, ignore_missing=False)
        case PartKind.PORT:
            network = client.network()
            with gone_is_fine():
                owner = network.get_port(part.provider_id).device_id
                if owner:
                    raise CloudBusy(f"the port {part.provider_id} belongs to {owner}")
                network.delete_port(part.provider_id, ignore_missing=False)
        case PartKind.ADDRESS:
            network = client.network()
            with gone_is_fine():
                address = network.get_ip(part.provider_id)
                owner = _owner(network, address.port_id)
                if owner:
                    raise CloudBusy(f"the address {address.floating_ip_address} is that of {owner}")
                network.delete_ip(part.provider_id, ignore_missing=False)
        case PartKind.NETWORK:
            raise Unsupported("the OpenStack driver makes no networks for servers")
        case _:
            assert_never(part.kind)


def associate(client: Client, lookup: Lookup, provider_id: str, spec: ServerSpec, wanted: Wanted) -> str:
    """Give the server its floating address, if it has one among its parts; the address. Repeatable.

    It goes to the server's port on the first network of the resource, else to its first. Raises CloudBusy while the
    server has no port."""
    if not wanted.address:
        return ""
    network = client.network()
    address = network.get_ip(part_of(spec, ADDRESS))
    ports = list(network.ports(device_id=provider_id))
    if address.port_id and any(port.id == address.port_id for port in ports):
        return str(address.floating_ip_address)
    if not ports:
        raise CloudBusy(
            f"{spec.name} has no port yet that its address could go to",
            advice="If it never gets one: name a network in its resource.",
        )
    if wanted.networks:
        first = lookup.network(wanted.networks[0].network)
        ports.sort(key=lambda port: port.network_id != first)
    network.update_ip(address, port_id=ports[0].id)
    return str(address.floating_ip_address)


def _all(client: Client) -> Iterator[CloudPart]:
    storage = client.optional(client.block_storage)
    if storage is not None:
        yield from (_volume(volume) for volume in storage.volumes(details=True))
    network = client.optional(client.network)
    if network is not None:
        mine = client.project
        yield from (_port(port) for port in network.ports(project_id=mine))
        yield from (_address(address) for address in network.ips(project_id=mine))


def _owner(network: Network, port_id: str | None) -> str:
    """Id of the server that has the port; empty if there is none."""
    owner = ""
    if port_id:
        with gone_is_fine():
            owner = str(network.get_port(port_id).device_id or "")
    return owner


def _volume(volume: Volume) -> CloudPart:
    status = str(volume.status or "creating")
    return CloudPart(
        provider_id=str(volume.id or ""),
        kind=PartKind.VOLUME,
        name=str(volume.name or ""),
        token=str((volume.metadata or {}).get(TOKEN, "")),
        ready=status in ("available", "in-use"),
        failed=f"the cloud says {status}" if status.startswith("error") else "",
    )


def _port(port: Port) -> CloudPart:
    fixed = port.fixed_ips or []
    return CloudPart(
        provider_id=str(port.id or ""),
        kind=PartKind.PORT,
        name=str(port.name or ""),
        token=_token(port.description),
        address=str(fixed[0]["ip_address"]) if fixed else "",
    )


def _address(address: FloatingIP) -> CloudPart:
    return CloudPart(
        provider_id=str(address.id or ""),
        kind=PartKind.ADDRESS,
        name=str(address.floating_ip_address or ""),
        token=_token(address.description),
        address=str(address.floating_ip_address or ""),
    )


def _token(description: str | None) -> str:
    text = description or ""
    return text.removeprefix(_MARK) if text.startswith(_MARK) else ""
