"""``pelagos maintain``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import click

from pelagos.cli.exits import COMMON, Exit
from pelagos.cli.invocation import Invocation, pass_invocation
from pelagos.cli.lazy import command

if TYPE_CHECKING:
    from pelagos.cli.session import Session

__all__ = ["maintain"]


def _check_interval(context: click.Context, parameter: click.Parameter, value: float) -> float:
    if not math.isfinite(value):  # `nan` passes every comparison
        raise click.BadParameter("it is a number of seconds, for example 10.", context, parameter)
    return value


@command(
    "maintain",
    examples=[
        ("pelagos maintain guestbook", "Keep it alive until Ctrl+C"),
        ("pelagos maintain guestbook --once", "One pass, and say what it did"),
        ("pelagos maintain --all --interval 30", "All that are to be kept alive, every half minute"),
    ],
    exits=(Exit.FAILED, Exit.NOT_READY, Exit.MISSING, *COMMON),
)
@click.argument("infrastructure", metavar="[INFRA]", required=False)
@click.option("--all", "everything", is_flag=True, help="All infrastructures that are to be kept alive.")
@click.option("--once", is_flag=True, help="A single pass, instead of going on until Ctrl+C.")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1),
    callback=_check_interval,
    default=10.0,
    show_default=True,
    metavar="S",
    help="Seconds between two passes.",
)
@pass_invocation
def maintain(invocation: Invocation, infrastructure: str | None, everything: bool, once: bool, interval: float) -> int:
    """Check the health of an infrastructure's instances, heal and scale it, until stopped.

    A daemon (pelagos serve) does the same for all that are to be kept alive. With --once: 0 all is ready, 3 something
    is not ready yet, 1 the pass failed. Without it the command ends by Ctrl+C, with 130: a pass under way is cancelled,
    what it has healed stays, what is half-made is rolled back. With -o json each pass is a JSON line {"id", "name",
    "state", "run", "did", "waits"}.
    """
    if everything == bool(infrastructure):
        raise click.UsageError("Name an infrastructure, or give --all, not both.")
    from pelagos.cli.finding import suggesting
    from pelagos.cli.interrupts import Interrupts
    from pelagos.cli.maintaining import Maintainer

    async def work(session: Session) -> int:
        with Interrupts("Left at once.") as interrupts:
            maintainer = Maintainer(invocation, session, interrupts, once=once)
            if infrastructure is None:
                return await maintainer.keep_all(interval)
            async with suggesting(session, infrastructure):
                status = await session.client.infrastructures.status(infrastructure)
            return await maintainer.keep([status.id], interval)

    return invocation.run(work)
