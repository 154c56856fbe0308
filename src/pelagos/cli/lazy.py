"""Commands that are imported when they are used, and look alike.

``pelagos --version`` must cost little more than Python itself, so the group knows each command's name, one-line help
and place, and imports its module only to run it or to show its own help. The way not chosen, importing all and making
each import its dependencies late, breaks with the first top-level import somebody adds.

:class:`Command` gives each command the common options, and a help text that ends with examples and exit codes.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import click

from pelagos.cli.exits import MEANINGS, Exit
from pelagos.cli.invocation import Invocation

__all__ = ["Command", "Entry", "LazyGroup", "ReaderGone", "command", "common_options"]


class ReaderGone(Exception):
    """Whoever read the output has closed it. A BrokenPipeError itself would become exit code 1 within click."""


class Entry(NamedTuple):
    """Where a command is (``module:attribute``), its line in the group's help, and the heading it stands under."""

    place: str
    summary: str
    section: str = "Commands"
    hidden: bool = False


def _store(field: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        if value:
            setattr(context.ensure_object(Invocation), field, value)

    return callback


def common_options(*, top: bool = False) -> list[click.Parameter]:
    """The options that every command takes. Only the topmost reads PELAGOS_OUTPUT, or it would beat a flag given
    before the command's name."""
    return [
        click.Option(
            ["-o", "--output"],
            type=click.Choice(["table", "json", "yaml"]),
            envvar="PELAGOS_OUTPUT" if top else None,
            expose_value=False,
            callback=_store("output"),
            help="How results are printed on stdout; table if not given (PELAGOS_OUTPUT).",
        ),
        click.Option(
            ["--home"],
            metavar="DIR",
            expose_value=False,
            callback=_store("home"),
            help="Where the state is kept (PELAGOS_HOME).",
        ),
        click.Option(
            ["--config"],
            metavar="FILE",
            expose_value=False,
            callback=_store("config"),
            help="The configuration file (PELAGOS_CONFIG).",
        ),
        click.Option(
            ["--url"],
            metavar="URL",
            expose_value=False,
            callback=_store("url"),
            help="Talk to the daemon there: http://… or unix:///path (PELAGOS_URL).",
        ),
        click.Option(
            ["--no-color"],
            is_flag=True,
            expose_value=False,
            callback=_store("no_color"),
            help="No colours (NO_COLOR).",
        ),
        click.Option(
            ["-v", "--verbose"],
            count=True,
            expose_value=False,
            callback=_store("verbose"),
            help="More logs on stderr; twice for all.",
        ),
        click.Option(
            ["--debug"],
            is_flag=True,
            expose_value=False,
            callback=_store("debug"),
            help="Show the traceback of an error.",
        ),
    ]


class Command(click.Command):
    """A command with the common options. ``examples`` are (command line, what it does); ``exits`` its exit codes."""

    def __init__(
        self,
        *arguments: Any,
        examples: Sequence[tuple[str, str]] = (),
        exits: Sequence[Exit] = (),
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self.examples = tuple(examples)
        self.exits = tuple(sorted({Exit.OK, Exit.USAGE, *exits}))
        self.common = common_options()
        self.params.extend(self.common)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _write_options(self, self.common, ctx, formatter)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Examples"):
            for line, meaning in self.examples:
                formatter.write_text(f"# {meaning}")
                formatter.write_text(line)
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(int(code)), MEANINGS[code]) for code in self.exits])


def command(
    name: str, *, examples: Sequence[tuple[str, str]], exits: Sequence[Exit] = (), **options: Any
) -> Callable[[Callable[..., Any]], Command]:
    """Like :func:`click.command`, for a :class:`Command`."""
    return click.command(name, cls=Command, examples=examples, exits=exits, **options)


class LazyGroup(click.Group):
    """A group whose commands are imported when asked for."""

    def __init__(
        self, *arguments: Any, entries: Mapping[str, Entry] | None = None, top: bool = False, **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self.entries = dict(entries or {})
        self.common = common_options(top=top)
        self.params.extend(self.common)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name, entry in self.entries.items() if not entry.hidden]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = self.entries.get(cmd_name)
        if entry is None:
            return None
        module, _, attribute = entry.place.partition(":")
        found = getattr(importlib.import_module(module), attribute)
        if not isinstance(found, click.Command):
            raise TypeError(f"{entry.place} is no command")
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in self.entries and not name.startswith("-") and not ctx.resilient_parsing:
            near = difflib.get_close_matches(name, self.list_commands(ctx), n=2)
            meant = f" Did you mean {' or '.join(near)}?" if near else ""
            raise click.UsageError(f"There is no command {name!r}.{meant}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise ReaderGone from error

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, entry in self.entries.items():
            if not entry.hidden:
                sections.setdefault(entry.section, []).append((name, entry.summary))
        for section, rows in sections.items():
            with formatter.section(section):
                formatter.write_dl(rows)
        _write_options(self, self.common, ctx, formatter)


def _write_options(
    of: click.Command, common: Sequence[click.Parameter], ctx: click.Context, formatter: click.HelpFormatter
) -> None:
    own: list[tuple[str, str]] = []
    shared: list[tuple[str, str]] = []
    for parameter in of.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is None or isinstance(parameter, click.Argument):
            continue
        shared.append(record) if parameter in common else own.append(record)
    for title, rows in (("Options", own), ("Common options", shared)):
        if rows:
            with formatter.section(title):
                formatter.write_dl(rows)
