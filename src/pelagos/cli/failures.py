"""What a person sees when a command ends badly: what is wrong, where, and what to do; never a traceback unasked.

All of it goes to stderr. An error that Pelagos does not expect is a defect: it is named as such, with the way to see
its traceback (``--debug``).
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import TYPE_CHECKING

import click

from pelagos.cli.exits import Exit, exit_of
from pelagos.cli.lazy import ReaderGone

if TYPE_CHECKING:
    from pelagos.cli.invocation import Invocation
    from pelagos.model.diagnostics import Diagnostic
    from pelagos.model.errors import PelagosError

__all__ = ["report", "show_error", "show_warnings"]


def report(error: BaseException, invocation: Invocation) -> Exit:
    """Tell the error on stderr and answer the exit code. Expects what left the command; a pipe closed by its reader
    is told to nobody."""
    error = _leaf(error)
    if isinstance(error, BrokenPipeError | ReaderGone):
        _forget_stdout()
        return Exit.PIPE
    if invocation.debug and not isinstance(error, (click.ClickException, click.Abort)):
        invocation.note("".join(traceback.format_exception(error)).rstrip())
    if isinstance(error, click.UsageError):
        _show_usage(error, invocation)
        return Exit.USAGE
    if isinstance(error, click.FileError):
        _line(invocation, error.format_message())
        return Exit.MISSING
    if isinstance(error, click.ClickException):
        _line(invocation, error.format_message())
        return Exit.FAILED
    if isinstance(error, (click.Abort, KeyboardInterrupt)):
        invocation.note("Interrupted.")
        return Exit.INTERRUPTED
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        _line(invocation, f"{error.strerror or error}{where}")
        return exit_of(error)
    from pelagos.model.errors import PelagosError

    if isinstance(error, PelagosError):
        show_error(error, invocation)
        return exit_of(error)
    _line(invocation, f"{type(error).__name__}: {error}")
    _help(invocation, "This is a defect in Pelagos. Run the command again with --debug and report what it shows.")
    return Exit.INTERNAL


def show_error(error: PelagosError, invocation: Invocation) -> None:
    """An error of the family: the mistakes in files each with their place, else one line; then the advice. What a
    mistake has said, neither the line nor the advice says again."""
    mistakes = error.diagnostics
    for diagnostic in mistakes:
        _show_diagnostic(diagnostic, invocation)
    if not mistakes or (error.message and not error.message.startswith(str(mistakes[0]))):
        _line(invocation, error.message)
    elif len(mistakes) > 1:
        _line(invocation, f"{len(mistakes)} mistakes")
    ids = error.details.get("ids")
    if isinstance(ids, (list, tuple)):
        for known in ids:
            invocation.note(f"  {known}")
    if error.advice and all(error.advice != diagnostic.advice for diagnostic in mistakes):
        _help(invocation, error.advice)


def show_warnings(warnings: tuple[Diagnostic, ...], invocation: Invocation) -> None:
    for warning in warnings:
        _show_diagnostic(warning, invocation)


def _show_diagnostic(diagnostic: Diagnostic, invocation: Invocation) -> None:
    from pelagos.model.diagnostics import Severity, render

    first, _, rest = render(diagnostic).partition("\n")
    severity, _, summary = first.partition(": ")
    color = "red" if diagnostic.severity is Severity.ERROR else "yellow"
    invocation.note(f"{click.style(severity, fg=color, bold=True)}: {summary}")
    if rest:
        invocation.note(rest)
    invocation.note("")


def _show_usage(error: click.UsageError, invocation: Invocation) -> None:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        invocation.note(error.format_message())
        return
    _line(invocation, error.format_message())
    if error.ctx is not None:
        invocation.note(error.ctx.get_usage())
        _help(invocation, f"See {error.ctx.command_path} --help.")


def _line(invocation: Invocation, text: str) -> None:
    invocation.note(f"{click.style('error', fg='red', bold=True)}: {text}")


def _help(invocation: Invocation, text: str) -> None:
    invocation.note(f"  {click.style('help', fg='cyan')}: {text}")


def _leaf(error: BaseException) -> BaseException:
    """The error that matters in a group of a task group: the first of ours, else the first that is no mere
    consequence (a cancellation)."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    from pelagos.model.errors import PelagosError

    leaves = list(_leaves(error))
    for leaf in leaves:
        if isinstance(leaf, (PelagosError, KeyboardInterrupt)):
            return leaf
    return leaves[0]


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found.extend(_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    return found


def _forget_stdout() -> None:
    """So that the interpreter's last flush does not complain about the closed pipe."""
    with open(os.devnull, "w") as nothing:
        for stream in (sys.stdout, sys.stderr):
            try:
                os.dup2(nothing.fileno(), stream.fileno())
            except (OSError, ValueError):
                continue  # a stream without a descriptor (a test's) needs no such care
