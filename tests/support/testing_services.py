"""Services that the tests of `pelagos.testing` test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec

from pelagos.process import ServiceProcess, client, operation
from pelagos.process.conversations import subscription

__all__ = ["Book", "Librarian", "Library"]


class Book(msgspec.Struct, frozen=True):
    title: str
    pages: int = 1


class Library(ServiceProcess):
    name = "library"

    def __init__(self) -> None:
        super().__init__()
        self.lent: list[str] = []

    @operation
    async def lend(self, title: str) -> Book:
        self.lent.append(title)
        return Book(title, 200)

    @operation
    async def count(self) -> int:
        return len(self.lent)

    @operation
    async def browse(self) -> None:
        await asyncio.Event().wait()

    @operation
    async def burn(self) -> None:
        async def fire() -> None:
            raise RuntimeError("fire")

        self.start_task(fire())

    @subscription
    async def news(self, about: str) -> AsyncIterator[str]:
        yield f"nothing about {about}"


class Librarian(ServiceProcess):
    name = "librarian"

    def __init__(self) -> None:
        super().__init__()
        self.library = client(Library, self)

    @operation
    async def pages(self, titles: list[str]) -> int:
        return sum([(await self.library.lend(title)).pages for title in titles])
