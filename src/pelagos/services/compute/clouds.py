"""The clouds of the pool as the compute service shows them: how each is, what it offers, what is on it.

How a cloud is, its calls tell (:class:`pelagos.operations.AccountHealth`), so a look at all of them asks no cloud. What
it offers is asked of the cloud each time: nothing of that is kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from pelagos.clouds.pool import Account, Pool
from pelagos.clouds.values import CloudServer
from pelagos.model.errors import NotFound, PelagosError
from pelagos.model.redaction import redact, redact_text
from pelagos.model.scope import Scope
from pelagos.operations import AccountState, AccountUse, AccountWorker, OperationsEngine, use_of_accounts
from pelagos.services.compute.queries import ServerRow, servers_of_account
from pelagos.store import Store
from pelagos.wire.clouds import CloudCheck, CloudServerView, CloudView, FlavorView, ImageView
from pelagos.wire.times import rfc3339

__all__ = ["Clouds"]


class Clouds:
    """See the module's text."""

    def __init__(self, store: Store, engine: OperationsEngine) -> None:
        self._store = store
        self._engine = engine

    @property
    def pool(self) -> Pool:
        return self._engine.pool

    async def all(self) -> list[CloudView]:
        """Every account, in the pool's order; then those that the pool has no more and that work is journaled for."""
        use = await self._store.read(use_of_accounts)
        workers = self._engine.workers()
        accounts = {account.name: account for account in self.pool.accounts()}
        for name, worker in workers.items():
            accounts.setdefault(name, worker.account)
        shown = [self._view(account, workers.get(name), use.get(name)) for name, account in accounts.items()]
        return shown + [_removed(name, found) for name, found in use.items() if name not in accounts]

    async def one(self, name: str) -> CloudView:
        """One account with its driver's facts. Raises NotFound."""
        found = next((view for view in await self.all() if view.name == name), None)
        if found is None:
            raise NotFound(
                f"the pool has no account {name!r}",
                advice=f"There are: {', '.join(account.name for account in self.pool.accounts())}.",
            )
        return msgspec.structs.replace(found, details=await self._details(name))

    async def check(self, name: str) -> list[CloudCheck]:
        """Ask one account, or all, for their servers now; all at once. Raises NotFound."""
        names = [self.pool.account(name).name] if name else [account.name for account in self.pool.accounts()]
        return list(await asyncio.gather(*(self._check(one) for one in names)))

    async def images(self, name: str) -> list[ImageView]:
        """By name. Raises NotFound, Unsupported, CloudError."""
        found = await self._engine.images(name)
        return [
            ImageView(id=one.id, name=one.name, size_bytes=one.size_bytes, created_at=_time(one.created_at))
            for one in sorted(found, key=lambda one: (one.name, one.id))
        ]

    async def flavors(self, name: str) -> list[FlavorView]:
        """The smallest first. Raises NotFound, Unsupported, CloudError."""
        found = await self._engine.flavors(name)
        ordered = sorted(found, key=lambda one: (one.vcpus or 0.0, one.ram_mb or 0, one.name))
        return [FlavorView(**{key: getattr(one, key) for key in FlavorView.__struct_fields__}) for one in ordered]

    async def servers(self, scope: Scope, name: str, *, foreign: bool) -> list[CloudServerView]:
        """What the cloud shows now, ours first. Raises NotFound, Unsupported (``foreign``), CloudError."""
        listed = await self._engine.listing(name, foreign=foreign)
        rows = await self._store.read(partial(servers_of_account, scope=scope, account=name))
        by_id = {row.provider_id: row for row in rows}
        shown = [_server(server, by_id.get(server.provider_id)) for server in listed]
        return sorted(shown, key=lambda view: (not view.ours, view.name, view.provider_id))

    async def _check(self, name: str) -> CloudCheck:
        try:
            seconds = await self._engine.check(name)
        except PelagosError as error:
            return CloudCheck(cloud=name, ok=False, seconds=None, error=error.payload())
        return CloudCheck(cloud=name, ok=True, seconds=seconds, error=None)

    async def _details(self, name: str) -> dict[str, Any]:
        account = self.pool.find(name)
        if account is None or not account.opened:
            return {}
        return {
            "capabilities": msgspec.to_builtins(await account.capabilities()),
            "driver": redact(_plain(account.snapshot().get("driver_state", {}))),
        }

    def _view(self, account: Account, worker: AccountWorker | None, use: AccountUse | None) -> CloudView:
        config = account.config
        health = None if worker is None else worker.health
        state: Any = AccountState.UNKNOWN.value if health is None else health.state.value
        if worker is not None and worker.retiring:
            state = "draining"
        elif self.pool.find(account.name) is None:
            state = "removed"
        driver = account.snapshot().get("driver_state", {})
        return CloudView(
            name=account.name,
            driver=config.driver,
            endpoint=redact_text(account.endpoint),
            region=config.region,
            default=config.default,
            source=config.provenance.source,
            state=state,
            opened=account.opened,
            served=_served(worker),
            servers=0 if use is None else use.servers,
            operations={} if use is None else dict(use.operations),
            in_flight=0 if worker is None else worker.in_flight,
            held_for=0.0 if worker is None else round(worker.held_for, 3),
            circuit=str(driver.get("circuit", "")) if isinstance(driver, Mapping) else "",
            answered_at=None if health is None else _time(health.answered_at),
            latency=None if health is None else health.seconds,
            error=None if health is None else health.error,
            error_at=None if health is None else _time(health.error_at),
        )


def _served(worker: AccountWorker | None) -> Any:
    if worker is None:
        return "nowhere"
    return "here" if worker.serving else "elsewhere" if worker.elsewhere else "nowhere"


def _removed(name: str, use: AccountUse) -> CloudView:
    return CloudView(name=name, state="removed", servers=use.servers, operations=dict(use.operations))


def _server(server: CloudServer, row: ServerRow | None) -> CloudServerView:
    return CloudServerView(
        provider_id=server.provider_id,
        name=server.name,
        state=server.state,
        ours=bool(server.token),
        addresses=tuple(dict.fromkeys((*server.addresses, *server.private_addresses))),
        server_id=None if row is None else row.id,
        infrastructure_id=None if row is None else row.infrastructure_id,
        instance_id=None if row is None else row.instance_id,
        created_at=_time(server.created_at),
    )


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else rfc3339(seconds)


def _plain(value: Any) -> Any:
    """A driver's facts as they can travel: what is no plain value is told as text."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case Sequence():
            return [_plain(item) for item in value]
        case _:
            return str(value)
