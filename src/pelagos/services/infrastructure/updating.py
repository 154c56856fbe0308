"""Changes in place carried out: asked for, followed by the journal of operations, and taken note of.

What is changed is decided with the run (:mod:`reconfiguring`), when each one's turn comes :class:`reality.Reality`
says; here it becomes commands, rows and events. A request's id derives from the instance, the run and what is wanted,
so a crash at any moment ends in the same request; whether it came to its end, the server's facts say, and the
instance's record follows them. A change that fails is a failed change of the run, whose policy says what is left.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec
import structlog

from pelagos.clouds.errors import ServerNotFound
from pelagos.model.errors import ErrorPayload, LeaseLost, NotFound, PelagosError, Retry
from pelagos.model.states import InstanceState, OperationState, ServerState
from pelagos.services.compute.facts import UpdateFacts
from pelagos.services.compute.messages import CloudRef, ServerUpdate, UpdateServers
from pelagos.services.infrastructure.health import HealthVerdict
from pelagos.services.infrastructure.in_place import as_updated
from pelagos.services.infrastructure.nodes import Instance
from pelagos.services.infrastructure.values import PlannedUpdate

if TYPE_CHECKING:
    from pelagos.services.infrastructure.maintainer import Maintainer

__all__ = ["Updating"]

_log = structlog.get_logger("pelagos.infrastructure")
_GONE = (ServerState.DELETED, ServerState.DELETING)
_LOOKED_AT = (InstanceState.READY, InstanceState.TEMP_FAILED)


class Updating:
    """Of one maintainer."""

    def __init__(self, maintainer: Maintainer) -> None:
        self._maintainer = maintainer
        self._waiting: dict[str, Instance] = {}
        self._checking: dict[str, bool] = {}
        """Instances that were changed, and whose health is looked at once more -> whether they were ready then."""

    # -- what can be changed -----------------------------------------------------------------------------------------

    async def keys(self, accounts: Iterable[str]) -> dict[str, frozenset[str]]:
        """Account -> the resource keys that its cloud changes in place; of one that the pool has no more, none. One
        that cannot say so is asked again for a while; raises what it answers then."""
        maintainer = self._maintainer
        ends = maintainer.world.monotonic() + maintainer.settings.command_patience
        found: dict[str, frozenset[str]] = {}
        for account in sorted(set(accounts)):
            while account not in found:
                try:
                    answer = await maintainer.commanding.compute.updatable_keys(CloudRef(cloud=account))
                    found[account] = answer.keys
                except NotFound:
                    found[account] = frozenset()
                except PelagosError as error:
                    if error.retry is Retry.NEVER or maintainer.world.monotonic() >= ends:
                        raise
                    _log.info("a cloud does not say what it changes in place", account=account, error=str(error))
                    await asyncio.sleep(maintainer.settings.resend)
        return found

    # -- asking for it -----------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """After a load: nothing is about to be sent."""
        self._waiting = {}

    def restore(self, planned: Iterable[str]) -> dict[str, bool]:
        """Of what the present run changes in place, by what the journal says of it: those that are not through, and
        whether they have been asked for. What was looked at is looked at again."""
        self._checking = {}
        left: dict[str, bool] = {}
        for key in planned:
            instance = self._maintainer.reality.instances.get(key)
            if instance is None or instance.leaving:
                continue
            left[key] = instance.update is not None and instance.update.request == self._request(instance)
        return left

    def check(self) -> None:
        """After :meth:`restore`: those of which the journal knows already how they ended."""
        for key, asked in list(self._maintainer.reality.updates.items()):
            instance = self._maintainer.reality.instances[key]
            if asked and instance.update is not None:
                self._settled(instance, instance.update)

    def begin(self, instance_id: str) -> None:
        """Ask for it, once this is written."""
        maintainer = self._maintainer
        instance = maintainer.reality.instances[instance_id]
        planned = self._planned(instance_id)
        if planned is None:
            return
        maintainer.running.commit()
        maintainer.reality.updates[instance_id] = True
        maintainer.creating.keep_source(maintainer.reality.nodes[instance.row.node], planned.implementation)
        maintainer.event("instance.updating", instance.row, keys=list(planned.keys))
        self._waiting[instance_id] = instance

    @property
    def waiting(self) -> bool:
        """Whether something is still to be sent."""
        return bool(self._waiting)

    async def send(self) -> None:
        """Send what waits. Raises LeaseLost."""
        for key, instance in list(self._waiting.items()):
            if key not in self._maintainer.reality.updates or self._planned(key) is None:
                del self._waiting[key]
            else:
                await self._send(instance)

    async def _send(self, instance: Instance) -> None:
        maintainer, row = self._maintainer, instance.row
        planned = self._planned(row.id)
        assert planned is not None
        try:
            wanted = copy.copy(instance)
            wanted.row = msgspec.structs.replace(row, implementation=planned.implementation)
            options = maintainer.renderer.resource_options(maintainer.row, maintainer.reality, wanted)
            item = ServerUpdate(
                request_id=self._request(instance),
                server_id=row.server_id,
                expires_at=maintainer.world.now() + maintainer.settings.update_patience,
                values={key: options.get(key) for key in planned.keys},
                label=self._target(instance),
                former=row.source,
            )
            await maintainer.commanding.compute.update_servers(UpdateServers(items=(item,), fence=maintainer.fence))
        except LeaseLost:
            raise
        except PelagosError as error:
            if error.retry is not Retry.NEVER:
                _log.warning("a server is not changed in place yet", infrastructure=maintainer.id, error=str(error))
                return
            del self._waiting[row.id]
            self._failed(instance, error.payload())
            return
        del self._waiting[row.id]
        # A repeat may have found that it is through: nobody tells that again.
        maintainer.hint(server_ids=(row.server_id,))

    # -- what came of it ---------------------------------------------------------------------------------------------

    def take_in(self, instance: Instance, update: UpdateFacts | None) -> None:
        """What compute knows of the instance's last change in place."""
        instance.update = update
        if update is None or instance.leaving:
            return
        row = instance.row
        source, unsure = as_updated(row.source, update)
        if not unsure and update.former == row.source:
            self._note(instance, source)
        if self._maintainer.reality.updates.get(row.id) and update.request == self._request(instance):
            self._settled(instance, update)

    def _note(self, instance: Instance, source: str) -> None:
        """The instance's record says what it is made from now, and in what it is not as described."""
        maintainer, row = self._maintainer, instance.row
        node = maintainer.reality.nodes[row.node]
        fitting = [
            i for i in node.compiled.implementations if maintainer.creating.sources.digest(node.compiled, i) == source
        ]
        fingerprint = node.compiled.fingerprint if fitting else ""
        back = bool(fitting and row.outdated and maintainer.reality.updates.get(row.id))
        if (row.source, row.fingerprint) == (source, fingerprint) and not back:
            return
        row.source, row.fingerprint = source, fingerprint
        if fitting:
            row.implementation = row.implementation if row.implementation in fitting else fitting[0]
            maintainer.creating.keep_source(node, row.implementation)
            maintainer.reality.note_outdated(instance, "")
        elif not row.outdated:
            maintainer.reality.note_outdated(instance, "another change of it was made in place")
        row.updated_at = maintainer.world.now()
        maintainer.changes.instance(row)
        maintainer.event("instance.updated", row)

    def _settled(self, instance: Instance, update: UpdateFacts) -> None:
        """The present run's change of it has ended, or goes on."""
        if update.state is OperationState.SUCCEEDED:
            self._check(instance)
        elif update.state.final:
            interrupted = ErrorPayload(code="cancelled", message="the change in place was given up")
            self._failed(instance, update.error or interrupted)

    def _check(self, instance: Instance) -> None:
        """It was changed: that counts when it is found healthy, as a new instance does, before the next one's turn."""
        maintainer, row = self._maintainer, instance.row
        if row.id in self._checking:
            return
        if row.state not in _LOOKED_AT or not maintainer.health.watches(instance):
            maintainer.reality.updated(instance)
            return
        self._checking[row.id] = instance.ready
        maintainer.health.probing.forget(row.id)  # a look that began before says nothing
        maintainer.health.probing.at(row.id, maintainer.world.now())

    def checked(self, instance: Instance, verdict: HealthVerdict) -> None:
        """Its health has been looked at, and the verdict is in its record."""
        maintainer, row = self._maintainer, instance.row
        if row.id not in maintainer.reality.updates:  # the run has ended
            self._checking.pop(row.id, None)
        if row.id not in self._checking:
            return
        was_ready = self._checking[row.id]
        undecided = row.state is InstanceState.READY or not was_ready
        if not verdict.healthy and row.state is not InstanceState.FAILED and undecided:
            # One failed look proves nothing; and who was ill before has time to become well.
            maintainer.health.probing.at(row.id, maintainer.world.now() + maintainer.settings.recheck)
            return
        del self._checking[row.id]
        if verdict.healthy or not was_ready:
            maintainer.reality.updated(instance)
        else:
            told = f"not healthy since it was changed in place: {verdict.reason}"
            self._failed(instance, ErrorPayload(code="instance_failed", message=told, retry=Retry.TRANSIENT))

    def _failed(self, instance: Instance, error: ErrorPayload) -> None:
        maintainer, row = self._maintainer, instance.row
        if error.code == ServerNotFound.code or instance.server in _GONE:
            # That is no failure of the change: it is healed, by an instance that is made as described.
            maintainer.fail(instance, "its server is gone", None)
            return
        maintainer.event("instance.update_failed", row, error=error)
        maintainer.running.give_up(maintainer.reality.nodes[row.node], error)

    # -- the present run's wishes ------------------------------------------------------------------------------------

    def _planned(self, key: str) -> PlannedUpdate | None:
        run = self._maintainer.running.current
        return None if run is None else run.parameters.updates.get(key)

    def _target(self, instance: Instance) -> str:
        """The digest of what it is to be made from."""
        planned = self._planned(instance.row.id)
        if planned is None:
            return ""
        node = self._maintainer.reality.nodes[instance.row.node]
        return self._maintainer.creating.sources.digest(node.compiled, planned.implementation)

    def _request(self, instance: Instance) -> str:
        run = self._maintainer.running.current
        text = f"{instance.row.id} {run.id if run is not None else ''} {self._target(instance)}"
        return f"update:{hashlib.sha256(text.encode()).hexdigest()[:48]}"
