"""``pelagos container``."""

from __future__ import annotations

from pathlib import Path

import click

from pelagos.cli.exits import COMMON, Exit
from pelagos.cli.invocation import Invocation, pass_invocation
from pelagos.cli.lazy import command

__all__ = ["container"]


@command(
    "container",
    examples=[
        ("pelagos container hello.yaml", "An app, alone, with the exchange in memory"),
        (
            "pelagos container --system demo --broker amqp://guest:guest@localhost hello.yaml",
            "One of several containers of a system, which share its services",
        ),
        ("pelagos container site.yaml --arg hello.greeting=Ahoy", "A release, with an argument to one of its apps"),
        ("pelagos container --process hello:HelloService*2", "No app file: two processes of a class"),
    ],
    exits=(Exit.FAILED, Exit.DESCRIPTION, Exit.MISSING, *COMMON),
)
@click.argument("files", nargs=-1, metavar="[FILE…]")
@click.option(
    "--system",
    metavar="NAME",
    envvar="PELAGOS_SYSTEM",
    help="Its system (PELAGOS_SYSTEM); containers of one system and broker share services. [default: pelagos]",
)
@click.option("--id", "container_id", metavar="ID", help="Its id, unique in the world; made up if not given.")
@click.option(
    "--broker",
    metavar="URL",
    envvar="PELAGOS_BROKER",
    help="amqp:// or amqps:// (PELAGOS_BROKER); without it the container is alone, in memory. A password belongs "
    "in the credential_file of broker_options: here, all who list processes see it.",
)
@click.option("--arg", "arguments", metavar="APP.KEY=VALUE", multiple=True, help="An argument to an app, as YAML.")
@click.option(
    "--process", "processes", metavar="[NAME=]MODULE:CLASS[*N]", multiple=True, help="Also start this, without an app."
)
@click.option("--ready-file", type=click.Path(path_type=Path), metavar="FILE", help="Written when all apps run.")
@click.option("--notify-fd", type=click.IntRange(0), metavar="FD", help="A line is written there when all apps run.")
@click.option("--allow-spawn-any", is_flag=True, help="Let spawn start any importable class, not only the apps'.")
@pass_invocation
def container(
    invocation: Invocation,
    files: tuple[str, ...],
    system: str | None,
    container_id: str | None,
    broker: str | None,
    arguments: tuple[str, ...],
    processes: tuple[str, ...],
    ready_file: Path | None,
    notify_fd: int | None,
    allow_spawn_any: bool,
) -> int:
    """Run a container in the foreground, with the apps of the files: app files, release files, or names of apps.

    When all run, stdout says so in one line (with -o json a document). The commands of the same PELAGOS_HOME then reach
    it by a socket that only you can open. Ctrl+C or SIGTERM stops it in good order with exit code 0; a second Ctrl+C at
    once. A stop that takes longer than a second says what it waits for; requests that do not end in their shutdown time
    are cut off and logged, and the exit code is 0 all the same. If an app does not start, what was started before it is
    stopped, and the exit code is not 0.
    """
    from pelagos.cli.hosting import host_until_stopped

    return host_until_stopped(
        invocation,
        files,
        system=system or None,
        container_id=container_id,
        broker=broker or None,
        arguments=arguments,
        processes=processes,
        ready_file=ready_file,
        notify_fd=notify_fd,
        allow_spawn_any=allow_spawn_any,
    )
