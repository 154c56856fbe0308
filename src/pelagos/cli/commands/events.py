"""``pelagos events``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pelagos.cli.exits import COMMON, Exit
from pelagos.cli.invocation import Invocation, pass_invocation
from pelagos.cli.lazy import command

if TYPE_CHECKING:
    from pelagos.cli.session import Session
    from pelagos.wire.infrastructures import EventView

__all__ = ["events"]

_STEPS = ("operation.succeeded", "server.building")


@command(
    "events",
    examples=[
        ("pelagos events guestbook", "What happened to it so far"),
        ("pelagos events guestbook --follow", "And what happens, until Ctrl+C"),
        ("pelagos events guestbook --follow --after 1200 -o json", "For programs: JSON lines after a position"),
    ],
    exits=(Exit.MISSING, *COMMON),
)
@click.argument("infrastructure", metavar="INFRA")
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens, until Ctrl+C (exit code 130).")
@click.option("--after", type=click.IntRange(min=0), default=0, metavar="POSITION", help="Only those after a position.")
@click.option("--all", "everything", is_flag=True, help="Also the steps of single operations on clouds.")
@pass_invocation
def events(invocation: Invocation, infrastructure: str, follow: bool, after: int, everything: bool) -> int:
    """Show what happened to an infrastructure, oldest first, and with --follow what happens.

    A line an event: time, subject, what happened. With -o json each is a JSON line, with its position, which --after
    takes.
    """
    import sys

    from pelagos.cli.finding import suggesting

    async def work(session: Session) -> int:
        async with suggesting(session, infrastructure):
            stream = session.client.events(infrastructure=infrastructure, after=after, follow=follow)
            async for event in stream:
                if invocation.plain and not everything and event.kind in _STEPS:
                    continue
                _show(invocation, event)
                if follow:
                    sys.stdout.flush()
        return Exit.OK

    return invocation.run(work)


def _show(invocation: Invocation, event: EventView) -> None:
    from pelagos.cli.wording import sentence, subject

    if not invocation.plain:
        invocation.document(event, many=True)
        return
    invocation.say(f"{event.at}  {subject(event):<20}  {sentence(event)}")
