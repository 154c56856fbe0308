"""``pelagos attach`` and ``pelagos detach``, ``pelagos suspend`` and ``pelagos resume``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pelagos.cli.exits import COMMON, Exit
from pelagos.cli.invocation import Invocation, pass_invocation
from pelagos.cli.lazy import command

if TYPE_CHECKING:
    from pelagos.cli.session import Session

__all__ = ["attach", "detach", "resume", "suspend"]


@command(
    "attach",
    examples=[("pelagos attach guestbook", "From now on the daemon keeps it alive")],
    exits=(Exit.FAILED, Exit.MISSING, *COMMON),
)
@click.argument("infrastructure", metavar="INFRA")
@pass_invocation
def attach(invocation: Invocation, infrastructure: str) -> int:
    """Let the daemon (pelagos serve) keep an infrastructure alive: check its health, heal and scale it."""
    return _set(invocation, infrastructure, maintained=True)


@command(
    "detach",
    examples=[("pelagos detach guestbook", "From now on the daemon leaves it alone")],
    exits=(Exit.FAILED, Exit.MISSING, *COMMON),
)
@click.argument("infrastructure", metavar="INFRA")
@pass_invocation
def detach(invocation: Invocation, infrastructure: str) -> int:
    """Stop the daemon from keeping an infrastructure alive. Its instances stay as they are."""
    return _set(invocation, infrastructure, maintained=False)


@command(
    "suspend",
    examples=[('pelagos suspend guestbook --reason "the cloud is moved"', "Until it is resumed")],
    exits=(Exit.FAILED, Exit.MISSING, *COMMON),
)
@click.argument("infrastructure", metavar="INFRA")
@click.option("--reason", metavar="TEXT", default="", help="Why, for people: status and list show it.")
@pass_invocation
def suspend(invocation: Invocation, infrastructure: str, reason: str) -> int:
    """Let nobody create, heal or scale anything of an infrastructure until it is resumed. Its instances stay as they
    are; status, drift and down go on working. After detach, commands may still change it; after suspend, none may."""
    from pelagos.cli.finding import suggesting

    async def work(session: Session) -> int:
        async with suggesting(session, infrastructure):
            summary = await session.client.infrastructures.suspend(infrastructure, reason)
        if invocation.plain:
            invocation.say(f"{summary.name} is suspended until pelagos resume {summary.name}.")
        else:
            invocation.document(summary)
        return Exit.OK

    return invocation.run(work)


@command(
    "resume",
    examples=[("pelagos resume guestbook", "It is as it was before it was suspended")],
    exits=(Exit.FAILED, Exit.MISSING, *COMMON),
)
@click.argument("infrastructure", metavar="INFRA")
@pass_invocation
def resume(invocation: Invocation, infrastructure: str) -> int:
    """End a suspension: commands may change the infrastructure, and the daemon keeps it alive again, unless it was
    detached before."""
    from pelagos.cli.finding import suggesting

    async def work(session: Session) -> int:
        async with suggesting(session, infrastructure):
            summary = await session.client.infrastructures.resume(infrastructure)
        if not invocation.plain:
            invocation.document(summary)
        elif summary.maintained:
            invocation.say(f"{summary.name} is kept alive by the daemon from now on.")
        else:
            invocation.say(
                f"{summary.name} is not suspended, and stays detached: pelagos attach {summary.name} has the daemon"
                " keep it alive."
            )
        return Exit.OK

    return invocation.run(work)


def _set(invocation: Invocation, reference: str, *, maintained: bool) -> int:
    from pelagos.cli.finding import suggesting

    async def work(session: Session) -> int:
        async with suggesting(session, reference):
            of = session.client.infrastructures
            summary = await (of.attach(reference) if maintained else of.detach(reference))
        if invocation.plain:
            kept = "is kept alive by the daemon" if summary.maintained else "is left alone by the daemon"
            invocation.say(f"{summary.name} {kept} from now on.")
        else:
            invocation.document(summary)
        return Exit.OK

    return invocation.run(work)
