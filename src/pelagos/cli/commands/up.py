"""``pelagos up``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from pelagos.cli.exits import COMMON, Exit
from pelagos.cli.invocation import Invocation, pass_invocation
from pelagos.cli.lazy import command

if TYPE_CHECKING:
    from pelagos.cli.session import Session
    from pelagos.wire.infrastructures import RunRequest, RunView

__all__ = ["up"]


@command(
    "up",
    examples=[
        ("pelagos up examples/guestbook/*.yaml", "Build what the files describe, or bring it to what they say now"),
        ("pelagos up shop.yaml nodes.yaml --yes -o json", "For scripts: ask nothing, print one document"),
        ("pelagos up shop.yaml --detach", "Let it go on in the background"),
    ],
    exits=(Exit.FAILED, Exit.DESCRIPTION, Exit.MISSING, Exit.QUOTA, *COMMON),
)
@click.argument("files", nargs=-1, required=True, metavar="FILE…", type=click.Path(path_type=Path))
@click.option(
    "--strategy",
    type=click.Choice(["parallel", "sequential"]),
    default="parallel",
    show_default=True,
    help="Nodes at once as far as their dependencies allow, or one after the other.",
)
@click.option("--yes", is_flag=True, help="Do not ask before something is destroyed.")
@click.option("--keep", is_flag=True, help="When it fails or is cancelled, keep what it made.")
@click.option("--detach", is_flag=True, help="Return when the run is accepted; it goes on in the background.")
@pass_invocation
def up(
    invocation: Invocation,
    files: tuple[Path, ...],
    strategy: Literal["parallel", "sequential"],
    yes: bool,
    keep: bool,
    detach: bool,
) -> int:
    """Build an infrastructure, or change it to what its files say.

    FILE… are the infrastructure's description and the node definitions, in any order. The plan is shown first, and
    you are asked where it destroys something. The infrastructure's name is in its description: a second up of the same
    name changes the first, and when all is as described it says that nothing is to do.

    Ctrl+C cancels the run and rolls back what this run made (or keeps it, with --keep). Once it has begun to remove
    what was there before, what it has done stays, and the next up goes on. A second Ctrl+C leaves at once, and the next
    up resumes. The infrastructure's id is the last line on
    stdout; with -o json the document is {"id", "name", "state", "run", "status"}, where status is what pelagos status
    prints and run is null when there was nothing to do.
    """
    from pelagos.cli.asking import agreed, show_plan
    from pelagos.cli.changing import change
    from pelagos.cli.results import show_success
    from pelagos.clients.bundle import read_bundle
    from pelagos.model.states import InfrastructureState
    from pelagos.wire.infrastructures import PlanRequest, RunRequest

    sources, entries = read_bundle(files)
    handed_over: list[tuple[RunRequest, Path]] = []

    async def work(session: Session) -> int:
        plan = await session.client.plan(PlanRequest(sources=sources, entries=tuple(entries), strategy=strategy))
        show_plan(plan, invocation)
        if plan.id is not None and not plan.changes and plan.state is InfrastructureState.READY:
            await show_success(invocation, session, await session.client.infrastructures.status(plan.id), None)
            return Exit.OK
        if not await agreed(plan, invocation, yes=yes):
            return Exit.FAILED
        request = RunRequest(
            kind="up",
            request_id=invocation.world.new_id(),
            sources=sources,
            entries=tuple(entries),
            strategy=strategy,
            keep=keep,
        )
        if not detach:
            return await change(invocation, session, request, plan)
        if session.home is not None:
            handed_over.append((request, session.home))
        else:
            _show_detached(invocation, await session.client.runs.start(request), None)
        return Exit.OK

    code = invocation.run(work)
    for request, home in handed_over:  # after our own services have gone: the background process has its own
        from pelagos.cli.detached import start_detached

        _show_detached(invocation, *start_detached(invocation, request, home))
    return code


def _show_detached(invocation: Invocation, run: RunView, log: Path | None) -> None:
    from pelagos.cli.results import document

    if not invocation.plain:
        invocation.document(document(None, run))
        return
    name = run.infrastructure
    invocation.note(f"Run {run.id} of {name} goes on in the background.")
    if log is not None:
        invocation.note(f"Its log: {log}")
    invocation.note(f"Follow it: pelagos events {name} --follow, or pelagos status {name} --watch.")
    invocation.say(run.infrastructure_id)
