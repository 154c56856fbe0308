"""The maintainer's commands to compute: sent after the decision is written, in batches, again until they are taken.

A request's id derives from the instance's, so that sending it again, also by another maintainer after a crash, is the
same request. What was never sent needs no deletion; what may have been sent does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import structlog

from pelagos.clouds.values import ServerSpec
from pelagos.model.errors import LeaseLost, NotFound, PelagosError, Retry
from pelagos.model.states import InstanceState, ServerState
from pelagos.services.compute.messages import (
    Accepted,
    AdoptServers,
    CloudRef,
    CreateServers,
    DeleteServers,
    PowerServers,
    RefreshAccounts,
    Refreshed,
    ServerAdopt,
    ServerCreate,
    ServerRef,
    UpdatableKeys,
    UpdateServers,
)
from pelagos.services.infrastructure.nodes import Instance
from pelagos.services.infrastructure.records import InstanceRow, encode

if TYPE_CHECKING:
    from pelagos.services.infrastructure.maintainer import Maintainer

__all__ = ["Commanding", "Compute", "restart_request"]

_log = structlog.get_logger("pelagos.infrastructure")
_BATCH = 250


class Compute(Protocol):
    """What the maintainer asks of the compute service, whose client has these."""

    async def create_servers(self, request: CreateServers) -> Accepted: ...
    async def delete_servers(self, request: DeleteServers) -> Accepted: ...
    async def adopt_servers(self, request: AdoptServers) -> Accepted: ...
    async def power_servers(self, request: PowerServers) -> Accepted: ...
    async def update_servers(self, request: UpdateServers) -> Accepted: ...
    async def updatable_keys(self, request: CloudRef) -> UpdatableKeys: ...
    async def refresh(self, request: RefreshAccounts) -> Refreshed: ...


class Commanding:
    """See the module's text."""

    def __init__(self, maintainer: Maintainer, compute: Compute) -> None:
        self.compute = compute
        self.resend_at: float | None = None
        """When what was not taken is sent again; None: nothing waits."""
        self._maintainer = maintainer
        self._creates: dict[str, Instance] = {}
        self._deletes: dict[str, Instance] = {}
        self._restarts: dict[str, tuple[Instance, str]] = {}
        self._maybe_sent: set[str] = set()

    def reset(self, known_servers: set[str]) -> None:
        """After a load: what compute has no server for is asked for again, what leaves is deleted again."""
        self._creates, self._deletes, self._restarts, self.resend_at = {}, {}, {}, None
        for instance in list(self._maintainer.reality.instances.values()):
            if instance.leaving:
                # Another maintainer may have died between its request and our look, so absence proves nothing here.
                self._deletes[instance.row.id] = instance
            elif instance.row.restarting_since is not None:
                # The journal knows by the request's id whether it was asked for already, and by which verb.
                self._restarts[instance.row.id] = (instance, "")
            elif instance.row.server_id not in known_servers and instance.row.state in (
                InstanceState.PENDING,
                InstanceState.UNCERTAIN,
            ):
                self._creates[instance.row.id] = instance
                self._maybe_sent.add(instance.row.id)

    def create(self, instance: Instance) -> None:
        self._creates[instance.row.id] = instance

    def restart(self, instance: Instance, verb: str) -> None:
        """Start or reboot its server."""
        self._restarts[instance.row.id] = (instance, verb)

    def delete(self, instance: Instance) -> bool:
        """Have its server deleted. False: no request for one was ever sent, so there is none."""
        self._restarts.pop(instance.row.id, None)
        waiting = self._creates.pop(instance.row.id, None)
        if waiting is not None and instance.row.id not in self._maybe_sent:
            return False
        self._deletes[instance.row.id] = instance
        return True

    @property
    def waiting(self) -> bool:
        return bool(self._creates or self._deletes or self._restarts or self._maintainer.updating.waiting)

    async def send(self, now: float) -> None:
        """Send what waits. Raises LeaseLost; other errors of compute are dealt with or tried again later."""
        if not self.waiting or (self.resend_at is not None and now < self.resend_at):
            return
        self.resend_at = None
        alive = self._maintainer.reality.instances
        self._deletes = {key: instance for key, instance in self._deletes.items() if key in alive}
        for instance in self._deletes.values():
            if instance.delete_final:
                instance.delete_final, instance.delete_round = False, int(now)
        deletes, creates = list(self._deletes.values()), list(self._creates.values())
        for start in range(0, len(deletes), _BATCH):
            await self._send_deletes(deletes[start : start + _BATCH])
        adopted = [instance for instance in creates if instance.row.adoption is not None]
        creates = [i for i in creates if i.row.adoption is None and not self._maintainer.reality.awaits(i)]
        await self._maintainer.learning.ask(creates)
        for start in range(0, len(creates), _BATCH):
            await self._send_creates(creates[start : start + _BATCH])
        for instance in adopted:
            await self._send_adoption(instance)
        for instance, verb in list(self._restarts.values()):
            await self._send_restart(instance, verb)
        await self._maintainer.updating.send()
        if self.waiting:
            self.resend_at = now + self._maintainer.settings.resend

    async def _send_creates(self, batch: Sequence[Instance]) -> None:
        maintainer = self._maintainer
        items: list[ServerCreate] = []
        sent: list[Instance] = []
        for instance in batch:
            try:
                spec, asked = maintainer.renderer.server_spec(maintainer.row, maintainer.reality, instance)
            except PelagosError as error:
                del self._creates[instance.row.id]
                maintainer.fail(instance, error.message, error.payload())
                continue
            if asked:
                instance.row.inputs = encode(asked)
                maintainer.changes.instance(instance.row)
            sent.append(instance)
            items.append(
                ServerCreate(
                    request_id=f"create:{instance.row.id}",
                    server_id=instance.row.server_id,
                    account=instance.row.account,
                    spec=spec,
                    infrastructure_id=maintainer.id,
                    instance_id=instance.row.id,
                )
            )
        if not items:
            return
        self._maybe_sent.update(instance.row.id for instance in sent)
        try:
            await self.compute.create_servers(CreateServers(items=tuple(items), fence=maintainer.fence))
        except LeaseLost:
            raise
        except PelagosError as error:
            if error.retry is not Retry.NEVER:
                _log.warning("servers not asked for yet", infrastructure=maintainer.id, error=str(error))
            elif len(sent) > 1:
                for instance in sent:  # one of them is at fault: find which
                    await self._send_creates([instance])
            else:
                del self._creates[sent[0].row.id]
                maintainer.fail(sent[0], error.message, error.payload())
            return
        for instance in sent:
            self._creates.pop(instance.row.id, None)
            self._maybe_sent.discard(instance.row.id)

    async def _send_deletes(self, batch: Sequence[Instance]) -> None:
        maintainer = self._maintainer
        items = tuple(
            ServerRef(request_id=f"delete:{instance.row.id}:{instance.delete_round}", server_id=instance.row.server_id)
            for instance in batch
        )
        try:
            await self.compute.delete_servers(DeleteServers(items=items, fence=maintainer.fence))
        except LeaseLost:
            raise
        except NotFound as error:
            if len(batch) > 1:
                for instance in batch:
                    await self._send_deletes([instance])
                return
            _log.debug("nothing to delete", instance=batch[0].row.id, error=str(error))
            del self._deletes[batch[0].row.id]
            maintainer.gone(batch[0])
            return
        except PelagosError as error:
            _log.warning("servers not deleted yet", infrastructure=maintainer.id, error=str(error))
            return
        for instance in batch:
            self._deletes.pop(instance.row.id, None)
            self._maybe_sent.discard(instance.row.id)

    async def _send_adoption(self, instance: Instance) -> None:
        maintainer, row = self._maintainer, instance.row
        adoption = row.adoption
        assert adoption is not None
        options = {key: value for key, value in (("flavor", adoption.flavor), ("image", adoption.image)) if value}
        item = ServerAdopt(
            request_id=f"adopt:{row.id}",
            server_id=row.server_id,
            account=row.account,
            provider_id=adoption.provider_id,
            token=adoption.token,
            spec=ServerSpec(
                name=adoption.name,
                group=maintainer.id,
                options=options,
                account=maintainer.renderer.account_of(row.account),
            ),
            infrastructure_id=maintainer.id,
            instance_id=row.id,
        )
        self._maybe_sent.add(row.id)
        try:
            await self.compute.adopt_servers(AdoptServers(items=(item,), fence=maintainer.fence))
        except LeaseLost:
            raise
        except PelagosError as error:
            if error.retry is not Retry.NEVER:
                _log.warning("a server is not adopted yet", infrastructure=maintainer.id, error=str(error))
                return
            self._creates.pop(row.id, None)
            maintainer.fail(instance, error.message, error.payload())
            return
        self._creates.pop(row.id, None)
        self._maybe_sent.discard(row.id)

    async def _send_restart(self, instance: Instance, verb: str) -> None:
        maintainer, row = self._maintainer, instance.row
        verb = verb or ("start" if instance.server is ServerState.STOPPED else "reboot")
        since = row.restarting_since or maintainer.world.now()
        item = ServerRef(
            request_id=restart_request(row),
            server_id=row.server_id,
            expires_at=since + maintainer.settings.restart_patience,
        )
        try:
            await self.compute.power_servers(PowerServers(verb=verb, items=(item,), fence=maintainer.fence))
        except LeaseLost:
            raise
        except PelagosError as error:
            if error.retry is not Retry.NEVER:
                _log.warning("a server is not restarted yet", infrastructure=maintainer.id, error=str(error))
                return
            del self._restarts[row.id]
            maintainer.mending.not_restarted(instance, error.payload())
            return
        del self._restarts[row.id]


def restart_request(row: InstanceRow) -> str:
    """The id of the request that restarts an instance for this time: the same whoever sends it, and whenever."""
    return f"restart:{row.id}:{row.restarts}"
