"""``pelagos log-level``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pelagos.cli.controlling import of_system
from pelagos.cli.exits import COMMON, Exit
from pelagos.cli.invocation import Invocation, pass_invocation
from pelagos.cli.lazy import command

if TYPE_CHECKING:
    from pelagos.cli.system import System

__all__ = ["log_level"]

_LEVELS = ("debug", "info", "warning", "error", "critical", "default")


@command(
    "log-level",
    examples=[
        ("pelagos log-level", "The levels as they are now"),
        ("pelagos log-level exchange debug", "More of one room, in all containers"),
        ("pelagos log-level hello debug --on c-1", "Of an app's package, in one container"),
        ("pelagos log-level exchange default", "Back to what was configured"),
    ],
    exits=(Exit.MISSING, *COMMON),
)
@click.argument("room", metavar="[ROOM]", required=False)
@click.argument("level", metavar="[LEVEL]", required=False, type=click.Choice(_LEVELS, case_sensitive=False))
@click.option("--on", metavar="CONTAINER", default="", help="Only in one container.")
@of_system
@pass_invocation
def log_level(
    invocation: Invocation, room: str | None, level: str | None, on: str, system: str | None, container: str | None
) -> int:
    """Set the log level of a room of Pelagos (exchange is pelagos.exchange) or of an app's package while it runs, in
    all containers of the system or in one. Without arguments it lists the levels of one container.

    It lasts until the container ends; what lasts longer stands in the configuration.
    """
    from pelagos.cli.controlling import run_with_system

    if (room is None) != (level is None):
        raise click.UsageError("Give a room and a level, or neither.")

    async def work(found: System) -> int:
        if room is None or level is None:
            levels = await found.log_levels(on=on)
            if not invocation.plain:
                invocation.document(levels)
            else:
                from pelagos.cli.texts import table

                invocation.say(
                    table(["PACKAGE", "LEVEL"], [[name or "(all others)", now] for name, now in levels.items()])
                )
            return Exit.OK
        from pelagos.cli.rooms import checked_room

        name = await checked_room(found, room)
        done = await found.set_log_level(name, "" if level == "default" else level, on=on)
        if not invocation.plain:
            invocation.document({"room": name, "level": level, "containers": done})
        else:
            for one in done:
                invocation.say(f"{name} logs at {level} in {one}.")
        return Exit.OK

    return run_with_system(invocation, system, container, work)
