"""Prices of the clouds that a plan is about: asked of each once in a while, and never a reason for a plan to fail."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import structlog

from pelagos.clouds.pool import Pool
from pelagos.model.errors import ErrorPayload, PelagosError, Unsupported
from pelagos.model.world import World
from pelagos.services.infrastructure.candidates import account_for
from pelagos.services.infrastructure.choosing import Candidate, Price, size_of, weight_of
from pelagos.services.infrastructure.costing import Costs, Making, Standing, costs_of, running_costs
from pelagos.services.infrastructure.places import planned_node
from pelagos.services.infrastructure.policies import Choose
from pelagos.services.infrastructure.values import CompiledNode
from pelagos.wire.infrastructures import PlannedNode, RunningCosts

if TYPE_CHECKING:
    from pelagos.services.infrastructure.planning import CostBasis, Planned

__all__ = ["Prices"]

_log = structlog.get_logger("pelagos.infrastructure")
_KEPT = 3600.0
"""Seconds for which a cloud's prices are believed."""

Ask = Callable[[str], Awaitable[dict[str, Price]]]
"""Account -> size -> its price. Raises Unsupported where its cloud has no catalogue."""

_Place = tuple[str, ErrorPayload | None]
"""An account, or why the pool has none."""


class Prices:
    """For one pool. ``choose``: how implementations are chosen for nodes whose policy does not say."""

    def __init__(self, pool: Pool, world: World, ask: Ask, choose: Choose) -> None:
        self._pool = pool
        self._world = world
        self._ask = ask
        self._choose = choose
        self._known: dict[str, tuple[float, int, dict[str, Price]]] = {}

    async def costs(self, planned: Planned, basis: CostBasis) -> Costs:
        """What the plan costs, as far as prices are known. Nothing is told if no cloud has prices."""
        made = _made(planned)
        nodes = [node for node in planned.desired.nodes if node.name in made and not node.retired]
        places = self._places(planned, nodes)
        catalogues = await self._catalogues(
            {*(account for account, _ in places.values()), *(s.account for s in basis.standing)}
        )
        if not any(catalogues.values()):
            return Costs()
        making = [
            Making(
                node=node.name,
                count=made[node.name],
                strategy=self._strategy(node),
                kept=basis.kept.get(node.name),
                candidates=tuple(_candidates(planned, node, places, catalogues)),
            )
            for node in nodes
        ]
        return costs_of(
            basis.standing, making, lambda account, size: catalogues.get(account, {}).get(size), basis.used
        )  # fmt: skip

    async def running(self, standing: Mapping[str, Standing]) -> RunningCosts:
        """What instances, by their ids, cost an hour, as far as prices are known."""
        catalogues = await self._catalogues(server.account for server in standing.values())
        return running_costs(standing, lambda account, size: catalogues.get(account, {}).get(size))

    async def places(self, planned: Planned, basis: CostBasis, *, anew: bool = False) -> tuple[PlannedNode, ...]:
        """Where the plan makes servers of each node that it does not leave as it is, or heals all the same; and at what
        price, of those of which it makes any. ``anew``: clouds are asked even if they told their prices lately."""
        made = _made(planned)
        left = planned.held - made.keys()
        nodes = [node for node in planned.desired.nodes if not node.retired and node.name not in left]
        places = self._places(planned, nodes)
        priced = [node for node in nodes if node.name in made]
        asked = {places[node.defined_by, index][0] for node in priced for index in node.implementations}
        catalogues = await self._catalogues(asked, anew=anew)
        return tuple(
            planned_node(
                node.name,
                self._strategy(node),
                basis.kept.get(node.name),
                _candidates(planned, node, places, catalogues if node.name in made else {}),
            )
            for node in nodes
        )

    def _strategy(self, node: CompiledNode) -> Choose:
        return node.policy.choose or self._choose

    async def _catalogues(self, accounts: Iterable[str], *, anew: bool = False) -> dict[str, dict[str, Price]]:
        names = sorted({*accounts} - {""})
        found = await asyncio.gather(*(self._sizes(account, anew=anew) for account in names))
        return dict(zip(names, found, strict=True))

    def _places(self, planned: Planned, nodes: Sequence[CompiledNode]) -> dict[tuple[str, int], _Place]:
        """Definition and index of all implementations of these nodes -> where they are made."""
        found: dict[tuple[str, int], _Place] = {}
        for node in nodes:
            for index in node.implementations:
                if (node.defined_by, index) not in found:
                    try:
                        account = account_for(self._pool, planned.desired.definitions[node.defined_by][index])
                        found[node.defined_by, index] = account, None
                    except PelagosError as error:  # the description's own mistake, or the node falls back to another
                        found[node.defined_by, index] = "", error.payload()
        return found

    async def _sizes(self, account: str, *, anew: bool = False) -> dict[str, Price]:
        known = self._known.get(account)
        now, generation = self._world.monotonic(), self._pool.generation
        if known is not None and now - known[0] < _KEPT and known[1] == generation and not anew:
            return known[2]
        try:
            found = await self._ask(account)
        except Unsupported:
            found = {}
        except PelagosError as error:
            _log.info("no prices", account=account, error=str(error))
            return {}
        self._known[account] = (now, generation, found)
        return found


def _made(planned: Planned) -> dict[str, int]:
    """Node -> instances of it that the plan makes."""
    made: dict[str, int] = {}
    for action in planned.view.actions:
        if action.action in ("create", "replace"):
            made[action.node] = made.get(action.node, 0) + action.count
    return made


def _candidates(
    planned: Planned,
    node: CompiledNode,
    places: Mapping[tuple[str, int], _Place],
    catalogues: Mapping[str, Mapping[str, Price]],
) -> list[Candidate]:
    """As the maintainer will have them; a run that begins forgets what clouds refused before."""
    found = []
    for index in node.implementations:
        implementation = planned.desired.definitions[node.defined_by][index]
        account, refused = places[node.defined_by, index]
        found.append(
            Candidate(
                index=index,
                account=account,
                type=implementation.resource_type,
                weight=weight_of(node.policy.weights, account, implementation.resource_type),
                price=catalogues.get(account, {}).get(size_of(implementation)),
                refused=refused,
            )
        )
    return found
