"""A container group of one container in Azure's words, and what its documents say. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from pelagos.clouds.azure.names import NAME, provider_id, resource_name, tags, token_of
from pelagos.clouds.azure.options import AzureAciResource
from pelagos.clouds.errors import CloudRejected
from pelagos.clouds.values import CloudServer, ServerSpec
from pelagos.model.states import ServerState

__all__ = ["CONTAINER", "document", "needs_view", "resource_of", "server"]

CONTAINER = "main"
_FQDN = "_OCCOPUS_ALLOCATED_FQDN"
_STATES = {
    "running": ServerState.ACTIVE,
    "pending": ServerState.BUILD,
    "repairing": ServerState.BUILD,
    "stopped": ServerState.STOPPED,
    "succeeded": ServerState.STOPPED,
    "failed": ServerState.ERROR,
}
"""By the state of the group's instance view. A command that ended well has stopped."""


def resource_of(spec: ServerSpec) -> AzureAciResource:
    """Raises CloudRejected if the options are none of this cloud's."""
    try:
        return msgspec.convert(dict(spec.options), AzureAciResource, strict=False)
    except msgspec.ValidationError as error:
        raise CloudRejected(f"the resource is wrong: {error}", advice="See the keys of `type: azure_aci`.") from error


def document(spec: ServerSpec, resource: AzureAciResource, token: str, subnet: str) -> dict[str, Any]:
    """What makes the group; ``subnet`` is an id, empty for a public one. Raises CloudRejected."""
    if spec.user_data:
        raise CloudRejected(
            "a container has no user data",
            advice="Use `type: docker` in the contextualisation: it has the container's `env` and `command`.",
        )
    name = resource_name(spec.name, token)
    env = dict(spec.env)
    wanted: dict[str, float] = {"cpu": resource.cpu_cores, "memoryInGB": resource.memory}
    requests: dict[str, Any] = dict(wanted)
    if resource.gpu_type:
        requests["gpu"] = {"count": resource.gpu_count, "sku": resource.gpu_type}
    container: dict[str, Any] = {"image": resource.image, "resources": {"requests": requests}}
    group: dict[str, Any] = {"osType": resource.os_type.capitalize(), "restartPolicy": "Always"}
    if resource.ports:
        container["ports"] = resource.port_list()
    if resource.public:
        env[_FQDN] = f"{name}.{resource.location.replace(' ', '').lower()}.azurecontainer.io"
        group["ipAddress"] = {"type": "Public", "ports": resource.port_list(), "dnsNameLabel": name}
    else:
        group["subnetIds"] = [{"id": subnet}]
        if resource.ports:
            group["ipAddress"] = {"type": "Private", "ports": resource.port_list()}
    if env:
        container["environmentVariables"] = [{"name": key, "value": value} for key, value in env.items()]
    if spec.command:
        container["command"] = list(spec.command)
    group["containers"] = [{"name": CONTAINER, "properties": container}]
    return {"location": resource.location, "tags": tags(spec.name, token), "properties": group}


def needs_view(group: Mapping[str, Any]) -> bool:
    """Whether the state of a listed group is in its instance view alone, which listings do not have."""
    properties = group.get("properties") or {}
    return str(properties.get("provisioningState") or "").lower() == "succeeded" and not properties.get("instanceView")


def server(group: Mapping[str, Any]) -> CloudServer:
    """A group, with its instance view where it has one."""
    properties = group.get("properties") or {}
    address = properties.get("ipAddress") or {}
    found = tuple(dict.fromkeys(filter(None, (str(address.get("fqdn") or ""), str(address.get("ip") or "")))))
    public = str(address.get("type") or "").lower() == "public"
    state, reason = _state(properties)
    containers = properties.get("containers") or [{}]
    return CloudServer(
        provider_id=provider_id(group),
        name=str((group.get("tags") or {}).get(NAME) or group.get("name") or ""),
        state=state,
        token=token_of(group),
        addresses=found if public else (),
        private_addresses=() if public else found,
        reason=reason,
        image=str((containers[0].get("properties") or {}).get("image") or ""),
    )


def _state(properties: Mapping[str, Any]) -> tuple[ServerState, str]:
    provisioning = str(properties.get("provisioningState") or "")
    view = properties.get("instanceView") or {}
    shown = str(view.get("state") or "")
    events = [str(one.get("message") or "") for one in view.get("events") or () if isinstance(one, Mapping)]
    match provisioning.lower():
        case "deleting":
            return ServerState.DELETING, ""
        case "pending" | "creating" | "repairing" | "preprovisioned":
            return ServerState.BUILD, ""
        case "failed" | "unhealthy" if shown.lower() != "running":
            return ServerState.ERROR, "; ".join(filter(None, events)) or "Azure could not provision it"
        case _ if shown.lower() in _STATES:
            state = _STATES[shown.lower()]
            return state, "; ".join(filter(None, events)) if state is ServerState.ERROR else ""
        case _:
            return (
                ServerState.UNKNOWN,
                f"Azure calls it {provisioning or 'nothing'}, and its state {shown or 'nothing'}",
            )
