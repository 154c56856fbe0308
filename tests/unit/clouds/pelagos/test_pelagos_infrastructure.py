"""A server as an infrastructure of one node: what is asked for, and what a status means."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pelagos.clouds import CloudRejected, ServerSpec
from pelagos.clouds.keys import check_keys
from pelagos.clouds.pelagos import PelagosAccount, PelagosResource
from pelagos.clouds.pelagos.infrastructure import request_of, server_of
from pelagos.model.states import InfrastructureState, ServerState
from pelagos.wire.infrastructures import ServerView

NOW = "2026-01-01T00:00:00.000Z"
OPTIONS = {"resource": {"type": "docker", "image": "busybox"}}


def view(state: ServerState, address: str = "10.0.0.1") -> ServerView:
    return ServerView(
        id=address,
        name="web",
        cloud="lab",
        provider_id="1",
        state=state,
        reason="",
        addresses=(address,),
        infrastructure_id="i",
        instance_id="n",
        created_at=NOW,
    )


def sources(spec: ServerSpec, scope: str = "") -> tuple[dict[str, Any], dict[str, Any]]:
    """(the description, the implementation of its node) that are sent for a server."""
    sent = request_of(spec, "token-one", scope).sources
    (implementation,) = json.loads(sent["nodes.yaml"])["node_def:pelagos_server"]
    return json.loads(sent["server.yaml"]), implementation


def test_a_container_gets_its_environment_and_command_as_they_are() -> None:
    spec = ServerSpec(name="web-1", hostname="web", options=OPTIONS, env={"A": "{{ b }}"}, command=("run", "{% c %}"))
    description, implementation = sources(spec)
    (node,) = description["nodes"]
    assert (description["infra_name"], node["name"]) == ("web-1-pt-token-one", "web")
    assert node["variables"] == {"env": ["A={{ b }}"], "command": ["run", "{% c %}"]}
    assert implementation == {
        "resource": OPTIONS["resource"],
        "health_check": {"ping": False},
        "contextualisation": {
            "type": "docker",
            "env": ["{{ variables.env[0] }}"],
            "command": ["{{ variables.command[0] }}", "{{ variables.command[1] }}"],
        },
    }


def test_what_cannot_be_both() -> None:
    with pytest.raises(CloudRejected):
        request_of(ServerSpec(name="w", options=OPTIONS, env={"A": "b"}, user_data="#!/bin/sh\n"), "t", "")


def test_a_long_name_is_cut_and_keeps_its_token_and_scope() -> None:
    description, _ = sources(ServerSpec(name="w" * 80, options=OPTIONS), scope="office")
    name = description["infra_name"]
    assert len(name) == 63
    ours = server_of("i", name, InfrastructureState.BUILDING, (), scope="office")
    assert (ours.token, ours.state) == ("token-one", ServerState.BUILD)
    assert server_of("i", name, InfrastructureState.BUILDING, (), scope="home").token == ""
    assert request_of(ServerSpec(name="w", options=OPTIONS), "t", "office").request_id == "office-t"


@pytest.mark.parametrize(
    ("state", "servers", "shown"),
    [
        (InfrastructureState.BUILDING, [ServerState.ACTIVE], ServerState.BUILD),
        (InfrastructureState.CHANGING, [], ServerState.BUILD),
        (InfrastructureState.READY, [ServerState.ACTIVE], ServerState.ACTIVE),
        (InfrastructureState.READY, [ServerState.DELETING, ServerState.ACTIVE], ServerState.ACTIVE),
        (InfrastructureState.SUSPENDED, [ServerState.STOPPED], ServerState.STOPPED),
        (InfrastructureState.DEGRADED, [], ServerState.UNKNOWN),
        (InfrastructureState.DEGRADED, [ServerState.ERROR, ServerState.BUILD], ServerState.UNKNOWN),
        (InfrastructureState.DESTROYING, [ServerState.ACTIVE], ServerState.DELETING),
        (InfrastructureState.FAILED, [ServerState.ACTIVE], ServerState.ERROR),
    ],
)
def test_states(state: InfrastructureState, servers: list[ServerState], shown: ServerState) -> None:
    found = server_of("i", "w-pt-t", state, [view(one) for one in servers], scope="", reason="", created_at=NOW)
    assert found.state is shown
    assert bool(found.reason) is (shown is ServerState.UNKNOWN)


def test_the_address_is_that_of_the_server_that_lives() -> None:
    servers = [view(ServerState.ERROR, "10.0.0.1"), view(ServerState.ACTIVE, "10.0.0.2")]
    assert server_of("i", "w-pt-t", InfrastructureState.READY, servers, scope="").addresses == ("10.0.0.2",)


@pytest.mark.parametrize(
    ("struct", "keys", "said"),
    [
        (PelagosResource, {"resource": {"image": "x"}}, "lacks type"),
        (PelagosResource, {}, "is missing"),
        (PelagosAccount, {"endpoint": "http://far.example.org"}, "https:// or unix:///"),
        (PelagosAccount, {"endpoint": "unix:///p.sock", "scope": "A b"}, "is wrong"),
        (PelagosAccount, {"endpoint": "unix:///p.sock", "poll_interval": 5000}, "above `build_timeout`"),
    ],
)
def test_wrong_keys(struct: Any, keys: dict[str, Any], said: str) -> None:
    _, problems = check_keys(struct, keys)
    assert len(problems) == 1
    assert said in problems[0][1]
