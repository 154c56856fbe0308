"""``pelagos definitions``: import, list and delete."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pelagos.cli.bringing import map_clouds_option
from pelagos.cli.exits import COMMON, Exit
from pelagos.cli.invocation import Invocation, pass_invocation
from pelagos.cli.lazy import Entry, LazyGroup, command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pelagos.cli.session import Session
    from pelagos.wire.infrastructures import DefinitionView

__all__ = ["definitions", "delete", "import_", "listing"]

_HERE = "pelagos.cli.commands.definitions"

definitions = LazyGroup(
    "definitions",
    entries={
        "list": Entry(f"{_HERE}:listing", "List the definitions that are stored."),
        "import": Entry(f"{_HERE}:import_", "Store the definitions of files."),
        "delete": Entry(f"{_HERE}:delete", "Delete a stored definition."),
    },
    help="""Node definitions that are stored, for descriptions that do not bring their own.

    An up whose files hold the definitions needs none of this.""",
    no_args_is_help=True,
)


@command("list", examples=[("pelagos definitions list", "What is stored")], exits=COMMON)
@pass_invocation
def listing(invocation: Invocation) -> int:
    """List the definitions that are stored: their types, files and clouds."""

    async def work(session: Session) -> int:
        _show(invocation, await session.client.definitions.list())
        return Exit.OK

    return invocation.run(work)


@command(
    "import",
    examples=[("pelagos definitions import nodes.yaml", "All definitions of the file, or none if one has a mistake")],
    exits=(Exit.DESCRIPTION, Exit.MISSING, *COMMON),
)
@click.argument("files", nargs=-1, required=True, metavar="FILE…", type=click.Path(path_type=Path))
@map_clouds_option
@pass_invocation
def import_(invocation: Invocation, files: tuple[Path, ...], map_clouds: str) -> int:
    """Store the node definitions of files; one of the same type is replaced. All are stored, or none if there is a
    mistake. With --map-clouds they are checked for being built there: of resource sections the keys alone."""
    from pelagos.cli.failures import show_warnings
    from pelagos.clients.bundle import read_bundle
    from pelagos.wire.infrastructures import DefinitionsRequest

    sources, entries = read_bundle(files)

    async def work(session: Session) -> int:
        request = DefinitionsRequest(sources=sources, entries=tuple(entries), map_clouds=map_clouds)
        imported = await session.client.definitions.import_(request)
        show_warnings(imported.warnings, invocation)
        _show(invocation, imported.items)
        return Exit.OK

    return invocation.run(work)


@command(
    "delete",
    examples=[("pelagos definitions delete web_node", "Infrastructures that were built from it are not touched")],
    exits=(Exit.MISSING, *COMMON),
)
@click.argument("type_", metavar="TYPE")
@pass_invocation
def delete(invocation: Invocation, type_: str) -> int:
    """Delete a stored definition. TYPE is what follows node_def: in its file."""

    async def work(session: Session) -> int:
        await session.client.definitions.delete(type_)
        if invocation.plain:
            invocation.say(f"{type_} is deleted.")
        else:
            invocation.document({"type": type_, "deleted": True})
        return Exit.OK

    return invocation.run(work)


def _show(invocation: Invocation, found: Sequence[DefinitionView]) -> None:
    from pelagos.cli.texts import age, table
    from pelagos.wire.times import from_rfc3339

    if not invocation.plain:
        invocation.document(found)
        return
    if not found:
        invocation.note("There is no stored definition.")
        return
    now = invocation.world.now()
    rows = [
        [one.type, str(one.implementations), ", ".join(one.clouds), one.file, age(now - from_rfc3339(one.updated_at))]
        for one in found
    ]
    invocation.say(table(["TYPE", "IMPLEMENTATIONS", "CLOUDS", "FILE", "AGE"], rows))
