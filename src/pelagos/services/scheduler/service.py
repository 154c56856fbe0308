"""The scheduler: events at set times, each once in the whole system.

Any number of these may serve; commands go to any. One of them fires, by the lease ``scheduler``; another takes over
when it stops or dies. The one that fires sleeps until the next firing of all, and is woken by the store's bell when a
schedule changes: there is one timer, however many schedules there are, since the index on their next times is the heap.
"""

from __future__ import annotations

import asyncio
from functools import partial

from pelagos.model.errors import DeadlineExceeded, LeaseHeld, LeaseLost, StoreUnavailable
from pelagos.process import ServiceProcess, current_context, get_logger, operation
from pelagos.services.events import EventPublisher
from pelagos.services.requests import repeatable
from pelagos.services.scheduler.messages import (
    CreateSchedule,
    ListSchedules,
    ScheduleInfo,
    ScheduleRef,
    UpdateSchedule,
)
from pelagos.services.scheduler.schedules import (
    LEASE,
    create_schedule,
    delete_schedule,
    fire_due,
    get_schedule,
    list_schedules,
    next_due,
    update_schedule,
)
from pelagos.store import HeldLease, LeaseKeeper, Store

__all__ = ["SchedulerService"]

log = get_logger(__name__)

_PATIENCE = 3600.0
_LONGEST_SLEEP = 60.0
"""Seconds: the wall clock may be set while we sleep by another one."""
_PAUSE = 1.0


class SchedulerService(ServiceProcess):
    """See :mod:`pelagos.services.scheduler.messages` for what it is asked and answers."""

    name = "scheduler"
    version = "1.0"

    def __init__(self, store: Store, keeper: LeaseKeeper) -> None:
        super().__init__()
        self._store = store
        self._keeper = keeper
        self._publisher = EventPublisher(self, store)
        self.fired = 0
        """Events, by this one."""

    async def on_activate(self) -> None:
        self.start_task(self._run(), name="firing")

    @operation
    async def create(self, request: CreateSchedule) -> ScheduleInfo:
        """The same request again answers with the same schedule, as a duplicate. Raises InvalidInput, Conflict."""
        return await self._store.run(
            partial(
                create_schedule,
                scope=current_context().scope,
                id=self.world.new_id(),
                request=request,
                now=self.world.now(),
            )
        )

    @operation
    async def update(self, request: UpdateSchedule) -> ScheduleInfo:
        """Raises NotFound, InvalidInput, Conflict (version)."""
        scope, now = current_context().scope, self.world.now()
        change = partial(update_schedule, scope=scope, request=request, now=now)
        return await self._store.run(repeatable("scheduler.update", now, change, ScheduleInfo))

    @operation
    async def delete(self, request: ScheduleRef) -> ScheduleInfo:
        """It fires no more. Returns what it was. Raises NotFound."""
        remove = partial(delete_schedule, scope=current_context().scope, name=request.name)
        return await self._store.run(repeatable("scheduler.delete", self.world.now(), remove, ScheduleInfo))

    @operation
    async def get(self, request: ScheduleRef) -> ScheduleInfo:
        """Raises NotFound."""
        return await self._store.read(partial(get_schedule, scope=current_context().scope, name=request.name))

    @operation
    async def list(self, request: ListSchedules) -> tuple[ScheduleInfo, ...]:
        """A page of the project's schedules."""
        return tuple(await self._store.read(partial(list_schedules, scope=current_context().scope, request=request)))

    async def _run(self) -> None:
        while True:
            try:
                await self._anything_to_fire()
                held = await self._keeper.acquire(LEASE, f"fire schedules in process {self.id}", wait=_PATIENCE)
                try:
                    await self._fire(held)
                finally:
                    await self._keeper.release(held)
            except LeaseHeld:
                continue
            except LeaseLost:
                log.warning("another scheduler fires now", process=self.id)
            except (StoreUnavailable, DeadlineExceeded) as error:
                log.warning("the scheduler waits for the store", process=self.id, error=str(error))
                await asyncio.sleep(_PAUSE)

    async def _anything_to_fire(self) -> None:
        """Without a schedule there is no lease to hold: an idle daemon writes nothing."""
        bell = self._store.watch()
        try:
            while await self._store.read(next_due) is None:
                await bell.changed()
        finally:
            bell.close()

    async def _fire(self, held: HeldLease) -> None:
        """Fire what is due until the lease is lost, or no schedule is left."""
        bell = self._store.watch()
        held.on_lost(bell.close)
        try:
            while not held.lost.is_set():
                next_at = await self._store.read(next_due)
                if next_at is None:
                    return
                now = self.world.now()
                if next_at <= now:
                    fired = await self._store.run(partial(fire_due, fence=held.fence, now=now))
                    self.fired += len(fired.events)
                    self._publisher.announce(*fired.events)
                    continue
                await bell.changed(min(next_at - now, _LONGEST_SLEEP))
        finally:
            bell.close()
