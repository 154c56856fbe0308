"""``pelagos dead-letters``: list, show, retry, drop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pelagos.cli.controlling import of_system
from pelagos.cli.exits import COMMON, Exit
from pelagos.cli.invocation import Invocation, pass_invocation
from pelagos.cli.lazy import Entry, LazyGroup, command

if TYPE_CHECKING:
    from pelagos.cli.system import System
    from pelagos.exchange import DeadLetter

__all__ = ["dead_letters", "drop", "listing", "retry", "show"]

_HERE = "pelagos.cli.commands.dead_letters"
_ALL = 100_000

dead_letters = LazyGroup(
    "dead-letters",
    entries={
        "list": Entry(f"{_HERE}:listing", "List them, the oldest first."),
        "show": Entry(f"{_HERE}:show", "Show one, with its content."),
        "retry": Entry(f"{_HERE}:retry", "Send them once more."),
        "drop": Entry(f"{_HERE}:drop", "Forget them."),
    },
    help="""Messages that could not be delivered or worked off, kept with the reason for a person to decide.

    Durable work ends here when it was begun and lost too often, or when its receiver refused it for good.""",
    no_args_is_help=True,
)

_ids = click.argument("ids", metavar="ID…", nargs=-1)
_all = click.option("--all", "every", is_flag=True, help="All there are.")


@command(
    "list",
    examples=[("pelagos dead-letters list", "What waits for a decision"), ("pelagos dead-letters list -o json", "All")],
    exits=COMMON,
)
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="The most that are shown.")
@of_system
@pass_invocation
def listing(invocation: Invocation, limit: int, system: str | None, container: str | None) -> int:
    """List the dead letters of the system, the oldest first. They stay where they are."""
    from pelagos.cli.controlling import run_with_system
    from pelagos.cli.tables import dead_letters as as_table

    async def work(found: System) -> int:
        letters = await found.dead_letters(limit)
        if not invocation.plain:
            invocation.document([_view(letter) for letter in letters])
        elif letters:
            invocation.say(as_table(letters, invocation.world.now()))
        else:
            invocation.note("There are no dead letters.")
        return Exit.OK

    return run_with_system(invocation, system, container, work)


@command(
    "show",
    examples=[("pelagos dead-letters show 7f3a", "Why it is here, who sent it, and what it says")],
    exits=(Exit.MISSING, *COMMON),
)
@click.argument("letter_id", metavar="ID")
@of_system
@pass_invocation
def show(invocation: Invocation, letter_id: str, system: str | None, container: str | None) -> int:
    """Show one dead letter with its content; what looks like a secret is left out."""
    from pelagos.cli.contents import show_result
    from pelagos.cli.controlling import run_with_system

    async def work(found: System) -> int:
        show_result(invocation, _view(await found.dead_letter(letter_id), content=True))
        return Exit.OK

    return run_with_system(invocation, system, container, work)


@command(
    "retry",
    examples=[
        ("pelagos dead-letters retry 7f3a", "Once what hindered it is put right"),
        ("pelagos dead-letters retry --all", "All of them"),
    ],
    exits=(Exit.FAILED, Exit.MISSING, *COMMON),
)
@_ids
@_all
@of_system
@pass_invocation
def retry(invocation: Invocation, ids: tuple[str, ...], every: bool, system: str | None, container: str | None) -> int:
    """Send dead letters once more to where they were meant for, with a fresh count of tries.

    One whose address nobody serves stays. All are tried; the exit code is that of the first that could not be sent.
    """
    return _each(invocation, "retry_dead_letter", "sent again", ids, every, system, container)


@command(
    "drop",
    examples=[
        ("pelagos dead-letters drop 7f3a", "It is not wanted any more"),
        ("pelagos dead-letters drop --all --yes", "Nor is any of them"),
    ],
    exits=(Exit.FAILED, Exit.MISSING, *COMMON),
)
@_ids
@_all
@click.option("--yes", is_flag=True, help="Do not ask.")
@of_system
@pass_invocation
def drop(
    invocation: Invocation, ids: tuple[str, ...], every: bool, yes: bool, system: str | None, container: str | None
) -> int:
    """Forget dead letters. With --all it asks first."""
    return _each(invocation, "drop_dead_letter", "dropped", ids, every, system, container, ask=every and not yes)


def _each(
    invocation: Invocation,
    method: str,
    done: str,
    ids: tuple[str, ...],
    every: bool,
    system: str | None,
    container: str | None,
    *,
    ask: bool = False,
) -> int:
    from pelagos.cli.controlling import run_with_system
    from pelagos.cli.exits import exit_of
    from pelagos.cli.failures import show_error
    from pelagos.cli.texts import count
    from pelagos.model.errors import PelagosError

    if bool(ids) == every:
        raise click.UsageError("Give ids, or --all." if not ids else "Give either ids or --all.")

    async def work(found: System) -> int:
        wanted = [letter.id for letter in await found.dead_letters(_ALL)] if every else list(ids)
        if ask and wanted and not await invocation.confirm(f"Drop {count(len(wanted), 'dead letter')}?"):
            invocation.note("Nothing was dropped.")
            return Exit.OK
        code = Exit.OK
        settled: list[str] = []
        for letter in wanted:
            try:
                await getattr(found, method)(letter)
            except PelagosError as error:
                show_error(error, invocation)
                code = code or exit_of(error)
                continue
            settled.append(letter)
            if invocation.plain:
                invocation.say(f"{letter} is {done}.")
        if not invocation.plain:
            invocation.document({done.replace(" ", "_"): settled})
        elif not wanted:
            invocation.note("There are no dead letters.")
        return code

    return run_with_system(invocation, system, container, work)


def _view(letter: DeadLetter, *, content: bool = False) -> dict[str, Any]:
    """``{"id", "at", "address", "reason", "deliveries", "operation", "sender", "conversation", "bytes"[, "content"]}``,
    ``at`` in seconds since the epoch."""
    envelope = letter.envelope
    found: dict[str, Any] = {
        "id": letter.id,
        "at": letter.at,
        "address": letter.address,
        "reason": letter.reason,
        "deliveries": letter.deliveries,
    }
    if envelope is None:
        return found
    found |= {
        "operation": envelope.op,
        "sender": envelope.sender_name or envelope.sender,
        "conversation": envelope.conv_id,
        "bytes": len(envelope.content),
    }
    if content:
        import msgspec

        from pelagos.model.redaction import redact

        try:
            found["content"] = redact(msgspec.msgpack.decode(envelope.content))
        except (msgspec.DecodeError, ValueError, RecursionError):
            found["content"] = None
    return found
