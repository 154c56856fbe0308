"""``pelagos apply``."""

from __future__ import annotations

from pathlib import Path

import click

from pelagos.cli.exits import COMMON, Exit
from pelagos.cli.invocation import Invocation, pass_invocation
from pelagos.cli.lazy import command
from pelagos.cli.selecting import failing_option

__all__ = ["apply"]


@command(
    "apply",
    examples=[
        ("pelagos apply shop.plan", "Do what the plan says, and nothing else"),
        ("pelagos apply shop.plan --yes -o json", "For scripts: ask nothing, print one document"),
    ],
    exits=(Exit.FAILED, Exit.DESCRIPTION, Exit.MISSING, Exit.QUOTA, *COMMON),
)
@click.argument("plan", metavar="PLAN", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--yes", is_flag=True, help="Do not ask before something is destroyed.")
@click.option("--keep", is_flag=True, help="When it fails or is cancelled, keep what it made.")
@failing_option
@click.option("--detach", is_flag=True, help="Return when the run is accepted; it goes on in the background.")
@pass_invocation
def apply(invocation: Invocation, plan: Path, yes: bool, keep: bool, on_failure: str | None, detach: bool) -> int:
    """Carry out a saved plan, exactly as it stands.

    PLAN is a file of `pelagos plan --out`. What it says is done, to the very instances it names, and nothing else. If
    anything that it was made against is no longer so, it is refused, with what has changed meanwhile, and nothing is
    done. Ctrl+C and the output are up's.
    """
    from pelagos.cli.bringing import carry
    from pelagos.cli.plan_files import load_plan
    from pelagos.wire.infrastructures import PlanView, RunRequest

    saved = load_plan(plan)
    shown = PlanView(
        name=saved.name,
        id=saved.infrastructure,
        state=None,
        actions=saved.actions,
        critical_path=(),
        estimated_seconds=None,
    )
    request = RunRequest(
        kind="up",
        request_id=invocation.world.new_id(),
        plan=saved,
        keep=keep,
        on_failure=on_failure or "",  # type: ignore[arg-type]  # click has checked it
    )
    return carry(invocation, request, shown, yes=yes, detach=detach)
