"""``pelagos drift``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pelagos.cli.exits import COMMON, Exit
from pelagos.cli.invocation import Invocation, pass_invocation
from pelagos.cli.lazy import command

if TYPE_CHECKING:
    from pelagos.cli.session import Session

__all__ = ["drift"]


@command(
    "drift",
    examples=[
        ("pelagos drift guestbook", "What differs from its record"),
        ("pelagos drift --all -o json", "All infrastructures, and servers that no record knows, on all clouds"),
        ("pelagos drift guestbook --ignore kind=changed,field=addresses", "But not this"),
    ],
    exits=(Exit.DRIFT, Exit.UNSEEN, Exit.DESCRIPTION, Exit.MISSING, *COMMON),
)
@click.argument("infrastructure", metavar="[INFRA]", required=False, default="")
@click.option("--all", "everything", is_flag=True, help="All infrastructures, and the whole pool.")
@click.option(
    "--ignore",
    metavar="KEY=TEXT,…",
    multiple=True,
    help="Do not report what fits: kind, infrastructure, node, cloud, field, server; * and ? stand for any text. "
    "A kind is one of those that drift tells.",
)
@click.option(
    "--ignore-file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Rules of a YAML file: a list of mappings with these keys.",
)
@pass_invocation
def drift(
    invocation: Invocation, infrastructure: str, everything: bool, ignore: tuple[str, ...], ignore_file: Path | None
) -> int:
    """Say where clouds differ from the records, and change nothing: not there, and not here.

    Servers that vanished or are stopped, whose flavor, image or addresses changed, and those with a token that no
    record knows. The exit code is 4 where something differs, 5 where nothing does but some cloud could not be looked
    at. With -o json the document is {"at", "compared", "findings": [{"kind", "cloud", "provider_id", "server",
    "infrastructure", "node", "instance_id", "field", "expected", "found"}], "ignored", "silent": [{"cloud", "error"}]}.
    """
    from pelagos.cli.drifting import read_rules, show_drift
    from pelagos.cli.finding import suggesting
    from pelagos.wire.drift import DriftRequest

    if everything == bool(infrastructure):
        raise click.UsageError("Give the name of an infrastructure, or --all.")
    rules = read_rules(ignore, ignore_file)

    async def work(session: Session) -> int:
        request = DriftRequest(infrastructure=infrastructure, ignore=rules)
        async with suggesting(session, infrastructure):
            view = await session.client.infrastructures.drift(request)
        show_drift(invocation, view)
        if view.findings:
            return Exit.DRIFT
        return Exit.UNSEEN if view.silent else Exit.OK

    return invocation.run(work)
