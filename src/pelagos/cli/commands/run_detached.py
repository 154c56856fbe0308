"""``pelagos run-detached``, hidden: the background process of ``up --detach`` (see :mod:`pelagos.cli.detached`)."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from pelagos.cli.exits import COMMON, Exit
from pelagos.cli.invocation import Invocation, pass_invocation
from pelagos.cli.lazy import command

if TYPE_CHECKING:
    from pelagos.cli.detached import Answer
    from pelagos.cli.session import Session

__all__ = ["run_detached"]


@command(
    "run-detached",
    hidden=True,
    examples=[
        ("pelagos run-detached < request.json", "Read a run's request, answer with the run, carry it to its end")
    ],
    exits=(Exit.FAILED, Exit.DESCRIPTION, Exit.MISSING, *COMMON),
)
@pass_invocation
def run_detached(invocation: Invocation) -> int:
    """Carry one run in the background. The request is read from stdin; one line on stdout says that it was accepted,
    or why not; the progress goes to stderr. SIGTERM cancels the run as Ctrl+C would."""
    import msgspec

    from pelagos.cli.detached import Answer
    from pelagos.cli.interrupts import Interrupts
    from pelagos.cli.progress import LogProgress, outcome
    from pelagos.cli.runs import carry_out, exit_of_run, tell_failure
    from pelagos.cli.trail import Trail
    from pelagos.model.errors import PelagosError
    from pelagos.wire.infrastructures import RunRequest, RunView

    request = msgspec.json.decode(sys.stdin.buffer.read(), type=RunRequest)
    accepted: list[RunView] = []

    def tell(run: RunView) -> None:
        accepted.append(run)
        _answer(Answer(run=run))

    async def work(session: Session) -> int:
        with Interrupts() as interrupts:
            progress = LogProgress(invocation, Trail())
            done = await carry_out(invocation, session, request, progress, interrupts, accepted=tell)
        tell_failure(done, invocation) if exit_of_run(done) else invocation.note(outcome(done.trail, done.seconds))
        return exit_of_run(done)

    try:
        return invocation.run(work)
    except PelagosError as error:
        if not accepted:
            _answer(Answer(error=error.payload()))
        raise


def _answer(answer: Answer) -> None:
    """Say the one line, and close stdout for good: who waits for it reads to its end."""
    import msgspec

    os.write(1, msgspec.json.encode(answer) + b"\n")
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 1)
