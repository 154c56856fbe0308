"""``pelagos logs``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pelagos.cli.exits import COMMON, Exit
from pelagos.cli.invocation import Invocation, pass_invocation
from pelagos.cli.lazy import command

if TYPE_CHECKING:
    from pelagos.cli.session import Session

__all__ = ["logs"]


@command(
    "logs",
    examples=[
        ("pelagos logs guestbook", "The consoles of all instances, each line behind its instance's name"),
        ("pelagos logs guestbook web", "Those of one node"),
    ],
    exits=(Exit.FAILED, Exit.MISSING, *COMMON),
)
@click.argument("infrastructure", metavar="INFRA")
@click.argument("node", metavar="[NODE]", required=False)
@pass_invocation
def logs(invocation: Invocation, infrastructure: str, node: str | None) -> int:
    """Show the instances' console output, the newest part of it.

    Where a cloud has no console to show, stderr says so; the exit code is 1 if that is so for every instance. With
    -o json the document is an array of {"node", "instance_id", "text", "error"}.
    """
    import sys

    from pelagos.cli.finding import suggesting
    from pelagos.cli.texts import short
    from pelagos.cli.views import log_lines

    async def work(session: Session) -> int:
        async with suggesting(session, infrastructure):
            views = await session.client.infrastructures.logs(infrastructure, node)
        if invocation.plain:
            for line in log_lines(views, terminal=sys.stdout.isatty()):
                invocation.say(line)
        else:
            invocation.document(views)
        if not views:
            invocation.note("There is no instance, so there is no console.")
        for view in views:
            if view.error:
                invocation.note(f"{view.node}/{short(view.instance_id)}: {view.error}")
        return Exit.FAILED if views and all(view.error for view in views) else Exit.OK

    return invocation.run(work)
