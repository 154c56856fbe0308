"""What a plan takes of the project's limits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection

from pelagos.model.scope import Scope
from pelagos.quotas import UNLIMITED, holdings
from pelagos.services.infrastructure.values import CompiledInfrastructure
from pelagos.wire.infrastructures import PlanAction, QuotaNeed

__all__ = ["quota_needs", "servers_at_most"]

SERVERS = "servers"


def servers_at_most(desired: CompiledInfrastructure, actions: Iterable[PlanAction]) -> int:
    """The most servers beyond those there are now that exist at any time while the actions are carried out. What is
    made anew needs room for as many as its node's policy lets exist beyond the target."""
    policies = {node.name: node.policy for node in desired.nodes}
    created = 0
    anew: dict[str, int] = {}
    for action in actions:
        if action.action == "create":
            created += action.count
        elif action.action == "replace" and action.changes:
            anew[action.node] = anew.get(action.node, 0) + action.count
        elif action.action == "replace":
            created += action.count
    return created + sum(min(count, policies[node].surge) for node, count in anew.items() if node in policies)


def quota_needs(
    connection: Connection, scope: Scope, desired: CompiledInfrastructure, actions: Sequence[PlanAction]
) -> tuple[QuotaNeed, ...]:
    """What the actions take where the project has a limit, in the caller's project."""
    holding = holdings(connection, scope.project_id).get(SERVERS)
    if holding is None or holding.limit >= UNLIMITED:
        return ()
    left = max(0, holding.limit - holding.used - holding.reserved)
    return (
        QuotaNeed(resource=SERVERS, needed=servers_at_most(desired, actions), left=left, limit=holding.limit),
    )  # fmt: skip
