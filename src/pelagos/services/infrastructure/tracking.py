"""Autoscaling carried out: metrics are read in their turn, and what is decided becomes the node's target.

Only a resident maintainer does it, between runs: a run is somebody's wish, and it goes first. What was wanted lately is
remembered in memory alone, since a new maintainer that knows less is only slower to take instances away; when the last
change was is stored with it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec
import structlog

from pelagos.model.errors import PelagosError
from pelagos.services.infrastructure.autoscaling import Limits, Sample, decide
from pelagos.services.infrastructure.decisions import Mode
from pelagos.services.infrastructure.metrics import MetricReader, MetricUnavailable
from pelagos.services.infrastructure.nodes import Instance, Node
from pelagos.services.infrastructure.policies import AutoscalePolicy, MetricSource
from pelagos.services.infrastructure.reality import Reality
from pelagos.services.infrastructure.values import AutoscalingRecord

if TYPE_CHECKING:
    from pelagos.services.infrastructure.maintainer import Maintainer

__all__ = ["Tracking"]

_log = structlog.get_logger("pelagos.infrastructure")


class Tracking:
    """See the module's text."""

    def __init__(self, maintainer: Maintainer, reader: MetricReader, wake: Callable[[], None]) -> None:
        self._maintainer = maintainer
        self._reader = reader
        self._wake = wake
        self._looked_at: Reality | None = None
        self._nodes: list[tuple[Node, AutoscalePolicy]] = []
        self._due: dict[str, float] = {}
        self._slots = asyncio.Semaphore(maintainer.settings.probes)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._samples: list[tuple[str, Sample]] = []
        self._wanted: dict[str, deque[tuple[float, int]]] = {}
        self._counters: dict[tuple[str, str], tuple[float, float]] = {}
        """(node, instance) -> of a counter time and value, of a pair both of its counters."""
        self._silent: dict[str, str] = {}
        """Nodes whose metric cannot be had -> why; told once."""

    @property
    def pending(self) -> bool:
        return bool(self._samples)

    def snapshot(self) -> dict[str, int]:
        return {"reading": len(self._running), "silent": len(self._silent)}

    def cancel(self) -> None:
        for task in self._running.values():
            task.cancel()

    @property
    def _goes_on(self) -> bool:
        maintainer = self._maintainer
        return maintainer.resident and maintainer.running.current is None and maintainer.mode is Mode.BUILD

    def next_due(self) -> float | None:
        """When a metric is to be read next; None: no node has one, or a run is at work."""
        if not self._goes_on:
            return None
        return min((at for name, at in self._due.items() if name not in self._running), default=None)

    # -- reading -----------------------------------------------------------------------------------------------------

    def launch(self, group: asyncio.TaskGroup, now: float) -> None:
        """Begin to read what is due."""
        if not self._goes_on:
            return
        for node, policy in self._scaled(now):
            if node.name not in self._running and self._due[node.name] <= now:
                self._due[node.name] = now + policy.interval
                ready = [instance for instance in node.instances.values() if instance.ready]
                self._running[node.name] = group.create_task(self._read(node, policy, ready))

    def _scaled(self, now: float) -> list[tuple[Node, AutoscalePolicy]]:
        """The nodes that have a policy; looked for once a load, since most of ten thousand have none."""
        reality = self._maintainer.reality
        if self._looked_at is not reality:
            self._looked_at = reality
            self._nodes = [
                (node, policy)
                for node in reality.nodes.values()
                if (policy := node.compiled.policy.autoscale) is not None and not node.compiled.retired
            ]
            self._due = {node.name: self._due.get(node.name, now) for node, _ in self._nodes}
            self._wanted = {name: kept for name, kept in self._wanted.items() if name in self._due}
        return self._nodes

    async def _read(self, node: Node, policy: AutoscalePolicy, ready: Sequence[Instance]) -> None:
        try:
            if policy.metric.per_instance:
                answers = await asyncio.gather(*(self._one(node, policy.metric, instance) for instance in ready))
            else:
                answers = [await self._one(node, policy.metric, ready[0] if ready else None)]
            numbers = [answer for answer in answers if isinstance(answer, float)]
            reasons = [answer for answer in answers if isinstance(answer, str) and answer]
            if reasons and not numbers:
                self._samples.append((node.name, Sample(self._maintainer.world.now(), 0.0, 0, len(reasons))))
                self._note_silence(node.name, reasons[0])
            elif numbers:
                self._note_silence(node.name, "")
                missing = len(answers) - len(numbers) if policy.metric.per_instance else 0
                total = sum(numbers)
                self._samples.append((node.name, Sample(self._maintainer.world.now(), total, len(numbers), missing)))
        finally:
            self._running.pop(node.name, None)
            self._wake()

    async def _one(self, node: Node, source: MetricSource, instance: Instance | None) -> float | str:
        """The number, or why there is none; an empty text where there is none yet."""
        maintainer = self._maintainer
        key = (node.name, instance.row.id if instance is not None and source.per_instance else "")
        server_id = instance.row.server_id if instance is not None else ""
        try:
            rendered = maintainer.renderer.metric(maintainer.row, maintainer.reality, node, instance, source)
            async with self._slots, asyncio.timeout(source.timeout + 1.0):
                if source.type == "cpu":
                    return self._share(key, await self._reader.read_pair(rendered, server_id))
                value = await self._reader.read(rendered, server_id)
        except MetricUnavailable as error:
            return str(error) or "no number"
        except PelagosError as error:
            return error.message
        except TimeoutError:
            return f"no answer in {source.timeout:g} s"
        return self._growth(key, maintainer.world.now(), value) if source.rate else value

    def _growth(self, key: tuple[str, str], now: float, value: float) -> float | str:
        """A counter's growth a second; one that was reset begins anew."""
        before, self._counters[key] = self._counters.get(key), (now, value)
        if before is None or now <= before[0] or value < before[1]:
            return ""
        return (value - before[1]) / (now - before[0])

    def _share(self, key: tuple[str, str], pair: tuple[float, float]) -> float | str:
        """Per cent of the time since the last look."""
        before, self._counters[key] = self._counters.get(key), pair
        if before is None or pair[1] <= before[1] or pair[0] < before[0]:
            return ""
        return 100.0 * (pair[0] - before[0]) / (pair[1] - before[1])

    def _note_silence(self, name: str, reason: str) -> None:
        maintainer = self._maintainer
        if bool(reason) == (name in self._silent):
            return
        if reason:
            self._silent[name] = reason
            _log.warning("a metric cannot be had", infrastructure=maintainer.id, node=name, reason=reason)
            self._tell(name, "node.metric_unavailable", reason=reason)
        else:
            del self._silent[name]
            self._tell(name, "node.metric_available")

    def _tell(self, name: str, kind: str, **data: object) -> None:
        maintainer = self._maintainer
        maintainer.changes.event(
            maintainer.row.scope, kind, at=maintainer.world.now(), node=name, data=dict(data) or None
        )

    # -- deciding ----------------------------------------------------------------------------------------------------

    def take_in(self) -> None:
        """Decide about the samples that have come."""
        samples, self._samples = self._samples, []
        if not self._goes_on:
            return
        for name, sample in samples:
            node = self._maintainer.reality.nodes.get(name)
            policy = node.compiled.policy.autoscale if node is not None else None
            if node is not None and policy is not None and not node.record.broken:
                self._decide(node, policy, sample)

    def _decide(self, node: Node, policy: AutoscalePolicy, sample: Sample) -> None:
        maintainer = self._maintainer
        compiled, record = node.compiled, node.record
        kept = record.autoscaling or AutoscalingRecord()
        least = compiled.min if policy.min is None else min(max(policy.min, compiled.min), compiled.max)
        most = compiled.max if policy.max is None else max(min(policy.max, compiled.max), least)
        before = self._wanted.setdefault(node.name, deque())
        decision = decide(
            policy,
            Limits(least, most),
            sample,
            target=record.target,
            ready=node.ready,
            changed_at=kept.changed_at,
            wanted_before=tuple(before),
        )
        if sample.answered:
            before.append((sample.at, decision.wanted))
        # One older than the window stays, as the proof that all of the window was watched.
        while len(before) > 1 and sample.at - before[1][0] > policy.down_cooldown:
            before.popleft()
        if decision.target == record.target:
            return
        self._tell(
            node.name,
            "node.autoscaled",
            **{"from": record.target, "to": decision.target, "value": round(decision.value, 6)},
            reason=decision.reason,
        )
        record.autoscaling = msgspec.structs.replace(kept, changed_at=sample.at, value=decision.value)
        maintainer.reality.set_target(node.name, decision.target)
        maintainer.changes.node(record)
