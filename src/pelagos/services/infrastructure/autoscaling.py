"""Autoscaling decided: from a metric to a node's number of instances. Pure.

Target tracking: the metric's total, divided by what one instance should have of it, is the number that is wanted. That
number does not depend on how many instances there are just now, so nothing is wound up while instances are still being
made. Three things keep it from flapping: a tolerance, within which nothing changes; a cool-down after each change; and
for the way down the highest number that was wanted in all of the cool-down's time, so that a dip costs no instance.

Instances that do not answer are taken for idle where the number would rise, and for well used where it would sink: what
is not known never changes anything.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from pelagos.services.infrastructure.policies import AutoscalePolicy, MetricSource

__all__ = ["Decision", "Limits", "Sample", "decide", "described", "wanted_number"]


class Limits(msgspec.Struct, frozen=True):
    """Least and most instances of the node, its description's and its policy's together."""

    least: int
    most: int

    def clamp(self, number: int) -> int:
        return max(self.least, min(number, self.most))


class Sample(msgspec.Struct, frozen=True):
    """What the metric's sources said at a time: the sum of what was answered. ``missing``: instances that did not."""

    at: float
    total: float
    answered: int
    missing: int = 0


class Decision(msgspec.Struct, frozen=True):
    """The number of instances from now on, and why. ``wanted`` is what the sample alone asks for."""

    target: int
    wanted: int
    value: float
    """The metric an instance."""
    reason: str


def wanted_number(policy: AutoscalePolicy, sample: Sample, ready: int, current: int) -> int:
    """How many instances the sample asks for, not limited; ``current`` where it asks for no change. ``ready``: those
    that share the load now."""
    goal = policy.target
    if ready:
        high = sample.total / ready
        low = (sample.total + goal * sample.missing) / ready
        if low >= goal * (1.0 - policy.tolerance) and high <= goal * (1.0 + policy.tolerance):
            return current
    rising = _instances(sample.total, goal)
    if rising > current:
        return rising
    sinking = _instances(sample.total + goal * sample.missing, goal)
    return min(sinking, current)


def _instances(total: float, goal: float) -> int:
    # A sum of floats a hair above a whole number must not cost an instance.
    return max(0, math.ceil(round(total / goal, 9)))


def decide(
    policy: AutoscalePolicy,
    limits: Limits,
    sample: Sample,
    *,
    target: int,
    ready: int,
    changed_at: float | None,
    wanted_before: Sequence[tuple[float, int]],
) -> Decision:
    """The target after a sample. ``changed_at``: when autoscaling changed it last; ``wanted_before``: (time, number) of
    earlier samples, oldest first, as far back as anybody remembers."""
    now = sample.at
    wanted = limits.clamp(wanted_number(policy, sample, ready, target))
    value = sample.total / max(1, ready)
    told = f"{described(policy.metric)} is {value:g} an instance, {policy.target:g} is wanted"
    if not sample.answered:
        return Decision(limits.clamp(target), target, value, "nothing answered")
    if not limits.least <= target <= limits.most:
        return Decision(limits.clamp(target), wanted, value, f"the limits are {limits.least} to {limits.most}")
    since = math.inf if changed_at is None else now - changed_at
    if wanted > target:
        if since < policy.up_cooldown:
            return Decision(target, wanted, value, f"{told}; it cools down")
        return Decision(_step(policy, target, wanted), wanted, value, told)
    if wanted < target:
        recent = [number for at, number in wanted_before if now - at <= policy.down_cooldown]
        watched = now - min((at for at, _ in wanted_before), default=now)
        highest = limits.clamp(max([wanted, *recent]))
        if min(since, watched) < policy.down_cooldown or highest >= target:
            return Decision(target, wanted, value, f"{told}; it cools down")
        return Decision(_step(policy, target, highest), wanted, value, told)
    return Decision(target, wanted, value, told)


def _step(policy: AutoscalePolicy, target: int, wanted: int) -> int:
    if not policy.max_step:
        return wanted
    return max(target - policy.max_step, min(wanted, target + policy.max_step))


def described(metric: MetricSource) -> str:
    """What is measured, for people."""
    match metric.type:
        case "cpu":
            return "cpu (per cent)"
        case "http":
            what = metric.path or "the number"
        case "prometheus":
            what = metric.name or metric.query
        case _:
            what = " ".join(metric.command)[:60]
    return f"{what} a second" if metric.rate else what
