"""The daemon's listeners: the 0600 socket, and TCP where asked for. One application, a face for each.

uvicorn's protocol and shutdown are used without its main loop, which wakes up ten times a second to look whether it
should end; here an event says so.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import stat
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from pelagos.model.errors import Conflict, InvalidInput, StoreUnavailable, Unavailable
from pelagos.process import get_logger

if TYPE_CHECKING:
    from starlette.types import ASGIApp

__all__ = ["Listener", "bind_tcp", "bind_unix", "parse_listen"]

log = get_logger(__name__)

_MAX_SOCKET_PATH = 107
_UCRED = struct.Struct("3i")


class OwnUserProtocol(H11Protocol):
    """Admits peers of this process's user, and root. The file's mode says the same; this outlives a change of it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        peer: socket.socket | None = transport.get_extra_info("socket")
        if peer is not None:
            raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
            uid = _UCRED.unpack(raw)[1]
            if uid not in (0, os.geteuid()):
                log.warning("a peer of another user was refused", uid=uid)
                transport.abort()


class Listener:
    """One socket that serves an application."""

    def __init__(self, app: ASGIApp, bound: socket.socket, *, drain: float, own_user_only: bool) -> None:
        self._socket = bound
        self.started = False
        config = uvicorn.Config(
            app,
            http=OwnUserProtocol if own_user_only else H11Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=max(1, round(drain)),
        )
        config.load()
        self._server = uvicorn.Server(config)
        self._server.lifespan = config.lifespan_class(config)

    @property
    def address(self) -> str:
        """``unix:///path`` or ``http://host:port``."""
        name: Any = self._socket.getsockname()
        if isinstance(name, str):
            return f"unix://{name}"
        host = f"[{name[0]}]" if ":" in name[0] else name[0]
        return f"http://{host}:{name[1]}"

    async def start(self) -> None:
        """Accept connections."""
        await self._server.startup(sockets=[self._socket])
        self.started = True

    async def stop(self) -> None:
        """Accept no more, let requests end within the drain time, cancel the rest."""
        await self._server.shutdown(sockets=[self._socket])


def bind_unix(path: Path) -> socket.socket:
    """A socket at ``path`` with mode 0600. A file that is there is a dead daemon's: the caller holds the lock.

    Raises InvalidInput if the path is too long, Conflict if something else is there, StoreUnavailable."""
    if len(os.fsencode(path)) > _MAX_SOCKET_PATH:
        raise InvalidInput(
            f"the socket's path is longer than the {_MAX_SOCKET_PATH} bytes that the system allows: {path}",
            advice="Set PELAGOS_HOME to a shorter path.",
        )
    try:
        if stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()
        else:
            raise Conflict(f"{path} is there and is no socket", advice="Move it away.")
    except FileNotFoundError:
        pass
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)  # the file is made by bind: there is no moment in which others may connect
    try:
        bound.bind(str(path))
    except OSError as error:
        bound.close()
        raise StoreUnavailable(f"the socket {path} cannot be made: {error.strerror}") from error
    finally:
        os.umask(before)
    bound.setblocking(False)
    return bound


def parse_listen(text: str, *, allow_remote: bool) -> tuple[str, int]:
    """``127.0.0.1:8470``, ``[::1]:8470`` or ``localhost:8470`` as an address and a port; port 0 takes a free one.

    Raises InvalidInput for other text, and for an address that other machines reach unless that is allowed."""
    host, separator, port = text.rpartition(":")
    host = host.strip("[]")
    if host == "localhost":
        host = "127.0.0.1"
    try:
        address = ipaddress.ip_address(host)
        number = int(port)
    except ValueError:
        separator, number, address = "", -1, ipaddress.ip_address("127.0.0.1")
    if not separator or not 0 <= number < 65_536:
        raise InvalidInput(
            f"{text!r} is not an address to listen on", advice="Use ADDRESS:PORT, for example 127.0.0.1:8470."
        )
    if not address.is_loopback:
        if not allow_remote:
            raise InvalidInput(
                f"{host} can be reached by other machines",
                advice="Listen on 127.0.0.1, or allow it with --allow-remote (http.allow_remote); there is no TLS.",
            )
        log.warning("listening where other machines can reach it, without TLS: tokens cross the network in clear text")
    return str(address), number


def bind_tcp(host: str, port: int) -> socket.socket:
    """A listening socket. Raises Unavailable if the address is in use or not this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise Unavailable(
            f"{host}:{port} cannot be listened on: {error.strerror}", advice="Choose another address or port."
        ) from error
    bound.setblocking(False)
    return bound
