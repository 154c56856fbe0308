"""Orphans are deleted: shown, asked, and waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pelagos.cli.exits import Exit
from pelagos.cli.texts import clean, count
from pelagos.model.errors import NotFound, PelagosError, from_payload
from pelagos.wire.drift import OrphanServer, OrphanView

if TYPE_CHECKING:
    from pelagos.cli.invocation import Invocation
    from pelagos.cli.session import Session

__all__ = ["remove_orphans"]

_PATIENCE = 120.0
"""Seconds that their going is waited for; it goes on after that too."""
_LOOK = 0.5


async def remove_orphans(
    invocation: Invocation, session: Session, cloud: str, servers: Sequence[str], *, yes: bool
) -> int:
    """``servers``: ids; none means all of the cloud. Answers the exit code."""
    found = await session.client.orphans.list(cloud)
    for silent in found.silent:
        raise from_payload(silent.error)
    known = {one.provider_id: one for one in found.items}
    for wanted in servers:
        if wanted not in known:
            raise NotFound(f"{wanted} in {cloud} is no orphan", advice="`pelagos orphans list` shows those there are.")
    chosen = [known[wanted] for wanted in dict.fromkeys(servers)] if servers else list(known.values())
    if not chosen:
        invocation.note(f"There is no orphan in {cloud}.")
        if not invocation.plain:
            invocation.document({"cloud": cloud, "deleted": [], "remaining": []})
        return Exit.OK
    for one in chosen:
        invocation.note(f"  - {one.provider_id}  {clean(one.name)}  {', '.join(one.addresses)}")
    question = f"Delete {count(len(chosen), 'server')} of {cloud}, which may be another Pelagos's?"
    if not yes and not await invocation.confirm(question):
        invocation.note("Nothing was changed.")
        return Exit.FAILED
    await session.client.orphans.delete([OrphanServer(cloud=cloud, provider_id=one.provider_id) for one in chosen])
    remaining = await _until_gone(invocation, session, cloud, chosen)
    gone = [one.provider_id for one in chosen if one.provider_id not in remaining]
    if not invocation.plain:
        invocation.document({"cloud": cloud, "deleted": gone, "remaining": sorted(remaining)})
    else:
        invocation.say(f"{count(len(gone), 'server')} of {cloud} {'is' if len(gone) == 1 else 'are'} gone.")
    if remaining:
        invocation.note(f"Not gone yet: {', '.join(sorted(remaining))}. Their deletion goes on: pelagos orphans list")
        return Exit.FAILED
    return Exit.OK


async def _until_gone(invocation: Invocation, session: Session, cloud: str, chosen: Sequence[OrphanView]) -> set[str]:
    """Those that are still there when patience is over."""
    world = invocation.world
    end = world.monotonic() + _PATIENCE
    left = {one.provider_id for one in chosen}
    while left:
        try:
            found = await session.client.orphans.list(cloud)
        except PelagosError:
            found = None
        if found is not None and not found.silent:
            left &= {one.provider_id for one in found.items}
        if not left or world.monotonic() >= end:
            break
        await asyncio.sleep(_LOOK)
    return left
