"""Runs and plans: the way that this project's own clients take."""

from __future__ import annotations

from sqlalchemy import Connection

from pelagos.api.binding import Call, Endpoint, Reply
from pelagos.api.problems import rejected
from pelagos.services.infrastructure.messages import CancelRun
from pelagos.wire.infrastructures import GraphRequest, GraphView, PlanRequest, PlanView, RunRequest, RunView
from pelagos.wire.pages import RunCancel

__all__ = ["ENDPOINTS"]


async def plan(call: Call) -> PlanView:
    request = await call.body(PlanRequest)
    if not (request.infrastructure or request.sources or request.entries):
        raise rejected(
            422,
            "nothing is to be planned: neither a description nor an infrastructure was named",
            advice="Name files of `sources` in `entries`, or an `infrastructure` with `scale` or `down`.",
        )
    return await call.edge.commands.plan(request)


async def graph(call: Call) -> GraphView:
    return await call.edge.commands.graph(await call.body(GraphRequest))


async def start(call: Call) -> Reply:
    view = await call.edge.commands.start_run(await call.body(RunRequest))
    return Reply(view, headers={"Location": f"/runs/{view.id}"})


async def get(call: Call) -> RunView:
    run = call.path("run")

    def read(connection: Connection) -> RunView:
        return call.edge.queries.run(connection, call.scope, run)

    return await call.read(read)


async def cancel(call: Call) -> RunView:
    body = await call.body(RunCancel)
    return await call.edge.commands.cancel_run(CancelRun(run_id=call.path("run"), keep=body.keep))


ENDPOINTS = (
    Endpoint(
        method="POST",
        path="/plan",
        handler=plan,
        summary="What a run would change; nothing is changed",
        tag="runs",
        answer=PlanView,
        body=PlanRequest,
    ),
    Endpoint(
        method="POST",
        path="/graph",
        handler=graph,
        summary="The nodes of a description and what they depend on",
        tag="runs",
        answer=GraphView,
        body=GraphRequest,
    ),
    Endpoint(
        method="POST",
        path="/runs",
        handler=start,
        summary="Start a run; follow its events",
        tag="runs",
        answer=RunView,
        status=202,
        body=RunRequest,
    ),
    Endpoint(method="GET", path="/runs/{run}", handler=get, summary="A run", tag="runs", answer=RunView),
    Endpoint(
        method="POST",
        path="/runs/{run}/cancel",
        handler=cancel,
        summary="Stop a run and roll back what it made, or keep that",
        tag="runs",
        answer=RunView,
        status=202,
        body=RunCancel,
    ),
)
