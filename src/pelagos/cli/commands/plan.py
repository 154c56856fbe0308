"""``pelagos plan``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from pelagos.cli.bringing import map_clouds_option
from pelagos.cli.exits import COMMON, Exit
from pelagos.cli.invocation import Invocation, pass_invocation
from pelagos.cli.lazy import command
from pelagos.cli.selecting import selecting_options

if TYPE_CHECKING:
    from pelagos.cli.session import Session

__all__ = ["plan"]


@command(
    "plan",
    examples=[
        ("pelagos plan examples/guestbook/*.yaml", "What would up do, and how long would it take"),
        ("pelagos plan shop.yaml nodes.yaml > /dev/null || echo not as described", "In a script"),
        ("pelagos plan shop.yaml nodes.yaml --out shop.plan", "Keep it, for pelagos apply"),
        ("pelagos plan shop.yaml nodes.yaml --target web", "Only web, and what it depends on"),
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
@selecting_options
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="PLAN",
    help="Write the plan to this file, for `pelagos apply`. It holds the description, with its secrets.",
)
@pass_invocation
def plan(
    invocation: Invocation,
    files: tuple[Path, ...],
    strategy: Literal["parallel", "sequential"],
    map_clouds: str,
    only: tuple[str, ...],
    without: tuple[str, ...],
    replace: tuple[str, ...],
    out: Path | None,
) -> int:
    """Show what up would change, and how long it would take.

    It shows what is created, updated in place, destroyed and replaced, and which keys force it; the critical path and
    an estimate of the time; what it takes of the quota, and what the servers cost where their cloud knows prices: a
    range where it is open which implementation is taken, with the reason. Nothing is changed. The exit code says
    whether there is something to do: 0 nothing, 2 changes.
    """
    import msgspec

    from pelagos.cli.plan_files import write_plan
    from pelagos.cli.results import show_planned
    from pelagos.clients.bundle import read_bundle
    from pelagos.wire.infrastructures import PlanRequest

    sources, entries = read_bundle(files)

    async def work(session: Session) -> int:
        wanted = PlanRequest(
            sources=sources,
            entries=tuple(entries),
            strategy=strategy,
            map_clouds=map_clouds,
            only=only,
            without=without,
            replace=replace,
            save=out is not None,
        )
        found = await session.client.plan(wanted)
        if out is not None and found.saved is not None:
            write_plan(found.saved, out)
        code = show_planned(invocation, msgspec.structs.replace(found, saved=None))
        if out is not None:
            invocation.note(f"The plan is in {out}. Carry it out: pelagos apply {out}")
        return code

    return invocation.run(work)
