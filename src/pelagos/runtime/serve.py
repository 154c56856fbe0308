"""The daemon: all services, the HTTP API on the home's socket (and TCP where asked for), until it is told to stop.

The first SIGTERM or SIGINT drains: streams end, requests get ``http.drain`` seconds, services stop in order; what runs
on clouds goes on and is taken up by whoever comes next. A second one leaves at once, which loses nothing either: that
is what the journal is for.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from pelagos.api import LOOPBACK_NAMES
from pelagos.model.world import SystemWorld, World
from pelagos.process import get_logger
from pelagos.runtime.access import ensure_token
from pelagos.runtime.composition import Assemble, assemble_release
from pelagos.runtime.home import DaemonLock, prepare_home
from pelagos.runtime.housekeeping import Housekeeping
from pelagos.runtime.listeners import Listener, bind_tcp, bind_unix, parse_listen
from pelagos.runtime.logs import configure_logs
from pelagos.runtime.runtime import Runtime
from pelagos.runtime.settings import Settings
from pelagos.runtime.stopping import handle_signals, notify_manager, until_stopped

__all__ = ["Ready", "serve"]

log = get_logger(__name__)

Ready = Callable[[tuple[str, ...]], None]
"""Called once with the addresses (``unix:///…``, ``http://…``) when all of them answer."""


async def serve(
    settings: Settings,
    *,
    listen: str | None = None,
    ready: Ready | None = None,
    world: World | None = None,
    assemble: Assemble = assemble_release,
    stop: asyncio.Event | None = None,
    signals: bool = True,
) -> None:
    """Run the daemon. ``listen`` goes before the settings' own; ``stop`` stops it like a first signal.

    Raises Conflict, naming its pid, if a daemon of this home lives; InvalidInput for an address that is none or may
    not be; StoreUnavailable; and whatever made the services fail for good."""
    world = world or SystemWorld()
    prepare_home(settings.home)
    async with AsyncExitStack() as stack:
        stack.callback(configure_logs(settings, mode="serve"))
        lock = DaemonLock(settings.home)
        lock.acquire()
        stack.callback(lock.release)
        stopping = stop or asyncio.Event()
        if signals:
            stack.callback(handle_signals(stopping))
        tcp = _tcp(settings, listen)
        if tcp is not None:
            stack.callback(tcp.close)
        runtime = await stack.enter_async_context(Runtime(settings, world=world, mode="serve", assemble=assemble))
        renew = partial(ensure_token, runtime.store, world, settings.home, lifetime=settings.http.token_lifetime)
        if tcp is not None:
            await renew()
        await runtime.container.spawn(
            lambda: Housekeeping(
                runtime.store, retention_days=settings.retention_days, renew_token=None if tcp is None else renew
            ),
            name="housekeeping",
        )
        addresses = await stack.enter_async_context(_listening(runtime, tcp))
        (ready or _say_ready)(addresses)
        notify_manager("READY=1")
        log.info("serving", addresses=list(addresses), home=str(settings.home), pid=os.getpid())
        await until_stopped(runtime.container, stopping)
        notify_manager("STOPPING=1")
        log.info("stopping")


def _tcp(settings: Settings, listen: str | None) -> socket.socket | None:
    text = listen or settings.http.listen
    if not text:
        return None
    return bind_tcp(*parse_listen(text, allow_remote=settings.http.allow_remote))


@asynccontextmanager
async def _listening(runtime: Runtime, tcp: socket.socket | None) -> AsyncIterator[tuple[str, ...]]:
    settings, application = runtime.settings, runtime.application
    path = settings.socket_path
    unix = bind_unix(path)
    listeners = [Listener(application.trusted, unix, drain=settings.http.drain, own_user_only=True)]
    if tcp is not None:
        hosts = {*LOOPBACK_NAMES, *settings.http.hosts, tcp.getsockname()[0]}
        guarded = application.guarded(hosts=hosts, origins=settings.http.origins)
        listeners.append(Listener(guarded, tcp, drain=settings.http.drain, own_user_only=False))
    started: list[Listener] = []
    addresses = tuple(listener.address for listener in listeners)
    try:
        for listener in listeners:
            await listener.start()
            started.append(listener)
        yield addresses
    finally:
        application.edge.closing.set()
        path.unlink(missing_ok=True)
        async with asyncio.TaskGroup() as group:
            for listener in started:
                group.create_task(listener.stop())
        unix.close()


def _say_ready(addresses: tuple[str, ...]) -> None:
    print(f"pelagos: ready on {', '.join(addresses)}", file=sys.stderr, flush=True)  # noqa: T201 - the readiness line
