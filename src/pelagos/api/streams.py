"""Events as they happen: server-sent events, read from the store by position.

The stream holds no state but a position: it reads the rows after it, sends them, and waits for the store's bell. So a
reader who was cut off goes on where it was (``Last-Event-ID`` is the position), a slow reader costs one batch of
memory, and an event cannot be lost between a commit and a message about it. What waits, waits on the bell or the
heartbeat: nothing polls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import msgspec
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as ASGIScope

from pelagos.api.edge import Edge
from pelagos.wire.infrastructures import EventView

__all__ = ["END", "Batch", "EventSource", "event_stream"]

END = "end"
"""Name of the stream's last event: what was followed is final, nothing will come. Its data is the followed thing."""

_encode = msgspec.json.Encoder().encode


class Batch(msgspec.Struct, frozen=True):
    """What one look found. ``position`` is how far it looked, which may be past the last event that is of interest;
    ``final`` is set when nothing can follow once no more is found."""

    events: list[EventView]
    position: int
    final: msgspec.Struct | None = None


EventSource = Callable[[int], Awaitable[Batch]]
"""Looks for events after a position, in one transaction with what says that no more will come."""


def event_stream(edge: Edge, source: EventSource, first: Batch, *, after: int) -> ASGIApp:
    """The ASGI application that sends the stream. ``first`` is what the caller found after ``after`` already: whatever
    is wrong with the request has then been answered with a status."""

    async def stream(scope: ASGIScope, receive: Receive, send: Send) -> None:
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if scope["method"] != "HEAD":
            edge.count("streams_opened")
            try:
                await _until_gone(_follow(edge, source, first, after, send), receive, edge.closing)
            finally:
                edge.count("streams_closed")
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return stream


async def _follow(edge: Edge, source: EventSource, batch: Batch, position: int, send: Send) -> None:
    async def chunk(data: bytes) -> None:
        await send({"type": "http.response.body", "body": data, "more_body": True})

    watch = edge.store.watch()
    watched = False  # whether `batch` was read while the bell was there already
    try:
        await chunk(b": pelagos events\n\n")
        while True:
            if batch.position > position:
                position = batch.position
                if batch.events:
                    await chunk(b"".join(_frame(event) for event in batch.events))
            elif batch.final is not None:
                await chunk(b"event: %s\ndata: %s\n\n" % (END.encode(), _encode(batch.final)))
                return
            elif watched and not await watch.changed(edge.limits.heartbeat):
                await chunk(b": still here\n\n")
            batch = await source(position)
            watched = True
    finally:
        watch.close()


def _frame(event: EventView) -> bytes:
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (event.position, event.kind.encode(), _encode(event))


async def _until_gone(stream: Coroutine[Any, Any, None], receive: Receive, closing: asyncio.Event) -> None:
    """Run the stream until it ends, its reader goes, or the server closes."""

    async def reader_gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async def server_closes() -> None:
        await closing.wait()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work) for work in (stream, reader_gone(), server_closes())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
