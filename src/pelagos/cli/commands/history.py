"""``pelagos history`` and ``pelagos diff``: the versions of an infrastructure's description."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pelagos.cli.exits import COMMON, Exit
from pelagos.cli.invocation import Invocation, pass_invocation
from pelagos.cli.lazy import command

if TYPE_CHECKING:
    from pelagos.cli.session import Session
    from pelagos.wire.infrastructures import DescriptionChange, RevisionView

__all__ = ["diff", "history"]

_SIGNS = {"added": "+", "removed": "-", "changed": "~"}


@command(
    "history",
    examples=[
        ("pelagos history guestbook", "Its versions, newest first"),
        ("pelagos history guestbook 2", "The texts of version 2"),
    ],
    exits=(Exit.MISSING, *COMMON),
)
@click.argument("infrastructure", metavar="INFRA")
@click.argument("revision", metavar="[REV]", required=False)
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="How many, at most.")
@pass_invocation
def history(invocation: Invocation, infrastructure: str, revision: str | None, limit: int) -> int:
    """Show the versions of an infrastructure's description: when each became the wanted one, by whom, and why.

    With REV (a version's number, the first digits of its id, HEAD~2, or @2026-01-31 for the one of that time) its texts
    are shown, with secrets hidden. How many instances a node has is not part of a version: pelagos scale changes that.
    """
    from pelagos.cli.finding import suggesting

    async def work(session: Session) -> int:
        found = session.client.infrastructures
        async with suggesting(session, infrastructure):
            if revision is not None:
                texts = await found.revision(infrastructure, revision)
                if not invocation.plain:
                    invocation.document(texts)
                    return Exit.OK
                invocation.note(_line(texts.revision))
                for name, text in texts.files.items():
                    invocation.say(f"# {name}\n{text.rstrip()}\n")
                for type_, files in texts.definitions.items():
                    for name, text in files.items():
                        invocation.say(f"# {name} (the project's definition of {type_})\n{text.rstrip()}\n")
                return Exit.OK
            items = await found.history(infrastructure, limit=limit)
            if not invocation.plain:
                invocation.document({"items": items})
                return Exit.OK
            for item in items:
                invocation.say(_line(item))
            if not items:
                invocation.note("There is no version yet: its first run has not begun.")
        return Exit.OK

    return invocation.run(work)


@command(
    "diff",
    examples=[
        ("pelagos diff guestbook", "What the last change of the description was"),
        ("pelagos diff guestbook 1 3", "From version 1 to version 3"),
        ("pelagos diff guestbook HEAD~2 HEAD -o json", "For programs"),
    ],
    exits=(Exit.MISSING, *COMMON),
)
@click.argument("infrastructure", metavar="INFRA")
@click.argument("old", metavar="[REV]", default="HEAD~1")
@click.argument("new", metavar="[REV]", default="HEAD")
@pass_invocation
def diff(invocation: Invocation, infrastructure: str, old: str, new: str) -> int:
    """Show what changed from one version of an infrastructure's description to another: the places, then the texts.

    Without REV, what the last change was. A version is named as for pelagos history. Secrets are hidden. What a change
    would do to instances is shown by pelagos rollback --plan.
    """
    from pelagos.cli.finding import suggesting

    async def work(session: Session) -> int:
        async with suggesting(session, infrastructure):
            view = await session.client.infrastructures.diff(infrastructure, old, new)
        if not invocation.plain:
            invocation.document(view)
            return Exit.OK
        invocation.note(f"From {_line(view.old)}\nto   {_line(view.new)}")
        for change in view.changes:
            invocation.say(_change(change))
        if not view.files:
            invocation.note("Nothing differs.")
        elif view.changes:
            invocation.say("")
        for text in view.files.values():
            invocation.say(text)
        return Exit.OK

    return invocation.run(work)


def _line(revision: RevisionView) -> str:
    return f"{revision.number:>4}  {revision.id[:12]}  {revision.at}  {revision.user_id}  {revision.message}"


def _change(change: DescriptionChange) -> str:
    sign = _SIGNS[change.change]
    if change.change == "changed":
        return f"{sign} {change.path}: {change.old!r} -> {change.new!r}"
    return f"{sign} {change.path}: {(change.new if change.change == 'added' else change.old)!r}"
