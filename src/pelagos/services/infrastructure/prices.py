"""Prices of the clouds that a plan is about: asked of each once in a while, and never a reason for a plan to fail."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import structlog

from pelagos.clouds.pool import Pool
from pelagos.model.errors import PelagosError, Unsupported
from pelagos.model.world import World
from pelagos.services.infrastructure.spending import Costs, costs_of
from pelagos.wire.clouds import FlavorView

if TYPE_CHECKING:
    from pelagos.services.infrastructure.planning import Planned

__all__ = ["Prices"]

_log = structlog.get_logger("pelagos.infrastructure")
_KEPT = 3600.0
"""Seconds for which a cloud's prices are believed."""

Ask = Callable[[str], Awaitable[tuple[FlavorView, ...]]]
"""Account -> its flavors. Raises Unsupported where its cloud has no catalogue."""


class Prices:
    """For one pool."""

    def __init__(self, pool: Pool, world: World, ask: Ask) -> None:
        self._pool = pool
        self._world = world
        self._ask = ask
        self._known: dict[str, tuple[float, tuple[FlavorView, ...]]] = {}

    async def costs(self, planned: Planned) -> Costs:
        """What the plan costs, as far as prices are known."""
        account_of: dict[tuple[str, str], str] = {}
        for node in planned.desired.nodes:
            for index in node.implementations[:1]:
                first = planned.desired.definitions[node.defined_by][index]
                key = (first.resource_type, first.account_label)
                if key not in account_of:
                    try:
                        account_of[key] = self._pool.for_resource(first.resource_type, first.account_label or None)
                    except PelagosError:
                        continue  # the description's own mistake, or the node falls back to another
        accounts = {*account_of.values(), *(i.account for i in planned.observed)} - {""}
        catalogues = {account: await self._flavors(account) for account in sorted(accounts)}
        return costs_of(
            planned.desired, planned.previous, planned.targets, planned.observed, catalogues, account_of
        )  # fmt: skip

    async def _flavors(self, account: str) -> tuple[FlavorView, ...]:
        known = self._known.get(account)
        now = self._world.monotonic()
        if known is not None and now - known[0] < _KEPT:
            return known[1]
        try:
            found = await self._ask(account)
        except Unsupported:
            found = ()
        except PelagosError as error:
            _log.info("no prices", account=account, error=str(error))
            return ()
        self._known[account] = (now, found)
        return found
