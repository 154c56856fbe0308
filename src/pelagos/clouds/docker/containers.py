"""Between servers and containers: what a container is made from, and what a listing says of one. All pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Literal

import msgspec
from docker.types import ContainerConfig, EndpointConfig, Healthcheck, HostConfig, NetworkingConfig, Ulimit

from pelagos.clouds.docker.options import DockerAccount, DockerHealth, DockerResource
from pelagos.clouds.errors import CloudRejected
from pelagos.clouds.values import CloudServer, ServerSpec
from pelagos.model.states import ServerState

__all__ = [
    "GROUP",
    "SCOPE",
    "TOKEN",
    "Health",
    "Order",
    "container_name",
    "describe",
    "is_below",
    "network_name",
    "order_of",
    "ours",
]

NAMESPACE = "pelagos"
TOKEN = f"{NAMESPACE}.token"
SCOPE = f"{NAMESPACE}.scope"
GROUP = f"{NAMESPACE}.group"

_ALIAS = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z", re.IGNORECASE)
_STATES = {
    "created": ServerState.BUILD,
    "configured": ServerState.BUILD,
    "initialized": ServerState.BUILD,
    "running": ServerState.ACTIVE,
    "restarting": ServerState.REBOOT,
    "paused": ServerState.STOPPED,
    "stopping": ServerState.STOPPED,
    "stopped": ServerState.STOPPED,
    "exited": ServerState.STOPPED,
    "removing": ServerState.DELETING,
    "dead": ServerState.ERROR,
}

Health = Literal["", "starting", "unhealthy"]


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What a container is to be, but for its image."""

    name: str
    token: str
    network: str
    """The network it is made in; empty: what the engine does of itself."""
    group: str
    aliases: tuple[str, ...]
    more_networks: tuple[str, ...]
    labels: dict[str, str]
    hostname: str
    environment: dict[str, str]
    command: tuple[str, ...]
    resource: DockerResource

    def config(self, version: str, image: str) -> ContainerConfig:
        """The body of the create call, for an API of this version. Raises CloudRejected."""
        resource = self.resource
        try:
            ports, bindings = _ports(resource.ports)
            health = _healthcheck(resource.health)
            return ContainerConfig(
                version=version,
                image=image,
                command=list(self.command),
                hostname=self.hostname or None,
                user=resource.user or None,
                entrypoint=list(resource.entrypoint) or None,
                environment=dict(self.environment),
                labels=dict(self.labels),
                ports=ports,
                volumes=[volume for volume in resource.volumes if ":" not in volume],
                healthcheck=health,
                host_config=HostConfig(
                    version=version,
                    network_mode=self.network or None,
                    port_bindings=bindings,
                    binds=[volume for volume in resource.volumes if ":" in volume] or None,
                    mem_limit=None if resource.memory_mb is None else resource.memory_mb << 20,
                    nano_cpus=None if resource.cpus is None else int(resource.cpus * 1_000_000_000),
                    pids_limit=resource.pids,
                    ulimits=[_ulimit(name, value) for name, value in resource.ulimits.items()] or None,
                ),
                networking_config=self._endpoint(version),
            )
        except (TypeError, ValueError) as error:
            raise CloudRejected(f"the container {self.name} cannot be asked for: {error}") from error

    def _endpoint(self, version: str) -> NetworkingConfig | None:
        if not self.group:
            return None
        endpoint = EndpointConfig(version, aliases=list(self.aliases))
        return NetworkingConfig({self.network: endpoint})  # type: ignore[arg-type]  # the stub has one, not a mapping


def container_name(spec: ServerSpec, token: str, scope: str) -> str:
    """The server's name and what is unique of the token and the account's scope.

    Engines admit one container of a name, so a create that is sent twice makes one."""
    plain = re.sub(r"[^a-zA-Z0-9_.-]+", "-", spec.name).strip("-.") or "server"
    return f"{plain}-{hashlib.sha256(f'{scope}/{token}'.encode()).hexdigest()[:10]}"


def order_of(spec: ServerSpec, token: str, account: DockerAccount) -> Order:
    """What to ask the engine for. Raises CloudRejected for what no engine of this account will ever take."""
    try:
        resource = msgspec.convert(spec.options, DockerResource)
    except msgspec.ValidationError as error:
        raise CloudRejected(f"the options of {spec.name} are wrong: {error}") from error
    if spec.user_data:
        raise CloudRejected(
            f"{spec.name} is a container, and nothing in it reads user data",
            advice="Use `contextualisation` of `type: docker` with `env` and `command`.",
        )
    _check_mounts(resource.volumes, account.mounts)
    group = spec.group if resource.network == "group" else ""
    aliases = [spec.hostname, *spec.metadata.get("aliases", "").split(",")]
    labels = {f"{NAMESPACE}.{key}": value for key, value in spec.metadata.items()}
    labels |= {TOKEN: token, SCOPE: account.scope}
    if group:
        labels[GROUP] = group
    match resource.network:
        case "group":
            network = network_name(account.scope, group) if group else ""
        case "default":
            network = ""
        case "none":
            network = "none"
    return Order(
        name=container_name(spec, token, account.scope),
        token=token,
        network=network,
        group=group,
        aliases=tuple(dict.fromkeys(alias.strip() for alias in aliases if _ALIAS.fullmatch(alias.strip()))),
        more_networks=resource.networks,
        labels=labels,
        hostname=(spec.hostname or spec.name)[:63],
        environment=spec.env,
        command=spec.command,
        resource=resource,
    )


def network_name(scope: str, group: str) -> str:
    """Of a group's network."""
    plain = re.sub(r"[^a-zA-Z0-9_.-]+", "-", group)
    return f"pelagos-{scope}-{plain}" if scope else f"pelagos-{plain}"


def ours(container: Mapping[str, Any], scope: str) -> bool:
    """Whether Pelagos made it for an account of this scope."""
    labels = container.get("Labels") or {}
    return bool(labels.get(TOKEN)) and labels.get(SCOPE, "") == scope


def describe(container: Mapping[str, Any], account: DockerAccount, health: Health = "") -> CloudServer:
    """What an entry of the engine's listing says. ``health``: where the listing itself does not tell it (podman)."""
    labels = container.get("Labels") or {}
    status = str(container.get("Status") or "")
    state, reason = _state(str(container.get("State") or ""), status, health)
    networks = (container.get("NetworkSettings") or {}).get("Networks") or {}
    inside = tuple(dict.fromkeys(ip for network in networks.values() if (ip := network.get("IPAddress"))))
    published = any(port.get("PublicPort") for port in container.get("Ports") or ())
    outside = (account.address,) if account.address and published else ()
    names = [str(name).lstrip("/") for name in container.get("Names") or ()]
    return CloudServer(
        provider_id=str(container["Id"]),
        name=min(names, key=len, default=str(container["Id"])[:12]),
        state=state,
        token=str(labels.get(TOKEN, "")) if ours(container, account.scope) else "",
        addresses=outside + inside,
        private_addresses=inside,
        reason=reason,
        created_at=float(container["Created"]) if container.get("Created") else None,
        image=str(container.get("Image") or ""),
    )


def _state(state: str, status: str, health: Health) -> tuple[ServerState, str]:
    known = _STATES.get(state, ServerState.UNKNOWN)
    if known is ServerState.ACTIVE:
        if health == "unhealthy" or "(unhealthy)" in status:
            return ServerState.ERROR, "its health check fails: the engine calls it unhealthy"
        if health == "starting" or "health: starting)" in status:
            return ServerState.BUILD, "its health check has not succeeded yet"
        return known, ""
    if state == "paused":
        return known, "it is paused"
    return known, "" if known is ServerState.BUILD else status or f"the engine says {state!r}"


def _ports(ports: Iterable[str | int]) -> tuple[list[tuple[str, str]], dict[int | str, list[Any]]]:
    """What is exposed, and what is bound to which address and port of the engine's host."""
    exposed: list[tuple[str, str]] = []
    bindings: dict[int | str, list[Any]] = {}
    for port in ports:
        text, _, protocol = str(port).partition("/")
        *host, inside = text.split(":")
        protocol = protocol or "tcp"
        _check_port(inside)
        outside = int(host[-1]) if host and host[-1] else None
        if outside is not None:
            _check_port(host[-1])
        exposed.append((inside, protocol))
        bindings.setdefault(f"{inside}/{protocol}", []).append((host[0], outside) if len(host) == 2 else outside)
    return exposed, bindings


def _check_port(text: str) -> None:
    if not 1 <= int(text) <= 65535:
        raise ValueError(f"{text} is no port")


def _ulimit(name: str, value: int | str) -> Ulimit:
    soft, _, hard = str(value).partition(":")
    return Ulimit(name=name, soft=int(soft), hard=int(hard or soft))


def _healthcheck(health: DockerHealth | str) -> Healthcheck | None:
    match health:
        case DockerHealth():
            command = health.command
            return Healthcheck(
                test=["CMD-SHELL", command] if isinstance(command, str) else ["CMD", *command],
                interval=_nanoseconds(health.interval),
                timeout=_nanoseconds(health.timeout),
                retries=health.retries,
                start_period=_nanoseconds(health.start_period),
            )
        case "none":
            return Healthcheck(test=["NONE"])
        case _:
            return None


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1_000_000_000)


def _check_mounts(volumes: Sequence[str], allowed: Sequence[str]) -> None:
    """Whoever mounts the engine's directories owns its host, so the account says which."""
    for volume in volumes:
        source = volume.partition(":")[0]
        if ":" not in volume or not source.startswith("/"):
            continue
        if not is_below(source, allowed):
            raise CloudRejected(
                f"the directory {source} of the engine's host may not be mounted",
                advice="Use a named volume, or add it to `mounts` in the options of the account.",
            )


def is_below(path: str, allowed: Sequence[str]) -> bool:
    """Whether a path is one of the allowed directories or in one, as it is written: with ``..`` in it never."""
    parts = PurePosixPath(path)
    return ".." not in parts.parts and any(parts.is_relative_to(directory) for directory in allowed)
