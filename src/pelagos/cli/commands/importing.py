"""``pelagos import``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pelagos.cli.exits import COMMON, Exit
from pelagos.cli.invocation import Invocation, pass_invocation
from pelagos.cli.lazy import command

if TYPE_CHECKING:
    from pelagos.cli.session import Session

__all__ = ["import_"]


@command(
    "import",
    examples=[
        ("pelagos import guestbook db east i-0f3a12", "This server is an instance of db from now on"),
        (
            "pelagos import guestbook web east old-web --unprotected",
            "By its name; and it may be destroyed like any other",
        ),
    ],
    exits=(Exit.FAILED, Exit.MISSING, *COMMON),
)
@click.argument("infrastructure", metavar="INFRA")
@click.argument("node", metavar="NODE")
@click.argument("cloud", metavar="CLOUD")
@click.argument("server", metavar="SERVER")
@click.option("--unprotected", is_flag=True, help="It may be destroyed and replaced like any other instance.")
@pass_invocation
def import_(invocation: Invocation, infrastructure: str, node: str, cloud: str, server: str, unprotected: bool) -> int:
    """Take a server that is there already as an instance of a node. SERVER is its id in the cloud, or its name.

    It is marked as ours in its cloud, counts into the quota, takes the place of a missing instance or adds one, and is
    protected until pelagos protect … off. To import it again changes nothing. Node definitions are imported by
    pelagos definitions import. The output is that of up.
    """
    from pelagos.cli.importing import adopt

    async def work(session: Session) -> int:
        return await adopt(invocation, session, infrastructure, node, cloud, server, protected=not unprotected)

    return invocation.run(work)
