"""The compute service: servers on any cloud of the pool. Commands journal and answer at once with operations.

It adds two things to the operations engine, which lives beside it in the container and is given to it: the scope of
whoever asks, and ids. Truth is in the store, so any number of these may serve, in any process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from pelagos.model.errors import Conflict, Unsupported
from pelagos.model.states import ServerState
from pelagos.operations import (
    Adoption,
    NewServer,
    OperationRecord,
    OperationsEngine,
    OrphanRemoval,
    ServerAction,
    ServerUpdate,
)
from pelagos.process import ServiceProcess, current_context, operation
from pelagos.services.compute.clouds import Clouds
from pelagos.services.compute.messages import (
    Accepted,
    AdoptServers,
    CloudRef,
    CloudServersRequest,
    ConsoleOutput,
    ConsoleRequest,
    CreateServers,
    DeleteServers,
    Executed,
    ExecuteRequest,
    ListenerCheck,
    ListenerVerdict,
    OperationRef,
    PowerServers,
    RefreshAccounts,
    Refreshed,
    RemoveOrphans,
    ServerRef,
    SurveyAccounts,
    Surveys,
    UpdatableKeys,
    UpdateServers,
)
from pelagos.services.compute.queries import ServerRow, get_server
from pelagos.store import Store
from pelagos.wire.clouds import (
    CloudCheckRequest,
    CloudChecks,
    CloudList,
    CloudServers,
    CloudView,
    FlavorList,
    ImageList,
    PoolChangeView,
    PoolReload,
)

__all__ = ["ComputeService"]


class ComputeService(ServiceProcess):
    """See :mod:`pelagos.services.compute.messages` for what it is asked and answers."""

    name = "compute"
    version = "1.0"

    def __init__(
        self,
        store: Store,
        engine: OperationsEngine,
        reload: Callable[[str], Awaitable[PoolChangeView]] | None = None,
    ) -> None:
        """``reload`` reads the pool's configuration anew; see :class:`PoolReload` for its argument."""
        super().__init__()
        self._store = store
        self._engine = engine
        self._clouds = Clouds(store, engine)
        self._reload = reload

    async def on_activate(self) -> None:
        self.start_task(self._engine.run(), name="operations")

    async def on_deactivate(self) -> None:
        await self._engine.stop()

    @operation
    async def create_servers(self, request: CreateServers) -> Accepted:
        """Journal creations, all or none. Raises QuotaExceeded, LeaseLost, NotFound (account), Conflict."""
        new = [
            NewServer(
                operation_id=self.world.next_id(),
                request_id=item.request_id,
                server_id=item.server_id,
                account=item.account,
                spec=item.spec,
                infrastructure_id=item.infrastructure_id,
                instance_id=item.instance_id,
                expires_at=item.expires_at,
            )
            for item in request.items
        ]
        return _accepted(await self._engine.create_servers(current_context().scope, new, request.fence))

    @operation
    async def delete_servers(self, request: DeleteServers) -> Accepted:
        """Journal deletions, all or none. Raises NotFound, LeaseLost."""
        actions = self._actions(request.items)
        return _accepted(await self._engine.delete_servers(current_context().scope, actions, request.fence))

    @operation
    async def power_servers(self, request: PowerServers) -> Accepted:
        """Journal starts, stops or reboots, all or none. Raises NotFound, Conflict, InvalidInput, LeaseLost."""
        actions = self._actions(request.items)
        scope = current_context().scope
        return _accepted(await self._engine.power_servers(scope, request.verb, actions, request.fence))

    @operation
    async def update_servers(self, request: UpdateServers) -> Accepted:
        """Journal changes in place, all or none. Raises NotFound, Conflict, LeaseLost."""
        items = [
            ServerUpdate(
                operation_id=self.world.next_id(),
                request_id=item.request_id,
                server_id=item.server_id,
                expires_at=item.expires_at,
                values=item.values,
                label=item.label,
                former=item.former,
            )
            for item in request.items
        ]
        return _accepted(await self._engine.update_servers(current_context().scope, items, request.fence))

    @operation
    async def updatable_keys(self, request: CloudRef) -> UpdatableKeys:
        """Which resource keys a cloud changes in place. Raises NotFound, and what opening its driver does."""
        return UpdatableKeys(await self._engine.updates(request.cloud))

    @operation
    async def adopt_servers(self, request: AdoptServers) -> Accepted:
        """Journal adoptions, all or none. Raises Conflict, LeaseLost, NotFound (account), Unsupported."""
        items = [
            Adoption(
                operation_id=self.world.next_id(),
                request_id=item.request_id,
                server_id=item.server_id,
                account=item.account,
                provider_id=item.provider_id,
                token=item.token,
                spec=item.spec,
                infrastructure_id=item.infrastructure_id,
                instance_id=item.instance_id,
            )
            for item in request.items
        ]
        return _accepted(await self._engine.adopt_servers(current_context().scope, items, request.fence))

    @operation
    async def remove_orphans(self, request: RemoveOrphans) -> Accepted:
        """Journal deletions of servers that no record knows. Raises Conflict, NotFound (account)."""
        items = [
            OrphanRemoval(
                operation_id=self.world.next_id(),
                request_id=item.request_id,
                account=item.account,
                provider_id=item.provider_id,
                token=item.token,
            )
            for item in request.items
        ]
        return _accepted(await self._engine.remove_orphans(current_context().scope, items))

    @operation
    async def survey(self, request: SurveyAccounts) -> Surveys:
        """What clouds show now. Never raises for a cloud's sake: see ``error`` of each. Raises NotFound (account)."""
        looks = (self._engine.survey(item.account, known=item.known, foreign=request.foreign) for item in request.items)
        return Surveys(tuple(await asyncio.gather(*looks)))

    @operation
    async def refresh(self, request: RefreshAccounts) -> Refreshed:
        """Write what the clouds say now. Never raises for a cloud's sake: see ``errors`` of the answer."""
        result = await self._engine.refresh(request.accounts, request.max_age)
        return Refreshed(observed_at=result.observed_at, errors=result.errors, doubts=result.doubts)

    @operation
    async def console(self, request: ConsoleRequest) -> ConsoleOutput:
        """The end of a server's console output. Raises NotFound, Conflict, Unsupported, CloudError."""
        server, provider_id = await self._placed(request.server_id)
        text = await self._engine.console(server.account, provider_id, request.max_bytes)
        return ConsoleOutput(server_id=server.id, text=text)

    @operation
    async def execute(self, request: ExecuteRequest) -> Executed:
        """Run a command inside a server. Raises NotFound, Conflict, Unsupported, CloudError."""
        server, provider_id = await self._placed(request.server_id)
        return Executed(await self._engine.execute(server.account, provider_id, request.argv, request.timeout))

    @operation
    async def check_listener(self, request: ListenerCheck) -> ListenerVerdict:
        """Whether what listens there belongs to the server. Raises NotFound, Conflict, CloudError."""
        server, provider_id = await self._placed(request.server_id)
        owned = await self._engine.owns_listener(server.account, provider_id, request.address, request.port)
        return ListenerVerdict(owned)

    # -- clouds ----------------------------------------------------------------------------------------------------

    @operation
    async def list_clouds(self) -> CloudList:
        """Every cloud of the pool, and how it is. Asks none of them."""
        return CloudList(tuple(await self._clouds.all()))

    @operation
    async def get_cloud(self, request: CloudRef) -> CloudView:
        """One cloud, with what its driver can do. Raises NotFound."""
        return await self._clouds.one(request.cloud)

    @operation
    async def check_clouds(self, request: CloudCheckRequest) -> CloudChecks:
        """Ask one cloud, or all at once, for its servers. Raises NotFound; a cloud's own error is in the answer."""
        return CloudChecks(tuple(await self._clouds.check(request.cloud)))

    @operation
    async def list_images(self, request: CloudRef) -> ImageList:
        """The images of a cloud. Raises NotFound, Unsupported, CloudError."""
        return ImageList(tuple(await self._clouds.images(request.cloud)))

    @operation
    async def list_flavors(self, request: CloudRef) -> FlavorList:
        """The sizes of servers of a cloud. Raises NotFound, Unsupported, CloudError."""
        return FlavorList(tuple(await self._clouds.flavors(request.cloud)))

    @operation
    async def list_cloud_servers(self, request: CloudServersRequest) -> CloudServers:
        """The servers that a cloud shows now. Raises NotFound, Unsupported, CloudError."""
        scope = current_context().scope
        return CloudServers(tuple(await self._clouds.servers(scope, request.cloud, foreign=request.foreign)))

    @operation
    async def reload_pool(self, request: PoolReload) -> PoolChangeView:
        """Read the pool's configuration anew, and be that from now on. Raises DescriptionError or InvalidInput, and is
        as before; NotFound for the cloud that is to be opened anew; Unsupported in a program that reads it but once."""
        if self._reload is None:
            raise Unsupported(
                "this program reads the configuration of the pool when it starts, and then no more",
                advice="Start it again, or use `pelagos serve`, which can.",
            )
        return await self._reload(request.cloud)

    def _actions(self, items: tuple[ServerRef, ...]) -> list[ServerAction]:
        return [
            ServerAction(
                operation_id=self.world.next_id(),
                request_id=item.request_id,
                server_id=item.server_id,
                expires_at=item.expires_at,
            )
            for item in items
        ]

    async def _placed(self, server_id: str) -> tuple[ServerRow, str]:
        scope = current_context().scope
        server = await self._store.read(partial(get_server, scope=scope, server_id=server_id))
        if server.provider_id is None or server.state is ServerState.DELETED:
            raise Conflict(
                f"server {server_id} is {server.state.value}; its cloud has nothing of it",
                advice="See `pelagos explain` for why.",
            )
        return server, server.provider_id


def _accepted(records: list[OperationRecord]) -> Accepted:
    return Accepted(
        tuple(
            OperationRef(
                id=record.id,
                request_id=record.request_id,
                server_id=record.target_id,
                state=record.state,
                error=record.error,
            )
            for record in records
        )
    )
