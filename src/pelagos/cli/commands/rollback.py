"""``pelagos rollback``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import click

from pelagos.cli.bringing import bringing_options
from pelagos.cli.exits import COMMON, Exit
from pelagos.cli.invocation import Invocation, pass_invocation
from pelagos.cli.lazy import command
from pelagos.cli.selecting import selecting_options

if TYPE_CHECKING:
    from pelagos.cli.session import Session

__all__ = ["rollback"]


@command(
    "rollback",
    examples=[
        ("pelagos rollback guestbook HEAD~1 --plan", "What going back by one version would do"),
        ("pelagos rollback guestbook 1 --yes", "Back to the first version, without a question"),
    ],
    exits=(Exit.FAILED, Exit.CHANGES, Exit.DESCRIPTION, Exit.MISSING, Exit.QUOTA, *COMMON),
)
@click.argument("infrastructure", metavar="INFRA")
@click.argument("revision", metavar="REV")
@click.option("--plan", "only_plan", is_flag=True, help="Show what it would do, and do nothing.")
@selecting_options
@bringing_options
@pass_invocation
def rollback(
    invocation: Invocation,
    infrastructure: str,
    revision: str,
    only_plan: bool,
    strategy: Literal["parallel", "sequential"],
    yes: bool,
    keep: bool,
    on_failure: str | None,
    detach: bool,
    only: tuple[str, ...],
    without: tuple[str, ...],
    replace: tuple[str, ...],
) -> int:
    """Bring an infrastructure back to an earlier version of its description.

    REV is one of pelagos history: its number, the first digits of its id, HEAD~1, or @2026-01-31 for the one of that
    time. It is a normal up with the texts and node definitions of then, so the plan is shown first, you are asked where
    it destroys something, and Ctrl+C and the output are as there. It makes a new version that says the same as the old
    one; nothing is forgotten. How many instances a node has stays as it is, within the old version's limits.
    """
    from pelagos.cli.bringing import bring
    from pelagos.wire.infrastructures import PlanRequest

    wanted = PlanRequest(
        infrastructure=infrastructure,
        revision=revision,
        strategy=strategy,
        only=only,
        without=without,
        replace=replace,
    )
    if not only_plan:
        return bring(invocation, wanted, yes=yes, keep=keep, detach=detach, on_failure=on_failure)

    async def work(session: Session) -> int:
        from pelagos.cli.results import show_planned

        return show_planned(invocation, await session.client.plan(wanted))

    return invocation.run(work)
