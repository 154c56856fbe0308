"""Bring an infrastructure to a description: show the plan, ask, carry it out or leave it to the background.

What up, rollback and apply share; they differ in where the description comes from.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pelagos.cli.exits import Exit
from pelagos.cli.selecting import failing_option

if TYPE_CHECKING:
    from pelagos.cli.invocation import Invocation
    from pelagos.cli.session import Session
    from pelagos.wire.infrastructures import PlanRequest, PlanView, RunRequest, RunView

__all__ = ["bring", "bringing_options", "carry", "map_clouds_option"]

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
    failing_option,
    click.option("--detach", is_flag=True, help="Return when the run is accepted; it goes on in the background."),
)


def bringing_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a command that brings about a description."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def bring(
    invocation: Invocation, wanted: PlanRequest, *, yes: bool, keep: bool, detach: bool, on_failure: str | None = None
) -> int:
    """Answers the exit code."""
    from pelagos.wire.infrastructures import RunRequest

    request = RunRequest(
        kind="up",
        request_id=invocation.world.new_id(),
        sources=wanted.sources,
        entries=wanted.entries,
        infrastructure=wanted.infrastructure,
        revision=wanted.revision,
        strategy=wanted.strategy,
        map_clouds=wanted.map_clouds,
        only=wanted.only,
        without=wanted.without,
        replace=wanted.replace,
        keep=keep,
        on_failure=on_failure or "",  # type: ignore[arg-type]  # click has checked it
    )
    return carry(invocation, request, wanted, yes=yes, detach=detach)


def carry(invocation: Invocation, request: RunRequest, plan: PlanRequest | PlanView, *, yes: bool, detach: bool) -> int:
    """Show the plan (asked for first, if it is a request), ask, and carry ``request`` out; answers the exit code."""
    from pelagos.cli.asking import agreed, show_plan
    from pelagos.cli.changing import change
    from pelagos.cli.results import show_success
    from pelagos.model.states import InfrastructureState
    from pelagos.wire.infrastructures import PlanView

    handed_over: list[Path] = []

    async def work(session: Session) -> int:
        view = plan if isinstance(plan, PlanView) else await session.client.plan(plan)
        show_plan(view, invocation)
        nothing = not view.changes and not view.closes
        if view.id is not None and nothing and view.state is InfrastructureState.READY:
            await show_success(invocation, session, await session.client.infrastructures.status(view.id), None)
            return Exit.OK
        if not await agreed(view, invocation, yes=yes):
            return Exit.FAILED
        if not detach:
            return await change(invocation, session, request, view)
        if session.home is not None:
            handed_over.append(session.home)
        else:
            _show_detached(invocation, await session.client.runs.start(request), None)
        return Exit.OK

    code = invocation.run(work)
    for home in handed_over:  # after our own services have gone: the background process has its own
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
