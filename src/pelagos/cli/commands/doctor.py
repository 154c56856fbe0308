"""``pelagos doctor``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pelagos.cli.exits import COMMON, Exit
from pelagos.cli.invocation import Invocation, pass_invocation
from pelagos.cli.lazy import command

if TYPE_CHECKING:
    from pelagos.cli.session import Session

__all__ = ["doctor"]

_COLORS = {"ok": "green", "degraded": "yellow", "missing": "red"}


@command(
    "doctor",
    examples=[
        ("pelagos doctor", "What works here, what works only in part, and what to install"),
        ("pelagos doctor -o json", "The same for programs"),
    ],
    exits=(Exit.FAILED, *COMMON),
)
@pass_invocation
def doctor(invocation: Invocation) -> int:
    """Say what this machine can do: isolation and network mode of local instances, the store, and what is missing and
    how to get it.

    What is degraded still works; the exit code is 1 only if something needed is missing.
    """

    async def work(session: Session) -> int:
        view = await session.client.doctor()
        if not invocation.plain:
            invocation.document(view)
            return Exit.OK if view.ok else Exit.FAILED
        invocation.say(f"Pelagos {view.version}")
        width = max((len(fact.name) for fact in view.facts), default=0)
        for fact in view.facts:
            mark = click.style(f"{fact.state:<8}", fg=_COLORS.get(fact.state))
            invocation.say(f"{mark}  {fact.name:<{width}}  {fact.fact}")
            if fact.advice:
                invocation.say(f"{'':<8}  {'':<{width}}  {fact.advice}")
        return Exit.OK if view.ok else Exit.FAILED

    return invocation.run(work)
