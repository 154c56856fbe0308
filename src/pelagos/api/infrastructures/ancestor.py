"""The ancestor's paths that have no better name here (reference 10.2), with true HTTP codes.

Its `/info` answered any key of its information broker, stored secrets and credentials among them. Here it answers the
few keys that scripts use and that hold nothing secret; every other key is not found.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import msgspec
from sqlalchemy import Connection

from pelagos.api.binding import Call, Endpoint
from pelagos.api.problems import rejected
from pelagos.model.errors import NotFound
from pelagos.model.states import InstanceState
from pelagos.services.infrastructure.messages import CostsRequest
from pelagos.wire.infrastructures import RunRequest, ScalingStatus, StatusView
from pelagos.wire.pages import RunAccepted

__all__ = ["ENDPOINTS"]

ONE = "/infrastructures/{infrastructure}"
TAG = "ancestor"
MAX_COUNT = 1_000_000


class AncestorInstance(msgspec.Struct, frozen=True):
    resource_address: str
    state: InstanceState


class AncestorNode(msgspec.Struct, frozen=True):
    instances: dict[str, AncestorInstance]
    scaling: ScalingStatus


CostView = dict[str, float | str | Mapping[str, float | Mapping[str, float | None] | None] | None]
"""``totalcost``, then each node with the cost of its instances, an hour; beside the ancestor's keys ``currency``, and
``nodes`` with all nodes, among them one that is called as another key here. A cost that is not known is null, never a
made-up zero, and so is a total with one in it."""


class NotifyRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    sinks: tuple[Annotated[str, msgspec.Meta(max_length=64)], ...] = ()
    """Names of sinks in the configuration."""


class NotifyView(msgspec.Struct, frozen=True, kw_only=True):
    infraid: str
    sinks: tuple[str, ...]


class InfoView(msgspec.Struct, frozen=True):
    result: Any


class ScaleQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A repeat with the same ``request_id`` finds the first one's run."""

    request_id: Annotated[str, msgspec.Meta(max_length=64)] = ""


class InfoQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    infra_id: str = ""
    node_id: str | None = None
    name: str | None = None


async def get(call: Call) -> dict[str, AncestorNode]:
    view = await _status(call, call.path("infrastructure"))
    return {
        name: AncestorNode(
            instances={
                key: AncestorInstance(resource_address=instance.address, state=instance.state)
                for key, instance in node.instances.items()
            },
            scaling=node.scaling,
        )
        for name, node in view.nodes.items()
    }


async def scale_up(call: Call) -> RunAccepted:
    count = _count(call, "count", least=1)
    return await _scale(call, "scaleup", f"+{count}", count=count)


async def scale_up_by_one(call: Call) -> RunAccepted:
    return await _scale(call, "scaleup", "+1", count=1)


async def scale_down(call: Call) -> RunAccepted:
    accepted = await _scale(call, "scaledown", "-1")
    return msgspec.structs.replace(accepted, nodeid=None)


async def scale_down_instance(call: Call) -> RunAccepted:
    return await _remove(call)


async def scale_to(call: Call) -> RunAccepted:
    count = _count(call, "count", least=0)
    return await _scale(call, "scaleto", str(count), count=count)


async def notify(call: Call) -> NotifyView:
    raw = await call.raw()
    if _is_push(raw):
        raise rejected(
            422,
            "push messages by Firebase keys are not sent any more: the service that took them is closed",
            advice='Configure a webhook, and send {"sinks": ["its name"]}; see the guide to notifications.',
        )
    request = await call.body(NotifyRequest)
    view = await _status(call, call.path("infrastructure"))
    return NotifyView(infraid=view.id, sinks=await call.edge.route(view.id, request.sinks))


def _is_push(raw: bytes) -> bool:
    """Whether the body is what the ancestor took."""
    try:
        given = msgspec.json.decode(raw or b"{}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return isinstance(given, dict) and given.get("type") == "fcm"


async def cost(call: Call) -> CostView:
    costs = await call.edge.commands.costs(CostsRequest(infrastructure=call.path("infrastructure")))
    ours: CostView = {"totalcost": costs.total, "currency": costs.currency, "nodes": costs.nodes}
    return {**ours, **{name: known for name, known in costs.nodes.items() if name not in ours}}


async def info(call: Call) -> InfoView:
    key, query = call.path("key"), call.query
    answer = _INFO.get(key)
    if answer is None:
        raise NotFound(f"there is no key {key!r}", advice=f"Keys are {', '.join(_INFO)}.")
    if not query.infra_id:
        raise rejected(422, f"{key} needs the parameter infra_id")
    return InfoView(answer(await _status(call, query.infra_id), query))


def _info_name(view: StatusView, query: InfoQuery) -> Any:
    return view.name


def _info_state(view: StatusView, query: InfoQuery) -> Any:
    return {
        name: {
            key: {"state": instance.state, "resource_address": instance.address}
            for key, instance in node.instances.items()
        }
        for name, node in view.nodes.items()
    }


def _info_find(view: StatusView, query: InfoQuery) -> Any:
    return [
        {
            "infra_id": view.id,
            "node_id": key,
            "name": name,
            "state": instance.state,
            "resource_address": instance.address,
        }
        for name, node in view.nodes.items()
        if query.name is None or query.name == name
        for key, instance in node.instances.items()
        if query.node_id is None or query.node_id == key
    ]


_INFO: dict[str, Callable[[StatusView, InfoQuery], Any]] = {
    "infrastructure.name": _info_name,
    "infrastructure.state": _info_state,
    "node.find": _info_find,
}


async def _status(call: Call, reference: str) -> StatusView:
    def read(connection: Connection) -> StatusView:
        return call.edge.queries.status(connection, call.scope, reference)

    return await call.read(read)


async def _scale(call: Call, method: str, change: str, count: int | None = None) -> RunAccepted:
    node = call.path("node")
    request = RunRequest(
        kind="scale",
        infrastructure=call.path("infrastructure"),
        scale={node: change},
        request_id=call.query.request_id,
    )
    view = await call.edge.commands.start_run(request)
    return RunAccepted(infraid=view.infrastructure_id, run=view.id, method=method, nodename=node, count=count)


async def _remove(call: Call) -> RunAccepted:
    node, instance = call.path("node"), call.path("instance")
    status = await _status(call, call.path("infrastructure"))
    instances = status.nodes[node].instances if node in status.nodes else {}
    if not any(instance in (key, view.address) for key, view in instances.items()):
        raise NotFound(f"node {node!r} has no instance {instance!r}", advice="GET .../status shows ids and addresses.")
    request = RunRequest(kind="scale", infrastructure=status.id, remove=(instance,), request_id=call.query.request_id)
    view = await call.edge.commands.start_run(request)
    return RunAccepted(infraid=view.infrastructure_id, run=view.id, method="scaledown", nodename=node, nodeid=instance)


def _count(call: Call, name: str, *, least: int) -> int:
    text = call.path(name)
    if not (text.isascii() and text.isdigit() and len(text) < 8 and least <= int(text) <= MAX_COUNT):
        raise rejected(422, f"{text[:40]!r} is not a number from {least} to {MAX_COUNT}")
    return int(text)


def _scaling(path: str, handler: Any, summary: str) -> Endpoint:
    return Endpoint(
        method="POST",
        path=f"{ONE}/{path}",
        handler=handler,
        summary=summary,
        tag=TAG,
        answer=RunAccepted,
        status=202,
        query=ScaleQuery,
    )


ENDPOINTS = (
    Endpoint(
        method="GET",
        path=ONE,
        handler=get,
        summary="Its nodes: instances with address and state, and scaling",
        tag=TAG,
        answer=dict[str, AncestorNode],
    ),
    _scaling("scaleup/{node}", scale_up_by_one, "One instance more"),
    _scaling("scaleup/{node}/{count}", scale_up, "So many instances more"),
    _scaling("scaledown/{node}", scale_down, "One instance less"),
    _scaling("scaledown/{node}/{instance}", scale_down_instance, "This instance, by id or address, goes"),
    _scaling("scaleto/{node}/{count}", scale_to, "So many instances"),
    Endpoint(
        method="POST",
        path=f"{ONE}/notify",
        handler=notify,
        summary="Have configured sinks told of this infrastructure; none: only what their configuration says",
        tag=TAG,
        answer=NotifyView,
        body=NotifyRequest,
    ),
    Endpoint(
        method="GET",
        path=f"{ONE}/cost",
        handler=cost,
        summary="What its instances cost an hour, and in all; null where no price is known",
        tag=TAG,
        answer=CostView,
    ),
    Endpoint(
        method="GET",
        path="/info/{key}",
        handler=info,
        summary=f"One of {', '.join(_INFO)}",
        tag=TAG,
        answer=InfoView,
        query=InfoQuery,
    ),
)
