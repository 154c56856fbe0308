"""A Docker engine of a few lines, for tests of what is on the wire and when."""

from __future__ import annotations

import asyncio
import contextlib

__all__ = ["TinyEngine"]


class TinyEngine:
    """Answers pings; what else it answers, and when, is the test's."""

    def __init__(self) -> None:
        self.ping = b"HTTP/1.1 200 OK\r\nApi-Version: 1.44\r\nContent-Length: 2\r\n\r\nOK"
        self.answer = b"HTTP/1.1 204 No Content\r\n\r\n"
        self.go = asyncio.Event()
        self.requests: list[str] = []
        self.serving: list[asyncio.Task[None]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.serving.append(task)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError), contextlib.closing(writer):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                self.requests.append(head.partition(" HTTP")[0])
                if "/_ping" not in self.requests[-1]:
                    await self.go.wait()
                writer.write(self.ping if "/_ping" in self.requests[-1] else self.answer)
                await writer.drain()
