"""``pelagos sinks``: list, test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pelagos.cli.controlling import of_system
from pelagos.cli.exits import COMMON, Exit
from pelagos.cli.invocation import Invocation, pass_invocation
from pelagos.cli.lazy import Entry, LazyGroup, command

if TYPE_CHECKING:
    from pelagos.cli.system import System

__all__ = ["listing", "sinks", "test"]

_HERE = "pelagos.cli.commands.sinks"
_SERVICE = "service:notifications"
_TEST = 120.0
"""Seconds that a test may take; a sink's own time-out is shorter."""

sinks = LazyGroup(
    "sinks",
    entries={
        "list": Entry(f"{_HERE}:listing", "List them, and how they fare."),
        "test": Entry(f"{_HERE}:test", "Tell one something now."),
    },
    help="""Who is told of events: webhooks, e-mail, commands. They stand in the configuration, under `sinks`.

    A sink that cannot be told is told later; it holds up nothing else.""",
    no_args_is_help=True,
)


@command(
    "list",
    examples=[("pelagos sinks list", "Where events go, and what waits"), ("pelagos sinks list -o json", "All of it")],
    exits=COMMON,
)
@of_system
@pass_invocation
def listing(invocation: Invocation, system: str | None, container: str | None) -> int:
    """List the sinks of the running daemon: their targets, how many events wait, and the last error.

    TOLD SINCE START counts what this container has told since it started; who else tells a sink counts by itself.
    WAITING is of the store.
    """
    from pelagos.cli.controlling import run_with_system
    from pelagos.services.notifications import SinkInfo

    async def work(found: System) -> int:
        known = await found.call(_SERVICE, "list_sinks", None, result=list[SinkInfo], timeout=None)
        if not invocation.plain:
            invocation.document(known)
        elif known:
            from pelagos.cli.texts import table

            rows = [[one.name, one.type, one.target, str(one.delivered), str(one.lag), one.last_error] for one in known]
            invocation.say(table(["NAME", "TYPE", "TARGET", "TOLD SINCE START", "WAITING", "LAST ERROR"], rows))
        else:
            invocation.note("There are no sinks; the configuration names them under `sinks`.")
        return Exit.OK

    return run_with_system(invocation, system, container, work)


@command(
    "test",
    examples=[("pelagos sinks test ops", "Send a test event, and say whether it got through")],
    exits=(Exit.FAILED, Exit.MISSING, *COMMON),
)
@click.argument("name")
@of_system
@pass_invocation
def test(invocation: Invocation, name: str, system: str | None, container: str | None) -> int:
    """Tell a sink of a test event now, past what waits for it. Exit code 1 if it did not get through."""
    from pelagos.cli.controlling import run_with_system
    from pelagos.services.notifications import SinkRef, TestResult

    async def work(found: System) -> int:
        result: TestResult = await found.call(_SERVICE, "test_sink", SinkRef(name), result=TestResult, timeout=_TEST)
        if not invocation.plain:
            invocation.document(result)
        elif not result.error:
            invocation.say(f"{name} was told in {result.seconds:.1f} s.")
        if result.error and invocation.plain:
            invocation.note(f"{name} could not be told: {result.error}")
        return Exit.FAILED if result.error else Exit.OK

    return run_with_system(invocation, system, container, work)


test.__test__ = False  # type: ignore[attr-defined]  # pytest collects what is called so
