"""``pelagos plan``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from pelagos.cli.bringing import map_clouds_option
from pelagos.cli.exits import COMMON, Exit
from pelagos.cli.invocation import Invocation, pass_invocation
from pelagos.cli.lazy import command

if TYPE_CHECKING:
    from pelagos.cli.session import Session

__all__ = ["plan"]


@command(
    "plan",
    examples=[
        ("pelagos plan examples/guestbook/*.yaml", "What would up do, and how long would it take"),
        ("pelagos plan shop.yaml nodes.yaml > /dev/null || echo not as described", "In a script"),
    ],
    exits=(Exit.CHANGES, Exit.DESCRIPTION, Exit.MISSING, *COMMON),
)
@click.argument("files", nargs=-1, required=True, metavar="FILE…", type=click.Path(path_type=Path))
@click.option(
    "--strategy",
    type=click.Choice(["parallel", "sequential"]),
    default="parallel",
    show_default=True,
    help="For which strategy the time is estimated.",
)
@map_clouds_option
@pass_invocation
def plan(
    invocation: Invocation, files: tuple[Path, ...], strategy: Literal["parallel", "sequential"], map_clouds: str
) -> int:
    """Show what up would change, and how long it would take.

    It shows what is created, destroyed and replaced, the critical path, and an estimate of the time. Nothing is
    changed. The exit code says whether there is something to do: 0 nothing, 2 changes.
    """
    from pelagos.cli.results import show_planned
    from pelagos.clients.bundle import read_bundle
    from pelagos.wire.infrastructures import PlanRequest

    sources, entries = read_bundle(files)

    async def work(session: Session) -> int:
        wanted = PlanRequest(sources=sources, entries=tuple(entries), strategy=strategy, map_clouds=map_clouds)
        return show_planned(invocation, await session.client.plan(wanted))

    return invocation.run(work)
