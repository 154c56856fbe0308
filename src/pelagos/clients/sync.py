"""The sync face: the same clients, for programs without an event loop.

One portal thread runs one event loop with the async client; each call here is handed over and waited for. So there is
one implementation, and a program may use the face from several threads. Async iterators become plain ones that fetch an
event at a time, so that leaving the loop early closes the stream.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Any, Self

from anyio.from_thread import BlockingPortal, start_blocking_portal

from pelagos.clients.client import Client
from pelagos.clients.client import connect as connect_async

__all__ = ["SyncClient", "connect"]

_SERVICES = ("infrastructures", "runs", "definitions", "servers")


class SyncClient:
    """Has the attributes and methods of :class:`~pelagos.clients.Client`, without ``await``. A context manager."""

    infrastructures: Any
    runs: Any
    definitions: Any
    servers: Any

    def __init__(self, client: Client) -> None:
        self._client = client
        self._stack = ExitStack()
        self._portal: BlockingPortal | None = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            portal = stack.enter_context(start_blocking_portal("asyncio"))
            stack.enter_context(portal.wrap_async_context_manager(self._client))
            self._stack = stack.pop_all()
        self._portal = portal
        for name in _SERVICES:
            setattr(self, name, _Face(getattr(self._client, name), portal))
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def __getattr__(self, name: str) -> Any:
        if self._portal is None or name.startswith("_"):
            raise AttributeError(f"{name!r}: use the client in a with statement")
        return _wrap(getattr(self._client, name), self._portal)


class _Face:
    def __init__(self, service: object, portal: BlockingPortal) -> None:
        self._service = service
        self._portal = portal

    def __getattr__(self, name: str) -> Any:
        return _wrap(getattr(self._service, name), self._portal)


def _wrap(method: Any, portal: BlockingPortal) -> Any:
    if inspect.isasyncgenfunction(method):
        return lambda *args, **kwargs: _iterate(method(*args, **kwargs), portal)
    if inspect.iscoroutinefunction(method):
        return lambda *args, **kwargs: portal.call(partial(method, *args, **kwargs))
    return method


def _iterate(stream: AsyncIterator[Any], portal: BlockingPortal) -> Iterator[Any]:
    async def following() -> tuple[bool, Any]:
        try:
            return True, await anext(stream)
        except StopAsyncIteration:
            return False, None

    try:
        while True:
            more, value = portal.call(following)
            if not more:
                return
            yield value
    finally:
        close = getattr(stream, "aclose", None)
        if close is not None:
            portal.call(close)


def connect(target: str, token: str | None = None, **options: Any) -> SyncClient:
    """See :func:`pelagos.clients.connect`; for servers by address."""
    return SyncClient(connect_async(target, token, **options))
