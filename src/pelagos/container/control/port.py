"""A remote edge: what the shell and the one-off commands use of a container that runs in another program.

It calls and listens on behalf of the container's edge, so whatever is a process's operation is at hand: ``ps`` is a
call of the agent, ``observe`` a call of the observers and a subscription. ``client(HelloService, control)`` works as
with a process, since a control has a ``caller``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

import msgspec

from pelagos.exchange import Names
from pelagos.process import Context

__all__ = ["ContainerInfo", "Control", "RemoteCaller"]


class ContainerInfo(msgspec.Struct, frozen=True):
    """Who is at the other end of a control socket."""

    id: str
    system: str
    pid: int
    version: str
    broker: str
    """Where its exchange is, without credentials; ``memory`` for none."""
    started_at: float
    files: tuple[str, ...] = ()
    """The app and release files it was started with, absolute: the shell imports their processes' classes."""
    classes: dict[str, str] = {}
    """Startable names and their ``module:Class``."""


class RemoteCaller(Protocol):
    """What :func:`pelagos.process.client` needs of a process's caller."""

    @property
    def names(self) -> Names: ...

    async def call(
        self,
        address: str,
        op: str,
        content: bytes,
        decode: Callable[[bytes], Any],
        timeout: float | None,
        context: Context | None,
    ) -> Any:
        """See :meth:`pelagos.process.calling.Caller.call`; additionally raises :class:`Unavailable` when the container
        goes away."""
        ...


class Control(Protocol):
    @property
    def info(self) -> ContainerInfo: ...

    @property
    def caller(self) -> RemoteCaller: ...

    async def call(
        self, address: str, op: str, content: object = None, *, result: Any = Any, timeout: float | None = None
    ) -> Any:
        """Call by name; ``address`` as people write it (``service:hello``)."""
        ...

    async def send(self, address: str, op: str, content: object = None) -> None:
        """Send one message that nobody answers: to a process or service as :meth:`pelagos.process.Process.send`, with
        its errors, to a fan-out or topic whether or not anybody listens."""
        ...

    def listen(self, address: str, content: Any = Any) -> AsyncIterator[Any]:
        """What is published to a fan-out or topic pattern, until the iterator is closed."""
        ...

    async def close(self) -> None: ...
