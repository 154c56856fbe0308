"""How a changing command ends: the final table with the addresses that answer, or the one document for scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pelagos.cli.exits import Exit
from pelagos.cli.progress import outcome as outcome_line
from pelagos.cli.runs import Outcome
from pelagos.cli.trail import Trail
from pelagos.model.states import RunState
from pelagos.wire.infrastructures import PlanView, RunView, StatusView

if TYPE_CHECKING:
    from pelagos.cli.invocation import Invocation
    from pelagos.cli.session import Session

__all__ = ["document", "show_planned", "show_state", "show_success", "succeeded"]

_HISTORY = 5000
"""The most events that are looked through for the addresses of instances."""
_URLS = 3


def document(status: StatusView | None, run: RunView | None) -> dict[str, Any]:
    """``{"id", "name", "state", "run", "status"}``: what up and scale print with ``-o json``."""
    identifier = status.id if status is not None else run.infrastructure_id if run is not None else None
    name = status.name if status is not None else run.infrastructure if run is not None else None
    state = status.state if status is not None else None
    return {"id": identifier, "name": name, "state": state, "run": run, "status": status}


async def show_success(invocation: Invocation, session: Session, status: StatusView, done: Outcome | None) -> None:
    """The end of an up or scale that succeeded; ``done`` is None where there was nothing to do. In table mode the id
    is the last line on stdout."""
    if not invocation.plain:
        invocation.document(document(status, done.run if done is not None else None))
        return
    show_state(invocation, status)
    urls = await _answering(session, status)
    for url in (urls or (done.trail.urls() if done is not None else []))[:_URLS]:
        invocation.say(f"Try: {url}")
    if done is not None:
        invocation.note(f"{done.run.kind} of {status.name}: {outcome_line(done.trail, done.seconds)}.")
    invocation.note(_next(status, session))
    invocation.say(status.id)


def show_planned(invocation: Invocation, plan: PlanView) -> int:
    """A plan that is all that was asked for, on stdout; answers the exit code, which says whether there are changes."""
    from pelagos.cli.failures import show_warnings
    from pelagos.cli.views import plan_text

    show_warnings(plan.warnings, invocation)
    if invocation.plain:
        invocation.say(plan_text(plan))
    else:
        invocation.document(plan)
    return Exit.CHANGES if plan.changes else Exit.OK


def show_state(invocation: Invocation, status: StatusView) -> None:
    """The line and the table of a state, on stdout."""
    from pelagos.cli.views import status_line, status_table

    invocation.say(status_line(status))
    if status.nodes:
        invocation.say(status_table(status, invocation.world.now()))


def _next(status: StatusView, session: Session) -> str:
    """What to try next, a command a line with what it is for."""
    name = status.name
    steps = [(f"pelagos status {name}", "what there is"), (f"pelagos logs {name}", "the instances' consoles")]
    scalable = [node for node, one in status.nodes.items() if one.scaling.max > one.scaling.target]
    if scalable:
        steps.append((f"pelagos scale {name} {scalable[0]} +1", "one more instance"))
    if session.embedded:
        steps.append((f"pelagos maintain {name}", "keep it alive (or all at once: pelagos serve)"))
    steps.append((f"pelagos down {name}", "take it down"))
    width = max(len(step) for step, _ in steps)
    return "\n".join(["Next:", *(f"  {step:<{width}}  {purpose}" for step, purpose in steps)])


async def _answering(session: Session, status: StatusView) -> list[str]:
    """The addresses of instances that are ready, from the events of this and of earlier runs; nothing where there are
    too many events to read for a hint."""
    trail = Trail()
    seen = 0
    async for event in session.client.events(infrastructure=status.id, after=0, follow=False):
        trail.feed(event)
        seen += 1
        if seen >= _HISTORY:
            return []
    return trail.urls()


def succeeded(done: Outcome) -> bool:
    return done.run.state is RunState.SUCCEEDED
