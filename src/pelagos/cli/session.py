"""The way to the services: a daemon's client, or the services themselves in this process.

In order: ``--url`` or PELAGOS_URL; the socket of a daemon on this home, if it answers; else embedded. A socket
file that nobody listens on (a killed daemon's) is no daemon.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pelagos.model.errors import InternalError, PelagosError

if TYPE_CHECKING:
    from pelagos.cli.invocation import Invocation
    from pelagos.clients import Client
    from pelagos.runtime import Settings

__all__ = ["Session", "daemon_url", "open_session", "settings_of"]

_PATIENCE = 5.0
"""Seconds for which a question is asked again where nobody answers; a person waits in front of it. Following a run is
more patient by itself."""


@dataclass(frozen=True)
class Session:
    """``embedded``: the services run in this process, for as long as the session is open. ``home``: the state's
    directory, None when talking to a daemon by its URL."""

    client: Client
    embedded: bool
    home: Path | None


def settings_of(invocation: Invocation, **overrides: Any) -> Settings:
    """The configuration for this invocation; flags beat the environment, which beats the file."""
    from pelagos.runtime import load_settings

    overrides = {**invocation.overrides, **overrides}
    if invocation.verbose:
        overrides["log_level"] = "info" if invocation.verbose == 1 else "debug"
    return load_settings(
        config=invocation.config, home=invocation.home, environ=invocation.world.environ, overrides=overrides
    )


def daemon_url(invocation: Invocation, socket_path: Path) -> str | None:
    """Where a daemon is to be talked to, or None for embedded mode."""
    named = invocation.url or invocation.world.environ.get("PELAGOS_URL")
    if named:
        return named
    return f"unix://{quote(str(socket_path))}" if _answers(socket_path) else None


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


@asynccontextmanager
async def open_session(invocation: Invocation) -> AsyncIterator[Session]:
    """The services for one command."""
    from pelagos.runtime import configure_logs

    settings = settings_of(invocation)
    configure_logs(settings, mode="embedded")
    url = daemon_url(invocation, settings.socket_path)
    if url is not None:
        from pelagos.clients import connect

        token = invocation.world.environ.get("PELAGOS_TOKEN")
        async with connect(url, token=token, patience=_PATIENCE, world=invocation.world) as client:
            yield Session(client, embedded=False, home=None)
        return
    from pelagos.runtime import Runtime

    async with (
        Runtime(settings, world=invocation.world) as runtime,
        _ended_with(runtime.container.wait()),
    ):
        yield Session(runtime.client(), embedded=True, home=settings.home)


@asynccontextmanager
async def _ended_with(services: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run a block only as long as the services live: what they end with, ends it, instead of a wait for ever."""
    try:
        async with asyncio.TaskGroup() as group:
            watcher = group.create_task(_watch(services))
            try:
                yield
            finally:
                watcher.cancel()
    except BaseExceptionGroup as failures:
        # The block's own error, or the services'; a second one came of the first.
        raise failures.exceptions[0] from failures.exceptions[0].__cause__


async def _watch(services: Coroutine[Any, Any, None]) -> None:
    try:
        await services
    except PelagosError:
        raise
    except Exception as error:
        raise InternalError(f"the services of this command failed: {type(error).__name__}: {error}") from error
