"""The thin binding between HTTP and handlers: routes as values, bodies and parameters as Structs.

A handler is an async function of one :class:`Call` and returns a Struct (or a :class:`Reply` for another status). What
it takes and gives is declared beside it in an :class:`Endpoint`, from which both the dispatch and the OpenAPI document
are made, so that they cannot differ. Endpoints of one path are grouped, since Starlette's own method check answers 405
with the methods of the first route only.

The way not chosen was a fuller framework: its dependency injection and second type system cost more start-up time than
all the rest of the edge.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.routing import BaseRoute, Route, Router
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as ASGIScope

from pelagos.api.edge import Edge
from pelagos.api.problems import rejected
from pelagos.model.scope import Scope

__all__ = ["Call", "Endpoint", "NoQuery", "Reply", "build_router"]

T = TypeVar("T")

_encode = msgspec.json.Encoder().encode


class NoQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An endpoint without query parameters."""


class Reply(msgspec.Struct, frozen=True):
    """An answer with another status or headers than the endpoint's own. ``stream`` is an ASGI application that sends
    the whole answer itself."""

    body: Any = None
    status: int | None = None
    headers: dict[str, str] = {}
    stream: Any = None


class Call:
    """One request, as a handler sees it."""

    def __init__(self, edge: Edge, request: Request, query: Any) -> None:
        self.edge = edge
        self.request = request
        self.query = query
        scope = request.scope.get("pelagos.scope")
        if not isinstance(scope, Scope):
            raise RuntimeError("no gate has said whose request this is")
        self.scope: Scope = scope

    def path(self, name: str) -> str:
        """A parameter of the path, decoded."""
        return str(self.request.path_params[name])

    @property
    def content_type(self) -> str:
        return self.request.headers.get("content-type", "").split(";")[0].strip().lower()

    async def raw(self) -> bytes:
        """The body as it came."""
        try:
            return await self.request.body()
        except ClientDisconnect:
            raise rejected(400, "the connection was closed before the whole body came") from None

    async def body(self, kind: type[T]) -> T:
        """The JSON body as a Struct. No body at all counts as ``{}``."""
        raw = await self.raw()
        if raw and self.content_type not in ("", "application/json"):
            raise rejected(
                415,
                f"a body of type {self.content_type} is not understood here",
                advice="Send JSON with Content-Type: application/json.",
            )
        try:
            return msgspec.json.decode(raw or b"{}", type=kind)
        except msgspec.ValidationError as error:
            raise rejected(422, f"the body does not fit: {error}") from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise rejected(400, f"the body is not JSON: {error}") from None

    async def read(self, query: Callable[[Any], T]) -> T:
        """Run a query on the store."""
        return await self.edge.store.read(query)


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One method of one path."""

    method: str
    path: str
    handler: Callable[[Call], Awaitable[Any]]
    summary: str
    tag: str
    answer: Any = None
    """Type of the success body."""
    status: int = 200
    body: Any = None
    """Type of the JSON body, for the document; handlers decode it with ``Call.body``."""
    other_body: tuple[str, ...] = ()
    """Media types of bodies that are taken as they are."""
    body_required: bool = False
    query: type[msgspec.Struct] = NoQuery
    events: bool = False
    """May answer with a stream of server-sent events."""
    never: tuple[int, ...] = ()
    """Statuses with which an endpoint that never succeeds refuses."""


class _Resource:
    """All endpoints of one path, as an ASGI application."""

    def __init__(self, edge: Edge, endpoints: Iterable[Endpoint]) -> None:
        self._edge = edge
        self._methods = {endpoint.method: endpoint for endpoint in endpoints}
        if "GET" in self._methods:
            self._methods["HEAD"] = self._methods["GET"]

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        endpoint = self._methods.get(scope["method"])
        if endpoint is None:
            allowed = ", ".join(sorted(self._methods))
            raise rejected(
                405, f"{scope['method']} is not possible here", advice=f"Use {allowed}.", headers={"Allow": allowed}
            )
        request = Request(scope, receive)
        call = Call(self._edge, request, _query(endpoint, request))
        answer = await endpoint.handler(call)
        reply = answer if isinstance(answer, Reply) else Reply(answer)
        if reply.stream is not None:
            await reply.stream(scope, receive, send)
            return
        status = reply.status or endpoint.status
        headers = [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in reply.headers.items()]
        body = b""
        if status != 204:
            body = reply.body if isinstance(reply.body, bytes) else _encode(reply.body)
            headers.append((b"content-type", b"application/json"))
            headers.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


def _query(endpoint: Endpoint, request: Request) -> Any:
    items = request.query_params.multi_items()
    values: dict[str, str] = {}
    for name, value in items:
        if name in values:
            raise rejected(422, f"the parameter {name!r} is given more than once")
        values[name] = value
    try:
        return msgspec.convert(values, endpoint.query, strict=False)
    except msgspec.ValidationError as error:
        raise rejected(422, f"the parameters after the question mark do not fit: {error}") from None


def build_router(edge: Edge, endpoints: Iterable[Endpoint]) -> ASGIApp:
    """The application that answers these endpoints; a final slash makes no difference."""
    paths: dict[str, list[Endpoint]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, []).append(endpoint)
    routes: list[BaseRoute] = [Route(path, _Resource(edge, group)) for path, group in paths.items()]
    router = Router(routes, redirect_slashes=False, default=_unknown)

    async def without_final_slash(scope: ASGIScope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if len(path) > 1 and path.endswith("/"):
            scope = {**scope, "path": path.rstrip("/") or "/"}
        await router(scope, receive, send)

    return without_final_slash


async def _unknown(scope: ASGIScope, receive: Receive, send: Send) -> None:
    raise rejected(
        404, f"there is nothing at {scope['path']}", code="not_found", advice="/openapi.json lists what there is."
    )
