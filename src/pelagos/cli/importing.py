"""A server that is there already becomes an instance: what ``import`` and ``orphans adopt`` share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pelagos.cli.changing import change
from pelagos.cli.finding import suggesting
from pelagos.wire.infrastructures import AdoptRequest, PlanView, RunRequest

if TYPE_CHECKING:
    from pelagos.cli.invocation import Invocation
    from pelagos.cli.session import Session

__all__ = ["adopt"]


async def adopt(
    invocation: Invocation,
    session: Session,
    infrastructure: str,
    node: str,
    cloud: str,
    server: str,
    *,
    protected: bool,
) -> int:
    """Run it, with up's output; answers the exit code."""
    async with suggesting(session, infrastructure):
        status = await session.client.infrastructures.status(infrastructure)
    request = RunRequest(
        kind="adopt",
        request_id=invocation.world.new_id(),
        infrastructure=status.id,
        adopt=AdoptRequest(node=node, cloud=cloud, server=server, protected=protected),
    )
    plan = PlanView(
        name=status.name, id=status.id, state=status.state, actions=(), critical_path=(), estimated_seconds=None
    )
    return await change(invocation, session, request, plan)
