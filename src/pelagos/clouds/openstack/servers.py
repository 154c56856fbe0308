"""Servers between nova's terms and the port's: what is asked of nova, and what it says. Pure.

Nova's states are many; each has its place here, and one that a newer nova invents is UNKNOWN, never gone.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pelagos.clouds.errors import CloudRejected
from pelagos.clouds.openstack.catalogue import timestamp
from pelagos.clouds.openstack.options import Wanted
from pelagos.clouds.values import CloudServer, ServerSpec
from pelagos.model.states import ServerState

if TYPE_CHECKING:
    from openstack.compute.v2.server import Server

__all__ = [
    "BOOT_VOLUME",
    "TOKEN",
    "USER_DATA_LIMIT",
    "attributes",
    "check",
    "describe",
    "part_of",
    "port_key",
    "state_of",
]

TOKEN = "pelagos_token"  # noqa: S105 - the name of a metadata key
"""Metadata key of servers and volumes that carries the token of the call that made them."""

BOOT_VOLUME = "boot-volume"
"""Key of the part that a server boots from."""

_ENCODED_LIMIT = 65_535
USER_DATA_LIMIT = _ENCODED_LIMIT // 4 * 3
"""Bytes of user data whose base64 nova takes."""

_VALUE_LIMIT = 255

_STATES = {
    "ACTIVE": ServerState.ACTIVE,
    "BUILD": ServerState.BUILD,
    "DELETED": ServerState.DELETED,
    "ERROR": ServerState.ERROR,
    "HARD_REBOOT": ServerState.REBOOT,
    "MIGRATING": ServerState.ACTIVE,
    "PASSWORD": ServerState.ACTIVE,
    "PAUSED": ServerState.STOPPED,
    "REBOOT": ServerState.REBOOT,
    "REBUILD": ServerState.BUILD,
    "RESCUE": ServerState.STOPPED,
    "RESIZE": ServerState.REBOOT,
    "REVERT_RESIZE": ServerState.REBOOT,
    "SHELVED": ServerState.STOPPED,
    "SHELVED_OFFLOADED": ServerState.STOPPED,
    "SHUTOFF": ServerState.STOPPED,
    "SOFT_DELETED": ServerState.DELETED,
    "SUSPENDED": ServerState.STOPPED,
    "UNKNOWN": ServerState.UNKNOWN,
    "VERIFY_RESIZE": ServerState.ACTIVE,
}
_TELLING = ("PAUSED", "RESCUE", "RESIZE", "SHELVED", "SHELVED_OFFLOADED", "SUSPENDED", "VERIFY_RESIZE")
"""States that people would not read off the port's."""


def state_of(status: str, task: str = "") -> ServerState:
    """The port's state for nova's status and task, both as nova says them."""
    if task in ("deleting", "soft-deleting"):
        return ServerState.DELETING
    state = _STATES.get(status.upper(), ServerState.UNKNOWN)
    if state is ServerState.ACTIVE and task.startswith("reboot"):
        return ServerState.REBOOT
    return state


def describe(server: Server) -> CloudServer:
    """What nova says of a server, in the port's terms."""
    status = str(server.status or "")
    state = state_of(status, str(server.task_state or ""))
    floating, fixed = _addresses(server.addresses or {})
    access = [str(one) for one in (server.access_ipv4, server.access_ipv6) if one]
    return CloudServer(
        provider_id=str(server.id),
        name=str(server.name or ""),
        state=state,
        token=str((server.metadata or {}).get(TOKEN, "")),
        addresses=tuple(dict.fromkeys([*access, *floating, *fixed])),
        private_addresses=tuple(fixed),
        reason=_reason(server, status, state),
        created_at=timestamp(server.created_at),
        flavor=_flavor(server),
        image=str(server.image.id) if server.image and server.image.id else "",
    )


def check(spec: ServerSpec, wanted: Wanted) -> None:
    """Raise CloudRejected for what nova would never take, before anything is sent or made."""
    size = len(spec.user_data.encode())
    if size > USER_DATA_LIMIT:
        raise CloudRejected(
            f"the user data of {spec.name} has {size} bytes, and OpenStack takes at most {USER_DATA_LIMIT}",
            advice="Let it fetch the large parts from elsewhere.",
        )
    long = [key for key, value in {**wanted.metadata, **spec.metadata}.items() if len(value) > _VALUE_LIMIT]
    if long:
        raise CloudRejected(
            f"the metadata {', '.join(sorted(long))} of {spec.name} has values of more than {_VALUE_LIMIT} characters",
            advice="Shorten them.",
        )


def attributes(
    spec: ServerSpec,
    wanted: Wanted,
    token: str,
    *,
    flavor_id: str,
    image_id: str,
    network_ids: Sequence[str],
    volume_gb: int = 0,
    hostname: bool = False,
) -> dict[str, Any]:
    """The arguments of the SDK's ``create_server``.

    ``network_ids`` are those of ``wanted.networks``, in that order; ``volume_gb`` the size of a volume that nova is to
    make (``volume_size: 0``); ``hostname``: this nova takes one. Raises CloudRejected if a part is not there."""
    given: dict[str, Any] = {
        "name": wanted.server_name or spec.name,
        "flavor_id": flavor_id,
        "metadata": {**wanted.metadata, **spec.metadata, TOKEN: token},
        "networks": _networks(spec, wanted, network_ids),
    }
    if spec.user_data:
        given["user_data"] = base64.b64encode(spec.user_data.encode()).decode()
    if hostname and spec.hostname:
        given["hostname"] = spec.hostname
    if wanted.key_name:
        given["key_name"] = wanted.key_name
    if wanted.security_groups:
        given["security_groups"] = [{"name": group} for group in wanted.security_groups]
    if wanted.availability_zone:
        given["availability_zone"] = wanted.availability_zone
    if wanted.config_drive is not None:
        given["config_drive"] = wanted.config_drive
    if wanted.scheduler_hints:
        given["scheduler_hints"] = dict(wanted.scheduler_hints)
    return {**given, **_boot_source(spec, wanted, image_id, volume_gb)}


def port_key(index: int) -> str:
    """Key of the part that is the port on the network of that index."""
    return f"port-{index}"


def part_of(spec: ServerSpec, key: str) -> str:
    """Provider id of a part. Raises CloudRejected if it was not made."""
    made = spec.parts.get(key)
    if not made:
        raise CloudRejected(f"{spec.name} needs its part {key}, which was not made")
    return made


def _networks(spec: ServerSpec, wanted: Wanted, ids: Sequence[str]) -> list[dict[str, str]] | str:
    entries: list[dict[str, str]] = []
    for index, (network, network_id) in enumerate(zip(wanted.networks, ids, strict=True)):
        if network.needs_port:
            entries.append({"port": part_of(spec, port_key(index))})
        else:
            entries.append({"uuid": network_id, **({"fixed_ip": network.fixed_ip} if network.fixed_ip else {})})
    return entries or "auto"


def _boot_source(spec: ServerSpec, wanted: Wanted, image_id: str, volume_gb: int) -> dict[str, Any]:
    if wanted.volume_size is None:
        return {"image_id": image_id}
    mapping: dict[str, Any] = {"boot_index": 0, "destination_type": "volume"}
    if wanted.volume_size:
        volume = {"uuid": part_of(spec, BOOT_VOLUME), "source_type": "volume", "delete_on_termination": False}
    else:
        volume = {
            "uuid": image_id,
            "source_type": "image",
            "volume_size": volume_gb,
            "delete_on_termination": not wanted.volume_persist,
            **({"volume_type": wanted.volume_type} if wanted.volume_type else {}),
        }
    return {"block_device_mapping": [{**mapping, **volume}]}


def _addresses(networks: Mapping[str, Sequence[Mapping[str, Any]]]) -> tuple[list[str], list[str]]:
    """Floating and fixed ones, IPv4 before IPv6."""
    floating: list[tuple[int, str]] = []
    fixed: list[tuple[int, str]] = []
    for addresses in networks.values():
        for one in addresses:
            kind = floating if one.get("OS-EXT-IPS:type") == "floating" else fixed
            kind.append((int(one.get("version", 4)), str(one["addr"])))
    return [a for _, a in sorted(floating, key=_version)], [a for _, a in sorted(fixed, key=_version)]


def _version(address: tuple[int, str]) -> int:
    return address[0]


def _reason(server: Server, status: str, state: ServerState) -> str:
    fault = server.fault or {}
    if state is ServerState.ERROR:
        return str(fault.get("message") or "the cloud says ERROR, and not why")
    if state is ServerState.UNKNOWN:
        return f"the cloud says {status or 'nothing of its state'}"
    return f"the cloud says {status}" if status in _TELLING else ""


def _flavor(server: Server) -> str:
    """Its name since nova's API 2.47, before that its id."""
    flavor = server.flavor
    if not flavor:
        return ""
    return str(flavor.original_name or flavor.name or flavor.id or "")
