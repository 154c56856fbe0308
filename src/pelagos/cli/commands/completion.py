"""``pelagos completion``."""

from __future__ import annotations

import click

from pelagos.cli.exits import Exit
from pelagos.cli.invocation import Invocation, pass_invocation
from pelagos.cli.lazy import command

__all__ = ["completion"]


@command(
    "completion",
    examples=[
        ('eval "$(pelagos completion bash)"', "In ~/.bashrc"),
        ("pelagos completion fish > ~/.config/fish/completions/pelagos.fish", "For fish"),
    ],
    exits=(Exit.FAILED,),
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@pass_invocation
def completion(invocation: Invocation, shell: str) -> int:
    """Print the completion script of a shell, to be evaluated by it."""
    from click.shell_completion import get_completion_class

    from pelagos.cli.main import cli

    found = get_completion_class(shell)
    if found is None:
        raise click.ClickException(f"No completion is known for {shell}.")
    script = found(cli, {}, "pelagos", "_PELAGOS_COMPLETE").source()
    if invocation.plain:
        invocation.say(script)
    else:
        invocation.document({"shell": shell, "script": script})
    return Exit.OK
