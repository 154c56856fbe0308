"""A server as an infrastructure of one node: what is asked for, and what a status says of it. Pure.

The name of the infrastructure holds the token. User data, environment and command are variables there, and the
templates only name them: variables are not rendered, so a text with braces arrives as it was written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from pelagos.clouds.errors import CloudRejected
from pelagos.clouds.libcloud.nodes import named, split
from pelagos.clouds.pelagos.options import PelagosResource
from pelagos.clouds.values import CloudServer, ServerSpec
from pelagos.model.names import MAX_NAME, name_problem
from pelagos.model.states import InfrastructureState, ServerState
from pelagos.wire.infrastructures import RunRequest, ServerView
from pelagos.wire.times import from_rfc3339

__all__ = ["request_of", "server_of"]

_NODE = "server"
_TYPE = "pelagos_server"
_SHOWN = (ServerState.ACTIVE, ServerState.REBOOT, ServerState.STOPPED, ServerState.BUILD, ServerState.ERROR)
"""Of several servers, of which one replaces the other, the first of these is the one."""


def request_of(spec: ServerSpec, token: str, scope: str) -> RunRequest:
    """The run that makes it; ``scope`` is the account's. Raises CloudRejected for options of another cloud."""
    try:
        resource = msgspec.convert(dict(spec.options), PelagosResource, strict=False)
    except msgspec.ValidationError as error:
        raise CloudRejected(f"the resource is wrong: {error}", advice="See the keys of `type: pelagos`.") from error
    definition: dict[str, Any] = {"resource": resource.resource, "health_check": {"ping": False}}
    variables: dict[str, Any] = {}
    if spec.env or spec.command:
        if spec.user_data:
            raise CloudRejected("a server has either user data, or the environment and command of a container")
        variables = {"env": [f"{key}={value}" for key, value in spec.env.items()], "command": list(spec.command)}
        definition["contextualisation"] = {
            "type": "docker",
            "env": _references("env", variables["env"]),
            **({"command": _references("command", variables["command"])} if spec.command else {}),
        }
    elif spec.user_data:
        variables = {"user_data": spec.user_data}
        definition["contextualisation"] = {"type": "cloudinit", "context_template": "{{ variables.user_data }}"}
    scoped = f"{scope}-{token}" if scope else token
    node = spec.hostname if spec.hostname and name_problem(spec.hostname) is None else _NODE
    description = {
        "infra_name": named(spec.name, scoped, MAX_NAME),
        "user_id": "pelagos",
        "nodes": [{"name": node, "type": _TYPE, "scaling": {"min": 1, "max": 1}, "variables": variables}],
    }
    return RunRequest(
        kind="up",
        request_id=scoped,
        sources={"server.yaml": _yaml(description), "nodes.yaml": _yaml({f"node_def:{_TYPE}": [definition]})},
        entries=("server.yaml", "nodes.yaml"),
    )


def server_of(
    id_: str,
    name: str,
    state: InfrastructureState,
    servers: Sequence[ServerView],
    *,
    scope: str,
    reason: str = "",
    created_at: str = "",
) -> CloudServer:
    """An infrastructure with its servers. It has a token if an account of that scope made it."""
    token, readable = split(name)
    if scope:
        token = token.removeprefix(f"{scope}-") if token.startswith(f"{scope}-") else ""
    living = [one for one in servers if one.state in _SHOWN]
    server = min(living, key=lambda one: _SHOWN.index(one.state), default=None)
    shown = _state(state, server)
    told = (reason or (server.reason if server is not None else "")) if shown is not ServerState.ACTIVE else ""
    if shown is ServerState.UNKNOWN and not told:
        told = f"the infrastructure is {state.value}, and its server is being replaced there"
    return CloudServer(
        provider_id=id_,
        name=readable,
        state=shown,
        token=token,
        addresses=server.addresses if server is not None else (),
        reason=told,
        created_at=from_rfc3339(created_at) if created_at else None,
    )


def _state(state: InfrastructureState, server: ServerView | None) -> ServerState:
    match state:
        case InfrastructureState.DESTROYING:
            return ServerState.DELETING
        case InfrastructureState.FAILED:
            return ServerState.ERROR
        case InfrastructureState.BUILDING | InfrastructureState.CHANGING:
            return ServerState.BUILD
        case _ if server is None or server.state in (ServerState.BUILD, ServerState.ERROR):
            return ServerState.UNKNOWN  # its maintainer makes another one
        case _:
            return server.state


def _references(name: str, values: Sequence[str]) -> list[str]:
    return [f"{{{{ variables.{name}[{index}] }}}}" for index in range(len(values))]


def _yaml(value: Any) -> str:
    """JSON is YAML."""
    return msgspec.json.encode(value).decode()
