"""What a plan takes of the project's limits, and what the infrastructure costs before and after it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import Connection

from pelagos.model.scope import Scope
from pelagos.quotas import UNLIMITED, holdings
from pelagos.services.infrastructure.choosing import size_of
from pelagos.services.infrastructure.observed import ObservedInstance, Verdict, verdict
from pelagos.services.infrastructure.values import CompiledInfrastructure, CompiledNode, Implementation
from pelagos.wire.clouds import FlavorView
from pelagos.wire.infrastructures import CostEstimate, PlanAction, QuotaNeed

__all__ = ["Costs", "costs_of", "quota_needs", "servers_at_most"]

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


class Costs(NamedTuple):
    """``unpriced``: nodes with servers of which no price is known."""

    estimates: tuple[CostEstimate, ...]
    unpriced: tuple[str, ...]


def costs_of(
    desired: CompiledInfrastructure,
    previous: CompiledInfrastructure | None,
    targets: Mapping[str, int],
    observed: Sequence[ObservedInstance],
    catalogues: Mapping[str, Sequence[FlavorView]],
    account_of: Mapping[tuple[str, str], str],
) -> Costs:
    """What all servers cost an hour now, and what they will cost.

    ``catalogues``: account -> its flavors; ``account_of``: (resource type, label) -> account. Nothing is told if no
    cloud has prices."""
    prices = {
        (account, name): flavor
        for account, flavors in catalogues.items()
        for flavor in flavors
        for name in (flavor.id, flavor.name)
        if flavor.price_per_hour is not None
    }
    if not prices:
        return Costs((), ())
    before: dict[str, float] = {}
    after: dict[str, float] = {}
    unpriced: dict[str, None] = {}

    def add(sums: dict[str, float], node: str, account: str, implementation: Implementation | None, count: int) -> None:
        flavor = prices.get((account, size_of(implementation) if implementation is not None else ""))
        if flavor is None or flavor.price_per_hour is None:
            unpriced[node] = None
        else:
            sums[flavor.currency] = sums.get(flavor.currency, 0.0) + flavor.price_per_hour * count

    old = {node.name: node for node in previous.nodes} if previous is not None else {}
    former = {new: name for name, new in desired.moved.items()}
    for instance in observed:
        if verdict(instance.state, instance.server)[0] is not Verdict.LEAVING and previous is not None:
            node = old.get(instance.node) or old.get(former.get(instance.node, ""))
            add(before, instance.node, instance.account, _made_by(previous, node, instance.implementation), 1)
    for described in desired.nodes:
        count = 0 if described.retired else targets.get(described.name, described.min)
        if count and described.implementations:
            first = desired.definitions[described.defined_by][described.implementations[0]]
            account = account_of.get((first.resource_type, first.account_label), "")
            add(after, described.name, account, first, count)
    currencies = sorted({*before, *after})
    estimates = tuple(
        CostEstimate(currency=name, before=round(before.get(name, 0.0), 6), after=round(after.get(name, 0.0), 6))
        for name in currencies
    )
    return Costs(estimates, tuple(unpriced))


def _made_by(of: CompiledInfrastructure, node: CompiledNode | None, index: int) -> Implementation | None:
    choices = of.definitions.get(node.defined_by, ()) if node is not None else ()
    return choices[index] if index < len(choices) else None
