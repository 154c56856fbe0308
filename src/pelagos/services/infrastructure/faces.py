"""Compute and the store, as those parts of the infrastructure service see them that may only look, or only command.

Compute is asked in this very container, where it runs there. A request to the service would go to any container that
serves it, so also to one that hangs, which nobody can tell before the broker misses it: whoever took over from that one
would wait for it. Nothing is lost by it: who carries out what, the accounts' leases say and not who was asked.
"""

from __future__ import annotations

from collections.abc import Iterable

import structlog

from pelagos.clouds.values import CommandResult
from pelagos.model.errors import PelagosError
from pelagos.process import Context, Process, ServiceProcess, client
from pelagos.services.compute import ComputeService
from pelagos.services.compute.messages import (
    Accepted,
    AdoptServers,
    CloudRef,
    CreateServers,
    DeleteServers,
    ExecuteRequest,
    ListenerCheck,
    PowerServers,
    RefreshAccounts,
    Refreshed,
    UpdatableKeys,
    UpdateServers,
)
from pelagos.services.infrastructure.choosing import Price
from pelagos.services.infrastructure.in_place import Keys
from pelagos.store.port import Store

__all__ = ["Looks", "MaintainersCompute", "StoredRecords", "Surveys", "compute_of", "computes_here"]

_log = structlog.get_logger("pelagos.infrastructure")
_CATALOGUE_PATIENCE = 10.0
"""Seconds that a plan waits for what a cloud tells of itself: prices, what it changes in place."""
_LISTING_PATIENCE = 60.0


def compute_of(service: Process, *, timeout: float | None = None, context: Context | None = None) -> ComputeService:
    """A client of the compute that is nearest now: made for each call, since that one may end, or begin."""
    address = service.container.serving(ComputeService.name)
    return client(ComputeService, service, timeout=timeout, context=context, address=address)


def computes_here(service: Process) -> bool:
    """Whether accounts are opened in this very container."""
    return service.container.serving(ComputeService.name) is not None


class Looks:
    """What is asked of clouds and their servers through ``service``'s conversations."""

    def __init__(self, service: ServiceProcess) -> None:
        self._service = service

    async def sizes(self, account: str) -> dict[str, Price]:
        """Size -> its price on an account, by id and by name."""
        compute = compute_of(self._service, timeout=_CATALOGUE_PATIENCE)
        return {
            name: Price(one.price_per_hour, one.currency)
            for one in (await compute.list_flavors(CloudRef(cloud=account))).items
            if one.price_per_hour is not None
            for name in (one.name, one.id)
        }

    async def updatable(self, accounts: Iterable[str]) -> Keys:
        """What these clouds change in place; of one that does not say so, nothing is known."""
        compute = compute_of(self._service, timeout=_CATALOGUE_PATIENCE)
        found = {}
        for account in sorted(set(accounts)):
            try:
                found[account] = (await compute.updatable_keys(CloudRef(cloud=account))).keys
            except PelagosError as error:
                _log.warning("a cloud does not say what it changes in place", account=account, error=str(error))
        return found

    async def execute(self, server_id: str, argv: tuple[str, ...], timeout: float) -> CommandResult:
        compute = compute_of(self._service, timeout=timeout + 1.0)
        return (await compute.execute(ExecuteRequest(server_id=server_id, argv=argv, timeout=timeout))).result

    async def owns_listener(self, server_id: str, address: str, port: int) -> bool | None:
        compute = compute_of(self._service)
        return (await compute.check_listener(ListenerCheck(server_id=server_id, address=address, port=port))).owned


class MaintainersCompute:
    """Compute for a maintainer. Commands are journaled and answered at once: what is not, died with who had it, and is
    sent again as the same request. A listing takes what its cloud takes."""

    def __init__(self, service: Process, context: Context, patience: float) -> None:
        self._service = service
        self._context = context
        self._patience = patience

    def _ask(self, patience: float | None = None) -> ComputeService:
        return compute_of(self._service, timeout=patience or self._patience, context=self._context)

    async def create_servers(self, request: CreateServers) -> Accepted:
        return await self._ask().create_servers(request)

    async def delete_servers(self, request: DeleteServers) -> Accepted:
        return await self._ask().delete_servers(request)

    async def adopt_servers(self, request: AdoptServers) -> Accepted:
        return await self._ask().adopt_servers(request)

    async def power_servers(self, request: PowerServers) -> Accepted:
        return await self._ask().power_servers(request)

    async def update_servers(self, request: UpdateServers) -> Accepted:
        return await self._ask().update_servers(request)

    async def updatable_keys(self, request: CloudRef) -> UpdatableKeys:
        return await self._ask().updatable_keys(request)

    async def refresh(self, request: RefreshAccounts) -> Refreshed:
        return await self._ask(_LISTING_PATIENCE).refresh(request)


class Surveys:
    """The clouds, for looking alone."""

    __slots__ = ("survey",)

    def __init__(self, service: ServiceProcess) -> None:
        self.survey = compute_of(service, timeout=_LISTING_PATIENCE).survey


class StoredRecords:
    """The store, for reading alone."""

    __slots__ = ("read",)

    def __init__(self, store: Store) -> None:
        self.read = store.read
