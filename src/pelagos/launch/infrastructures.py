"""The infrastructures of a launch: brought up and taken down through the client, like any other."""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

from pelagos.clients import Client
from pelagos.clients.bundle import read_bundle
from pelagos.model.errors import Gone, InvalidInput, NotFound, PelagosError, from_payload
from pelagos.model.states import InfrastructureState, RunState
from pelagos.wire.infrastructures import RunRequest, RunView, StatusView

__all__ = ["bring_up", "is_ready", "outputs_of", "sources_of", "status_of", "take_down"]


def sources_of(
    files: list[str], directory: Path, variables: Mapping[str, Any]
) -> tuple[dict[str, str], list[str], str]:
    """The bundle with ``variables`` over those of the description, its entries, and the infrastructure's name.

    Raises what :func:`read_bundle` raises, and InvalidInput if no file describes an infrastructure."""
    sources, entries = read_bundle([directory / file for file in files])
    for entry in entries:
        document = _round_trip(sources[entry])
        if isinstance(document, dict) and "infra_name" in document:
            if variables:
                document["variables"] = {**(document.get("variables") or {}), **variables}
                sources[entry] = _dump(document)
            return sources, entries, str(document["infra_name"])
    raise InvalidInput(
        f"none of {', '.join(files)} describes an infrastructure", advice="Name a file that has `infra_name`."
    )


def _round_trip(text: str) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return YAML(typ="rt").load(text)
    except YAMLError:
        return None  # what is wrong with it is the compiler's to say, of all files at once


def _dump(document: Any) -> str:
    from ruamel.yaml import YAML

    stream = io.StringIO()
    YAML(typ="rt").dump(document, stream)
    return stream.getvalue()


async def bring_up(client: Client, sources: dict[str, str], entries: list[str], request_id: str) -> RunView:
    """What ``pelagos up`` does, followed to its end. A repeat with the same request id finds the first one's run.

    Raises what refuses it, and the run's error if it does not succeed."""
    request = RunRequest(kind="up", request_id=request_id, sources=sources, entries=tuple(entries))
    return await _followed(client, await client.runs.start(request))


async def take_down(client: Client, reference: str, request_id: str) -> None:
    """What ``pelagos down`` does; nothing if it is gone. Raises the run's error if it does not succeed."""
    try:
        run = await client.runs.start(RunRequest(kind="down", request_id=request_id, infrastructure=reference))
    except (NotFound, Gone):
        return
    await _followed(client, run)


async def _followed(client: Client, run: RunView) -> RunView:
    async with aclosing(client.runs.follow(run.id)) as events:
        async for _ in events:
            pass
    final = await client.runs.get(run.id)
    if final.state is not RunState.SUCCEEDED:
        if final.error is not None:
            raise from_payload(final.error)
        raise PelagosError(
            f"the run {final.kind} of {final.infrastructure} ended {final.state.value}",
            advice=f"See why: pelagos events {final.infrastructure}",
        )
    return final


async def status_of(client: Client, reference: str) -> StatusView | None:
    """None if there is no such infrastructure (any more)."""
    try:
        return await client.infrastructures.status(reference)
    except (NotFound, Gone):
        return None


def outputs_of(status: StatusView) -> dict[str, Any]:
    """``id``, ``name``, ``address`` (node -> that of its first ready instance) and ``nodes`` (node -> instances)."""
    nodes = {
        name: [
            {"id": id_, "address": instance.address, "cloud": instance.cloud, "state": instance.state.value}
            for id_, instance in node.instances.items()
        ]
        for name, node in status.nodes.items()
    }
    address = {
        name: next((i["address"] for i in instances if i["state"] == "ready"), "") for name, instances in nodes.items()
    }
    return {"id": status.id, "name": status.name, "address": address, "nodes": nodes}


def is_ready(status: StatusView | None) -> bool:
    return status is not None and status.state is InfrastructureState.READY
