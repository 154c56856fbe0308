"""The maintainer's watch over health: who is probed when, and what a verdict means for an instance.

A new instance is probed at once and then at growing pauses until it is ready; a ready one is probed by a resident
maintainer again and again, by a maintenance run once, and by no other. One failed check proves nothing: it takes
``failures`` in a row for temp_failed and ``timeout`` seconds of them for failed; and while a node it depends on is not
well, an instance's own failures say nothing of itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

from pelagos.model.errors import PelagosError
from pelagos.model.states import InstanceState
from pelagos.services.infrastructure.attributes import told_at_once
from pelagos.services.infrastructure.health import HealthVerdict, Prober, ProbeTarget, describe
from pelagos.services.infrastructure.nodes import Instance
from pelagos.services.infrastructure.probing import Probing
from pelagos.services.infrastructure.values import HealthCheck

if TYPE_CHECKING:
    from pelagos.services.infrastructure.maintainer import Maintainer

__all__ = ["HealthWatch"]

_WELL_ONCE = (InstanceState.READY, InstanceState.TEMP_FAILED)
_PROBED = (InstanceState.PENDING, InstanceState.READY, InstanceState.TEMP_FAILED)


class HealthWatch:
    """See the module's text."""

    def __init__(self, maintainer: Maintainer, prober: Prober, wake: Callable[[], None]) -> None:
        self._maintainer = maintainer
        self._prober = prober
        self.probing = Probing(slots=maintainer.settings.probes, wake=wake)
        self.unchecked: set[str] = set()
        """Instances that the current maintenance run has not had a verdict of."""
        self._active_at: dict[str, float] = {}
        self._unprobed: set[str] = set()
        """Probes that cannot be made here, told of once."""

    @property
    def _goes_on(self) -> bool:
        """Healthy instances are probed again and again: by a resident maintainer between runs."""
        return self._maintainer.resident and self._maintainer.row.maintained

    def server_active(self, instance: Instance, *, newly: bool) -> bool:
        """Its server runs: plan the first probe. False: there is nothing to probe, so it is ready."""
        maintainer = self._maintainer
        row = instance.row
        now = maintainer.world.now()
        if newly:
            self._active_at[row.id] = now
        if not self.watches(instance):
            return False
        if row.id not in self.probing:
            self.probing.at(row.id, now)
            maintainer.event("instance.checking", row, what=describe(self.check_of(instance)))
        return True

    def watches(self, instance: Instance) -> bool:
        """Whether there is anything to probe: what its definition says, or an attribute that dependents wait for."""
        reality = self._maintainer.reality
        implementation = reality.implementation_of(instance)
        if implementation is None:
            return False
        awaited = reality.nodes[instance.row.node].awaited
        return bool(describe(implementation.health_check)) or any(
            not told_at_once(name, implementation) for name in awaited
        )

    def check_of(self, instance: Instance) -> HealthCheck:
        """The rendered check of an instance; an empty one where its node is no longer described."""
        maintainer = self._maintainer
        implementation = maintainer.reality.implementation_of(instance)
        if implementation is None:
            return HealthCheck(ping=False)
        node = maintainer.reality.nodes[instance.row.node]
        return maintainer.renderer.health_check(maintainer.row, maintainer.reality, node, instance, implementation)

    def probe_all(self, now: float, *, ill: bool = False) -> None:
        """Plan a probe of every instance that has a check and a server, or only of the ``ill``: by a run all now, and a
        maintenance run waits for their verdicts; by a resident maintainer spread over the time between two probes."""
        maintainer = self._maintainer
        run = maintainer.running.current
        spread = maintainer.settings.health_interval if run is None else 0.0
        if run is None and not self._goes_on:
            return
        probed = (InstanceState.TEMP_FAILED,) if ill else _WELL_ONCE
        waiting = [
            instance
            for instance in maintainer.reality.instances.values()
            if (instance.row.state in probed or self._may_recover(instance)) and instance.row.id not in self.probing
        ]
        step = spread / len(waiting) if waiting else 0.0
        for index, instance in enumerate(waiting):
            if self.watches(instance):
                self.probing.at(instance.row.id, now + index * step)
                if run is not None:
                    self.unchecked.add(instance.row.id)

    def launch(self, group: asyncio.TaskGroup, now: float) -> None:
        """Start the probes that are due."""
        self.probing.launch(group, now, self._probe)

    def forget(self, instance_id: str) -> None:
        """It is on its way out."""
        self.probing.forget(instance_id)
        self._active_at.pop(instance_id, None)
        self.unchecked.discard(instance_id)

    def _probe(self, instance_id: str) -> Callable[[], Awaitable[HealthVerdict]] | None:
        instance = self._maintainer.reality.instances.get(instance_id)
        if instance is None or instance.leaving:
            return None
        try:
            check = self.check_of(instance)
        except PelagosError as error:
            return partial(_known, HealthVerdict(healthy=False, reason=error.message))
        target = ProbeTarget(server_id=instance.row.server_id, address=instance.row.address)
        return partial(self._prober.check, check, target)

    # -- verdicts ----------------------------------------------------------------------------------------------------

    def take_in(self) -> None:
        """Apply the verdicts that have come."""
        for instance_id, verdict in self.probing.take():
            self.unchecked.discard(instance_id)
            instance = self._maintainer.reality.instances.get(instance_id)
            if instance is not None and (instance.row.state in _PROBED or self._may_recover(instance)):
                self._verdict(instance, verdict)
                self._maintainer.updating.checked(instance, verdict)

    def _may_recover(self, instance: Instance) -> bool:
        """It failed, and stays as it is: it may become well by itself, or by somebody's hand."""
        return instance.row.state is InstanceState.FAILED and instance.row.id in self._maintainer.reality.stuck

    def _verdict(self, instance: Instance, verdict: HealthVerdict) -> None:
        maintainer = self._maintainer
        row = instance.row
        now = maintainer.world.now()
        for said in verdict.unavailable:
            if said not in self._unprobed:
                self._unprobed.add(said)
                maintainer.event("instance.unprobed", row, reason=said)
        if not verdict.healthy:
            self._failure(instance, verdict.reason, now)
            return
        self.probing.settled(row.id)
        if self._goes_on:
            self.probing.at(row.id, now + maintainer.settings.health_interval)
        if row.check_failures or row.failing_since is not None:
            row.check_failures, row.failing_since, row.reason = 0, None, ""
            maintainer.changes.instance(row)
        if row.state is not InstanceState.READY:
            maintainer.ready(instance)

    def _failure(self, instance: Instance, reason: str, now: float) -> None:
        maintainer = self._maintainer
        row = instance.row
        if row.state is InstanceState.FAILED:
            return  # as is known; the next pass looks again
        node = maintainer.reality.nodes[row.node]
        implementation = maintainer.reality.implementation_of(instance)
        check = implementation.health_check if implementation else HealthCheck()
        in_grace = row.state is InstanceState.PENDING and now < self._active_at.get(row.id, 0.0) + check.grace
        if not in_grace:
            row.check_failures += 1
            row.failing_since = now if row.failing_since is None else row.failing_since
            row.reason = reason
            maintainer.changes.instance(row)
        doubtful = row.state is InstanceState.READY and row.check_failures < check.failures
        self._plan_next(instance, now, doubtful or (node.unmet > 0 and maintainer.running.settling(now)))
        if row.failing_since is None:
            return
        if node.unmet and row.state is not InstanceState.PENDING:
            row.failing_since = now  # its time begins when what it depends on is well
        failing = now - row.failing_since
        if failing >= check.timeout:
            told = f"unhealthy for {failing:.0f} s: {reason}"
            maintainer.fail(instance, told, None, hopeless=row.ready_at is None)
        elif row.state is InstanceState.READY and not doubtful:
            if node.compiled.policy.heal.temp_failed != "keep":
                maintainer.mending.failed(instance, reason)
            maintainer.set_state(instance, InstanceState.TEMP_FAILED, reason)
            maintainer.event("instance.temp_failed", row, reason=reason)

    def _plan_next(self, instance: Instance, now: float, undecided: bool) -> None:
        """Probe again where somebody waits for the answer."""
        maintainer = self._maintainer
        row, settings, run = instance.row, maintainer.settings, maintainer.running.current
        if run is not None and run.kind == "maintain" and undecided:
            self.unchecked.add(row.id)  # the pass goes on until it is known
        # A run that builds waits for what is ill until it is well, or has failed for good.
        awaited = row.state is InstanceState.TEMP_FAILED and run is not None and run.kind not in ("maintain", "down")
        if row.state is InstanceState.PENDING or awaited or self._goes_on or row.id in self.unchecked:
            first = settings.first_poll if row.state is InstanceState.PENDING else settings.recheck
            self.probing.after_failure(row.id, now, first=first, most=settings.poll)


async def _known(verdict: HealthVerdict) -> HealthVerdict:
    return verdict
