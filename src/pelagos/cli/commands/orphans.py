"""``pelagos orphans``: list, adopt and delete."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pelagos.cli.exits import COMMON, Exit
from pelagos.cli.invocation import Invocation, pass_invocation
from pelagos.cli.lazy import Entry, LazyGroup, command

if TYPE_CHECKING:
    from pelagos.cli.session import Session

__all__ = ["adopt", "delete", "listing", "orphans"]

_HERE = "pelagos.cli.commands.orphans"

orphans = LazyGroup(
    "orphans",
    entries={
        "list": Entry(f"{_HERE}:listing", "List servers that no record knows."),
        "adopt": Entry(f"{_HERE}:adopt", "Take one as an instance of a node."),
        "delete": Entry(f"{_HERE}:delete", "Delete some, or all of a cloud."),
    },
    help="""Servers that carry a mark of Pelagos which no record of this store knows.

    They come of a store that was lost, or belong to another Pelagos on the same account, which nobody can tell apart:
    so nothing happens to them by itself.""",
    no_args_is_help=True,
)


@command(
    "list",
    examples=[("pelagos orphans list", "On all clouds"), ("pelagos orphans list east", "On this one")],
    exits=(Exit.UNSEEN, Exit.MISSING, *COMMON),
)
@click.argument("cloud", metavar="[CLOUD]", required=False, default="")
@pass_invocation
def listing(invocation: Invocation, cloud: str) -> int:
    """List servers that carry a mark of Pelagos which no record knows. The exit code is 5 where a cloud could not be
    looked at.

    With -o json the document is {"items": [{"cloud", "provider_id", "name", "state", "addresses", "flavor",
    "created_at"}], "silent": [{"cloud", "error"}]}.
    """
    from pelagos.cli.drifting import tell_silent
    from pelagos.cli.texts import age, clean, table
    from pelagos.wire.times import from_rfc3339

    async def work(session: Session) -> int:
        found = await session.client.orphans.list(cloud)
        tell_silent(invocation, found.silent)
        if not invocation.plain:
            invocation.document(found)
        elif found.items:
            now = invocation.world.now()
            rows = [
                [
                    one.cloud,
                    one.provider_id,
                    clean(one.name),
                    one.state,
                    ", ".join(one.addresses),
                    age(now - from_rfc3339(one.created_at)) if one.created_at else "",
                ]
                for one in found.items
            ]
            invocation.say(table(["CLOUD", "SERVER", "NAME", "STATE", "ADDRESSES", "AGE"], rows))
        elif not found.silent:
            invocation.note("There is no orphan.")
        return Exit.UNSEEN if found.silent else Exit.OK

    return invocation.run(work)


@command(
    "adopt",
    examples=[("pelagos orphans adopt guestbook db east i-0f3a12", "It is an instance of db from now on")],
    exits=(Exit.FAILED, Exit.MISSING, *COMMON),
)
@click.argument("infrastructure", metavar="INFRA")
@click.argument("node", metavar="NODE")
@click.argument("cloud", metavar="CLOUD")
@click.argument("server", metavar="SERVER")
@click.option("--unprotected", is_flag=True, help="It may be destroyed and replaced like any other instance.")
@pass_invocation
def adopt(invocation: Invocation, infrastructure: str, node: str, cloud: str, server: str, unprotected: bool) -> int:
    """Take an orphan as an instance of a node; it keeps its mark. As pelagos import, which takes any server."""
    from pelagos.cli.importing import adopt as adopt_

    async def work(session: Session) -> int:
        return await adopt_(invocation, session, infrastructure, node, cloud, server, protected=not unprotected)

    return invocation.run(work)


@command(
    "delete",
    examples=[
        ("pelagos orphans delete east i-0f3a12", "This one, after you were asked"),
        ("pelagos orphans delete east --all --yes", "All that this cloud has"),
    ],
    exits=(Exit.FAILED, Exit.MISSING, *COMMON),
)
@click.argument("cloud", metavar="CLOUD")
@click.argument("servers", metavar="[SERVER]…", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All orphans of this cloud.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_invocation
def delete(invocation: Invocation, cloud: str, servers: tuple[str, ...], everything: bool, yes: bool) -> int:
    """Delete orphans, and wait until they are gone. A server that is on record, or never was ours, is refused.

    Be sure that no other Pelagos works on this account: its servers look the same from here. With -o json the document
    is {"cloud", "deleted": [ID], "remaining": [ID]}.
    """
    from pelagos.cli.removing import remove_orphans

    if everything == bool(servers):
        raise click.UsageError("Name servers, or give --all.")

    async def work(session: Session) -> int:
        return await remove_orphans(invocation, session, cloud, servers, yes=yes)

    return invocation.run(work)
