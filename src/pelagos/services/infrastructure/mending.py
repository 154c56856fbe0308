"""Healing carried out: restarts and how they end, breakers, and instances of clouds that cannot be asked.

What is to be done is decided in :mod:`healing` and :mod:`reality`; here it becomes rows, events and commands. A restart
is written before it is asked for, and the request's id derives from the instance and its count of restarts: a crash in
between costs nothing, and whoever maintains next asks for the same restart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pelagos.clouds.errors import CloudUnreachable
from pelagos.model.errors import ErrorPayload
from pelagos.model.states import InstanceState, ServerState
from pelagos.services.compute.facts import ServerFacts
from pelagos.services.infrastructure.commanding import restart_request
from pelagos.services.infrastructure.decisions import Restart
from pelagos.services.infrastructure.healing import failed_again
from pelagos.services.infrastructure.nodes import Instance, Node

if TYPE_CHECKING:
    from pelagos.services.infrastructure.maintainer import Maintainer

__all__ = ["Mending"]


class Mending:
    """See the module's text."""

    def __init__(self, maintainer: Maintainer) -> None:
        self._maintainer = maintainer
        self._failed_at: dict[str, float] = {}
        self._silent: dict[str, float] = {}
        """Accounts that could not be listed -> since when."""

    # -- restarts ----------------------------------------------------------------------------------------------------

    def restart(self, decision: Restart) -> None:
        """Ask for it, once this is written."""
        maintainer = self._maintainer
        instance = maintainer.reality.instances[decision.instance_id]
        row = instance.row
        row.restarts += 1
        row.restarting_since = maintainer.world.now()
        row.failing_since, row.check_failures = None, 0
        maintainer.health.forget(row.id)
        maintainer.set_state(instance, InstanceState.PENDING, f"restarted: {decision.reason}")
        maintainer.event("instance.restarting", row, verb=decision.verb, reason=decision.reason, attempt=row.restarts)
        maintainer.commanding.restart(instance, decision.verb)

    def settling(self, instance: Instance, fact: ServerFacts) -> bool:
        """What compute says of an instance that is being restarted. True: it is not up yet, and nothing is decided."""
        if fact.power_request == restart_request(instance.row) and fact.power_error is not None:
            self.not_restarted(instance, fact.power_error)
            return True
        return fact.state not in (ServerState.ACTIVE, ServerState.DELETED, ServerState.DELETING)

    def not_restarted(self, instance: Instance, error: ErrorPayload) -> None:
        """It cannot be restarted: no further restart is tried, the policy's next step follows."""
        row = instance.row
        policy = self._maintainer.reality.nodes[row.node].compiled.policy.heal
        row.restarting_since = None
        row.restarts = max(row.restarts, policy.restarts)
        self._maintainer.fail(instance, f"it could not be restarted: {error.message}", None)

    # -- the breaker ---------------------------------------------------------------------------------------------------

    def failed(self, instance: Instance, reason: str) -> bool:
        """An instance is not well, in a way that is healed. Whether it counts: instances of one generation that fail
        together are one failure of their node; one that was restarted counts by itself."""
        row = instance.row
        counts = row.created_at >= self._failed_at.get(row.node, 0.0) or row.restarts > 0
        self._failed_at[row.node] = self._maintainer.world.now()
        if counts:
            self._count(self._maintainer.reality.nodes[row.node], reason)
        return counts

    def _count(self, node: Node, reason: str) -> None:
        """A breaker counts where its node is healed, not while a run builds it: that gives up by itself."""
        maintainer = self._maintainer
        run = maintainer.running.current
        if run is not None and run.kind != "maintain":
            return
        policy = node.compiled.policy.heal
        was_open = node.record.broken
        node.record.healing = failed_again(node.record.healing, policy, reason, maintainer.world.now())
        maintainer.changes.node(node.record)
        if node.record.broken and not was_open:
            maintainer.changes.event(
                maintainer.row.scope,
                "node.breaker_opened",
                at=maintainer.world.now(),
                node=node.name,
                run_id=run.id if run else None,
                data={"reason": reason, "failures": len(node.record.healing.times), "window": policy.window},
            )
            maintainer.reality.mark(node.name)

    def start_anew(self, names: tuple[str, ...]) -> None:
        """Close the breakers of these nodes and end their back-offs, as somebody asked for."""
        maintainer = self._maintainer
        for name in names:
            node = maintainer.reality.nodes.get(name)
            if node is None:
                continue
            was_open = node.record.broken
            node.record.start_anew()
            maintainer.changes.node(node.record)
            for instance in node.instances.values():
                if instance.row.restarts and instance.row.restarting_since is None:
                    instance.row.restarts = 0
                    maintainer.changes.instance(instance.row)
            if was_open:
                self.tell_closed(name)
            maintainer.reality.mark(name)

    def tell_closed(self, name: str) -> None:
        """The breaker of this node was closed, by the run that is at work."""
        maintainer = self._maintainer
        run = maintainer.running.current
        maintainer.changes.event(
            maintainer.row.scope,
            "node.breaker_closed",
            at=maintainer.world.now(),
            node=name,
            run_id=run.id if run else None,
        )

    # -- clouds that cannot be asked -----------------------------------------------------------------------------------

    def listed(self, errors: Mapping[str, ErrorPayload], now: float) -> None:
        """What a refresh said: accounts in ``errors`` could not be listed. Where a policy says so, instances of one
        that has been silent for long are replaced by the node's next implementation."""
        self._silent = {account: self._silent.get(account, now) for account in errors}
        maintainer = self._maintainer
        if not self._silent or maintainer.running.current is not None:
            return
        for node in maintainer.reality.nodes.values():
            policy = node.compiled.policy.heal
            if policy.unreachable != "replace":
                continue
            for instance in list(node.instances.values()):
                since = self._silent.get(instance.row.account)
                well = instance.row.state in (InstanceState.READY, InstanceState.TEMP_FAILED, InstanceState.SHUTDOWN)
                if since is not None and well and now - since >= policy.unreachable_after:
                    self._unreachable(instance, errors[instance.row.account], now - since)

    def _unreachable(self, instance: Instance, error: ErrorPayload, seconds: float) -> None:
        told = f"its cloud {instance.row.account} has not answered for {seconds:.0f} s: {error.message}"
        self._maintainer.fail(instance, told, CloudUnreachable(told).payload())
