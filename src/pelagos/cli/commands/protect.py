"""``pelagos protect``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pelagos.cli.exits import COMMON, Exit
from pelagos.cli.invocation import Invocation, pass_invocation
from pelagos.cli.lazy import command

if TYPE_CHECKING:
    from pelagos.cli.session import Session

__all__ = ["protect"]


@command(
    "protect",
    examples=[
        ("pelagos protect guestbook db", "Nobody destroys the instances that db has now"),
        ("pelagos protect guestbook db/1f3c9a20", "This one alone"),
        ("pelagos protect guestbook db off", "From now on they may be destroyed again"),
    ],
    exits=(Exit.FAILED, Exit.MISSING, *COMMON),
)
@click.argument("infrastructure", metavar="INFRA")
@click.argument("node", metavar="NODE[/INSTANCE]")
@click.argument("switch", metavar="on|off", type=click.Choice(["on", "off"]), default="on")
@pass_invocation
def protect(invocation: Invocation, infrastructure: str, node: str, switch: str) -> int:
    """Protect the instances of a node, or one of them by id, first digits of its id or address; or lift that.

    No command and no healing destroys a protected instance: down, scale, a new description, a roll-back and a
    replacement leave it, and say so. Instances that are to come are protected by policy: {protect: true}.
    """
    from pelagos.cli.finding import suggesting
    from pelagos.cli.texts import count
    from pelagos.wire.infrastructures import ProtectRequest

    name, _, instance = node.partition("/")

    async def work(session: Session) -> int:
        request = ProtectRequest(node=name, instance=instance, protected=switch == "on")
        async with suggesting(session, infrastructure):
            done = await session.client.infrastructures.protect(infrastructure, request)
        if invocation.plain:
            told = "protected" if done.protected else "not protected any more"
            verb = "is" if len(done.instances) == 1 else "are"
            invocation.say(f"{count(len(done.instances), 'instance')} of {done.node} {verb} {told}.")
        else:
            invocation.document(done)
        return Exit.OK

    return invocation.run(work)
