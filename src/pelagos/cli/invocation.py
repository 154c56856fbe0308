"""One run of the command line: its common options, its streams, and the way to the services.

Results go to stdout by :meth:`Invocation.say` and :meth:`Invocation.document`; everything else (questions, plans shown
before a change, progress, errors) goes to stderr by :meth:`Invocation.note`. So ``-o json`` leaves nothing but one
document on stdout, and a pipe never sees progress.

Cheap to import: what talks to services is imported by the method that needs it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import click

if TYPE_CHECKING:
    from pelagos.cli.session import Session
    from pelagos.container.control.port import Control
    from pelagos.model.world import World

__all__ = ["Invocation", "Output", "pass_invocation"]

Output = Literal["table", "json", "yaml"]
Opener = Callable[["Invocation"], AbstractAsyncContextManager["Session"]]
Connector = Callable[["str | None", "str | None"], Awaitable["Control"]]
"""From a system's name and a container's id, both perhaps None, to a control of a running container."""


class Invocation:
    """The common options, as given before or after the command's name (after wins)."""

    def __init__(
        self,
        *,
        opener: Opener | None = None,
        world: World | None = None,
        answer: Callable[[str], Awaitable[str | None]] | None = None,
        connector: Connector | None = None,
    ) -> None:
        self.output: Output = "table"
        self.no_color = False
        self.debug = False
        self.verbose = 0
        self.config: str | None = None
        self.home: str | None = None
        self.url: str | None = None
        self.overrides: dict[str, Any] = {}
        """Settings that options of the command stand for; they go before the file and the environment."""
        self.connector = connector
        self._opener = opener
        self._world = world
        self._answer = answer

    @cached_property
    def world(self) -> World:
        if self._world is None:
            from pelagos.model.world import SystemWorld

            self._world = SystemWorld()
        return self._world

    @property
    def color(self) -> bool | None:
        """False: none; None: where the stream is a terminal (NO_COLOR, see no-color.org, turns it off)."""
        return False if self.no_color or os.environ.get("NO_COLOR") else None

    @property
    def plain(self) -> bool:
        """Whether results are for people (a table), not documents."""
        return self.output == "table"

    def say(self, text: str = "", *, end: str = "\n") -> None:
        """Results, to stdout."""
        click.echo(text + end, nl=False, color=self.color)

    def note(self, text: str = "") -> None:
        """Everything else, to stderr."""
        click.echo(text, err=True, color=self.color)

    def document(self, value: Any, *, many: bool = False) -> None:
        """``value`` (Structs, dicts, lists) as a JSON or YAML document on stdout; ``many``: one of a stream, as a
        JSON line or a YAML document that begins with ``---``."""
        from pelagos.cli.documents import encode

        self.say(encode(value, self.output, many=many), end="")

    def open(self) -> AbstractAsyncContextManager[Session]:
        """The services: a daemon's, or our own in this process."""
        if self._opener is not None:
            return self._opener(self)
        from pelagos.cli.session import open_session

        return open_session(self)

    def run(self, work: Callable[[Session], Awaitable[int]]) -> int:
        """Run a command's asynchronous part with the services open; answers its exit code."""

        async def whole() -> int:
            async with self.open() as session:
                return await work(session)

        import asyncio

        with asyncio.Runner() as runner:
            return runner.run(whole())

    async def confirm(self, question: str) -> bool:
        """Ask on stderr, read stdin. Without a terminal nobody can answer: raises InvalidInput."""
        if self._answer is not None:
            reply = await self._answer(question)
        elif sys.stdin is not None and sys.stdin.isatty():
            click.echo(f"{question} [y/N] ", err=True, nl=False)
            reply = await _read_line(sys.stdin.fileno())
        else:
            reply = None
        if reply is None:
            from pelagos.model.errors import InvalidInput

            raise InvalidInput(
                f"nobody is there to ask: {question}", advice="Give --yes to go ahead without being asked."
            )
        return reply.strip().lower() in ("y", "yes")


async def _read_line(descriptor: int) -> str | None:
    """A line of the terminal, read when it is there: the loop goes on (in embedded mode it runs the services), and no
    thread is left in a read when Ctrl+C comes."""
    import asyncio

    loop = asyncio.get_running_loop()
    line: asyncio.Future[str | None] = loop.create_future()

    def ready() -> None:
        data = os.read(descriptor, 4096)
        if not line.done():
            line.set_result(data.decode(errors="replace") if data else None)

    loop.add_reader(descriptor, ready)
    try:
        return await line
    finally:
        loop.remove_reader(descriptor)


pass_invocation = click.make_pass_decorator(Invocation, ensure=True)
