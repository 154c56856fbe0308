"""``pelagos down``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pelagos.cli.exits import COMMON, Exit
from pelagos.cli.invocation import Invocation, pass_invocation
from pelagos.cli.lazy import command

if TYPE_CHECKING:
    from pelagos.cli.session import Session
    from pelagos.wire.infrastructures import StatusView

__all__ = ["down"]


@command(
    "down",
    examples=[
        ("pelagos down guestbook", "Show what is destroyed, ask, destroy"),
        ("pelagos down guestbook --yes", "Without being asked"),
    ],
    exits=(Exit.FAILED, Exit.MISSING, *COMMON),
)
@click.argument("infrastructure", metavar="INFRA")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_invocation
def down(invocation: Invocation, infrastructure: str, yes: bool) -> int:
    """Destroy an infrastructure: its instances in the reverse order of their dependencies, confirmed by their clouds.

    INFRA is a name or an id. When a cloud refuses, what remains is listed, the exit code is 1, and the same down tries
    again. With -o json the document is {"id", "name", "run", "remaining": [{"node", "instance", "state", "cloud",
    "server_id", "reason"}]}.
    """
    from pelagos.cli.asking import agreed, show_plan
    from pelagos.cli.changing import status_or_none
    from pelagos.cli.finding import suggesting
    from pelagos.cli.interrupts import Interrupts
    from pelagos.cli.progress import choose, outcome
    from pelagos.cli.results import succeeded
    from pelagos.cli.runs import carry_out, exit_of_run, tell_failure
    from pelagos.cli.trail import Trail
    from pelagos.cli.views import status_table
    from pelagos.wire.infrastructures import PlanRequest, RunRequest

    async def work(session: Session) -> int:
        async with suggesting(session, infrastructure):
            plan = await session.client.plan(PlanRequest(infrastructure=infrastructure, down=True))
        show_plan(plan, invocation)
        if not await agreed(plan, invocation, yes=yes):
            return Exit.FAILED
        request = RunRequest(
            kind="down", request_id=invocation.world.new_id(), infrastructure=plan.id or infrastructure
        )
        with Interrupts() as interrupts:
            done = await carry_out(invocation, session, request, choose(invocation, Trail(plan)), interrupts)
        if succeeded(done):
            if invocation.plain:
                invocation.note(f"down of {plan.name}: {outcome(done.trail, done.seconds)}.")
                invocation.say(f"{plan.name} is gone.")
            else:
                invocation.document({"id": plan.id, "name": plan.name, "run": done.run, "remaining": []})
            return Exit.OK
        tell_failure(done, invocation)
        status = await status_or_none(session, plan.id or infrastructure)
        if not invocation.plain:
            invocation.document({"id": plan.id, "name": plan.name, "run": done.run, "remaining": _remaining(status)})
        elif status is not None and _remaining(status):
            invocation.say(f"What remains of {plan.name}:")
            invocation.say(status_table(status, invocation.world.now()))
        return exit_of_run(done)

    return invocation.run(work)


def _remaining(status: StatusView | None) -> list[dict[str, Any]]:
    if status is None:
        return []
    return [
        {
            "node": name,
            "instance": identifier,
            "state": one.state,
            "cloud": one.cloud,
            "server_id": one.server_id,
            "reason": one.reason,
        }
        for name, node in status.nodes.items()
        for identifier, one in node.instances.items()
    ]
