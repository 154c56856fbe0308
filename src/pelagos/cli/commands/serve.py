"""``pelagos serve``."""

from __future__ import annotations

import click

from pelagos.cli.exits import COMMON, Exit
from pelagos.cli.invocation import Invocation, pass_invocation
from pelagos.cli.lazy import command

__all__ = ["serve"]


def _check_listen(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is None:
        return None
    host, colon, port = value.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise click.BadParameter(f"{value!r} is not HOST:PORT, for example 127.0.0.1:8470.", context, parameter)
    return value


@command(
    "serve",
    examples=[
        ("pelagos serve", "On the socket in PELAGOS_HOME alone"),
        ("pelagos serve --listen 127.0.0.1:8470", "Also on TCP, for holders of a token"),
        (
            "pelagos serve --broker amqp://guest:guest@localhost --release edge.yaml",
            "What this host runs of a site; see the guide to a site on several hosts",
        ),
    ],
    exits=(Exit.FAILED, Exit.DESCRIPTION, Exit.MISSING, *COMMON),
)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    callback=_check_listen,
    help="Also listen on TCP; requests there need a bearer token.",
)
@click.option("--allow-remote", is_flag=True, help="Admit an address that other machines reach. There is no TLS.")
@click.option(
    "--system",
    metavar="NAME",
    envvar="PELAGOS_SYSTEM",
    help="Its system (PELAGOS_SYSTEM); containers of one system and broker share services. [default: pelagos]",
)
@click.option(
    "--broker",
    metavar="URL",
    envvar="PELAGOS_BROKER",
    help="amqp:// or amqps:// (PELAGOS_BROKER); without it the daemon is alone, in memory. A password belongs "
    "in the credential_file of broker_options: here, all who list processes see it.",
)
@click.option(
    "--release",
    metavar="FILE",
    envvar="PELAGOS_RELEASE",
    help="What it runs: a release or app file, or the name of one (PELAGOS_RELEASE). [default: all services]",
)
@pass_invocation
def serve(
    invocation: Invocation,
    listen: str | None,
    allow_remote: bool,
    system: str | None,
    broker: str | None,
    release: str | None,
) -> int:
    """Run the services and the HTTP API as a daemon, and keep alive what is to be kept alive.

    It listens on a socket in PELAGOS_HOME that only you can open; the commands on the same PELAGOS_HOME find it there.
    When it is ready, stdout says where it listens, an address a line ({"addresses": […]} with -o json). Ctrl+C or
    SIGTERM stops it in good order with exit code 0: what is under way is taken up by the next one.
    """
    from pelagos.cli.serving import serve_until_stopped

    return serve_until_stopped(
        invocation,
        allow_remote=allow_remote,
        listen=listen,
        system=system or None,
        broker=broker or None,
        release=release or None,
    )
