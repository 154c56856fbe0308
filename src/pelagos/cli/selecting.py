"""Options that say which part of a description is brought about: shared by plan, up and rollback."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

__all__ = ["failing_option", "selecting_options"]

_OPTIONS = (
    click.option(
        "--target",
        "only",
        multiple=True,
        metavar="NODE",
        help="Only this node, and what it depends on. May be repeated.",
    ),
    click.option(
        "--exclude",
        "without",
        multiple=True,
        metavar="NODE",
        help="Leave this node as it is, and what cannot be changed without it. May be repeated.",
    ),
    click.option(
        "--replace",
        multiple=True,
        metavar="NODE[/INSTANCE]",
        help="Make it anew although it is as described. May be repeated.",
    ),
)

failing_option = click.option(
    "--on-failure",
    type=click.Choice(["stop", "rollback", "keep"]),
    default=None,
    help="What a failure leaves, in place of what the nodes' policies say.",
)


def selecting_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--target``, ``--exclude`` and ``--replace``."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function
