"""The ``pelagos`` command: the list of commands, and the edge where every error becomes text and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from pelagos import __version__
from pelagos.cli.collecting import collect_seldom
from pelagos.cli.failures import report
from pelagos.cli.invocation import Invocation
from pelagos.cli.lazy import Entry, LazyGroup

__all__ = ["cli", "main"]

_BUILD = "Build and change"
_LOOK = "Look"
_KEEP = "Keep alive"
_PROCESSES = "Processes of your own"
_SET_UP = "Set up"

_COMMANDS = "pelagos.cli.commands"

ENTRIES = {
    "up": Entry(f"{_COMMANDS}.up:up", "Build an infrastructure, or change it to what its files say.", _BUILD),
    "plan": Entry(f"{_COMMANDS}.plan:plan", "Show what up would change, and how long it would take.", _BUILD),
    "apply": Entry(f"{_COMMANDS}.apply:apply", "Carry out a saved plan, exactly as it stands.", _BUILD),
    "rollback": Entry(f"{_COMMANDS}.rollback:rollback", "Bring it back to an earlier version.", _BUILD),
    "scale": Entry(f"{_COMMANDS}.scale:scale", "Change how many instances a node has.", _BUILD),
    "import": Entry(f"{_COMMANDS}.importing:import_", "Take a server that is there already as an instance.", _BUILD),
    "protect": Entry(f"{_COMMANDS}.protect:protect", "Let nobody destroy a node's instances, or lift that.", _BUILD),
    "down": Entry(f"{_COMMANDS}.down:down", "Destroy an infrastructure.", _BUILD),
    "launch": Entry(f"{_COMMANDS}.launch:launch", "Bring up levels of infrastructures and programs.", _BUILD),
    "list": Entry(f"{_COMMANDS}.listing:listing", "List the infrastructures.", _LOOK),
    "status": Entry(f"{_COMMANDS}.status:status", "Show an infrastructure's nodes and instances.", _LOOK),
    "explain": Entry(f"{_COMMANDS}.explain:explain", "Say why it is not ready: what waits for what.", _LOOK),
    "history": Entry(f"{_COMMANDS}.history:history", "Show the versions of its description.", _LOOK),
    "diff": Entry(f"{_COMMANDS}.history:diff", "Show what changed between two versions.", _LOOK),
    "graph": Entry(f"{_COMMANDS}.graph:graph", "Draw who depends on whom.", _LOOK),
    "drift": Entry(f"{_COMMANDS}.drift:drift", "Say where clouds differ from the records; change nothing.", _LOOK),
    "logs": Entry(f"{_COMMANDS}.logs:logs", "Show the instances' console output.", _LOOK),
    "events": Entry(f"{_COMMANDS}.events:events", "Show what happened, and what happens.", _LOOK),
    "maintain": Entry(f"{_COMMANDS}.maintain:maintain", "Check health, heal and scale until stopped.", _KEEP),
    "heal": Entry(f"{_COMMANDS}.heal:heal", "Close breakers, and try again what was given up.", _KEEP),
    "suspend": Entry(f"{_COMMANDS}.attach:suspend", "Let nobody create, heal or scale anything of it.", _KEEP),
    "resume": Entry(f"{_COMMANDS}.attach:resume", "End a suspension.", _KEEP),
    "orphans": Entry(f"{_COMMANDS}.orphans:orphans", "Servers that no record knows: list, adopt, delete.", _KEEP),
    "attach": Entry(f"{_COMMANDS}.attach:attach", "Let the daemon keep an infrastructure alive.", _KEEP),
    "detach": Entry(f"{_COMMANDS}.attach:detach", "Stop the daemon from keeping it alive.", _KEEP),
    "serve": Entry(f"{_COMMANDS}.serve:serve", "Run all services and the HTTP API as a daemon.", _KEEP),
    "container": Entry(
        f"{_COMMANDS}.container:container", "Run a container of processes: apps and releases.", _PROCESSES
    ),
    "shell": Entry(f"{_COMMANDS}.shell:shell", "Talk to a running system in Python.", _PROCESSES),
    "call": Entry(f"{_COMMANDS}.calling:call", "Call an operation of a service.", _PROCESSES),
    "send": Entry(f"{_COMMANDS}.calling:send", "Send one message that nobody answers.", _PROCESSES),
    "ping": Entry(f"{_COMMANDS}.calling:ping", "Ask a service or process whether it lives.", _PROCESSES),
    "ps": Entry(f"{_COMMANDS}.processes:ps", "List the processes.", _PROCESSES),
    "services": Entry(f"{_COMMANDS}.processes:services", "List the services and their operations.", _PROCESSES),
    "nodes": Entry(f"{_COMMANDS}.processes:nodes", "List the containers.", _PROCESSES),
    "spawn": Entry(f"{_COMMANDS}.processes:spawn", "Start processes.", _PROCESSES),
    "kill": Entry(f"{_COMMANDS}.processes:kill", "End processes.", _PROCESSES),
    "observe": Entry(f"{_COMMANDS}.observe:observe", "Follow messages, and draw sequence charts.", _PROCESSES),
    "dead-letters": Entry(
        f"{_COMMANDS}.dead_letters:dead_letters", "What could not be delivered: list, retry, drop.", _PROCESSES
    ),
    "sinks": Entry(f"{_COMMANDS}.sinks:sinks", "Who is told of events: list, test.", _KEEP),
    "log-level": Entry(f"{_COMMANDS}.log_level:log_level", "Set log levels while it runs.", _PROCESSES),
    "cloud": Entry(f"{_COMMANDS}.cloud:cloud", "List and check the clouds of the pool, and what they offer.", _SET_UP),
    "definitions": Entry(f"{_COMMANDS}.definitions:definitions", "Import, list and delete node definitions.", _SET_UP),
    "doctor": Entry(f"{_COMMANDS}.doctor:doctor", "Say what this machine can do, and what is missing.", _SET_UP),
    "completion": Entry(f"{_COMMANDS}.completion:completion", "Print the completion script of a shell.", _SET_UP),
    "run-detached": Entry(f"{_COMMANDS}.run_detached:run_detached", "Carry a run in the background.", hidden=True),
}


def _show_version(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        click.echo(f"pelagos {__version__}")
        context.exit()


cli = LazyGroup(
    "pelagos",
    entries=ENTRIES,
    top=True,
    help="""Build, heal, scale and take down infrastructures described in YAML, on any mix of clouds.

    Without a daemon each command runs the services itself, on the state in PELAGOS_HOME; with `pelagos serve` running,
    or PELAGOS_URL set, it talks to that. Commands on processes of your own talk to a running `pelagos container`.""",
    epilog="Start with: pelagos doctor, then pelagos up FILE…  Each command has --help.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    params=[
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_show_version,
            help="Print the version.",
        )
    ],
)


def main(arguments: Sequence[str] | None = None, invocation: Invocation | None = None) -> int:
    """Run one command; answers its exit code. Raises only SystemExit (a shell's completion request)."""
    collect_seldom()
    invocation = invocation or Invocation()
    try:
        code = cli.main(arguments, prog_name="pelagos", standalone_mode=False, obj=invocation)
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the edge: each becomes text and an exit code
        return int(report(error, invocation))
    return int(code or 0)
