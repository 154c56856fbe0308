"""The application's outer layers, as plain ASGI: who asks, until when, and what becomes of an error.

One router has two faces. The *trusted* one is for callers whom the operating system has admitted already: this very
process, and peers of the 0600 socket. The *guarded* one is for TCP, see :mod:`pelagos.api.guard`. A request that comes
past neither has no scope, and the binding refuses it: forgetting a gate fails closed.

The layers are functions around an application, not a framework's middleware classes: those wrap the response in a task
group of their own, which costs time and breaks streams.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as ASGIScope

from pelagos.api.edge import Edge
from pelagos.api.problems import HttpProblem, internal_problem, problem_response, rejected
from pelagos.clouds.errors import CloudError
from pelagos.model.errors import PelagosError
from pelagos.model.scope import DEFAULT_SCOPE, Scope
from pelagos.process.context import Context, use_context
from pelagos.process.log import get_logger

__all__ = ["DEADLINE_HEADER", "Admission", "face"]

log = get_logger(__name__)

DEADLINE_HEADER = "pelagos-timeout"
"""Seconds that the caller will wait for the answer."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")

Admission = Callable[[ASGIScope], Awaitable[Scope]]
"""Says whose request it is, or raises."""


async def trust(scope: ASGIScope) -> Scope:
    """Whoever reaches this face is this installation's own user."""
    return DEFAULT_SCOPE


def face(edge: Edge, router: ASGIApp, admit: Admission = trust) -> ASGIApp:
    """The application for one kind of caller."""

    async def application(scope: ASGIScope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1003})
            return
        await _Request(edge, router, admit).serve(scope, receive, send)

    return application


class _Request:
    """One request on its way through the layers."""

    def __init__(self, edge: Edge, router: ASGIApp, admit: Admission) -> None:
        self._edge = edge
        self._router = router
        self._admit = admit
        self._started = False

    async def serve(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        given = _header(scope, b"x-request-id")
        trace = given if given and _REQUEST_ID.match(given) else self._edge.world.new_id()
        extra = [
            (b"x-request-id", trace.encode()),
            (b"pelagos-version", self._edge.version.encode()),
            (b"x-content-type-options", b"nosniff"),
        ]

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._started = True
                self._edge.count(f"responses_{message['status'] // 100}xx")
                message = {**message, "headers": [*message.get("headers", []), *extra]}
            await send(message)

        try:
            await self._answer(scope, receive, send_with_headers, trace)
        except (PelagosError, HttpProblem) as error:
            await self._problem(error, scope, send_with_headers, trace)
        except Exception as error:  # the edge: logged here, its inside is not told
            log.error("request failed", method=scope["method"], path=scope["path"], trace=trace, exc_info=error)
            if self._started:
                raise
            await self._problem(internal_problem(trace), scope, send_with_headers, trace)

    async def _problem(self, error: PelagosError | HttpProblem, scope: ASGIScope, send: Send, trace: str) -> None:
        status, headers, body = problem_response(error, instance=scope["path"])
        if status >= 500:
            # That a cloud is away is told to whoever asked; it is no trouble of ours.
            tell = log.info if isinstance(error, CloudError) else log.warning
            tell("request refused", method=scope["method"], path=scope["path"], status=status, why=str(error))
        if self._started:
            raise error  # the answer has begun: all that is left is to break the connection
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _answer(self, scope: ASGIScope, receive: Receive, send: Send, trace: str) -> None:
        if "\0" in scope["path"] or b"\0" in scope["query_string"] or b"%00" in scope["query_string"]:
            raise rejected(422, "a NUL character means nothing here")
        owner = await self._admit(scope)
        deadline = self._edge.world.monotonic() + self._timeout(scope)
        limited = _limited(scope, receive, self._edge.limits.body_bytes)
        with use_context(Context(owner, deadline=deadline, trace=trace)):
            await self._router({**scope, "pelagos.scope": owner}, limited, send)

    def _timeout(self, scope: ASGIScope) -> float:
        limit = self._edge.limits.command_timeout
        text = _header(scope, DEADLINE_HEADER.encode())
        if not text:
            return limit
        try:
            seconds = float(text)
        except ValueError:
            seconds = -1.0
        if not 0 < seconds < float("inf"):
            raise rejected(400, f"the header {DEADLINE_HEADER} is not a positive number of seconds: {text[:40]!r}")
        return min(seconds, limit)


def _header(scope: ASGIScope, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")


def _limited(scope: ASGIScope, receive: Receive, limit: int) -> Receive:
    """``receive`` that refuses a body of more than ``limit`` bytes, declared or not.

    The connection stays open: closing it on a client that still sends would reset it, and the answer with it. The
    server reads what comes after the answer and throws it away."""
    declared = _header(scope, b"content-length")
    too_large = rejected(
        413,
        f"the body is larger than {limit} bytes",
        advice="Send less, or raise http.body_bytes in the server's configuration.",
    )
    if declared.isdigit() and int(declared) > limit:
        raise too_large
    seen = 0

    async def counting() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise too_large
        return message

    return counting


async def _lifespan(receive: Receive, send: Send) -> None:
    """The runtime starts and stops what lies below, not the server; it is only told that all is well."""
    while True:
        message: dict[str, Any] = dict(await receive())
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
