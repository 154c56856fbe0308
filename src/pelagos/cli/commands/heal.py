"""``pelagos heal``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pelagos.cli.exits import COMMON, Exit
from pelagos.cli.invocation import Invocation, pass_invocation
from pelagos.cli.lazy import command

if TYPE_CHECKING:
    from pelagos.cli.session import Session

__all__ = ["heal"]


@command(
    "heal",
    examples=[
        ("pelagos heal guestbook", "Try all again that was given up"),
        ("pelagos heal guestbook web", "Only this node"),
    ],
    exits=(Exit.FAILED, Exit.NOT_READY, Exit.MISSING, *COMMON),
)
@click.argument("infrastructure", metavar="INFRA")
@click.argument("nodes", metavar="[NODE]…", nargs=-1)
@pass_invocation
def heal(invocation: Invocation, infrastructure: str, nodes: tuple[str, ...]) -> int:
    """Close breakers and end back-offs, of all nodes or of these, and pass over the infrastructure once.

    A node's breaker opens after too many failures (policy: {heal: {attempts: …}}); until it is closed, by this command
    or by a new description, nothing of the node is healed. The output is that of maintain --once.
    """
    from pelagos.cli.finding import suggesting
    from pelagos.cli.interrupts import Interrupts
    from pelagos.cli.maintaining import Maintainer

    async def work(session: Session) -> int:
        async with suggesting(session, infrastructure):
            view = await session.client.infrastructures.status(infrastructure)
        with Interrupts() as interrupts:
            maintainer = Maintainer(invocation, session, interrupts, once=True, reset=nodes or ("*",))
            return await maintainer.keep([view.id], 0.0)

    return invocation.run(work)
