"""``pelagos explain``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pelagos.cli.exits import COMMON, Exit
from pelagos.cli.invocation import Invocation, pass_invocation
from pelagos.cli.lazy import command

if TYPE_CHECKING:
    from pelagos.cli.session import Session

__all__ = ["explain"]


@command(
    "explain",
    examples=[
        ("pelagos explain guestbook", "What waits for what"),
        ("pelagos explain guestbook/web", "One node alone"),
    ],
    exits=(Exit.MISSING, *COMMON),
)
@click.argument("infrastructure", metavar="INFRA[/NODE]")
@pass_invocation
def explain(invocation: Invocation, infrastructure: str) -> int:
    """Say why an infrastructure, or one of its nodes, is not ready.

    It shows the chain of what waits for what, the last answer of the cloud, and the next try.
    """
    from pelagos.cli.finding import suggesting
    from pelagos.cli.views import explanation

    reference, _, node = infrastructure.partition("/")

    async def work(session: Session) -> int:
        async with suggesting(session, reference):
            view = await session.client.infrastructures.explain(reference, node or None)
        if invocation.plain:
            invocation.say(explanation(view, invocation.world.now()))
        else:
            invocation.document(view)
        return Exit.OK

    return invocation.run(work)
