"""Carry a run from its acceptance to its end: follow its events, show them, and let Ctrl+C cancel it.

A run is started with a request id chosen here, so a repeat after a lost answer finds it. Its end is read from the store
by position, not from a connection that holds: when a daemon restarts, the client connects again and goes on reading
where it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pelagos.cli.exits import Exit
from pelagos.cli.failures import show_error, show_warnings
from pelagos.cli.interrupts import Interrupts
from pelagos.cli.progress import Progress
from pelagos.cli.trail import Trail
from pelagos.model.errors import PelagosError, Unavailable, from_payload
from pelagos.model.states import RunState
from pelagos.wire.infrastructures import RunRequest, RunView

if TYPE_CHECKING:
    from pelagos.cli.invocation import Invocation
    from pelagos.cli.session import Session

__all__ = ["Outcome", "carry_out", "exit_of_run", "tell_failure"]

_TICK = 0.1
"""Seconds between two drawings of the live display."""


@dataclass(frozen=True)
class Outcome:
    """A run at its end. ``interrupted``: Ctrl+C in this command asked for it."""

    run: RunView
    trail: Trail
    interrupted: bool
    seconds: float


async def carry_out(
    invocation: Invocation,
    session: Session,
    request: RunRequest,
    progress: Progress,
    interrupts: Interrupts,
    *,
    accepted: Callable[[RunView], None] | None = None,
) -> Outcome:
    """Start a run and follow it to its end. While it is under way, ``interrupts`` cancel it. ``accepted`` is told the
    run before it is followed."""
    began = invocation.world.monotonic()
    run = await session.client.runs.start(request)
    if accepted is not None:
        accepted(run)
    show_warnings(run.warnings, invocation)
    interrupts.last_words = _last_words(session, run)
    progress.trail.position = max(progress.trail.position, run.position)
    progress.open()
    try:
        async with asyncio.TaskGroup() as group:
            aside = [
                group.create_task(_tick(progress)),
                group.create_task(_cancel_when_asked(session, run, request.keep, progress, interrupts)),
            ]
            await _follow(session, run, progress)
            for task in aside:
                task.cancel()
    finally:
        progress.close()
    final = await session.client.runs.get(run.id)
    return Outcome(final, progress.trail, interrupts.asked.is_set(), invocation.world.monotonic() - began)


def exit_of_run(outcome: Outcome) -> Exit:
    """0 if it succeeded (even when Ctrl+C came too late to stop it), 130 if Ctrl+C cancelled it, else 1."""
    if outcome.run.state is RunState.SUCCEEDED:
        return Exit.OK
    return Exit.INTERRUPTED if outcome.interrupted else Exit.FAILED


def tell_failure(outcome: Outcome, invocation: Invocation) -> None:
    """On stderr: why the run did not succeed, what became of what it had made, and what to do next."""
    run = outcome.run
    if run.state is RunState.CANCELLED:
        kept = "what it made stays" if run.keep else "what it made is rolled back; what was there before is untouched"
        by = "" if outcome.interrupted else " by another command"
        invocation.note(f"The run was cancelled{by}: {kept}.")
        return
    if run.error is not None:
        show_error(from_payload(run.error), invocation)
    for line in outcome.trail.failed[:5]:
        invocation.note(f"  {line}")
    if run.kind == "up":
        kept = "What it made stays (--keep)." if run.keep else "What it made was rolled back."
        invocation.note(f"{kept} See why: pelagos events {run.infrastructure}; try again: the same up.")
    else:
        invocation.note(f"See why: pelagos explain {run.infrastructure}")


def _last_words(session: Session, run: RunView) -> str:
    if not session.embedded:
        return f"Left. The daemon goes on with the run; follow it: pelagos events {run.infrastructure} --follow"
    return (
        "Left at once: what was under way stays as it is, nothing is lost. "
        f"The next up of {run.infrastructure} resumes it; pelagos down {run.infrastructure} takes all down."
    )


async def _tick(progress: Progress) -> None:
    while True:
        await asyncio.sleep(_TICK)
        progress.tick()


async def _cancel_when_asked(
    session: Session, run: RunView, keep: bool, progress: Progress, interrupts: Interrupts
) -> None:
    await interrupts.asked.wait()
    kept = "what this run made stays" if keep else "rolling back what this run made; what was there before stays"
    progress.message(f"Cancelling: {kept}. Ctrl+C again leaves at once.")
    try:
        await session.client.runs.cancel(run.id, keep=keep)
    except PelagosError as error:
        progress.message(f"The run could not be cancelled: {error}. Ctrl+C again leaves at once.")


async def _follow(session: Session, run: RunView, progress: Progress) -> None:
    """Feed the run's events to the display until it is final. The client connects again by itself where the daemon
    goes away for a while."""
    try:
        async for event in session.client.runs.follow(run.id, after=progress.trail.position):
            progress.event(event)
    except Unavailable as error:
        raise Unavailable(
            f"the run {run.id} can no longer be followed: {error}",
            advice=f"It may go on. See: pelagos status {run.infrastructure}",
        ) from error
