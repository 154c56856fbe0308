"""``observe``: what the observers of all containers see, as one stream of messages.

A message is seen by its sender's container and by its receiver's, each telling in batches. So what comes is held for
a moment and merged: one line a message, in the order of time, with the answer's time as its asker saw it. Observers
publish as long as their leases are renewed, so this asks again every few seconds, and finds new containers with it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from typing import TYPE_CHECKING, Any

import click
import msgspec

from pelagos.cli.texts import clean
from pelagos.container.observer import (
    OBSERVATIONS,
    ObservationBatch,
    RecentRequest,
    WatchLease,
    WatchRequest,
    observer_of,
)
from pelagos.exchange.observing import Direction, Observation, ObservationFilter
from pelagos.exchange.sequences import Row, Sequence, arrange
from pelagos.model.errors import DeadlineExceeded, Unavailable
from pelagos.process.conversations import Breach, Monitor

if TYPE_CHECKING:
    from pelagos.cli.system import System

__all__ = ["Stream", "breaches", "line"]

_HOLD = 0.4
"""Seconds that a message waits for what others saw of it."""
_PATIENCE = 3.0
"""Seconds an observer may take to answer."""
_WINDOW = 2000
"""Observations among which those of one message are looked for, and requests for their answers."""
_KEPT = 20_000
"""Observations kept for the chart; then the oldest are left out."""


class Stream:
    """The messages of a system, from the rings and live. ``tell`` is called with what people should know."""

    def __init__(self, system: System, wanted: ObservationFilter, tell: Callable[[str], None]) -> None:
        self._system = system
        self._filter = wanted
        self._tell = tell
        self._kept: deque[Observation] = deque(maxlen=_KEPT)
        self._window: deque[Observation] = deque(maxlen=_WINDOW)
        self._held: deque[tuple[float, Observation]] = deque(maxlen=_WINDOW)
        self._shown: dict[tuple[str, int, str, str], None] = {}
        self._leases: dict[str, str] = {}
        self._dropped: dict[str, int] = {}
        self._silent: set[str] = set()
        self._labels: dict[str, str] = {}

    @property
    def sequence(self) -> Sequence:
        """All that was seen, for a chart, and which conversations broke their protocol."""
        notes = tuple(f"{one.conversation}: {one.reason}" for one in breaches(self._kept))
        return msgspec.structs.replace(arrange(self._kept, self._system.name), notes=notes)

    @property
    def title(self) -> str:
        """Of the chart: the system, and what was asked for."""
        wanted = self._filter
        parts = [
            f"conversation {wanted.conversation}" if wanted.conversation else "",
            wanted.service,
            wanted.op,
            "errors" if wanted.errors else "",
        ]
        told = ", ".join(part for part in parts if part)
        return f"{self._system.name}: {told}" if told else self._system.name

    async def recent(self, limit: int) -> list[Row]:
        """The last ``limit`` messages that all containers remember."""
        request = RecentRequest(self._filter, 2 * limit)  # each may have been seen twice by one
        found: list[Observation] = []
        for container in await self._system.alive():
            seen = await self._ask(container, "recent", request, list[Observation])
            found.extend(seen or ())
        rows = self._take(found, everything=True)[-limit:]
        wanted = {row.key for row in rows}
        self._kept = deque((one for one in self._kept if one.key in wanted), maxlen=_KEPT)
        return rows

    async def follow(self) -> AsyncIterator[list[Row]]:
        """Messages as they pass, until the iterator is closed."""
        try:
            async with asyncio.TaskGroup() as group:
                queue: asyncio.Queue[ObservationBatch] = asyncio.Queue()
                helpers = [group.create_task(self._listen(queue)), group.create_task(self._renew())]
                try:
                    while True:
                        await self._gather(queue)
                        rows = self._ripe()
                        if rows:
                            yield rows
                finally:
                    for helper in helpers:
                        helper.cancel()
                    await self._unwatch()
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None  # the others came of it

    async def _gather(self, queue: asyncio.Queue[ObservationBatch]) -> None:
        """Hold what comes next, if anything comes soon."""
        try:
            async with asyncio.timeout(_HOLD / 2):
                batch = await queue.get()
        except TimeoutError:
            return
        self._count(batch)
        now = asyncio.get_running_loop().time()
        self._held.extend((now, one) for one in batch.observations if self._filter.admits(one))

    def rest(self) -> list[Row]:
        """What is still held back, at the end."""
        found = [one for _, one in self._held]
        self._held.clear()
        return self._take(found, everything=True)

    # -- from the observers --------------------------------------------------------------------------------------

    async def _listen(self, queue: asyncio.Queue[ObservationBatch]) -> None:
        async for batch in self._system.control.listen(OBSERVATIONS, ObservationBatch):
            queue.put_nowait(batch)

    async def _renew(self) -> None:
        while True:
            shortest = 15.0
            for container in await self._system.alive():
                request = WatchRequest(self._filter, self._leases.get(container, ""))
                lease = await self._ask(container, "watch", request, WatchLease)
                if lease is not None:
                    self._leases[container] = lease.id
                    shortest = min(shortest, lease.seconds)
            await asyncio.sleep(min(shortest / 3, 2.0))

    async def _unwatch(self) -> None:
        leases, self._leases = self._leases, {}
        for container, lease in leases.items():
            try:
                async with asyncio.timeout(0.5):
                    await self._system.control.call(observer_of(container), "unwatch", lease)
            except (Unavailable, DeadlineExceeded, TimeoutError):
                continue  # the lease ends by itself

    async def _ask(self, container: str, op: str, request: object, result: Any) -> Any:
        try:
            answer = await self._system.control.call(
                observer_of(container), op, request, result=result, timeout=_PATIENCE
            )
        except (Unavailable, DeadlineExceeded) as error:
            if container == self._system.here and not self._silent:
                await self._system.nodes()  # raises if it is our own container that has gone
            if container not in self._silent:
                self._silent.add(container)
                self._tell(f"Container {container} cannot be observed: {error.message}")
            return None
        self._silent.discard(container)
        return answer

    def _count(self, batch: ObservationBatch) -> None:
        lost = batch.dropped - self._dropped.get(batch.container, 0)
        if lost > 0:
            self._tell(f"{lost} messages of {batch.container} passed too quickly to be shown.")
        self._dropped[batch.container] = batch.dropped

    # -- rows ----------------------------------------------------------------------------------------------------

    def _ripe(self) -> list[Row]:
        until = asyncio.get_running_loop().time() - _HOLD
        ripe = []
        while self._held and self._held[0][0] <= until:
            ripe.append(self._held.popleft()[1])
        return self._take(ripe) if ripe else []

    def _take(self, found: Iterable[Observation], *, everything: bool = False) -> list[Row]:
        """New rows of ``found``; what is still held is looked at too: it may have a message's other half."""
        new = list(found)
        self._window.extend(new)
        self._kept.extend(new)
        keys = {one.key for one in new}
        context = new if everything and len(new) > _WINDOW else [*self._window, *(one for _, one in self._held)]
        rows = []
        sequence = arrange(context, self._system.name)
        for row in sequence.rows:
            if row.key in keys and row.key not in self._shown:
                self._shown[row.key] = None
                rows.append(row)
        while len(self._shown) > 2 * _KEPT:
            del self._shown[next(iter(self._shown))]
        self._labels |= {one.address: one.label for one in sequence.participants}
        return rows

    def label(self, address: str) -> str:
        """What a participant is called, as far as is known by now."""
        return self._labels.get(address, address)


def breaches(observations: Iterable[Observation]) -> list[Breach]:
    """What their protocols do not allow, of the conversations that were seen from their beginning."""
    sent: dict[str, dict[tuple[str, int, str, str], Observation]] = {}
    for one in sorted(observations, key=lambda one: (one.at, one.conv_seq)):
        if one.direction is Direction.SENT:
            sent.setdefault(one.conv_id, {}).setdefault(one.key, one)
    monitor = Monitor()
    found: list[Breach] = []
    for messages in sent.values():
        # By their numbers: clocks of two hosts differ by more than an answer takes.
        ordered = sorted(messages.values(), key=lambda one: one.conv_seq)
        if ordered[0].conv_seq == 1:
            found.extend(monitor.watch(ordered))
    return found


def line(row: Row, label: Callable[[str], str]) -> str:
    """``12:00:01.234  edge -> hello  hello  request``: when, who, to whom, operation, performative, status, time."""
    from datetime import UTC, datetime

    at = datetime.fromtimestamp(row.at, UTC).strftime("%H:%M:%S.%f")[:-3]
    color = "red" if row.error or row.status == "ERROR" else "green" if row.is_answer else None
    status = row.error or (str(row.status) if row.is_answer else "")
    took = "" if row.took is None else f"{row.took:.1f} ms"
    between = f"{clean(label(row.source))} -> {clean(label(row.target))}"
    words = [at, f"{between:<32}", f"{clean(row.op):<16}", click.style(f"{row.performative:<13}", fg=color)]
    tail = [part for part in (click.style(clean(status), fg=color), took, clean(row.conv_id)) if part]
    shown = "  ".join([*words, *tail])
    return f"{shown}\n{'':14}{clean(row.content)}" if row.content else shown
