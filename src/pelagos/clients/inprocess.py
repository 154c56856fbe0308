"""An httpx transport that calls an ASGI application in this process, and streams.

The library's own ASGI transport gathers the whole body before it answers, so a stream of events would never begin.
This one runs the application as a task of its own and hands the chunks over as they come, one at a time: the
application's ``send`` returns when its chunk was taken, so a slow reader slows the writer as a socket would.

A reader who goes away (closes the response, or is cancelled) is told to the application as a server would tell it:
``receive`` returns ``http.disconnect``, and what is sent after that goes nowhere. The application ends by itself; only
closing the transport cancels it. Tasks are owned by the transport's task group, so it must be entered and left in one
task.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from types import TracebackType
from typing import Any, Self

import httpx2

__all__ = ["ASGIApplication", "InProcessTransport"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApplication = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


class InProcessTransport(httpx2.AsyncBaseTransport):
    """Use as an async context manager, or through a client that is one."""

    def __init__(self, app: ASGIApplication) -> None:
        self._app = app
        self._group: asyncio.TaskGroup | None = None
        self._exchanges: dict[_Exchange, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Self:
        if self._group is not None:
            raise RuntimeError("this transport is open already")
        self._group = await asyncio.TaskGroup().__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        group, self._group = self._group, None
        if group is not None:
            for exchange, task in list(self._exchanges.items()):
                exchange.disconnect()
                task.cancel()
            # The group wraps what its body raises; the body here is the caller's code, whose errors are its own. Only
            # a cancellation is the group's to know: it may be the group itself that asked for it.
            if isinstance(exc_value, asyncio.CancelledError):
                await group.__aexit__(exc_type, exc_value, traceback)
            else:
                await group.__aexit__(None, None, None)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Raises :class:`httpx2.ConnectError` if the transport is not open, RemoteProtocolError if the application
        ended without an answer."""
        if self._group is None:
            raise httpx2.ConnectError("the in-process transport is not open", request=request)
        exchange = _Exchange(request)
        task = self._group.create_task(exchange.run(self._app), name=f"{request.method} {request.url.path}")
        self._exchanges[exchange] = task
        task.add_done_callback(lambda _: self._exchanges.pop(exchange, None))
        try:
            async with asyncio.timeout(request.extensions.get("timeout", {}).get("read")):
                status, headers = await exchange.started
        except TimeoutError:
            exchange.disconnect()
            raise httpx2.ReadTimeout("no answer within the time-out", request=request) from None
        except asyncio.CancelledError:
            exchange.disconnect()
            raise
        return httpx2.Response(status, headers=headers, stream=_Stream(exchange))

    async def idle(self) -> None:
        """Return when no request is in flight; new ones may come meanwhile."""
        while self._exchanges:
            await asyncio.wait(list(self._exchanges.values()))

    def snapshot(self) -> dict[str, Any]:
        """Requests in flight."""
        return {"open": self._group is not None, "in_flight": len(self._exchanges)}


class _Exchange:
    """One request and its response."""

    def __init__(self, request: httpx2.Request) -> None:
        self.request = request
        self.started: asyncio.Future[tuple[int, list[tuple[bytes, bytes]]]]
        self.started = asyncio.get_running_loop().create_future()
        self._request_body: AsyncIterator[bytes] | None = None
        self._request_done = False
        self._chunk: bytes | None = None
        self._more = asyncio.Event()
        self._taken = asyncio.Event()
        self._taken.set()
        self._gone = asyncio.Event()
        self._complete = False
        self._broken: BaseException | None = None

    def disconnect(self) -> None:
        """The reader has gone."""
        self._gone.set()
        self._taken.set()
        if not self.started.done():
            self.started.cancel()

    async def run(self, app: ASGIApplication) -> None:
        url = self.request.url
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": self.request.method,
            "headers": [(name.lower(), value) for name, value in self.request.headers.raw],
            "scheme": url.scheme,
            "path": url.path,
            "raw_path": url.raw_path.split(b"?")[0],
            "query_string": url.query,
            "root_path": "",
            "server": (url.host, url.port),
            "client": None,
        }
        try:
            await app(scope, self._receive, self._send)
            if not self._complete:
                self._broken = httpx2.RemoteProtocolError("the application ended without a whole answer")
        except asyncio.CancelledError:
            self._broken = httpx2.RemoteProtocolError("the application was stopped")
            raise
        except Exception as error:  # noqa: BLE001 - forwarded to the reader, as a server would close the connection
            self._broken = error
        finally:
            if not self.started.done():
                self.started.set_exception(self._broken or httpx2.RemoteProtocolError("no answer"))
                self.started.exception()  # a reader who went away meanwhile does not ask for it
            self._complete = True
            self._more.set()

    async def chunks(self) -> AsyncIterator[bytes]:
        patience = self.request.extensions.get("timeout", {}).get("read")
        while True:
            try:
                async with asyncio.timeout(patience):
                    await self._more.wait()
            except TimeoutError:
                raise httpx2.ReadTimeout("nothing came within the time-out", request=self.request) from None
            self._more.clear()
            chunk, self._chunk = self._chunk, None
            complete, broken = self._complete, self._broken
            self._taken.set()
            if chunk:
                yield chunk
            if complete:
                if broken is not None:
                    raise broken
                return

    async def _receive(self) -> Message:
        if self._request_body is None:
            stream = self.request.stream
            assert isinstance(stream, httpx2.AsyncByteStream)
            self._request_body = aiter(stream)
        if not self._gone.is_set():
            try:
                return {"type": "http.request", "body": await anext(self._request_body), "more_body": True}
            except StopAsyncIteration:
                pass
            if not self._request_done:
                self._request_done = True
                return {"type": "http.request", "body": b"", "more_body": False}
            await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if not self.started.done():
                self.started.set_result((message["status"], list(message.get("headers", []))))
            return
        await self._taken.wait()
        if self._gone.is_set():
            return
        self._taken.clear()
        self._chunk = b"" if self.request.method == "HEAD" else message.get("body", b"")
        self._complete = not message.get("more_body", False)
        self._more.set()
        if self._complete:
            self._gone.set()


class _Stream(httpx2.AsyncByteStream):
    """The response's body; closing it early disconnects."""

    def __init__(self, exchange: _Exchange) -> None:
        self._exchange = exchange

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._exchange.chunks():
                yield chunk
        except httpx2.HTTPError:
            raise
        except Exception as error:
            raise httpx2.ReadError(f"the application failed: {error}") from error

    async def aclose(self) -> None:
        self._exchange.disconnect()
