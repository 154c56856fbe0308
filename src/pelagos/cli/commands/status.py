"""``pelagos status``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pelagos.cli.exits import COMMON, Exit
from pelagos.cli.invocation import Invocation, pass_invocation
from pelagos.cli.lazy import command

if TYPE_CHECKING:
    from pelagos.cli.session import Session

__all__ = ["status"]


@command(
    "status",
    examples=[
        ("pelagos status guestbook", "Its nodes and instances"),
        ("pelagos status guestbook --live", "Ask the clouds first"),
        ("pelagos status guestbook -o json | jq -r .state", "For scripts: the keys of this document are a contract"),
    ],
    exits=(Exit.MISSING, *COMMON),
)
@click.argument("infrastructure", metavar="INFRA")
@click.option("--watch", is_flag=True, help="Show it again whenever something changes, until Ctrl+C (exit code 130).")
@click.option("--live", is_flag=True, help="Ask the clouds now, instead of showing what is known.")
@pass_invocation
def status(invocation: Invocation, infrastructure: str, watch: bool, live: bool) -> int:
    """Show an infrastructure's nodes and instances. INFRA is a name or an id.

    The exit code is 0 whatever the state is; a script reads the state from -o json:
    {"name", "id", "state", "observed_at", "nodes": {NODE: {"scaling": {"min", "max", "target", "actual"}, "instances":
    {ID: {"state", "address", "cloud", "server_id", "provider_id", "created_at", "reason"}}}}}; "provider_id" is the
    server's id in its cloud, left out until that has told it; one that is suspended or detached also has "reason".
    With --watch it is a document a change (a JSON line).
    """
    from pelagos.cli.finding import suggesting
    from pelagos.cli.results import show_state

    async def work(session: Session) -> int:
        async with suggesting(session, infrastructure):
            position = (await session.client.health()).position if watch else 0
            view = await session.client.infrastructures.status(infrastructure, live=live)
        if watch:
            from pelagos.cli.watching import watch_status

            return await watch_status(invocation, session, view, position)
        if invocation.plain:
            show_state(invocation, view)
        else:
            invocation.document(view)
        return Exit.OK

    return invocation.run(work)
