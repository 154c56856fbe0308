"""The sync face: the same clients, for programs without an event loop.

One portal thread runs one event loop with the async client; each call here is handed over and waited for. So there is
one implementation, and a program may use the face from several threads. Async iterators become plain ones that fetch an
event at a time, so that leaving the loop early closes the stream.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, ExitStack
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

from pelagos.clients.client import Client
from pelagos.clients.client import connect as connect_async

__all__ = ["SyncClient", "connect"]

T = TypeVar("T")
_SERVICES = ("infrastructures", "runs", "definitions", "servers", "clouds", "orphans")


class SyncClient:
    """Has the attributes and methods of :class:`~pelagos.clients.Client`, without ``await``. A context manager."""

    infrastructures: Any
    runs: Any
    definitions: Any
    servers: Any
    clouds: Any
    orphans: Any

    def __init__(self, client: AbstractAsyncContextManager[Client]) -> None:
        self._context = client
        self._client: Client | None = None
        self._stack = ExitStack()
        self._streams: dict[AsyncIterator[Any], None] = {}
        self._started: set[Future[Any]] = set()
        self._portal: BlockingPortal | None = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            portal = stack.enter_context(start_blocking_portal("asyncio"))
            self._client = stack.enter_context(portal.wrap_async_context_manager(self._context))
            self._stack = stack.pop_all()
        self._portal = portal
        for name in _SERVICES:
            setattr(self, name, _Face(getattr(self._client, name), self._wrap))
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        portal, self._portal = self._portal, None
        assert portal is not None
        with self._stack:
            for future in list(self._started):
                future.cancel()
            for stream in list(self._streams):
                portal.call(_close, stream)
            self._streams.clear()

    def __getattr__(self, name: str) -> Any:
        if self._portal is None or name.startswith("_"):
            raise AttributeError(f"{name!r}: use the client in a with statement")
        return self._wrap(getattr(self._client, name))

    def start(self, work: Callable[[Client], Awaitable[T]]) -> Future[T]:
        """Begin ``work(the async client)`` on the portal's loop, beside all calls. Cancelling the future cancels it;
        so does closing the client."""
        if self._portal is None or self._client is None:
            raise RuntimeError("the client is closed")
        future = self._portal.start_task_soon(work, self._client)
        self._started.add(future)
        future.add_done_callback(self._started.discard)
        return future

    def _wrap(self, method: Any) -> Any:
        portal = self._portal
        if portal is None:
            raise RuntimeError("the client is closed")
        if inspect.isasyncgenfunction(method):
            return lambda *args, **kwargs: self._iterate(method(*args, **kwargs))
        if inspect.iscoroutinefunction(method):
            return lambda *args, **kwargs: portal.call(partial(method, *args, **kwargs))
        return method

    def _iterate(self, stream: AsyncIterator[Any]) -> Iterator[Any]:
        async def following() -> tuple[bool, Any]:
            try:
                return True, await anext(stream)
            except StopAsyncIteration:
                return False, None

        self._streams[stream] = None
        try:
            while self._portal is not None:
                more, value = self._portal.call(following)
                if not more:
                    return
                yield value
        finally:
            # Closing the client closes what is left of its streams; this may be long after, when the generator is
            # collected.
            if self._streams.pop(stream, True) is None and self._portal is not None:
                self._portal.call(_close, stream)


class _Face:
    def __init__(self, service: object, wrap: Callable[[Any], Any]) -> None:
        self._service = service
        self._wrap = wrap

    def __getattr__(self, name: str) -> Any:
        return self._wrap(getattr(self._service, name))


async def _close(stream: Any) -> None:
    await stream.aclose()


def connect(target: str, token: str | None = None, **options: Any) -> SyncClient:
    """See :func:`pelagos.clients.connect`; for servers by address."""
    return SyncClient(connect_async(target, token, **options))
