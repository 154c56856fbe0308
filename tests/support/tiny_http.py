"""Providers of a few lines: an HTTP server whose answers are a function of the request."""

from __future__ import annotations

import abc
import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from xml.etree import ElementTree

from pelagos.testing.http_requests import ProxiedRequest, read_request

__all__ = ["TinyProvider", "serving"]

P = TypeVar("P", bound="TinyProvider")


class TinyProvider(abc.ABC):
    """Derive, and say what each request comes to."""

    url = ""
    content_type = "application/json"

    @abc.abstractmethod
    def answer(self, request: ProxiedRequest) -> tuple[int, Any]:
        """(status, what is sent as JSON or, if it is an element, as XML; None: nothing)."""

    def headers(self, request: ProxiedRequest) -> Mapping[str, str]:
        """What goes with the answer, asked for after it."""
        return {}

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        read = await read_request(reader, writer, 0)
        if read is not None:
            status, body = self.answer(read[1])
            text = _encoded(body)
            lines = {"Content-Type": self.content_type, **self.headers(read[1])}
            writer.write(b"HTTP/1.1 %d X\r\n" % status)
            writer.writelines(f"{name}: {value}\r\n".encode() for name, value in lines.items())
            writer.write(b"Content-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(text), text))
            await writer.drain()
        writer.close()


def _encoded(body: Any) -> bytes:
    match body:
        case None:
            return b""
        case ElementTree.Element():
            return ElementTree.tostring(body)
        case _:
            return json.dumps(body).encode()


@asynccontextmanager
async def serving(provider: P) -> AsyncIterator[P]:
    """The provider, listening on loopback at its ``url``."""
    server = await asyncio.start_server(provider._serve, "127.0.0.1", 0)
    provider.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield provider
