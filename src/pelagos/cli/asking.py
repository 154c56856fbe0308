"""What changing commands do before they change: show the plan, and ask where something is destroyed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pelagos.cli.failures import show_warnings
from pelagos.cli.texts import count

if TYPE_CHECKING:
    from pelagos.cli.invocation import Invocation
    from pelagos.wire.infrastructures import PlanView

__all__ = ["agreed", "show_plan"]


def show_plan(plan: PlanView, invocation: Invocation) -> None:
    """The plan on stderr, for people; with ``-o json`` or ``yaml`` the warnings alone."""
    show_warnings(plan.warnings, invocation)
    if invocation.plain:
        from pelagos.cli.views import plan_text

        invocation.note(plan_text(plan))


async def agreed(plan: PlanView, invocation: Invocation, *, yes: bool) -> bool:
    """Whether to go ahead: nothing is destroyed, ``--yes`` was given, or the person says yes. A plain no is told."""
    if yes or not plan.destroys:
        return True
    if await invocation.confirm(f"Destroy {count(plan.destroys, 'instance')} of {plan.name}?"):
        return True
    invocation.note("Nothing was changed.")
    return False
