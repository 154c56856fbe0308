"""``pelagos ps``, ``services``, ``nodes``, ``spawn`` and ``kill``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pelagos.cli.controlling import of_system
from pelagos.cli.exits import COMMON, Exit
from pelagos.cli.invocation import Invocation, pass_invocation
from pelagos.cli.lazy import command

if TYPE_CHECKING:
    from pelagos.cli.system import System

__all__ = ["kill", "nodes", "ps", "services", "spawn"]


@command(
    "ps",
    examples=[
        ("pelagos ps", "The processes of all containers of the system"),
        ("pelagos ps --service hello -o json", "Those of one service, for programs"),
    ],
    exits=(Exit.MISSING, *COMMON),
)
@click.option("--on", metavar="CONTAINER", default="", help="Only those of one container.")
@click.option("--service", metavar="NAME", default="", help="Only those of one service.")
@of_system
@pass_invocation
def ps(invocation: Invocation, on: str, service: str, system: str | None, container: str | None) -> int:
    """List the processes: id, name, state, app, supervisor, restarts, requests running (+ waiting), done and failed.

    A container that does not answer is told on stderr; the exit code is 0 all the same.
    """
    from pelagos.cli.controlling import run_with_system, waiting
    from pelagos.cli.tables import processes

    async def work(found: System) -> int:
        with waiting(invocation, "Asking the containers"):
            answer = await found.processes(on=on, service=service)
        if not invocation.plain:
            invocation.document(answer.processes)
        elif answer.processes:
            invocation.say(processes(answer.processes))
        else:
            invocation.note(f"There is no process of service {service}." if service else "There is no process.")
        for silent in answer.silent:
            invocation.note(f"Container {silent} did not answer; see pelagos nodes.")
        return Exit.OK

    return run_with_system(invocation, system, container, work)


@command(
    "services",
    examples=[("pelagos services", "What can be called, where it runs, and its operations")],
    exits=COMMON,
)
@of_system
@pass_invocation
def services(invocation: Invocation, system: str | None, container: str | None) -> int:
    """List the services of the system, with their processes, containers and operations.

    A container that does not answer is told on stderr; the exit code is 0 all the same.
    """
    from pelagos.cli.controlling import run_with_system, waiting
    from pelagos.cli.tables import services as as_table

    async def work(found: System) -> int:
        with waiting(invocation, "Asking the containers"):
            answer = await found.all_services()
        if not invocation.plain:
            invocation.document(answer.services)
        else:
            invocation.say(as_table(answer.services))
        for silent in answer.silent:
            invocation.note(f"Container {silent} did not answer; see pelagos nodes.")
        return Exit.OK

    return run_with_system(invocation, system, container, work)


@command(
    "nodes",
    examples=[("pelagos nodes", "Which containers there are, and which are suspect or dead")],
    exits=COMMON,
)
@of_system
@pass_invocation
def nodes(invocation: Invocation, system: str | None, container: str | None) -> int:
    """List the containers of the system, as the one that answers (marked *) sees them.

    Each announces itself every few seconds. One that is silent for some of them is suspect, for longer dead; one that
    was stopped in good order has left.
    """
    from pelagos.cli.controlling import run_with_system
    from pelagos.cli.tables import nodes as as_table

    async def work(found: System) -> int:
        answer = await found.nodes()
        if not invocation.plain:
            invocation.document(answer)
        else:
            invocation.say(as_table(answer, invocation.world.now(), found.here))
        return Exit.OK

    return run_with_system(invocation, system, container, work)


@command(
    "spawn",
    examples=[
        ("pelagos spawn hello", "Start one more, in the container with the fewest processes"),
        ("pelagos spawn hello --on c-1 --count 4", "Four, in a container of your choice"),
        ("pelagos spawn hello --arg greeting=Ahoy", "With arguments"),
    ],
    exits=(Exit.FAILED, Exit.MISSING, *COMMON),
)
@click.argument("name", metavar="NAME")
@click.option(
    "--on", metavar="CONTAINER", default="any", show_default=True, help="Where; any: where the fewest processes are."
)
@click.option("--count", type=click.IntRange(1), default=1, show_default=True, help="How many.")
@click.option("--arg", "arguments", metavar="KEY=VALUE", multiple=True, help="An argument; the value is YAML.")
@of_system
@pass_invocation
def spawn(
    invocation: Invocation,
    name: str,
    on: str,
    count: int,
    arguments: tuple[str, ...],
    system: str | None,
    container: str | None,
) -> int:
    """Start processes that a container knows: NAME is that of a process of an app it was started with. Prints their
    ids, one a line. All are started, or none.
    """
    from pelagos.cli.contents import pairs
    from pelagos.cli.controlling import run_with_system, waiting

    given = pairs(arguments)

    async def work(found: System) -> int:
        with waiting(invocation, f"Starting {name}"):
            answer = await found.spawn(name, on=on, count=count, arguments=given)
        if not invocation.plain:
            invocation.document(answer)
        else:
            for process in answer.processes:
                invocation.say(process)
        return Exit.OK

    return run_with_system(invocation, system, container, work)


@command(
    "kill",
    examples=[
        ("pelagos kill c-1.7", "End a process in good order"),
        ("pelagos kill $(pelagos ps --service hello -o json | jq -r '.[].id')", "All of a service"),
    ],
    exits=(Exit.FAILED, Exit.MISSING, *COMMON),
)
@click.argument("pids", metavar="PID…", nargs=-1, required=True)
@click.option("--shutdown", type=click.FloatRange(0), metavar="SECONDS", help="How long its requests may take to end.")
@of_system
@pass_invocation
def kill(
    invocation: Invocation, pids: tuple[str, ...], shutdown: float | None, system: str | None, container: str | None
) -> int:
    """End processes in good order, in any container; their supervisors do not start them again. PID is an id as
    pelagos ps shows it. All are tried; the exit code is that of the first that could not be ended.
    """
    from pelagos.cli.controlling import run_with_system, waiting
    from pelagos.cli.exits import exit_of
    from pelagos.cli.failures import show_error
    from pelagos.model.errors import PelagosError

    async def work(found: System) -> int:
        code = Exit.OK
        ended: list[str] = []
        for pid in pids:
            try:
                with waiting(invocation, f"Ending {pid}"):
                    await found.kill(pid, shutdown=shutdown)
            except PelagosError as error:
                show_error(error, invocation)
                code = code or exit_of(error)
                continue
            ended.append(pid)
            if invocation.plain:
                invocation.say(f"{pid} has ended.")
        if not invocation.plain:
            invocation.document({"ended": ended})
        return code

    return run_with_system(invocation, system, container, work)
