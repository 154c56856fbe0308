"""``pelagos up``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from pelagos.cli.bringing import bringing_options, map_clouds_option
from pelagos.cli.exits import COMMON, Exit
from pelagos.cli.invocation import Invocation, pass_invocation
from pelagos.cli.lazy import command
from pelagos.cli.selecting import selecting_options

__all__ = ["up"]


@command(
    "up",
    examples=[
        ("pelagos up examples/guestbook/*.yaml", "Build what the files describe, or bring it to what they say now"),
        ("pelagos up shop.yaml nodes.yaml --yes -o json", "For scripts: ask nothing, print one document"),
        ("pelagos up shop.yaml --detach", "Let it go on in the background"),
        ("pelagos up shop.yaml nodes.yaml --map-clouds simulated", "Rehearse it without its clouds"),
        ("pelagos up shop.yaml nodes.yaml --target web --replace web", "Make web anew, and touch nothing else"),
    ],
    exits=(Exit.FAILED, Exit.DESCRIPTION, Exit.MISSING, Exit.QUOTA, *COMMON),
)
@click.argument("files", nargs=-1, required=True, metavar="FILE…", type=click.Path(path_type=Path))
@map_clouds_option
@selecting_options
@bringing_options
@pass_invocation
def up(
    invocation: Invocation,
    files: tuple[Path, ...],
    map_clouds: str,
    strategy: Literal["parallel", "sequential"],
    yes: bool,
    keep: bool,
    on_failure: str | None,
    detach: bool,
    only: tuple[str, ...],
    without: tuple[str, ...],
    replace: tuple[str, ...],
) -> int:
    """Build an infrastructure, or change it to what its files say.

    FILE… are the infrastructure's description and the node definitions, in any order. The plan is shown first, and
    you are asked where it destroys something. The infrastructure's name is in its description: a second up of the same
    name changes the first, and when all is as described it says that nothing is to do.

    Ctrl+C cancels the run and rolls back what this run made (or keeps it, with --keep). Once it has begun to remove
    what was there before, what it has done stays, and the next up goes on. A newer up of the same infrastructure
    supersedes one that is under way, which then ends with exit code 1. A second Ctrl+C leaves at once, and the next
    up resumes. The infrastructure's id is the last line on
    stdout; with -o json the document is {"id", "name", "state", "run", "status"}, where status is what pelagos status
    prints and run is null when there was nothing to do.

    With --map-clouds one cloud of the pool stands in for those that are described. Of their resource sections only the
    keys are checked then; values that they would not take are warnings. Later versions need it again.
    """
    from pelagos.cli.bringing import bring
    from pelagos.clients.bundle import read_bundle
    from pelagos.wire.infrastructures import PlanRequest

    sources, entries = read_bundle(files)
    wanted = PlanRequest(
        sources=sources,
        entries=tuple(entries),
        strategy=strategy,
        map_clouds=map_clouds,
        only=only,
        without=without,
        replace=replace,
    )
    return bring(invocation, wanted, yes=yes, keep=keep, detach=detach, on_failure=on_failure)
