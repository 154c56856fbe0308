"""The daemon: a container that runs the release of the settings and holds its home's lock.

All that a container program has is here too (agent, observer, control socket, signed messages on a broker): the daemon
is :func:`pelagos.runtime.hosting.host` with a release that has the HTTP edge. The first SIGTERM or SIGINT drains:
streams end, requests get ``http.drain`` seconds, services stop in order; what runs on clouds goes on and is taken up by
whoever comes next. A second one leaves at once, which loses nothing either: that is what the journal is for.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from pelagos.model.world import SystemWorld, World
from pelagos.runtime.home import DaemonLock, prepare_home
from pelagos.runtime.hosting import host
from pelagos.runtime.listening import Listening
from pelagos.runtime.settings import Settings

__all__ = ["Ready", "serve"]

Ready = Callable[[tuple[str, ...]], None]
"""Called once with the addresses (``unix:///…``, ``http://…``) when all of them answer; none without an edge."""


async def serve(
    settings: Settings,
    *,
    listen: str | None = None,
    system: str | None = None,
    broker: str | None = None,
    release: Path | str | None = None,
    ready: Ready | None = None,
    world: World | None = None,
    stop: asyncio.Event | None = None,
    signals: bool = True,
    again: Callable[[], Settings] | None = None,
) -> None:
    """Run the daemon. ``listen``, ``system``, ``broker`` and ``release`` go before the settings' own; ``stop`` stops it
    like a first signal. ``again`` loads the settings once more, for reloads of the pool.

    Raises Conflict, naming its pid, if a daemon of this home lives; InvalidInput for an address that is none or may
    not be; StoreUnavailable; what :func:`host` raises; and whatever made the services fail for good."""
    told = ready or _say_ready
    # Into the settings, so that the doctor of its edge looks at the same broker.
    settings = msgspec.structs.replace(settings, system=system or settings.system, broker=broker or settings.broker)
    prepare_home(settings.home)
    lock = DaemonLock(settings.home)
    lock.acquire()
    try:
        await host(
            settings,
            [release or settings.release],
            here=False,
            mode="serve",
            given={DaemonLock: lock, Listening: Listening(listen or "")},
            ready=lambda found: told(found.addresses),
            world=world or SystemWorld(),
            stop=stop,
            signals=signals,
            again=again,
        )
    finally:
        lock.release()


def _say_ready(addresses: tuple[str, ...]) -> None:
    where = f" on {', '.join(addresses)}" if addresses else ", without an HTTP API"
    print(f"pelagos: ready{where}", file=sys.stderr, flush=True)  # noqa: T201 - the readiness line
