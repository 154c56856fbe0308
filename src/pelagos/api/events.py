"""Endpoints of events: a page as JSON, or the stream."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from sqlalchemy import Connection

from pelagos.api.binding import Call, Endpoint, Reply
from pelagos.api.problems import rejected
from pelagos.api.streams import Batch, event_stream
from pelagos.wire.pages import EventPage

__all__ = ["ENDPOINTS", "EventQuery", "answer_events", "infrastructure_events", "run_events"]

MAX_POSITION = 2**63 - 1
MAX_PAGE = 1000


class EventQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``after`` is the position of the last event known; ``follow`` asks for the stream."""

    after: Annotated[int, msgspec.Meta(ge=0, le=MAX_POSITION)] = 0
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_PAGE)] = MAX_PAGE
    follow: bool = False


async def answer_events(call: Call, *, infrastructure: str | None = None, run: str | None = None) -> Any:
    """A page or a stream of events; that of a run ends when the run is final."""
    query: EventQuery = call.query
    follow = query.follow or "text/event-stream" in call.request.headers.get("accept", "")
    after = _last_event_id(call, query.after)
    limit = min(query.limit, call.edge.limits.event_batch) if follow else query.limit
    queries = call.edge.queries

    def look(connection: Connection, position: int) -> Batch:
        view = None if run is None else queries.run(connection, call.scope, run)
        inside = infrastructure if view is None else view.infrastructure_id
        found = queries.events(connection, call.scope, after=position, limit=limit, infrastructure=inside)
        return Batch(
            events=[event for event in found if run is None or event.run_id == run],
            position=found[-1].position if found else position,
            final=view if view is not None and view.state.final else None,
        )

    async def source(position: int) -> Batch:
        return await call.read(lambda connection: look(connection, position))

    first = await source(after)
    if follow:
        return Reply(stream=event_stream(call.edge, source, first, after=after))
    return EventPage(items=tuple(first.events), next=first.position)


def _last_event_id(call: Call, otherwise: int) -> int:
    text = call.request.headers.get("last-event-id", "")
    if not text:
        return otherwise
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= MAX_POSITION):
        raise rejected(400, "the header Last-Event-ID is not a position")
    return int(text)


async def all_events(call: Call) -> Any:
    return await answer_events(call)


async def infrastructure_events(call: Call) -> Any:
    reference = call.path("infrastructure")
    found = await call.read(lambda connection: call.edge.queries.resolve(connection, call.scope, reference))
    return await answer_events(call, infrastructure=found)


async def run_events(call: Call) -> Any:
    return await answer_events(call, run=call.path("run"))


def _endpoint(path: str, handler: Any, summary: str) -> Endpoint:
    return Endpoint(
        method="GET",
        path=path,
        handler=handler,
        summary=summary,
        tag="events",
        answer=EventPage,
        query=EventQuery,
        events=True,
    )


ENDPOINTS = (
    _endpoint("/events", all_events, "Events of the project, by position"),
    _endpoint("/infrastructures/{infrastructure}/events", infrastructure_events, "Events of one infrastructure"),
    _endpoint("/runs/{run}/events", run_events, "Events of one run; the stream ends when the run is final"),
)
