"""``pelagos list``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pelagos.cli.exits import COMMON, Exit
from pelagos.cli.invocation import Invocation, pass_invocation
from pelagos.cli.lazy import command

if TYPE_CHECKING:
    from pelagos.cli.session import Session

__all__ = ["listing"]


@command(
    "list",
    examples=[
        ("pelagos list", "What there is, and in which state"),
        ("pelagos list -o json | jq -r '.[].name'", "The names alone"),
    ],
    exits=COMMON,
)
@click.option("--all", "deleted", is_flag=True, help="Also those that are gone.")
@pass_invocation
def listing(invocation: Invocation, deleted: bool) -> int:
    """List the infrastructures of the project. With -o json the document is an array."""
    from pelagos.cli.views import infrastructures

    async def work(session: Session) -> int:
        found = await session.client.infrastructures.list(deleted=deleted)
        if not invocation.plain:
            invocation.document(found)
        elif found:
            gone: frozenset[str] = frozenset()
            if deleted:  # a summary does not say whether it is a tombstone's: the list without them does
                living = {one.id for one in await session.client.infrastructures.list()}
                gone = frozenset(one.id for one in found if one.id not in living)
            invocation.say(infrastructures(found, invocation.world.now(), gone))
        else:
            invocation.note("There is no infrastructure yet. Build one: pelagos up FILE…")
        return Exit.OK

    return invocation.run(work)
