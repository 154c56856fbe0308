"""Infrastructures: what they are, why they are so, and starting what changes them."""

from __future__ import annotations

from typing import Annotated

import msgspec
from sqlalchemy import Connection

from pelagos.api.binding import Call, Endpoint
from pelagos.api.infrastructures.bodies import YAML, Bundle, read_bundle_body
from pelagos.services.infrastructure.messages import LogsRequest, RefreshLive, SetMaintained
from pelagos.wire.infrastructures import (
    ExplainView,
    GraphView,
    InfrastructureSummary,
    RunRequest,
    StatusView,
)
from pelagos.wire.pages import InfrastructureList, LogList, MaintainedView, RunAccepted, RunList

__all__ = ["ENDPOINTS"]

INFRASTRUCTURES = "/infrastructures"
ONE = "/infrastructures/{infrastructure}"
TAG = "infrastructures"


class ListQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str | None = None
    deleted: bool = False


class StatusQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """With ``live``, the clouds are asked first."""

    live: bool = False


class NodeQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    node: str | None = None


class DetachQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is not attached cannot be detached, as the ancestor had it; if ``repeatable``, that is no error."""

    repeatable: bool = False


class RequestQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A repeat with the same ``request_id`` finds the first one's run."""

    request_id: Annotated[str, msgspec.Meta(max_length=64)] = ""


async def list_infrastructures(call: Call) -> InfrastructureList:
    query: ListQuery = call.query

    def read(connection: Connection) -> list[InfrastructureSummary]:
        return call.edge.queries.list_infrastructures(connection, call.scope, name=query.name, deleted=query.deleted)

    items = await call.read(read)
    ids = tuple(item.id for item in items)
    return InfrastructureList(infrastructures=ids, infrastuctures=ids, items=tuple(items))


async def create(call: Call) -> RunAccepted:
    bundle = await read_bundle_body(call)
    request = RunRequest(
        kind="up",
        sources=bundle.sources,
        entries=bundle.entries,
        map_clouds=bundle.map_clouds,
        new=True,
        request_id=call.query.request_id,
    )
    view = await call.edge.commands.start_run(request)
    return RunAccepted(infraid=view.infrastructure_id, run=view.id)


async def update(call: Call) -> RunAccepted:
    bundle = await read_bundle_body(call)
    request = RunRequest(
        kind="up",
        infrastructure=call.path("infrastructure"),
        sources=bundle.sources,
        entries=bundle.entries,
        map_clouds=bundle.map_clouds,
        request_id=call.query.request_id,
    )
    view = await call.edge.commands.start_run(request)
    return RunAccepted(infraid=view.infrastructure_id, run=view.id)


async def destroy(call: Call) -> RunAccepted:
    request = RunRequest(kind="down", infrastructure=call.path("infrastructure"), request_id=call.query.request_id)
    view = await call.edge.commands.start_run(request)
    return RunAccepted(infraid=view.infrastructure_id, run=view.id)


async def status(call: Call) -> StatusView:
    reference = call.path("infrastructure")
    if call.query.live:
        await call.edge.commands.refresh_live(RefreshLive(infrastructure=reference))
    return await call.read(lambda connection: call.edge.queries.status(connection, call.scope, reference))


async def explain(call: Call) -> ExplainView:
    reference, node = call.path("infrastructure"), call.query.node
    return await call.read(lambda connection: call.edge.queries.explain(connection, call.scope, reference, node))


async def graph(call: Call) -> GraphView:
    reference = call.path("infrastructure")
    return await call.read(lambda connection: call.edge.queries.graph(connection, call.scope, reference))


async def logs(call: Call) -> LogList:
    found = await call.edge.commands.logs(
        LogsRequest(infrastructure=call.path("infrastructure"), node=call.query.node or "")
    )
    return LogList(items=found.items)


async def runs(call: Call) -> RunList:
    reference = call.path("infrastructure")
    found = await call.read(lambda connection: call.edge.queries.runs(connection, call.scope, reference))
    return RunList(items=tuple(found))


async def attach(call: Call) -> MaintainedView:
    """No error where it is attached already: the ancestor's scripts attach all after a restart; here, that is so."""
    return MaintainedView.of(
        await call.edge.commands.set_maintained(
            SetMaintained(infrastructure=call.path("infrastructure"), maintained=True)
        )
    )


async def detach(call: Call) -> MaintainedView:
    return MaintainedView.of(
        await call.edge.commands.set_maintained(
            SetMaintained(
                infrastructure=call.path("infrastructure"), maintained=False, strict=not call.query.repeatable
            )
        )
    )


ENDPOINTS = (
    Endpoint(
        method="GET",
        path=INFRASTRUCTURES,
        handler=list_infrastructures,
        summary="All infrastructures of the project",
        tag=TAG,
        answer=InfrastructureList,
        query=ListQuery,
    ),
    Endpoint(
        method="POST",
        path=INFRASTRUCTURES,
        handler=create,
        summary="Build a new infrastructure from YAML or a bundle; answers before it is built",
        tag=TAG,
        answer=RunAccepted,
        status=202,
        other_body=YAML,
        body=Bundle,
        query=RequestQuery,
    ),
    Endpoint(
        method="PUT",
        path=ONE,
        handler=update,
        summary="Change an infrastructure to a new description",
        tag=TAG,
        answer=RunAccepted,
        status=202,
        other_body=YAML,
        body=Bundle,
        query=RequestQuery,
    ),
    Endpoint(
        method="DELETE",
        path=ONE,
        handler=destroy,
        summary="Destroy an infrastructure",
        tag=TAG,
        answer=RunAccepted,
        status=202,
        query=RequestQuery,
    ),
    Endpoint(
        method="GET",
        path=f"{ONE}/status",
        handler=status,
        summary="Its state, nodes and instances",
        tag=TAG,
        answer=StatusView,
        query=StatusQuery,
    ),
    Endpoint(
        method="GET",
        path=f"{ONE}/explain",
        handler=explain,
        summary="Why it, or a node, is not ready",
        tag=TAG,
        answer=ExplainView,
        query=NodeQuery,
    ),
    Endpoint(
        method="GET",
        path=f"{ONE}/graph",
        handler=graph,
        summary="Its nodes and what they depend on",
        tag=TAG,
        answer=GraphView,
    ),
    Endpoint(
        method="GET",
        path=f"{ONE}/logs",
        handler=logs,
        summary="Console output of its instances",
        tag=TAG,
        answer=LogList,
        query=NodeQuery,
    ),
    Endpoint(method="GET", path=f"{ONE}/runs", handler=runs, summary="Its runs", tag=TAG, answer=RunList),
    Endpoint(
        method="POST",
        path=f"{ONE}/attach",
        handler=attach,
        summary="The daemon keeps it alive",
        tag=TAG,
        answer=MaintainedView,
    ),
    Endpoint(
        method="POST",
        path=f"{ONE}/detach",
        handler=detach,
        summary="The daemon leaves it alone",
        tag=TAG,
        answer=MaintainedView,
        query=DetachQuery,
    ),
)
