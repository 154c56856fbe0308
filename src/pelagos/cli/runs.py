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
from pelagos.cli.texts import age
from pelagos.cli.trail import Trail
from pelagos.model.errors import PelagosError, Unavailable, from_payload
from pelagos.model.states import RunState
from pelagos.wire.infrastructures import RunRequest, RunView
from pelagos.wire.times import from_rfc3339

if TYPE_CHECKING:
    from pelagos.cli.invocation import Invocation
    from pelagos.cli.session import Session

__all__ = ["Outcome", "carry_out", "exit_of_run", "tell_failure"]

_QUIET = 1.0
"""Seconds after which a run that has not begun says what it waits for."""

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
                group.create_task(_tell_waiting(invocation, session, run, progress)),
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
        by = "" if outcome.interrupted else " by another command"
        invocation.note(f"The run was cancelled{by}: {_left_by_cancelling(outcome)}.")
        if run.error is not None:
            show_error(from_payload(run.error), invocation)
        return
    if run.error is not None:
        show_error(from_payload(run.error), invocation)
    if run.state is RunState.SUPERSEDED:
        invocation.note(f"Follow the newer one: pelagos events {run.infrastructure} --follow")
        return
    for line in outcome.trail.failed[:5]:
        invocation.note(f"  {line}")
    if run.kind == "up":
        kept = "What it made was rolled back." if outcome.trail.rolled_back else "What it had done stays."
        if run.keep:
            kept = "What it made stays (--keep)."
        invocation.note(f"{kept} See why: pelagos events {run.infrastructure}; try again: the same up.")
    else:
        invocation.note(f"See why: pelagos explain {run.infrastructure}")


def _left_by_cancelling(outcome: Outcome) -> str:
    """What became of what a cancelled run had done. Only its events tell whether it was rolled back: a run that has
    begun to remove what was there before is not."""
    run, rolled_back = outcome.run, outcome.trail.rolled_back
    if run.started_at is None and not rolled_back:
        return "it had not begun, nothing was changed"
    if run.kind == "down":
        return "what was being destroyed already goes; the rest stays"
    if run.kind == "maintain":
        return "what it has healed stays" + (", what was half-made is rolled back" if rolled_back else "")
    if rolled_back:
        return "what it made is rolled back; what was there before is untouched"
    return "what it made stays" if run.keep else f"what it had done stays; run {run.kind} again to go on"


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
    match run.kind:
        case "down":
            kept = ": what is being destroyed already goes; the rest stays"
        case "maintain":
            kept = ": what it has healed stays, what is half-made is rolled back"
        case _:  # whether it is rolled back depends on how far it is: its events tell
            kept = ": what this run made stays" if keep else ""
    progress.message(f"Cancelling{kept}. Ctrl+C again leaves at once.")
    try:
        await session.client.runs.cancel(run.id, keep=keep)
    except PelagosError as error:
        progress.message(f"The run could not be cancelled: {error}. Ctrl+C again leaves at once.")


async def _tell_waiting(invocation: Invocation, session: Session, run: RunView, progress: Progress) -> None:
    """A run that does not begin says which one it waits for: a daemon carries out one after the other."""
    await asyncio.sleep(_QUIET)
    if progress.trail.begun:
        return
    try:
        known = await session.client.infrastructures.runs(run.infrastructure_id)
    except PelagosError:
        return  # it would only have explained the silence; that the daemon does not answer is told by following it
    open_ones = [one for one in known if one.id != run.id and not one.state.final]
    before = next((one for one in reversed(open_ones) if one.started_at is not None), None)
    if before is not None and before.started_at is not None and not progress.trail.begun:
        since = age(invocation.world.now() - from_rfc3339(before.started_at))
        progress.message(f"waits for the run before it ({before.kind}, started {since} ago)")


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
