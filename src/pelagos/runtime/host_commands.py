"""What the template function ``cmd`` runs where the configuration allows it: a program of this host, and no shell."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from pelagos.model.errors import InvalidInput

__all__ = ["run_host_command"]

_PATIENCE = 5.0
"""Seconds. Templates are rendered on the event loop, whose leases must not run out meanwhile."""


def run_host_command(argv: Sequence[str]) -> str:
    """The command's output, as text. Raises InvalidInput if it fails, takes longer than 5 s or does not exist."""
    if not argv:
        raise InvalidInput("cmd() was given no command")
    try:
        done = subprocess.run(  # noqa: S603 - only where `commands: allowed`, and never through a shell
            list(argv), stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        raise InvalidInput(f"the command {argv[0]!r} took longer than {_PATIENCE:g} s") from None
    except OSError as error:
        raise InvalidInput(f"the command {argv[0]!r} cannot be run: {error.strerror}") from error
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise InvalidInput(
            f"the command {argv[0]!r} failed with exit code {done.returncode}" + (f": {said[-1]}" if said else "")
        )
    return done.stdout.decode(errors="replace")
