"""Carry a change (up, scale) through and show how it ended; what both commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pelagos.cli.exits import Exit
from pelagos.cli.interrupts import Interrupts
from pelagos.cli.progress import choose
from pelagos.cli.results import document, show_state, show_success, succeeded
from pelagos.cli.runs import carry_out, exit_of_run, tell_failure
from pelagos.cli.trail import Trail
from pelagos.model.errors import Gone, NotFound

if TYPE_CHECKING:
    from pelagos.cli.invocation import Invocation
    from pelagos.cli.session import Session
    from pelagos.wire.infrastructures import PlanView, RunRequest, StatusView

__all__ = ["change", "status_or_none"]


async def change(invocation: Invocation, session: Session, request: RunRequest, plan: PlanView) -> int:
    """Run it with progress on stderr; then the final table, or the document, on stdout; answers the exit code."""
    with Interrupts() as interrupts:
        done = await carry_out(invocation, session, request, choose(invocation, Trail(plan)), interrupts)
    status = await status_or_none(session, done.run.infrastructure_id)
    if succeeded(done) and status is not None:
        await show_success(invocation, session, status, done)
        return Exit.OK
    tell_failure(done, invocation)
    if not invocation.plain:
        invocation.document(document(status, done.run))
    elif status is not None:
        show_state(invocation, status)
        invocation.say(status.id)
    return exit_of_run(done)


async def status_or_none(session: Session, reference: str) -> StatusView | None:
    """The state, or None when it is gone (a first build that was rolled back leaves nothing)."""
    try:
        return await session.client.infrastructures.status(reference)
    except (NotFound, Gone):
        return None
