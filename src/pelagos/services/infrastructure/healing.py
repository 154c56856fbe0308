"""Healing decided: what is done about an instance in a bad state, and when a node's breaker opens. Pure.

The naive way, to replace whatever is not well, is right for cattle and wrong for everything else: a stopped server with
a disk is started again, a server that somebody looks into is kept, and one that fails again and again costs money and
tells nothing new. So each state has an action of the node's policy; restarts are counted by instance and end in a
replacement; failures are counted by node and end in an open breaker, which only a person or a new description closes.

An instance that never was ready is not healed but built: it is replaced until the run that makes it gives up.
"""

from __future__ import annotations

import enum

import msgspec

from pelagos.model.states import InstanceState, ServerState
from pelagos.services.infrastructure.observed import ObservedInstance, Verdict, verdict
from pelagos.services.infrastructure.policies import HealAction, HealPolicy
from pelagos.services.infrastructure.values import HealingRecord

__all__ = ["PAUSES", "Pauses", "Remedy", "Treatment", "back_off", "failed_again", "treat"]


class Treatment(enum.Enum):
    """What is done about an instance."""

    LEAVING = "leaving"
    KEPT = "kept"
    """It counts, and nothing is to be done."""
    STUCK = "stuck"
    """It is not well and stays as it is: its policy, its protection or its node's breaker say so."""
    RESTART = "restart"
    REPLACE = "replace"

    @property
    def counts(self) -> bool:
        """The instance stays for now, and counts towards its node's target."""
        return self in (Treatment.KEPT, Treatment.STUCK, Treatment.RESTART)


class Remedy(msgspec.Struct, frozen=True):
    """``verb``: how it is restarted, ``start`` or ``reboot``. ``not_before``: not earlier; 0: at once."""

    treatment: Treatment
    why: str = ""
    verb: str = ""
    not_before: float = 0.0


class Pauses(msgspec.Struct, frozen=True):
    """Seconds between attempts where a policy does not say."""

    first: float
    longest: float


PAUSES = Pauses(2.0, 300.0)
_KEPT = Remedy(Treatment.KEPT)
_GONE = (ServerState.DELETED, ServerState.DELETING)


def treat(instance: ObservedInstance, policy: HealPolicy, *, broken: bool = False, pauses: Pauses = PAUSES) -> Remedy:
    """What is to be done about an instance of a node with this policy. ``broken``: its node's breaker is open."""
    what, why = verdict(instance.state, instance.server)
    if what is Verdict.LEAVING:
        return Remedy(Treatment.LEAVING)
    if instance.restarting and instance.server not in _GONE:
        return _KEPT
    if what is Verdict.KEEP:
        if instance.state is not InstanceState.TEMP_FAILED or policy.temp_failed == "keep":
            return _KEPT
        why = "it is unhealthy"
    gone = instance.server in _GONE
    if not instance.was_ready:
        if (instance.protected or instance.adopted) and not gone:
            told = "it is protected" if instance.protected else "it was adopted, and has not been well since"
            return Remedy(Treatment.STUCK, f"{why}; {told}")
        return Remedy(Treatment.REPLACE, why)
    action = _action(instance, policy)
    if action == "keep":
        return Remedy(Treatment.STUCK, f"{why}; its policy keeps it")
    if broken:
        return Remedy(Treatment.STUCK, f"{why}; the breaker of its node is open")
    # One in error is not brought up by the cloud that could not.
    restartable = not gone and instance.server is not ServerState.ERROR
    if action == "restart" and restartable and instance.restarts < policy.restarts:
        verb = "start" if instance.server is ServerState.STOPPED else "reboot"
        pause = back_off(policy, instance.restarts, pauses) if instance.restarts else 0.0
        return Remedy(Treatment.RESTART, why, verb, instance.since + pause if pause else 0.0)
    if instance.protected and not gone:
        return Remedy(Treatment.STUCK, f"{why}; it is protected")
    return Remedy(Treatment.REPLACE, why)


def _action(instance: ObservedInstance, policy: HealPolicy) -> HealAction:
    if instance.server in _GONE:
        return "keep" if policy.failed == "keep" else "replace"
    if instance.state is InstanceState.SHUTDOWN or instance.server is ServerState.STOPPED:
        return policy.shutdown
    if instance.state is InstanceState.FAILED or instance.server is ServerState.ERROR:
        return policy.failed
    return policy.temp_failed


def back_off(policy: HealPolicy, failures: int, pauses: Pauses = PAUSES) -> float:
    """Seconds before the next attempt after so many in a row."""
    first = pauses.first if policy.backoff is None else policy.backoff
    longest = pauses.longest if policy.backoff_max is None else policy.backoff_max
    return float(min(first * 2.0 ** min(max(0, failures - 1), 60), longest))


def failed_again(record: HealingRecord | None, policy: HealPolicy, reason: str, now: float) -> HealingRecord:
    """The node's record after a failure. It is open if there were ``attempts`` of them within the window; an open one
    stays as it is."""
    known = record or HealingRecord()
    if known.open_since is not None:
        return known
    times = (*(at for at in known.times if now - at < policy.window), now)
    if policy.attempts and len(times) >= policy.attempts:
        return HealingRecord(times=times, open_since=now, reason=reason)
    return HealingRecord(times=times)
