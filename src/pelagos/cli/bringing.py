"""Bring an infrastructure to a description: show the plan, ask, carry it out or leave it to the background.

What up and rollback share; they differ in where the description comes from.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pelagos.cli.exits import Exit

if TYPE_CHECKING:
    from pelagos.cli.invocation import Invocation
    from pelagos.cli.session import Session
    from pelagos.wire.infrastructures import PlanRequest, RunRequest, RunView

__all__ = ["bring", "bringing_options", "map_clouds_option"]

map_clouds_option = click.option(
    "--map-clouds",
    metavar="CLOUD",
    default="",
    help="Build on this cloud of the pool in place of all that are described: a name or driver, such as simulated.",
)

_OPTIONS = (
    click.option(
        "--strategy",
        type=click.Choice(["parallel", "sequential"]),
        default="parallel",
        show_default=True,
        help="Nodes at once as far as their dependencies allow, or one after the other.",
    ),
    click.option("--yes", is_flag=True, help="Do not ask before something is destroyed."),
    click.option("--keep", is_flag=True, help="When it fails or is cancelled, keep what it made."),
    click.option("--detach", is_flag=True, help="Return when the run is accepted; it goes on in the background."),
)


def bringing_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a command that brings about a description."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def bring(invocation: Invocation, wanted: PlanRequest, *, yes: bool, keep: bool, detach: bool) -> int:
    """Answers the exit code."""
    from pelagos.cli.asking import agreed, show_plan
    from pelagos.cli.changing import change
    from pelagos.cli.results import show_success
    from pelagos.model.states import InfrastructureState
    from pelagos.wire.infrastructures import RunRequest

    handed_over: list[tuple[RunRequest, Path]] = []

    async def work(session: Session) -> int:
        plan = await session.client.plan(wanted)
        show_plan(plan, invocation)
        if plan.id is not None and not plan.changes and plan.state is InfrastructureState.READY:
            await show_success(invocation, session, await session.client.infrastructures.status(plan.id), None)
            return Exit.OK
        if not await agreed(plan, invocation, yes=yes):
            return Exit.FAILED
        request = RunRequest(
            kind="up",
            request_id=invocation.world.new_id(),
            sources=wanted.sources,
            entries=wanted.entries,
            infrastructure=wanted.infrastructure,
            revision=wanted.revision,
            map_clouds=wanted.map_clouds,
            strategy=wanted.strategy,
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
