"""The lease keeper: one a container, it acquires, renews, loses and releases the container's leases.

One statement renews all of them every third of their time. Validity is measured by our own monotonic clock from
before the request was sent, so it always ends before the store's view of it does, whatever the two clocks say; when
it ends without a renewal the lease counts as lost at once, by a timer and not by the renewing task, which may be what
hangs.

A keeper never holds in the store what it does not hold here: what a renewal brings back unexpectedly (an acquisition
whose caller was cancelled, a release that failed) is released by it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import structlog
from sqlalchemy import Connection

from pelagos.model.errors import LeaseHeld, PelagosError, StoreUnavailable
from pelagos.model.failpoints import Step, through
from pelagos.model.scope import Fence
from pelagos.model.world import World
from pelagos.store import leases
from pelagos.store.clock import store_now
from pelagos.store.hosts import HostFacts
from pelagos.store.port import Store

__all__ = ["DEFAULT_TTL", "HeldLease", "LeaseKeeper"]

DEFAULT_TTL = 15.0
"""Seconds after which a silent holder on another host is replaced."""

_LOOK_EVERY = 0.25
"""Seconds between looks whether a holder on this host has died: its death writes nothing that would wake us."""
_LOOK_PAUSE = 0.02

_log = structlog.get_logger("pelagos.store.leases")


class HeldLease:
    """A lease we hold, until ``lost`` is set or it is released."""

    def __init__(self, lease: leases.Lease, purpose: str, valid_until: float) -> None:
        self.name = lease.name
        self.epoch = lease.epoch
        self.fence: Fence = lease.fence
        self.purpose = purpose
        self.valid_until = valid_until
        """By ``world.monotonic()``: a call to the outside is sent only if its deadline is earlier."""
        self.lost = asyncio.Event()
        self._callbacks: list[Callable[[], None]] = []

    def on_lost(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` when it is lost; at once if it is already. It must not raise."""
        if self.lost.is_set():
            callback()
        else:
            self._callbacks.append(callback)

    def lose(self) -> None:
        if not self.lost.is_set():
            self.lost.set()
            for callback in self._callbacks:
                callback()


class LeaseKeeper:
    """Start it, give :meth:`run` to a task group (or use :meth:`running`), stop it last."""

    def __init__(
        self, store: Store, world: World, facts: HostFacts, *, ttl: float = DEFAULT_TTL, holder_id: str | None = None
    ) -> None:
        self._store = store
        self._world = world
        self._facts = facts
        self._ttl = ttl
        self.holder_id = holder_id or world.new_id()
        self._holder: leases.Holder | None = None
        self._held: dict[str, HeldLease] = {}
        self._acquiring: dict[str, str] = {}
        self._wake = asyncio.Event()
        self._strays_until: float | None = None
        self._stopped = False
        self._timer: asyncio.TimerHandle | None = None
        self._renewals = 0
        self._lost = 0

    async def start(self) -> None:
        """Take the lock that says this process lives.

        Raises StoreUnavailable if it cannot be taken (no permission, no space)."""
        try:
            self._holder = self._facts.hold(self.holder_id)
        except OSError as error:
            raise StoreUnavailable(
                f"the lock file of this process cannot be made: {error}",
                advice="Give the user who runs this the right to write to PELAGOS_HOME.",
            ) from error

    async def run(self) -> None:
        """Renew until stopped."""
        pause = self._ttl / 3
        while not self._stopped:
            # With nothing to renew there is no reason to write.
            idle = not self._held and self._strays_until is None
            try:
                async with asyncio.timeout(None if idle else pause):
                    await self._wake.wait()
            except TimeoutError:
                pass
            if self._stopped:
                return
            woken = self._wake.is_set()
            self._wake.clear()
            if woken and self._strays_until is None:
                # A first lease was acquired: its renewal is due a third of its time from now.
                continue
            pause = self._ttl / 3 if await self._renew() else self._ttl / 10

    @asynccontextmanager
    async def running(self) -> AsyncIterator[LeaseKeeper]:
        """Started, renewing in a task of its own, and stopped at the end."""
        await self.start()
        async with asyncio.TaskGroup() as group:
            group.create_task(self.run(), name="lease keeper")
            try:
                yield self
            finally:
                await self.stop()

    async def stop(self) -> None:
        """Release everything. What was still held counts as lost."""
        if self._stopped:
            return
        self._stopped = True
        self._wake.set()
        self._disarm()
        remaining, self._held = self._held, {}
        for held in remaining.values():
            held.lose()
        released = False
        try:
            if self._holder is not None and (remaining or self._strays_until is not None or self._acquiring):
                await self._store.run(partial(leases.release_all, holder_id=self.holder_id))
            released = True
        except PelagosError as error:
            _log.warning("leases not released; they expire", error=str(error))
        finally:
            if self._holder is not None:
                self._facts.let_go(clean=released)

    async def acquire(self, name: str, purpose: str = "", *, wait: float | None = None) -> HeldLease:
        """Take a lease; with ``wait`` seconds of patience if somebody else holds it.

        Raises LeaseHeld when patience ends: its details say who holds it. A holder that died on this host is replaced
        at once, another when its lease has expired."""
        if wait is None:
            return await self._try(name, purpose)
        end = self._world.monotonic() + wait
        bell = self._store.watch()
        try:
            while True:
                try:
                    return await self._try(name, purpose)
                except LeaseHeld as error:
                    if self._world.monotonic() >= end:
                        raise
                    expires_in = float(error.details.get("expires_in", self._ttl))
                while self._world.monotonic() < end:
                    remaining = end - self._world.monotonic()
                    await bell.changed(min(remaining, expires_in + 0.001, _LOOK_EVERY))
                    looked = await self._store.read(partial(self._look, name))
                    if looked is None:
                        break
                    expires_in = looked
                    # A store that is written to all the time must not make every waiter read all the time.
                    await asyncio.sleep(_LOOK_PAUSE)
        finally:
            bell.close()

    async def release(self, held: HeldLease) -> None:
        """Give a lease back. If the store cannot be written now, it is given back when it can, or expires."""
        if self._held.get(held.name) is not held:
            return
        del self._held[held.name]
        self._arm()
        try:
            releasing = partial(leases.release, lease=held.fence, holder_id=self.holder_id)
            await through(Step.LEASE_RELEASE, self._store.run(releasing))
        except BaseException as error:
            self._expect_strays()
            self._wake.set()
            if not isinstance(error, PelagosError):
                raise
            _log.warning("lease not released yet", lease=held.name, error=str(error))

    def valid_until(self, name: str) -> float | None:
        """Until when, by ``world.monotonic()``, we hold a lease; None if we do not."""
        held = self._held.get(name)
        return None if held is None else held.valid_until

    def held(self, name: str) -> HeldLease | None:
        """The lease of that name, if we hold it."""
        return self._held.get(name)

    def is_dead(self, row: leases.LeaseRow) -> bool:
        """Whether the holder of ``row`` certainly lives no more, by what this host knows. For use in transactions."""
        return self._facts.is_dead(row)

    def snapshot(self) -> dict[str, Any]:
        """What is held, for people, tests and metrics."""
        now = self._world.monotonic()
        return {
            "holder": self.holder_id,
            "renewals": self._renewals,
            "lost": self._lost,
            "held": {
                name: {"epoch": held.epoch, "purpose": held.purpose, "valid_for": held.valid_until - now}
                for name, held in self._held.items()
            },
        }

    async def _try(self, name: str, purpose: str) -> HeldLease:
        if self._holder is None or self._stopped:
            raise StoreUnavailable("the lease keeper is not running")
        if name in self._held or name in self._acquiring:
            raise self._held_here(name)
        sent = self._world.monotonic()
        self._acquiring[name] = purpose
        try:
            lease = await through(
                Step.LEASE_ACQUIRE,
                self._store.run(
                    partial(
                        leases.acquire,
                        name=name,
                        holder=self._holder,
                        ttl=self._ttl,
                        purpose=purpose,
                        is_dead=self._facts.is_dead,
                    )
                ),
            )
        except LeaseHeld:
            raise
        except BaseException:
            # It may have been acquired all the same (a cancelled caller, a lost answer): the next renewal shows it.
            self._expect_strays()
            self._wake.set()
            raise
        finally:
            del self._acquiring[name]
        held = HeldLease(lease, purpose, sent + self._ttl)
        if self._stopped:
            held.lose()
            await self._store.run(partial(leases.release, lease=lease, holder_id=self.holder_id))
            raise StoreUnavailable("the lease keeper was stopped")
        self._held[name] = held
        self._arm()
        if len(self._held) == 1:
            self._wake.set()
        return held

    def _look(self, name: str, connection: Connection) -> float | None:
        """Seconds until a lease expires; None if it is worth a try now."""
        row = leases.read_lease(connection, name)
        now = store_now(connection)
        if row is None or row.holder is None or row.expires_at <= now or self._facts.is_dead(row):
            return None
        if row.holder == self.holder_id and name not in self._held and name not in self._acquiring:
            return None
        return row.expires_at - now

    def _held_here(self, name: str) -> LeaseHeld:
        assert self._holder is not None
        held = self._held.get(name)
        purpose = held.purpose if held is not None else self._acquiring[name]
        return LeaseHeld(
            f"{name} is held by this very process" + (f" to {purpose}" if purpose else ""),
            advice="Wait for it to finish.",
            details={
                "name": name,
                "holder": self.holder_id,
                "host": self._holder.host,
                "pid": self._holder.pid,
                "purpose": purpose,
                "expires_in": self._ttl,
            },
        )

    async def _renew(self) -> bool:
        """One renewal of everything; False if the store could not be asked."""
        checked = dict(self._held)
        sent = self._world.monotonic()
        try:
            async with asyncio.timeout(self._ttl / 2):
                found = await self._store.run(partial(leases.renew, holder_id=self.holder_id, ttl=self._ttl))
            if self._strays_until is not None and sent >= self._strays_until:
                self._strays_until = None
            for name, epoch in sorted(found.items()):
                if name not in self._held and name not in self._acquiring:
                    stray = Fence(lease=name, epoch=epoch)
                    await self._store.run(partial(leases.release, lease=stray, holder_id=self.holder_id))
        except (PelagosError, TimeoutError) as error:
            _log.warning("leases not renewed", error=str(error) or "no answer in time", held=len(checked))
            found = None
        if found is None:
            return False
        self._renewals += 1
        for name, held in checked.items():
            if self._held.get(name) is held:
                if found.get(name) == held.epoch:
                    held.valid_until = sent + self._ttl
                else:
                    self._lose(held, "somebody else took it")
        self._arm()
        return True

    def _expect_strays(self) -> None:
        """Look for leases in our name that we do not know of, for as long as one may still appear: on PostgreSQL a job
        whose caller was cancelled can be committed after the renewal that looks for it."""
        self._strays_until = self._world.monotonic() + self._ttl

    def _lose(self, held: HeldLease, why: str) -> None:
        _log.warning("lease lost", lease=held.name, epoch=held.epoch, why=why)
        self._lost += 1
        self._expect_strays()
        del self._held[held.name]
        held.lose()

    def _arm(self) -> None:
        """Set the timer to the moment when the first lease would end without a renewal."""
        self._disarm()
        if self._held and not self._stopped:
            first = min(held.valid_until for held in self._held.values())
            delay = max(0.0, first - self._world.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay, self._expire)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        now = self._world.monotonic()
        for held in [held for held in self._held.values() if held.valid_until <= now]:
            self._lose(held, "it could not be renewed in time")
        self._arm()
