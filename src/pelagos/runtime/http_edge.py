"""The HTTP edge as a process: listens on the home's socket, and on TCP where asked for, as long as it is active.

It is an app like others, so a site has it where it likes: beside the services, or on a host of its own, or on two. What
it shares with the services is the store and the exchange. It stops in this order: no new connections; streams end;
requests get ``http.drain`` seconds, in which their commands are still answered; the sockets go.
"""

from __future__ import annotations

import asyncio
import os
import socket

from pelagos.api import LOOPBACK_NAMES
from pelagos.clouds import Pool
from pelagos.model.errors import PelagosError
from pelagos.process import Process, get_logger
from pelagos.process.dependencies import wait_for_dependencies
from pelagos.runtime.access import ensure_token
from pelagos.runtime.composition import compose_edge
from pelagos.runtime.listeners import Listener, bind_tcp, bind_unix, parse_listen
from pelagos.runtime.listening import Listening
from pelagos.runtime.settings import Settings
from pelagos.store import HostFacts, Store

__all__ = ["EdgeProcess"]

log = get_logger(__name__)

_TOKEN_PERIOD = 3600.0
"""Pause between looks whether the token is valid for long enough."""


class EdgeProcess(Process):
    """``listen`` goes before the settings' address for TCP; ``depends`` are services that must be served before it
    begins to listen. Whoever makes it holds the home's daemon lock."""

    def __init__(
        self,
        settings: Settings,
        *,
        store: Store,
        pool: Pool,
        facts: HostFacts,
        listening: Listening,
        listen: str = "",
        depends: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self._settings = settings
        self._store = store
        self._pool = pool
        self._facts = facts
        self._listening = listening
        self._listen = listening.listen or listen or settings.http.listen
        self._waits_for = depends
        self._sockets: list[socket.socket] = []
        self._listeners: list[Listener] = []
        self._closing: asyncio.Event | None = None

    @property
    def label(self) -> str:
        return "http edge"

    async def on_activate(self) -> None:
        await wait_for_dependencies(self, self._waits_for)
        settings = self._settings
        application = compose_edge(
            settings, caller=self, mode="serve", store=self._store, pool=self._pool, facts=self._facts
        )
        self._closing = application.edge.closing
        drain = settings.http.drain
        if self._listen:
            tcp = bind_tcp(*parse_listen(self._listen, allow_remote=settings.http.allow_remote))
            self._sockets.append(tcp)
            await self._renew_token()
            self.start_task(self._keep_token(), name="token")
            hosts = {*LOOPBACK_NAMES, *settings.http.hosts, tcp.getsockname()[0]}
            guarded = application.guarded(hosts=hosts, origins=settings.http.origins)
            self._listeners.append(Listener(guarded, tcp, drain=drain, own_user_only=False))
        unix = bind_unix(settings.socket_path)
        self._sockets.append(unix)
        self._listeners.insert(0, Listener(application.trusted, unix, drain=drain, own_user_only=True))
        for listener in self._listeners:
            await listener.start()
        self._listening.addresses = tuple(listener.address for listener in self._listeners)
        log.info("serving", addresses=list(self._listening.addresses), home=str(settings.home), pid=os.getpid())

    async def on_deactivate(self) -> None:
        await self._end()

    async def on_terminate(self) -> None:
        await self._end()  # after a failure, nothing else has

    async def _end(self) -> None:
        listeners, self._listeners = self._listeners, []
        sockets, self._sockets = self._sockets, []
        if self._closing is not None:
            self._closing.set()
        if self._listening.addresses:
            self._listening.addresses = ()
            self._settings.socket_path.unlink(missing_ok=True)
        try:
            async with asyncio.TaskGroup() as group:
                for listener in listeners:
                    if listener.started:
                        group.create_task(listener.stop())
        finally:
            for each in sockets:
                each.close()

    async def _renew_token(self) -> None:
        lifetime = self._settings.http.token_lifetime
        await ensure_token(self._store, self.world, self._settings.home, lifetime=lifetime)

    async def _keep_token(self) -> None:
        while True:
            await asyncio.sleep(_TOKEN_PERIOD)
            try:
                await self._renew_token()
            except PelagosError as error:
                log.warning("the token was not looked after", error=str(error))
