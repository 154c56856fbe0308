"""Compute and the store, as those parts of the infrastructure service see them that may only look, or only command."""

from __future__ import annotations

from collections.abc import Iterable

import structlog

from pelagos.clouds.values import CommandResult
from pelagos.model.errors import PelagosError
from pelagos.process import Context, Process, ServiceProcess, client
from pelagos.services.compute import ComputeService
from pelagos.services.compute.messages import CloudRef, ExecuteRequest, ListenerCheck
from pelagos.services.infrastructure.choosing import Price
from pelagos.services.infrastructure.in_place import Keys
from pelagos.store.port import Store

__all__ = ["Looks", "MaintainersCompute", "StoredRecords", "Surveys"]

_log = structlog.get_logger("pelagos.infrastructure")
_CATALOGUE_PATIENCE = 10.0
"""Seconds that a plan waits for what a cloud tells of itself: prices, what it changes in place."""
_LISTING_PATIENCE = 60.0


class Looks:
    """What is asked of clouds and their servers through ``service``'s conversations."""

    def __init__(self, service: ServiceProcess) -> None:
        self._service = service

    async def sizes(self, account: str) -> dict[str, Price]:
        """Size -> its price on an account, by id and by name."""
        compute = client(ComputeService, self._service, timeout=_CATALOGUE_PATIENCE)
        return {
            name: Price(one.price_per_hour, one.currency)
            for one in (await compute.list_flavors(CloudRef(cloud=account))).items
            if one.price_per_hour is not None
            for name in (one.name, one.id)
        }

    async def updatable(self, accounts: Iterable[str]) -> Keys:
        """What these clouds change in place; of one that does not say so, nothing is known."""
        compute = client(ComputeService, self._service, timeout=_CATALOGUE_PATIENCE)
        found = {}
        for account in sorted(set(accounts)):
            try:
                found[account] = (await compute.updatable_keys(CloudRef(cloud=account))).keys
            except PelagosError as error:
                _log.warning("a cloud does not say what it changes in place", account=account, error=str(error))
        return found

    async def execute(self, server_id: str, argv: tuple[str, ...], timeout: float) -> CommandResult:
        compute = client(ComputeService, self._service, timeout=timeout + 1.0)
        return (await compute.execute(ExecuteRequest(server_id=server_id, argv=argv, timeout=timeout))).result

    async def owns_listener(self, server_id: str, address: str, port: int) -> bool | None:
        compute = client(ComputeService, self._service)
        return (await compute.check_listener(ListenerCheck(server_id=server_id, address=address, port=port))).owned


class MaintainersCompute:
    """Compute for a maintainer. Commands are journaled and answered at once: what is not, died with who had it, and is
    sent again as the same request. A listing takes what its cloud takes."""

    def __init__(self, service: Process, context: Context, patience: float) -> None:
        quick = client(ComputeService, service, timeout=patience, context=context)
        self.create_servers = quick.create_servers
        self.delete_servers = quick.delete_servers
        self.adopt_servers = quick.adopt_servers
        self.power_servers = quick.power_servers
        self.update_servers = quick.update_servers
        self.updatable_keys = quick.updatable_keys
        self.refresh = client(ComputeService, service, timeout=_LISTING_PATIENCE, context=context).refresh


class Surveys:
    """The clouds, for looking alone."""

    __slots__ = ("survey",)

    def __init__(self, service: ServiceProcess) -> None:
        self.survey = client(ComputeService, service, timeout=_LISTING_PATIENCE).survey


class StoredRecords:
    """The store, for reading alone."""

    __slots__ = ("read",)

    def __init__(self, store: Store) -> None:
        self.read = store.read
