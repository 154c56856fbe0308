"""``pelagos launch``."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pelagos.cli.exits import COMMON, Exit
from pelagos.cli.invocation import Invocation, pass_invocation
from pelagos.cli.lazy import command

if TYPE_CHECKING:
    from pelagos.clients import Client
    from pelagos.launch import LaunchPlan, PartStatus

__all__ = ["launch"]


@command(
    "launch",
    examples=[
        ("pelagos launch site.yaml", "Bring all levels up, or go on where it stopped"),
        ("pelagos launch site.yaml --status", "What is ready, and what has died"),
        ("pelagos launch observatory --down --yes", "By its name: also when the plan's file is gone"),
    ],
    exits=(Exit.FAILED, Exit.NOT_READY, Exit.DESCRIPTION, Exit.MISSING, Exit.QUOTA, *COMMON),
)
@click.argument("plan", metavar="PLAN")
@click.option("--status", "only_look", is_flag=True, help="Only show what is there.")
@click.option("--down", is_flag=True, help="Terminate all that was launched, the last level first.")
@click.option("--yes", is_flag=True, help="Do not ask before --down.")
@pass_invocation
def launch(invocation: Invocation, plan: str, only_look: bool, down: bool, yes: bool) -> int:
    """Bring up what a launch plan describes: levels of infrastructures, containers and programs, one after the other.

    PLAN is the plan's file, or for --status and --down also its name. A level is done when all its parts are ready;
    then the next one begins, with the outputs of those before. The same launch again boots what died and leaves alone
    what is ready. Nothing is taken down when something fails. Exit code of --status: 3 if not everything is ready.
    """
    import asyncio

    from pelagos.cli.session import settings_of
    from pelagos.launch import Launcher, RecordFile, read_plan
    from pelagos.runtime.home import prepare_home

    if only_look and down:
        raise click.UsageError("Give --status or --down, not both.")
    path = Path(plan).absolute()
    described: LaunchPlan | None = None
    if path.is_file() or not (only_look or down):
        described = read_plan(Path(plan))
    name = plan if described is None else described.launch

    async def work() -> int:
        async with AsyncExitStack() as stack:

            async def client() -> Client:
                return (await stack.enter_async_context(invocation.open())).client

            home = settings_of(invocation).home
            prepare_home(home)
            record = stack.enter_context(RecordFile(home, name))
            launcher = Launcher(record, invocation.world, client, invocation.note)
            if not record.parts and (only_look or down):
                from pelagos.model.errors import NotFound

                raise NotFound(f"nothing of a launch {name!r} is there", advice="Launch its plan first.")
            if down:
                parts = len(record.parts)
                if not yes and not await invocation.confirm(f"Terminate the {parts} parts of {name}?"):
                    return Exit.FAILED
                await launcher.down()
                if invocation.plain:
                    invocation.say(f"{name} is gone.")
                else:
                    invocation.document({"launch": name, "parts": []})
                return Exit.OK
            if only_look:
                found = await launcher.status()
                _show(invocation, name, found)
                return Exit.OK if all(part.state == "ready" for part in found) else Exit.NOT_READY
            assert described is not None
            found = await launcher.up(described, path)
            _show(invocation, name, found)
            _tell_left_over(invocation, described, found)
            return Exit.OK

    with asyncio.Runner() as runner:
        return runner.run(work())


def _show(invocation: Invocation, name: str, found: list[PartStatus]) -> None:
    if not invocation.plain:
        invocation.document({"launch": name, "parts": found})
        return
    from pelagos.cli.texts import table

    rows = [[str(part.level), part.name, part.kind, part.state, part.detail] for part in found]
    invocation.say(table(["LEVEL", "PART", "KIND", "STATE", "DETAIL"], rows))


def _tell_left_over(invocation: Invocation, plan: LaunchPlan, found: list[PartStatus]) -> None:
    described = {part.name for part in plan.parts()}
    for part in found:
        if part.name not in described:
            invocation.note(f"{part.name} is not in the plan any more; it stays until --down.")
