"""How scripts and notebooks reach the services: one sync client a program, opened when it is first used.

It is found as the commands find it: a daemon by ``PELAGOS_URL`` or the home's socket, else the services run in this
process. A program that ends without closing it closes it then.
"""

from __future__ import annotations

import atexit
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Self

from pelagos.cli.invocation import Invocation
from pelagos.clients.sync import SyncClient

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from pelagos.clients import Client
    from pelagos.model.world import World

__all__ = ["Services", "default_services", "set_default"]


class Services:
    """A context manager; also usable without, until :meth:`close` or the program's end."""

    def __init__(self, invocation: Invocation | None = None) -> None:
        self._invocation = invocation or Invocation()
        self._client: SyncClient | None = None
        self._embedded = False

    @property
    def client(self) -> SyncClient:
        """Connected, or with the services started in this process. Raises what opening them raises."""
        return self._opened()

    def _opened(self) -> SyncClient:
        if self._client is None:
            client = SyncClient(self._open())
            client.__enter__()
            self._client = client
            atexit.register(self.close)
        return self._client

    @property
    def embedded(self) -> bool:
        """Whether the services run in this process: what they maintain is maintained only while it lives."""
        self._opened()  # that finds it out
        return self._embedded

    @property
    def home(self) -> Path:
        """The state directory of this program. Raises what reading the configuration raises."""
        from pelagos.cli.session import settings_of

        return settings_of(self._invocation).home

    @property
    def world(self) -> World:
        return self._invocation.world

    def close(self) -> None:
        """Idempotent."""
        client, self._client = self._client, None
        if client is not None:
            atexit.unregister(self.close)
            client.__exit__(None, None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[Client]:
        async with self._invocation.open() as session:
            self._embedded = session.embedded
            yield session.client


_default: Services | None = None


def default_services() -> Services:
    """What managers use that are given nothing else."""
    global _default
    if _default is None:
        _default = Services()
    return _default


def set_default(services: Services) -> None:
    """Use these from now on; those before are closed."""
    global _default
    if _default is not None and _default is not services:
        _default.close()
    _default = services
