"""What compute knows of servers, taken in: instances become ready, fail, shut down, go, as their servers do.

A fact is a state, not an event: it may be taken in again, as after each load. What is to be done about it is decided
later, in :mod:`reality`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pelagos.model.errors import ErrorPayload
from pelagos.model.states import InstanceState, ServerState
from pelagos.services.compute.facts import ServerFacts, server_facts
from pelagos.services.infrastructure.nodes import Instance

if TYPE_CHECKING:
    from pelagos.services.infrastructure.maintainer import Maintainer

__all__ = ["TakingIn"]

_NOT_MADE = "its cloud has not made it yet: "


class TakingIn:
    """See the module's text."""

    def __init__(self, maintainer: Maintainer) -> None:
        self._maintainer = maintainer
        self._hinted: dict[str, None] = {}

    def hint(self, server_ids: Iterable[str]) -> None:
        """Compute knows something new of these servers, some of which may be others'."""
        for server_id in server_ids:
            self._hinted[server_id] = None

    async def look(self) -> None:
        """Take in what compute knows of the servers that were hinted at."""
        maintainer = self._maintainer
        hinted, self._hinted = list(self._hinted), {}
        known = [server_id for server_id in hinted if server_id in maintainer.reality.by_server]
        if known:
            for fact in await maintainer.store.read(lambda connection: server_facts(connection, known)):
                self.take_in(fact)

    def take_in(self, fact: ServerFacts) -> None:
        """What compute knows of a server, applied to its instance."""
        maintainer = self._maintainer
        instance = maintainer.reality.by_server.get(fact.id)
        if instance is None:
            return
        before = instance.server
        instance.server = fact.state
        if fact.made and instance.row.ready_at is None:
            maintainer.patience.made(instance)
        known = (instance.address_list, instance.private_list)
        if (
            before is not None
            and instance.row.ready_at is not None
            and known != (fact.addresses, fact.private_addresses)
        ):
            maintainer.stale.changed(instance.row.node)
        instance.address_list = fact.addresses
        instance.private_list = fact.private_addresses
        maintainer.updating.take_in(instance, fact.update)
        row = instance.row
        if row.id in maintainer.reality.stuck and fact.state is not before:
            maintainer.reality.mark(row.node)
        if instance.leaving:
            if fact.state is ServerState.DELETED:
                maintainer.gone(instance)
            elif fact.delete_error is not None and fact.delete_error.message != instance.delete_error:
                self.refused(instance, fact.delete_error)
            instance.delete_final = fact.delete_failed
            return
        if row.restarting_since is not None and maintainer.mending.settling(instance, fact):
            return
        if fact.made and row.state is InstanceState.PENDING and row.reason.startswith(_NOT_MADE):
            instance.delayed = ""
            maintainer.set_state(instance, row.state, "")
        match fact.state:
            case ServerState.ACTIVE:
                self._active(instance, before)
            case ServerState.STOPPED:
                if row.state is not InstanceState.SHUTDOWN:
                    maintainer.mending.failed(instance, fact.reason or "its server is stopped")
                    maintainer.set_state(instance, InstanceState.SHUTDOWN, fact.reason or "its server is stopped")
                    maintainer.event("instance.shutdown", row, reason=row.reason)
            case ServerState.ERROR | ServerState.DELETED | ServerState.DELETING:
                if row.state is not InstanceState.FAILED:
                    reason = fact.reason or f"its server is {fact.state.value}"
                    maintainer.fail(instance, reason, fact.create_error, made=fact.made)
            case _ if fact.uncertain and row.state is InstanceState.PENDING:
                maintainer.set_state(
                    instance, InstanceState.UNCERTAIN, "the cloud has not said whether its server exists"
                )
                maintainer.event("instance.uncertain", row)
            case _ if not fact.uncertain and row.state is InstanceState.UNCERTAIN:
                instance.delayed = ""
                maintainer.set_state(instance, InstanceState.PENDING, "")
            case _ if fact.create_trouble is not None and row.state is InstanceState.PENDING:
                if fact.create_trouble.message != instance.delayed:
                    instance.delayed = fact.create_trouble.message
                    maintainer.set_state(instance, row.state, f"{_NOT_MADE}{instance.delayed}")
                    maintainer.event("instance.delayed", row, error=fact.create_trouble)
                if not fact.made:
                    maintainer.patience.delayed(instance)
            case _:
                pass

    def _active(self, instance: Instance, before: ServerState | None) -> None:
        maintainer, row = self._maintainer, instance.row
        address = instance.address_list[0] if instance.address_list else ""
        if address != row.address:
            row.address = address
            maintainer.changes.instance(row)
        recovered = row.id in maintainer.reality.stuck and before not in (None, ServerState.ACTIVE)
        if row.state in (InstanceState.READY, InstanceState.TEMP_FAILED):
            return
        if row.state is InstanceState.FAILED and not recovered:
            return
        if row.state is not InstanceState.PENDING:
            maintainer.set_state(instance, InstanceState.PENDING, "")
        if not maintainer.health.server_active(instance, newly=before is not ServerState.ACTIVE):
            maintainer.ready(instance)

    def refused(self, instance: Instance, error: ErrorPayload) -> None:
        """Its server cannot be deleted now."""
        maintainer = self._maintainer
        instance.delete_error = error.message
        instance.refused_at = instance.refused_at or maintainer.world.now()
        maintainer.set_state(instance, InstanceState.DESTROYING, f"the cloud does not delete it: {error.message}")
        maintainer.event("instance.refused", instance.row, error=error)
