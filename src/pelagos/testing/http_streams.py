"""The two sides of a proxied connection: what a client is told, and bytes passed on."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Mapping

from pelagos.testing.http_requests import Head

__all__ = ["Client", "pump"]

_PIECE = 65_536
_RESET = (socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Client:
    """The client's side of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """A whole reply that nobody else made."""
        lines = {**headers, "Content-Length": str(len(body)), "Connection": "close"}
        self.writer.write(Head(f"HTTP/1.1 {status} Fault", list(lines.items())).encode() + body)
        await self.finish()

    async def gone(self) -> None:
        """Say nothing until the client hangs up."""
        while await self.reader.read(_PIECE):
            continue

    async def finish(self) -> None:
        """Say that nothing more comes, and let the client hang up."""
        await self.writer.drain()
        if self.writer.can_write_eof():
            self.writer.write_eof()
        with contextlib.suppress(OSError):
            await self.gone()

    def reset(self) -> None:
        """Hang up with a reset where the transport has such a thing."""
        sock = self.writer.get_extra_info("socket")
        with contextlib.suppress(OSError):
            sock.setsockopt(*_RESET)
        self.writer.transport.abort()


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, closes: bool = False) -> None:
    """Pass on all that comes, and then its end; ``closes``: the end takes the whole connection with it.

    A side that breaks ends the other."""
    try:
        while piece := await reader.read(_PIECE):
            writer.write(piece)
            await writer.drain()
        if closes:
            writer.transport.abort()
        elif writer.can_write_eof():
            writer.write_eof()
    except OSError:
        writer.transport.abort()
