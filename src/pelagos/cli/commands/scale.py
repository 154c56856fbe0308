"""``pelagos scale``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from pelagos.cli.exits import COMMON, Exit
from pelagos.cli.invocation import Invocation, pass_invocation
from pelagos.cli.lazy import command

if TYPE_CHECKING:
    from pelagos.cli.session import Session
    from pelagos.wire.infrastructures import ScaleChoice, StatusView

__all__ = ["scale"]

_COUNT = re.compile(r"[+-]?[0-9]{1,6}\Z")


def _check_count(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if value and not _COUNT.match(value):
        raise click.BadParameter(f"{value!r} is no number of instances; give 3, +1 or -1.", context, parameter)
    return value


async def _check_node(session: Session, infrastructure: str, node: str, wanted: tuple[str, ...]) -> None:
    """Raises NotFound for an instance that is not the node's: a slip must not cost another node one."""
    from pelagos.model.errors import NotFound

    status = await session.client.infrastructures.status(infrastructure)
    shown = status.nodes[node].instances if node in status.nodes else {}
    for text in wanted:
        if not any(text in (key, one.address) for key, one in shown.items()):
            raise NotFound(
                f"node {node!r} of {status.name!r} has no instance {text!r}",
                advice=f"`pelagos status {status.name} -o json` shows ids and addresses.",
            )


def _stands(status: StatusView, node: str, number: str) -> bool:
    """Whether the number is the wanted one already. What moves no instance now may still be a wish: of instances that
    are missing, or as many as are there while another number is wanted."""
    return number.isdigit() and node in status.nodes and int(number) == status.nodes[node].scaling.target


@command(
    "scale",
    examples=[
        ("pelagos scale guestbook web 3", "Three instances of web"),
        ("pelagos scale guestbook web +1", "One more"),
        ("pelagos scale guestbook web -1 --yes", "One less, without being asked"),
        ("pelagos scale guestbook web -1 --first oldest", "The one that was made first"),
        ("pelagos scale guestbook web --instance 10.0.0.7", "This one goes, and the number sinks by one"),
    ],
    exits=(Exit.FAILED, Exit.MISSING, Exit.QUOTA, *COMMON),
    context_settings={"ignore_unknown_options": True},  # -1 is a number, not an option
)
@click.argument("infrastructure", metavar="INFRA")
@click.argument("node", metavar="NODE")
@click.argument("number", metavar="[3|+1|-1]", callback=_check_count, required=False, default="")
@click.option("--instance", metavar="ID|ADDRESS", multiple=True, help="This instance goes, instead of a number.")
@click.option(
    "--first",
    type=click.Choice(["unhealthy", "youngest", "oldest"]),
    help="Which instances go first; otherwise as the node's policy says.",
)
@click.option("--yes", is_flag=True, help="Do not ask before instances are destroyed.")
@click.option("--keep", is_flag=True, help="When it fails or is cancelled, keep what it made.")
@pass_invocation
def scale(
    invocation: Invocation,
    infrastructure: str,
    node: str,
    number: str,
    instance: tuple[str, ...],
    first: ScaleChoice | None,
    yes: bool,
    keep: bool,
) -> int:
    """Change how many instances a node has: to a number (0 too, where its min allows), or by a number with its sign.

    The number stays within the node's min and max, and a number closes the node's breaker, if that is open. You are
    asked where instances are destroyed; protected ones never are. Ctrl+C as in up; the output is up's too.
    """
    from pelagos.cli.asking import agreed, show_plan
    from pelagos.cli.changing import change
    from pelagos.cli.finding import suggesting
    from pelagos.cli.results import show_success
    from pelagos.wire.infrastructures import PlanRequest, RunRequest

    if bool(number) == bool(instance):
        raise click.UsageError("Give a number of instances, or --instance.")
    wanted = {node: number} if number else {}

    async def work(session: Session) -> int:
        async with suggesting(session, infrastructure):
            if instance:
                await _check_node(session, infrastructure, node, instance)
            plan = await session.client.plan(
                PlanRequest(infrastructure=infrastructure, scale=wanted, remove=instance, choice=first)
            )
        show_plan(plan, invocation)
        reference = plan.id or infrastructure
        status = await session.client.infrastructures.status(reference)
        if not plan.changes and not plan.closes and _stands(status, node, number):
            await show_success(invocation, session, status, None)
            return Exit.OK
        if not await agreed(plan, invocation, yes=yes):
            return Exit.FAILED
        request = RunRequest(
            kind="scale",
            request_id=invocation.world.new_id(),
            infrastructure=reference,
            scale=wanted,
            remove=instance,
            choice=first,
            keep=keep,
        )
        return await change(invocation, session, request, plan)

    return invocation.run(work)
