"""Which maintainers run in this process: those whose work was asked for here, or whose lease is free, woken by events.

One follower reads the events of all infrastructures by position and hints their maintainers; a hint that is lost costs
time, never truth. A maintainer works under its infrastructure's lease. For a command it waits for a lease that somebody
else holds; a resident leaves alone what another resident maintains, and what comes free the standby sees.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog
from sqlalchemy import Connection, select

from pelagos.model.errors import LeaseHeld, LeaseLost, PelagosError, Retry
from pelagos.process import Context, Process, use_context
from pelagos.services.infrastructure import records
from pelagos.services.infrastructure.maintainer import Maintainer
from pelagos.services.infrastructure.standby import RESIDENT, Standby, lease_name
from pelagos.store import events
from pelagos.store.keeper import HeldLease, LeaseKeeper
from pelagos.store.port import Store
from pelagos.store.schema import infrastructures, runs

__all__ = ["Hosting"]

_log = structlog.get_logger("pelagos.infrastructure")
_FOLLOWED = (
    "server.active",
    "server.building",
    "server.stopped",
    "server.error",
    "server.deleted",
    "server.vanished",
    "server.updated",
    "operation.failed",
    "operation.uncertain",
    "operation.retrying",
    "run.accepted",
    "run.cancel_requested",
    "infrastructure.maintained",
    "instance.protected",
)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 15.0
_PAGE = 1000
_PATIENCE = 5.0
"""Seconds that a command waits for a lease before it looks whether there is work left."""
_NET = 5.0
"""Seconds after which events are looked for without a bell."""
_STOPPING = 5.0
"""Seconds that maintainers get to stop between two steps."""


class Hosting:
    """See the module's text. Its tasks are its ``owner``'s. ``make(infrastructure_id, context)`` makes a maintainer;
    ``resident``: it also takes what nobody maintains."""

    def __init__(
        self,
        owner: Process,
        store: Store,
        keeper: LeaseKeeper,
        make: Callable[[str, Context], Maintainer],
        *,
        resident: bool,
    ) -> None:
        self._owner = owner
        self._store = store
        self._keeper = keeper
        self._make = make
        self._resident = resident
        self._at_work: dict[str, asyncio.Event] = {}
        self._asked: set[str] = set()
        """Infrastructures to be looked at (again) by whoever hosts them."""
        self._accepted: set[str] = set()
        """Infrastructures for which something was asked of this very process, and nobody was told of a wait."""
        self._maintainers: dict[str, Maintainer] = {}
        self._ending = False
        self._standby: Standby | None = None

    async def start(self) -> None:
        """Follow events from now on."""
        position = await self._store.read(events.last_position)
        self._owner.start_task(self._follow(position), name="follow events")
        if self._resident:
            self._standby = Standby(self._store, self._keeper, self._owner.world, self.host)
            self._owner.start_task(self._stand_by(self._standby), name="stand by")

    async def stop(self) -> None:
        """Maintainers stop between two steps; nothing is rolled back, and their leases are given back."""
        self._ending = True
        for maintainer in self._maintainers.values():
            maintainer.stop()
        ended = [event.wait() for event in self._at_work.values()]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOPPING):
                await asyncio.gather(*ended)

    def snapshot(self) -> dict[str, Any]:
        """What each maintainer is about."""
        return {key: maintainer.snapshot() for key, maintainer in self._maintainers.items()}

    def accepted(self, infrastructure_id: str) -> None:
        """A run of it was accepted in this very process: whoever waits for its lease tells so."""
        self._accepted.add(infrastructure_id)
        self.host(infrastructure_id)

    # -- following ---------------------------------------------------------------------------------------------------

    async def _follow(self, position: int) -> None:
        watch = self._store.watch()
        pauses = _Pauses()
        try:
            while True:
                read = partial(events.read_events, after=position, limit=_PAGE, kinds=_FOLLOWED)
                try:
                    found = await self._store.read(read)
                except PelagosError as error:
                    await pauses.after(error, "events not read")
                    continue
                pauses.over()
                for event in found:
                    position = event.position
                    self._notice(event)
                if len(found) < _PAGE:
                    await watch.changed(timeout=_NET)
        finally:
            watch.close()

    def _notice(self, event: events.Event) -> None:
        infrastructure_id = event.infrastructure_id
        if infrastructure_id is None:
            return
        maintainer = self._maintainers.get(infrastructure_id)
        if event.kind.startswith("run."):
            if maintainer is not None:
                maintainer.hint(runs=True)
            elif self._standby is not None:
                self._standby.look()
        elif event.kind == "instance.protected":
            if maintainer is not None and event.data.get("by") != "policy":
                maintainer.row_changed()
        elif event.kind == "infrastructure.maintained":
            if maintainer is not None:
                maintainer.row_changed()
            elif self._standby is not None:
                self._standby.look()
        elif maintainer is not None and event.server_id is not None:
            maintainer.hint(server_ids=(event.server_id,))

    async def _stand_by(self, standby: Standby) -> None:
        pauses = _Pauses()
        while not self._ending:
            try:
                await standby.run()
            except PelagosError as error:
                await pauses.after(error, "nothing is taken over")

    # -- hosting -----------------------------------------------------------------------------------------------------

    def host(self, infrastructure_id: str) -> None:
        """See that it is maintained: here, if its lease is free or comes free for a command's run."""
        if self._ending:
            return
        maintainer = self._maintainers.get(infrastructure_id)
        if maintainer is not None:
            maintainer.hint(runs=True)
        self._asked.add(infrastructure_id)
        if infrastructure_id not in self._at_work:
            self._at_work[infrastructure_id] = asyncio.Event()
            self._owner.start_task(self._maintain_one(infrastructure_id), name=f"maintain {infrastructure_id}")

    async def _maintain_one(self, infrastructure_id: str) -> None:
        ended = self._at_work[infrastructure_id]
        pauses = _Pauses()
        try:
            while not self._ending:
                self._asked.discard(infrastructure_id)
                try:
                    if not await self._has_work(infrastructure_id):
                        if infrastructure_id in self._asked:
                            continue  # a run was accepted after that look at the store
                        break
                    worked = await self._work_by_lease(infrastructure_id)
                    pauses.over()
                    if self._resident and not worked:
                        break  # somebody else maintains it; should that end, the standby sees it
                except LeaseLost:
                    _log.warning("lease lost; somebody else maintains it now", infrastructure=infrastructure_id)
                except PelagosError as error:
                    # A resident has others to keep alive: one that cannot be maintained must not end them all.
                    await pauses.after(error, f"maintaining {infrastructure_id} pauses", always=self._resident)
        finally:
            del self._at_work[infrastructure_id]
            self._asked.discard(infrastructure_id)
            self._accepted.discard(infrastructure_id)
            ended.set()

    async def _work_by_lease(self, infrastructure_id: str) -> bool:
        """Whether the lease was ours."""
        lease = await self._acquire(infrastructure_id)
        if lease is None:
            return False
        try:
            await self._work(infrastructure_id, lease)
        finally:
            await self._keeper.release(lease)
        return True

    async def _work(self, infrastructure_id: str, lease: HeldLease) -> None:
        row = await self._store.read(partial(records.load_infrastructure, infrastructure_id=infrastructure_id))
        if row is None:
            return
        context = Context(scope=row.scope)
        maintainer = self._make(infrastructure_id, context)
        self._maintainers[infrastructure_id] = maintainer
        lease.on_lost(maintainer.stop)
        if self._ending:
            maintainer.stop()
        try:
            with use_context(context):
                await maintainer.work(lease.fence)
        finally:
            del self._maintainers[infrastructure_id]

    async def _has_work(self, infrastructure_id: str) -> bool:
        def look(connection: Connection) -> bool:
            row = connection.execute(
                select(infrastructures.c.maintained, infrastructures.c.deleted_at).where(
                    infrastructures.c.id == infrastructure_id
                )
            ).one_or_none()
            if row is None or row.deleted_at is not None:
                return False
            open_runs = connection.execute(
                select(runs.c.id).where(runs.c.infrastructure_id == infrastructure_id, runs.c.finished_at.is_(None))
            ).first()
            return open_runs is not None or (self._resident and bool(row.maintained))

        return await self._store.read(look)

    async def _acquire(self, infrastructure_id: str) -> HeldLease | None:
        """The lease, or None: look again. A command waits for it; a resident does not, since a resident that holds it
        does the runs that come meanwhile, and of what comes free the standby knows. A run that was accepted here is
        told whom it waits for, once; that is no resident, unless a command found it holding the lease and doing
        nothing."""
        name = lease_name(infrastructure_id)
        purpose = RESIDENT if self._resident else "a command"
        for wait in (None, _PATIENCE):
            try:
                return await self._keeper.acquire(name, purpose, wait=wait)
            except LeaseHeld as error:
                resident = error.details.get("purpose") == RESIDENT
                if infrastructure_id in self._accepted and resident is (wait is not None):
                    self._accepted.discard(infrastructure_id)
                    await self._tell_waiting(infrastructure_id, error)
                if self._resident:
                    break
        return None

    async def _tell_waiting(self, infrastructure_id: str, held: LeaseHeld) -> None:
        now = self._owner.world.now()

        def tell(connection: Connection) -> None:
            for run in records.open_runs(connection, infrastructure_id):
                if run.started_at is None:
                    events.append(
                        connection,
                        run.scope,
                        "run.waiting",
                        at=now,
                        infrastructure_id=infrastructure_id,
                        run_id=run.id,
                        data={"message": held.message, **held.details},
                    )

        await self._store.run(tell)


class _Pauses:
    """A store that is full or away for a while is waited for, at growing pauses; it must not end the service."""

    def __init__(self) -> None:
        self._next = _FIRST_PAUSE

    async def after(self, error: PelagosError, what: str, *, always: bool = False) -> None:
        """Raises the error if waiting cannot help; with ``always`` it is an error in the log instead."""
        hopeless = error.retry is Retry.NEVER
        if hopeless and not always:
            raise error
        (_log.error if hopeless else _log.warning)(what, error=str(error), again_in=self._next)
        pause, self._next = self._next, min(self._next * 2, _LONGEST_PAUSE)
        await asyncio.sleep(pause)

    def over(self) -> None:
        self._next = _FIRST_PAUSE
