"""``pelagos shell``."""

from __future__ import annotations

import click

from pelagos.cli.controlling import of_system
from pelagos.cli.exits import COMMON, Exit
from pelagos.cli.invocation import Invocation, pass_invocation
from pelagos.cli.lazy import command

__all__ = ["shell"]


@command(
    "shell",
    examples=[
        ("pelagos shell --system demo", "A prompt: await call('hello', 'hello', 'you'), ps(), svc(), nodes()"),
        ('pelagos shell -c \'await call("hello", "hello", "you")\'', "One line, for scripts"),
    ],
    exits=(Exit.FAILED, Exit.MISSING, *COMMON),
)
@click.option("-c", "line", metavar="CODE", help="Run this and end; values of expressions are printed.")
@click.option("--no-history", is_flag=True, help="Neither read nor keep what is typed.")
@of_system
@pass_invocation
def shell(invocation: Invocation, line: str | None, no_history: bool, system: str | None, container: str | None) -> int:
    """Talk to a running system in Python, with top-level await.

    Names: spawn, call, send, client, ps, svc, nodes, apps, kill, ping, observe, log_level, info, control, and the
    classes of the processes that the container can start. Each but call works with and without await. With IPython
    (pip install 'pelagos[shell]') there are completion, history and help (call?). Ctrl+D ends.
    """
    from pelagos.cli.shell.opening import open_shell

    return open_shell(invocation, system, container, line, history=not no_history)
