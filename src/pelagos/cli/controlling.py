"""The way to a running container: its control socket, found by system and id in the state directory.

These commands run no services themselves, unlike those on infrastructures: processes live in a container, and without
one there is nobody to ask. So there is no embedded mode here, and an absent container is an error that says how to
start one.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from pelagos.cli.invocation import Invocation
    from pelagos.cli.system import System
    from pelagos.container.control.port import Control

__all__ = ["address_of", "connect", "of_system", "open_system", "run_with_system", "waiting"]

F = TypeVar("F", bound=Callable[..., Any])

_SLOW = 1.0
"""Seconds after which a person wonders whether anything happens."""
_PROCESS = re.compile(r"[^\s:]+\.\d+\Z")


def of_system(function: F) -> F:
    """The options that name a running container: ``--system`` and ``--container``."""
    for option in (
        click.option(
            "--container",
            metavar="ID",
            help="Ask this container; else the one of the system that was started last.",
        ),
        click.option(
            "--system",
            metavar="NAME",
            envvar="PELAGOS_SYSTEM",
            help="The containers' system (PELAGOS_SYSTEM); not needed where only one runs here.",
        ),
    ):
        function = option(function)
    return function


async def connect(invocation: Invocation, system: str | None, container: str | None) -> Control:
    """A control of a container of this state directory. Raises what :func:`connect_control` says."""
    if invocation.connector is not None:
        return await invocation.connector(system, container)
    from pelagos.cli.session import settings_of
    from pelagos.container.control import connect_control

    return await connect_control(settings_of(invocation).home, system or None, container)


@asynccontextmanager
async def open_system(invocation: Invocation, system: str | None, container: str | None) -> AsyncIterator[System]:
    """A system as one of its containers sees it, for one command."""
    from pelagos.cli.system import System

    control = await connect(invocation, system, container)
    try:
        yield System(control)
    finally:
        await control.close()


def run_with_system(
    invocation: Invocation, system: str | None, container: str | None, work: Callable[[System], Awaitable[int]]
) -> int:
    """Run a command's asynchronous part with a container at hand; answers its exit code."""

    async def whole() -> int:
        async with open_system(invocation, system, container) as found:
            return await work(found)

    with asyncio.Runner() as runner:
        return runner.run(whole())


def address_of(text: str) -> str:
    """``hello`` is a service, ``c-1.7`` a process, and what has a colon an address already. Raises InvalidInput."""
    from pelagos.exchange import Address

    if ":" not in text:
        text = f"process:{text}" if _PROCESS.match(text) else f"service:{text}"
    Address.parse(text)
    return text


@contextmanager
def waiting(invocation: Invocation, text: str) -> Iterator[None]:
    """Say on stderr what is waited for, once that takes longer than a second."""
    timer = asyncio.get_running_loop().call_later(_SLOW, invocation.note, f"{text} …") if invocation.plain else None
    try:
        yield
    finally:
        if timer is not None:
            timer.cancel()
