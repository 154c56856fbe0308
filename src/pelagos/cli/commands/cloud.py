"""``pelagos cloud``: the clouds of the pool, how they are and what they offer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pelagos.cli.exits import COMMON, Exit
from pelagos.cli.invocation import Invocation, pass_invocation
from pelagos.cli.lazy import Entry, LazyGroup, command

if TYPE_CHECKING:
    from pelagos.cli.session import Session

__all__ = ["check", "cloud", "flavors", "images", "listing", "reload", "servers", "show"]

_HERE = "pelagos.cli.commands.cloud"

cloud = LazyGroup(
    "cloud",
    entries={
        "list": Entry(f"{_HERE}:listing", "List the clouds, and how they are."),
        "show": Entry(f"{_HERE}:show", "Show one, with what its driver can do."),
        "check": Entry(f"{_HERE}:check", "Ask them for an answer now."),
        "images": Entry(f"{_HERE}:images", "List the images that a cloud has."),
        "flavors": Entry(f"{_HERE}:flavors", "List the sizes of servers that a cloud has."),
        "servers": Entry(f"{_HERE}:servers", "List the servers that a cloud shows."),
        "reload": Entry(f"{_HERE}:reload", "Have the daemon read the pool's configuration anew."),
    },
    help="""The clouds of the pool: accounts of the configuration, and those that descriptions mean.

    How a cloud is, the calls to it tell; check asks.""",
    no_args_is_help=True,
)

_name = click.argument("name", metavar="NAME")


@command(
    "list",
    examples=[("pelagos cloud list", "What there is, and whether it answers"), ("pelagos cloud list -o json", "All")],
    exits=COMMON,
)
@pass_invocation
def listing(invocation: Invocation) -> int:
    """List the clouds of the pool, with what their last calls said.

    Without a daemon each is asked once, for at most ten seconds. STATE is unknown before a cloud was asked. WORK counts
    operations that are not finished. A cloud that the pool has no more is shown as long as it has servers, or work is
    journaled for it: that waits until it is back.
    """
    from pelagos.cli.clouds import cloud_table, look_once

    async def work(session: Session) -> int:
        await look_once(invocation, session)
        found = await session.client.clouds.list()
        if invocation.plain:
            invocation.say(cloud_table(found, invocation.world.now()))
        else:
            invocation.document(found)
        return Exit.OK

    return invocation.run(work)


@command(
    "show",
    examples=[("pelagos cloud show lab", "Its endpoint, how it is, and what its driver can do")],
    exits=(Exit.MISSING, *COMMON),
)
@_name
@pass_invocation
def show(invocation: Invocation, name: str) -> int:
    """Show a cloud: where it is, how it is, what is on it, and what its driver can do once that is open.

    Without a daemon it is asked once, for at most ten seconds.
    """
    from pelagos.cli.clouds import cloud_facts, look_once

    async def work(session: Session) -> int:
        found = await session.client.clouds.get(name)
        if found.state != "removed":
            await look_once(invocation, session, name)
            found = await session.client.clouds.get(name)
        if invocation.plain:
            invocation.say(cloud_facts(found, invocation.world.now()))
        else:
            invocation.document(found)
        return Exit.OK

    return invocation.run(work)


@command(
    "check",
    examples=[
        ("pelagos cloud check", "Whether every cloud answers, and lets us in"),
        ("pelagos cloud check lab || echo lab is away", "In a script"),
    ],
    exits=(Exit.FAILED, Exit.MISSING, *COMMON),
)
@click.argument("name", metavar="[NAME]", required=False, default="")
@pass_invocation
def check(invocation: Invocation, name: str) -> int:
    """Ask a cloud, or all of the pool at once, for its servers now: whether its options are right, its secrets can be
    read, it is reached, and it lets us in. The exit code is 1 if one is not.
    """
    from pelagos.cli.clouds import check_table, patiently
    from pelagos.cli.failures import show_warnings

    async def work(session: Session) -> int:
        asked = session.client.clouds.check(name)
        found = await patiently(invocation, asked, f"Asking {name or 'the clouds'}…")
        if invocation.plain:
            invocation.say(check_table(found))
            for one in found:
                if one.error is not None:
                    show_warnings(one.error.diagnostics, invocation)
                if one.error is not None and one.error.advice:
                    invocation.note(f"{one.cloud}: {one.error.advice}")
        else:
            invocation.document(found)
        return Exit.OK if all(one.ok for one in found) else Exit.FAILED

    return invocation.run(work)


@command(
    "images",
    examples=[("pelagos cloud images lab", "What `image_id` and the like may be")],
    exits=(Exit.FAILED, Exit.MISSING, *COMMON),
)
@_name
@pass_invocation
def images(invocation: Invocation, name: str) -> int:
    """List the images that servers of a cloud can be made from, by name. ID is what a resource section says."""
    from pelagos.cli.clouds import image_table

    async def work(session: Session) -> int:
        return await _listed(invocation, session.client.clouds.images(name), name, "image", image_table)

    return invocation.run(work)


@command(
    "flavors",
    examples=[("pelagos cloud flavors lab", "What `flavor_name` and the like may be")],
    exits=(Exit.FAILED, Exit.MISSING, *COMMON),
)
@_name
@pass_invocation
def flavors(invocation: Invocation, name: str) -> int:
    """List the sizes of servers that a cloud has, the smallest first, with prices where it tells them. ID is what a
    resource section says."""
    from pelagos.cli.clouds import flavor_table

    async def work(session: Session) -> int:
        return await _listed(invocation, session.client.clouds.flavors(name), name, "flavor", flavor_table)

    return invocation.run(work)


@command(
    "servers",
    examples=[
        ("pelagos cloud servers lab", "What Pelagos has there, as the cloud sees it"),
        ("pelagos cloud servers lab --all", "Also what others made there"),
    ],
    exits=(Exit.FAILED, Exit.MISSING, *COMMON),
)
@_name
@click.option("--all", "every", is_flag=True, help="Also servers that Pelagos did not make.")
@pass_invocation
def servers(invocation: Invocation, name: str, every: bool) -> int:
    """List the servers that a cloud shows now. Nothing is written: what is remembered of them is in status."""
    from pelagos.cli.clouds import server_table

    async def work(session: Session) -> int:
        return await _listed(invocation, session.client.clouds.servers(name, all=every), name, "server", server_table)

    return invocation.run(work)


@command(
    "reload",
    examples=[
        ("pelagos cloud reload", "After the pool's configuration was changed"),
        ("pelagos cloud reload lab", "And open lab anew, which reads its secrets again"),
    ],
    exits=(Exit.DESCRIPTION, Exit.MISSING, *COMMON),
)
@click.argument("name", metavar="[NAME]", required=False, default="")
@pass_invocation
def reload(invocation: Invocation, name: str) -> int:
    """Have the daemon read the configuration of the pool anew, as SIGHUP does.

    Clouds that are written as before stay open, and what is under way on them goes on; those whose secrets were rotated
    are opened anew. Calls to those that changed or went may end first, and nothing that is journaled is lost: for a
    cloud that went it waits until it is back. A configuration with a mistake is refused, and the old one stays.

    Without a daemon there is nothing to do: each command reads the configuration.
    """
    from pelagos.cli.clouds import change_text

    async def work(session: Session) -> int:
        if session.embedded:
            await session.client.clouds.list()
            invocation.note("No daemon runs on this home: each command reads the configuration itself.")
            return Exit.OK
        found = await session.client.clouds.reload(name)
        if invocation.plain:
            invocation.say(change_text(found))
        else:
            invocation.document(found)
        return Exit.OK

    return invocation.run(work)


async def _listed(invocation: Invocation, asked: Any, name: str, what: str, as_table: Any) -> int:
    """Show what a cloud answers, or say that it is nothing."""
    from pelagos.cli.clouds import patiently

    found = await patiently(invocation, asked, f"Asking {name}…")
    if not invocation.plain:
        invocation.document(found)
    elif found:
        invocation.say(as_table(found))
    else:
        invocation.note(f"{name} shows no {what}.")
    return Exit.OK
