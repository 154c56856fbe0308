"""``status --watch``: a state that is shown again whenever an event says that something changed.

Events are only hints: after each the state is read, at most twice a second; a burst of events costs one reading.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import click

from pelagos.cli.exits import Exit
from pelagos.cli.results import show_state
from pelagos.model.errors import Gone, NotFound

if TYPE_CHECKING:
    from pelagos.cli.invocation import Invocation
    from pelagos.cli.session import Session
    from pelagos.wire.infrastructures import StatusView

__all__ = ["watch_status"]

_AT_MOST_EVERY = 0.5
_AT_LEAST_EVERY = 10.0
"""On a terminal the ages go on even when nothing happens."""


async def watch_status(invocation: Invocation, session: Session, view: StatusView, position: int) -> int:
    """Show the state, and each later one; ends when the infrastructure is gone (exit code 0)."""
    changed = asyncio.Event()
    redraw = invocation.plain and sys.stdout.isatty()
    _show(invocation, view, redraw=redraw)
    async with asyncio.TaskGroup() as group:
        listener = group.create_task(_listen(session, view.id, position, changed))
        while True:
            try:
                async with asyncio.timeout(_AT_LEAST_EVERY if redraw else None):
                    await changed.wait()
            except TimeoutError:
                _show(invocation, view, redraw=redraw)
                continue
            changed.clear()
            try:
                newer = await session.client.infrastructures.status(view.id)
            except (NotFound, Gone):
                listener.cancel()
                invocation.note(f"{view.name} is gone.")
                return Exit.OK
            if (newer.state, newer.nodes) != (view.state, view.nodes):
                view = newer
                _show(invocation, view, redraw=redraw)
            await asyncio.sleep(_AT_MOST_EVERY)


async def _listen(session: Session, identifier: str, position: int, changed: asyncio.Event) -> None:
    async for _ in session.client.events(infrastructure=identifier, after=position, follow=True):
        changed.set()


def _show(invocation: Invocation, view: StatusView, *, redraw: bool) -> None:
    if not invocation.plain:
        invocation.document(view, many=True)
        sys.stdout.flush()
        return
    if redraw:
        click.clear()
    show_state(invocation, view)
    if not redraw:
        invocation.say()
    sys.stdout.flush()
