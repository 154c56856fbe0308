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
    ],
    exits=(Exit.FAILED, *COMMON),
)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    callback=_check_listen,
    help="Also listen on TCP; requests there need a bearer token.",
)
@click.option("--allow-remote", is_flag=True, help="Admit an address that other machines reach. There is no TLS.")
@pass_invocation
def serve(invocation: Invocation, listen: str | None, allow_remote: bool) -> int:
    """Run all services and the HTTP API as a daemon, and keep alive what is to be kept alive.

    It listens on a socket in PELAGOS_HOME that only you can open; the commands on the same PELAGOS_HOME find it there.
    When it is ready, stdout says where it listens, an address a line ({"addresses": […]} with -o json). Ctrl+C or
    SIGTERM stops it in good order with exit code 0: what is under way is taken up by the next one.
    """
    from pelagos.cli.serving import serve_until_stopped

    return serve_until_stopped(invocation, listen, allow_remote=allow_remote)
