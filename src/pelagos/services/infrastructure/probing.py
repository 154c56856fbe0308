"""When to probe whom: due times, growing pauses, probes in flight, verdicts to take in."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from pelagos.services.infrastructure.health import HealthVerdict

__all__ = ["Probing"]


class Probing:
    """Health probes of one infrastructure. A probe is only a look: cancelling it loses nothing."""

    def __init__(self, *, slots: int, wake: Callable[[], None]) -> None:
        self._slots = slots
        self._wake = wake
        self._due: dict[str, float] = {}
        self._pause: dict[str, float] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._verdicts: list[tuple[str, HealthVerdict]] = []
        self._saturated = False

    def __contains__(self, instance_id: str) -> bool:
        return instance_id in self._due or instance_id in self._running

    def at(self, instance_id: str, when: float) -> None:
        """Probe it then, or earlier if that was planned already."""
        known = self._due.get(instance_id)
        self._due[instance_id] = when if known is None else min(when, known)

    def after_failure(self, instance_id: str, now: float, *, first: float, most: float) -> None:
        """Probe it again after a pause that grows by half with each failure in a row."""
        pause = self._pause.get(instance_id, first)
        self._pause[instance_id] = min(pause * 1.5, most)
        self._due[instance_id] = now + pause

    def settled(self, instance_id: str) -> None:
        """It answered well: no probe is planned, and pauses start small again."""
        self._due.pop(instance_id, None)
        self._pause.pop(instance_id, None)

    def forget(self, instance_id: str) -> None:
        self.settled(instance_id)
        task = self._running.pop(instance_id, None)
        if task is not None:
            task.cancel()

    def next_due(self) -> float | None:
        """When the next probe can start; None if none is planned, or only the end of another one can make room."""
        if self._saturated:
            return None
        return min((at for key, at in self._due.items() if key not in self._running), default=None)

    def take(self) -> list[tuple[str, HealthVerdict]]:
        """The verdicts since the last call."""
        verdicts, self._verdicts = self._verdicts, []
        return verdicts

    @property
    def pending(self) -> bool:
        return bool(self._verdicts)

    def launch(
        self,
        group: asyncio.TaskGroup,
        now: float,
        probe: Callable[[str], Callable[[], Awaitable[HealthVerdict]] | None],
    ) -> None:
        """Start what is due. ``probe(instance_id)`` gives what to call, None where there is nothing to probe."""
        self._saturated = False
        for instance_id in [key for key, at in self._due.items() if at <= now and key not in self._running]:
            if len(self._running) >= self._slots:
                self._saturated = True
                return
            del self._due[instance_id]
            look = probe(instance_id)
            if look is not None:
                self._running[instance_id] = group.create_task(self._probe(instance_id, look))

    async def _probe(self, instance_id: str, look: Callable[[], Awaitable[HealthVerdict]]) -> None:
        task = asyncio.current_task()
        try:
            verdict = await look()
        finally:
            if self._running.get(instance_id) is task:
                del self._running[instance_id]
        self._verdicts.append((instance_id, verdict))
        self._wake()

    def cancel(self) -> None:
        """Stop everything in flight."""
        for task in list(self._running.values()):
            task.cancel()

    def snapshot(self) -> dict[str, Any]:
        return {"planned": len(self._due), "running": len(self._running)}
