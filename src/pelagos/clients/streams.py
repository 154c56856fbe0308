"""Reading server-sent events (HTML standard, section 9.2), and going on where a stream broke off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing

import httpx2
import msgspec

from pelagos.clients.connection import Connection, lost, problem
from pelagos.model.errors import PelagosError, Retry
from pelagos.wire.infrastructures import EventView

__all__ = ["ServerSentEvent", "follow", "parse"]

END = "end"
SILENCE = 60.0
"""Seconds without a byte, not even a heartbeat, after which a connection counts as dead."""
TRIES = 12
"""Connections in a row that were not opened before giving up: with the pauses between them, about forty seconds."""


class ServerSentEvent(msgspec.Struct, frozen=True):
    event: str
    data: str
    id: str


async def parse(chunks: AsyncIterator[bytes]) -> AsyncIterator[ServerSentEvent]:
    """The events of a stream; comments are passed over, an unfinished last event is dropped as the standard says."""
    pending = b""
    event, data, last_id = "", list[str](), ""
    async for chunk in chunks:
        pending += chunk
        *lines, pending = pending.split(b"\n")
        for raw in lines:
            line = raw.removesuffix(b"\r").decode("utf-8", "replace")
            if not line:
                if data:
                    yield ServerSentEvent(event or "message", "\n".join(data), last_id)
                event, data = "", []
                continue
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            match name:
                case "event":
                    event = value
                case "data":
                    data.append(value)
                case "id":
                    last_id = value
                case _:
                    pass  # a comment, or a field of a newer standard


async def follow(
    connection: Connection, path: str, *, after: int, params: Mapping[str, str] | None = None
) -> AsyncGenerator[EventView, None]:
    """Events after a position as they happen, each once and in order, over as many connections as it takes.

    Ends when the server says that nothing can follow. Raises what the server answers, if trying again cannot help,
    and Unavailable when nobody answers for long."""
    position, failed, refused = after, 0, 0

    def opened() -> None:
        nonlocal refused
        refused = 0

    while True:
        try:
            async with aclosing(_once(connection, path, position, params or {}, opened)) as stream:
                async for sent in stream:
                    failed = 0
                    if sent.event == END:
                        return
                    view = msgspec.json.decode(sent.data, type=EventView)
                    if view.position > position:
                        position = view.position
                        yield view
        except PelagosError as error:
            if error.retry not in (Retry.TRANSIENT, Retry.UNCERTAIN) or refused >= TRIES:
                raise
        refused += 1
        failed += 1
        await asyncio.sleep(connection.pause_after(failed))


async def _once(
    connection: Connection, path: str, position: int, params: Mapping[str, str], opened: Callable[[], None]
) -> AsyncGenerator[ServerSentEvent, None]:
    headers = {"Accept": "text/event-stream", "Last-Event-ID": str(position)}
    timeout = httpx2.Timeout(10.0, read=SILENCE)
    http = connection.http
    try:
        async with http.stream("GET", path, params=dict(params), headers=headers, timeout=timeout) as response:
            if response.status_code != 200:
                await response.aread()
                raise problem(response)
            opened()
            async for sent in parse(response.aiter_bytes()):
                yield sent
    except httpx2.HTTPError as error:
        raise lost(error, http) from error
