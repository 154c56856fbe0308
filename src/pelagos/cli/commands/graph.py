"""``pelagos graph``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pelagos.cli.exits import COMMON, Exit
from pelagos.cli.invocation import Invocation, pass_invocation
from pelagos.cli.lazy import command

if TYPE_CHECKING:
    from pelagos.cli.session import Session
    from pelagos.wire.infrastructures import GraphView

__all__ = ["graph"]


@command(
    "graph",
    examples=[
        ("pelagos graph guestbook", "As Mermaid, for Markdown"),
        ("pelagos graph guestbook --svg --out guestbook.svg", "A picture, with what is ready now"),
        ("pelagos graph examples/guestbook/*.yaml --dot", "Of a description that is not built"),
    ],
    exits=(Exit.DESCRIPTION, Exit.MISSING, *COMMON),
)
@click.argument("what", nargs=-1, required=True, metavar="INFRA|FILE…")
@click.option("--svg", is_flag=True, help="A picture; no other program is needed.")
@click.option("--mermaid", is_flag=True, help="Text for Mermaid (default).")
@click.option("--dot", is_flag=True, help="Text for Graphviz.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write it to this file.")
@pass_invocation
def graph(invocation: Invocation, what: tuple[str, ...], svg: bool, mermaid: bool, dot: bool, out: Path | None) -> int:
    """Draw who depends on whom.

    Of an infrastructure, by name or id, with how many instances are ready; or of a description in files, which need
    not be built. With -o json the document is the graph itself: nodes with their types, limits and what they depend on.
    """
    from pelagos.cli.finding import suggesting

    forms = [name for name, given in (("svg", svg), ("mermaid", mermaid), ("dot", dot)) if given]
    if len(forms) > 1:
        raise click.UsageError(f"--{' and --'.join(forms)} exclude each other: give one.")
    form = forms[0] if forms else "mermaid"
    files = [Path(one) for one in what] if _are_files(what) else []
    if not files and len(what) > 1:
        raise click.UsageError("Name one infrastructure, or files that exist.")

    async def work(session: Session) -> int:
        if files:
            from pelagos.clients.bundle import read_bundle
            from pelagos.wire.infrastructures import GraphRequest

            sources, entries = read_bundle(files)
            found = await session.client.graph(GraphRequest(sources=sources, entries=tuple(entries)))
        else:
            async with suggesting(session, what[0]):
                found = await session.client.infrastructures.graph(what[0])
        _show(invocation, found, form, out)
        return Exit.OK

    return invocation.run(work)


def _are_files(what: tuple[str, ...]) -> bool:
    """Whether these are files. What has the form of one and is none is one that is missing, not an infrastructure."""
    return all(Path(one).is_file() or "/" in one or one.endswith((".yaml", ".yml")) for one in what)


def _show(invocation: Invocation, found: GraphView, form: str, out: Path | None) -> None:
    from pelagos.cli import graphs
    from pelagos.cli.outputs import write_output

    if not invocation.plain and out is None:
        invocation.document(found)
        return
    drawn = {"svg": graphs.svg, "mermaid": graphs.mermaid, "dot": graphs.dot}[form](found)
    if out is None:
        invocation.say(drawn, end="")
    else:
        write_output(out, drawn.encode())
        invocation.note(f"The graph of {found.name} is in {out}.")
