"""The worker of one account: in the whole system at most one serves, under the lease ``account:<name>``.

It is a small loop around the journal: claim what is due (one transaction for as many as may be sent), send each call
in a task of its own, settle what came back (one transaction for as many as came while the last one was being written).
It keeps nothing in memory that the journal does not say, but what is in hand right now; so to crash, to lose the lease
and to be started anew are one path: whoever serves next begins with :func:`~pelagos.operations.claims.take_over`.

The lease and the calls: the lease's time is shorter than a slow call's deadline, and is renewed meanwhile. What keeps
the promise "a call is sent only if its lease outlives its deadline" is that a call is sent only under a valid lease and
cancelled in the moment that ends without a renewal, so its deadline is the earlier of the two, and the intent's
``not_after`` holds for whoever comes next.

The ways rejected: a task an operation that lives as long as it (ten thousand tasks, each with its own idea of time),
and a thread of control for each target (order is the journal's matter).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import msgspec
import structlog
from sqlalchemy import Connection

from pelagos.clouds.pool import Account
from pelagos.model.errors import InternalError, LeaseHeld, LeaseLost, PelagosError, StoreUnavailable, Unavailable
from pelagos.model.failpoints import Step, through
from pelagos.model.world import World
from pelagos.operations.calls import Backoff, Cloud, Listing, PartListing, judge
from pelagos.operations.claims import Rules, claim, count_due, peek, take_over
from pelagos.operations.health import AccountHealth
from pelagos.operations.pacer import Pacer
from pelagos.operations.parts import any_parts
from pelagos.operations.records import WAITING, Call, Outcome, Result
from pelagos.operations.settling import settle
from pelagos.operations.unopened import tell_unopened
from pelagos.operations.watching import Boots, Observer, PartBoots
from pelagos.store import HeldLease, LeaseKeeper, Store

__all__ = ["AccountWorker", "EngineConfig"]

T = TypeVar("T")

_log = structlog.get_logger("pelagos.operations")

_GRACE = 3.0
"""Seconds after its deadline in which a call has come back, one way or another."""
_OPENINGS = 2
"""The cloud cannot be opened when that failed so often in a row: another process may be able to, or a secret is just
being written anew."""
_LEASE_MARGIN = 0.2
"""Seconds that a lease must be valid yet when a call is sent under it."""


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Times in seconds."""

    pauses: Backoff = Backoff()
    give_up_after: float = 3600.0
    """An operation without an ``expires_at`` makes no new attempt after so long."""
    idle_release: float = 5.0
    """The lease is given back after so long without work."""
    lease_wait: float = 1.0
    """How long one wait for somebody else's lease lasts before the need for it is looked at again."""
    rescan: float = 5.0
    """The journal is looked at so often though nothing rang."""
    drain: float = 2.0
    """Calls that are out when the engine stops get so long to answer."""
    batch: int = 256
    """Most operations a claim takes."""
    parallel_reads: int = 8
    """Console, execute and listener checks at once, an account; beside ``parallel_calls``."""
    deleting_patience: float = 30.0
    """A server that is DELETING for so long, beyond the cloud's settling time, is deleted again."""
    first_poll: float = 0.02
    """Seconds from a server's BUILD to the first listing that looks for its end."""


class AccountWorker:
    """Give :meth:`run` to a task group; :meth:`poke` it when the journal may have changed."""

    def __init__(self, account: Account, store: Store, leases: LeaseKeeper, world: World, config: EngineConfig) -> None:
        self.name = account.name
        self._account = account
        self._store = store
        self._leases = leases
        self._world = world
        self._config = config
        self._rng = world.rng(f"operations.{account.name}")
        self._wake = asyncio.Event()
        self._stopping = False
        self._retiring = False
        self._ended = asyncio.Event()
        self._ended.set()
        self.health = AccountHealth(world)
        self._cloud: Cloud | None = None
        self._pacer: Pacer | None = None
        self._held: HeldLease | None = None
        self._in_flight: dict[str, Call] = {}
        self._outcomes: list[Outcome] = []
        self._outcome_ring = asyncio.Event()
        self._all_settled = asyncio.Event()
        self._settling = 0
        self._boots: Boots | None = None
        self._part_boots: PartBoots | None = None
        self._knows_parts: bool | None = None
        self.observer = Observer(self)
        self._elsewhere = False
        self._failures = 0
        self._unopened = 0
        """Openings of the cloud that failed in a row."""
        self._last_failure: tuple[float, str] | None = None
        self._counts = {"claims": 0, "sent": 0, "settled": 0, "served": 0}

    # -- what the engine and the worker's parts ask ---------------------------------------------------------------

    @property
    def account(self) -> Account:
        """The account as it was in the pool when this worker was made."""
        return self._account

    @property
    def retiring(self) -> bool:
        """It lets its calls end, since the pool has another account of its name, or none."""
        return self._retiring

    @property
    def in_flight(self) -> int:
        """Calls that are out."""
        return len(self._in_flight)

    @property
    def held_for(self) -> float:
        """Seconds until the cloud wants to hear of this account again."""
        return 0.0 if self._pacer is None else self._pacer.held_for

    @property
    def serving(self) -> bool:
        """This process holds the account's lease."""
        return self._held is not None

    @property
    def elsewhere(self) -> bool:
        """Another process held the lease when it was last asked for."""
        return self._elsewhere

    @property
    def held(self) -> HeldLease:
        """The lease. Raises LeaseLost when it is not held."""
        if self._held is None:
            raise LeaseLost(f"the lease account:{self.name} is not held")
        return self._held

    @property
    def world(self) -> World:
        return self._world

    @property
    def store(self) -> Store:
        return self._store

    @property
    def config(self) -> EngineConfig:
        return self._config

    def poke(self) -> None:
        """Something may be due."""
        self._wake.set()

    def stop(self) -> None:
        """Claim nothing more; :meth:`run` ends when what is out has been settled, or left to the journal."""
        self._stopping = True
        self._wake.set()

    async def retire(self) -> None:
        """Claim nothing more and wait until the calls that are out have come back, each by its own deadline. What is
        not claimed stays in the journal, for the account that comes in this one's place."""
        self._retiring = True
        self.stop()
        await self._ended.wait()

    def busy_servers(self) -> set[str]:
        """Ids of servers that operations have in hand."""
        busy = {call.server_id for call in self._in_flight.values()}
        busy.update(outcome.call.server_id for outcome in self._outcomes)
        if self._boots is not None:
            busy.update(self._boots.server_ids())
        if self._part_boots is not None:
            busy.update(self._part_boots.server_ids())
        return busy

    async def knows_parts(self) -> bool:
        """Whether the store knows any part of the account. What others wrote before it served, it asks for once; what
        comes later passes through its hands."""
        if self._knows_parts is None:
            self._knows_parts = await self._store.read(partial(any_parts, account=self.name))
        return self._knows_parts

    async def cloud(self) -> Cloud:
        """The account's cloud, opened when first needed. Raises what opening it raises."""
        if self._cloud is None:
            try:
                driver = await self._account.driver()
            except PelagosError as error:
                self.health.not_opened(error)
                raise
            capabilities = await self._account.capabilities()
            if self._cloud is None:  # several may have waited for the driver
                pacer = self._pacer = Pacer(capabilities.calls_per_second, self._world.monotonic)
                self._cloud = Cloud(
                    driver, capabilities, pacer, self._world, self._rng, self._config.pauses, health=self.health
                )
        return self._cloud

    async def write(self, step: Step, transaction: Callable[[Connection], T]) -> T:
        """Run a transaction that can be done without, if the store is away."""
        return await through(step, self._store.run(transaction))

    def match(self, listing: Listing) -> None:
        """Let what waits for a listing look at this one."""
        if self._boots is not None:
            self._boots.match(listing)

    def match_parts(self, listing: PartListing) -> None:
        """The same of parts."""
        if self._part_boots is not None:
            self._part_boots.match_parts(listing)

    def _await(self, call: Call) -> None:
        """Look for the end of a step in listings."""
        boots = self._boots if call.part is None and call.stray is None else self._part_boots
        assert boots is not None
        boots.add(call)

    def put(self, call: Call, result: Result) -> None:
        """Hand an outcome to be settled."""
        self._outcomes.append(Outcome(call, result))
        self._outcome_ring.set()

    def snapshot(self) -> dict[str, Any]:
        """What it has in hand, for people, tests and metrics."""
        now = self._world.now()
        cloud = self._cloud
        return {
            "serving": self.serving,
            "elsewhere": self._elsewhere,
            "epoch": None if self._held is None else self._held.epoch,
            "in_flight": [
                {"operation_id": c.operation_id, "verb": c.verb, "server_id": c.server_id, "attempts": c.attempts}
                for c in self._in_flight.values()
            ],
            "unsettled": len(self._outcomes) + self._settling,
            "booting": 0 if self._boots is None else len(self._boots),
            "parts_awaited": 0 if self._part_boots is None else len(self._part_boots),
            "held_for": 0.0 if self._pacer is None else self._pacer.held_for,
            "last_error": None
            if cloud is None or cloud.last_error is None
            else {"seconds_ago": now - cloud.last_error[0], "message": cloud.last_error[1]},
            "last_failure": None
            if self._last_failure is None
            else {"seconds_ago": now - self._last_failure[0], "message": self._last_failure[1]},
            "calls": 0 if cloud is None else cloud.calls,
            "health": self.health.snapshot(),
            "retiring": self._retiring,
            **self._counts,
        }

    # -- the loop ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve the account whenever there is something to do, until stopped; may be run again."""
        self._stopping = self._retiring
        self._ended.clear()
        try:
            await self._run()
        finally:
            self._ended.set()
            self.observer.fail(Unavailable("the operations engine was stopped"))

    async def _run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            try:
                if await self._needed():
                    await self._serve_once()
                    continue
                self._elsewhere = False
                self._failures = self._unopened = 0  # nothing waits for it any more
            except LeaseHeld:
                continue
            except PelagosError as error:
                # Most of all a store that is away for a while, or a cloud that cannot be opened.
                self._note(error)
                self.observer.fail(error)
                await self._pause()
                continue
            except Exception as error:  # noqa: BLE001 - the supervisor's edge: logged, told, tried again after a pause
                _log.exception("the account cannot be served", account=self.name)
                self._note(error)
                self.observer.fail(InternalError(f"{type(error).__name__}: {error}"))
                await self._pause()
                continue
            await self._wake.wait()

    async def _needed(self) -> bool:
        if self.observer.asked:
            return True
        return await self._store.read(partial(peek, account=self.name)) is not None

    async def _opened(self) -> Cloud:
        """As :meth:`cloud`; where that fails again, what is journaled is told so."""
        try:
            cloud = await self.cloud()
        except PelagosError as error:
            self._unopened += 1
            if self._unopened >= _OPENINGS:
                await self._tell_unopened(error)
            raise
        self._unopened = 0
        return cloud

    async def _tell_unopened(self, error: PelagosError) -> None:
        try:
            held = await self._leases.acquire(f"account:{self.name}", f"refusals for the cloud account {self.name}")
        except LeaseHeld:
            return  # whoever has it could open it
        try:
            now = self._world.now()
            tell = partial(
                tell_unopened,
                fence=held.fence,
                account=self.name,
                error=error.payload(),
                now=now,
                again_at=now + self._config.pauses.base,
            )
            await self.write(Step.SETTLE, tell)
        finally:
            await self._leases.release(held)

    async def _serve_once(self) -> None:
        cloud = await self._opened()
        lease, purpose = f"account:{self.name}", f"work for the cloud account {self.name}"
        try:
            held = await self._leases.acquire(lease, purpose)
        except LeaseHeld:
            self._elsewhere = True
            self.observer.refer()
            # Not for long: with nothing left to do there is no reason to want the lease.
            held = await self._acquire_or_stop(lease, purpose)
        self._elsewhere = False
        self._counts["served"] += 1
        try:
            await self._serve(held, cloud)
            self._failures = 0
        except* LeaseLost as lost:
            _log.warning("the account's worker stops", account=self.name, error=str(lost.exceptions[0]))
        except* StoreUnavailable as away:
            # What was in hand is in the journal.
            self._note(away.exceptions[0])
        except* Exception as group:  # noqa: BLE001 - the supervisor's edge, logged
            # Whatever failed, the journal knows what was in hand, and the next serving of the account, under a new
            # epoch, begins with it.
            self._note(group.exceptions[0])
            _log.error("the account's worker failed", account=self.name, exc_info=group)
        finally:
            self._held = None
            self._boots = self._part_boots = None
            self._in_flight.clear()
            self._outcomes.clear()
            self._settling = 0
            await self._leases.release(held)
        if self._failures:
            await self._pause()

    async def _acquire_or_stop(self, lease: str, purpose: str) -> HeldLease:
        if self._stopping:
            raise LeaseHeld("stopping")
        return await self._leases.acquire(lease, purpose, wait=self._config.lease_wait)

    async def _serve(self, held: HeldLease, cloud: Cloud) -> None:
        self._held = held
        self._knows_parts = None
        boots = self._boots = Boots(self, cloud)
        part_boots = self._part_boots = PartBoots(self, cloud)
        taken = partial(take_over, fence=held.fence, account=self.name, now=self._world.now())
        for found in await through(Step.TAKE_OVER, self._store.run(taken)):
            self._await(found)
        async with asyncio.TaskGroup() as group:
            helpers = [
                group.create_task(self._watch_lease(held), name=f"{self.name}: lease"),
                group.create_task(self._settle_all(cloud), name=f"{self.name}: settling"),
                group.create_task(boots.poll(), name=f"{self.name}: boots"),
                group.create_task(part_boots.poll(), name=f"{self.name}: parts"),
                group.create_task(self.observer.serve(cloud), name=f"{self.name}: observer"),
            ]
            calls: set[asyncio.Task[None]] = set()
            await self._dispatch(held, cloud, group, calls)
            await self._drain(calls)
            for task in [*calls, *helpers]:
                task.cancel()

    async def _dispatch(
        self, held: HeldLease, cloud: Cloud, group: asyncio.TaskGroup, calls: set[asyncio.Task[None]]
    ) -> None:
        """Claim and send until there has been nothing to do for a while, or the engine stops."""
        parts = None if cloud.parts_driver is None else cloud.parts_driver.parts
        rules = Rules(cloud.capabilities, self._config.give_up_after, parts=parts)
        pacer = self._pacer
        assert pacer is not None
        idle_since: float | None = None
        while not self._stopping:
            self._wake.clear()
            free = cloud.capabilities.parallel_calls - len(self._in_flight)
            granted = pacer.available(min(free, self._config.batch)) if free > 0 else 0
            due_at = await self._store.read(partial(peek, account=self.name))
            if granted and due_at is not None and due_at <= self._world.now():
                due_at = await self._claim(held, cloud, rules, granted, group, calls)
                if self._in_flight or (due_at is not None and due_at <= self._world.now()):
                    idle_since = None
                if len(self._in_flight) < cloud.capabilities.parallel_calls:
                    continue
            if due_at is not None or self._in_flight or self._outcomes or self._settling or self.observer.asked:
                idle_since = None
            elif idle_since is None:
                idle_since = self._world.monotonic()
            elif self._world.monotonic() - idle_since >= self._config.idle_release:
                return
            await self._until_woken(self._sleep(free, due_at, idle_since, pacer))

    def _sleep(self, free: int, due_at: float | None, idle_since: float | None, pacer: Pacer) -> float:
        """Seconds until there is something to do though nobody wakes us."""
        if idle_since is not None:
            return max(0.0005, self._config.idle_release - (self._world.monotonic() - idle_since))
        if free <= 0 or due_at is None or due_at >= WAITING:
            return self._config.rescan
        return max(0.0005, min(self._config.rescan, max(due_at - self._world.now(), pacer.delay())))

    async def _claim(
        self,
        held: HeldLease,
        cloud: Cloud,
        rules: Rules,
        count: int,
        group: asyncio.TaskGroup,
        calls: set[asyncio.Task[None]],
    ) -> float | None:
        now = self._world.now()
        # A token each, but not for all that might be sent: mostly a few are due.
        due = await self._store.read(partial(count_due, account=self.name, now=now, limit=count))
        tokens = [self._world.next_id() for _ in range(due)]
        taken = await self._write(
            Step.CLAIM, partial(claim, fence=held.fence, account=self.name, rules=rules, now=now, tokens=tokens)
        )
        self._counts["claims"] += 1
        assert self._pacer is not None
        lookups = sum(1 for call in taken.calls if call.verb == "lookup")
        for call in taken.calls:
            if call.parts:
                self._knows_parts = True
            self._in_flight[call.operation_id] = call
            if call.verb not in ("lookup", "refresh"):
                self._pacer.take(1)
            task = group.create_task(self._carry_out(held, cloud, call, lookups > 4))
            calls.add(task)
            task.add_done_callback(calls.discard)
        return taken.next_at

    async def _carry_out(self, held: HeldLease, cloud: Cloud, call: Call, many: bool) -> None:
        # Only under a valid lease; that it ends without a renewal cancels this task.
        result: Result
        if held.valid_until - self._world.monotonic() < _LEASE_MARGIN:
            now = self._world.now()
            error = Unavailable(f"the lease {held.name} waits for its renewal")
            result = judge(call, error, now, _LEASE_MARGIN)
        elif call.verb == "refresh":
            result = await self.observer.carry_out()
        else:
            self._counts["sent"] += 1
            result = await cloud.carry_out(call, many=many)
        self._in_flight.pop(call.operation_id, None)
        self.put(call, result)
        self._wake.set()

    async def _settle_all(self, cloud: Cloud) -> None:
        while True:
            await self._outcome_ring.wait()
            self._outcome_ring.clear()
            while self._outcomes:
                batch = self._outcomes[: self._config.batch * 2]
                del self._outcomes[: len(batch)]
                self._settling = len(batch)
                settled = await self._write(
                    Step.SETTLE,
                    partial(
                        settle,
                        fence=self.held.fence,
                        account=self.name,
                        outcomes=batch,
                        capabilities=cloud.capabilities,
                        now=self._world.now(),
                    ),
                )
                self._settling = 0
                self._counts["settled"] += len(batch)
                for call in settled.awaits:
                    self._await(call)
                # What was freed behind it may be due.
                self._wake.set()
            self._all_settled.set()

    async def _watch_lease(self, held: HeldLease) -> None:
        await held.lost.wait()
        raise LeaseLost(f"the lease {held.name} was lost: epoch {held.epoch} is over")

    async def _drain(self, calls: set[asyncio.Task[None]]) -> None:
        """Give what is out a moment to come back, and write all that came. A worker that retires gives it all its time:
        the program goes on, and so do the calls."""
        if calls:
            now = self._world.now()
            longest = max((call.deadline - now for call in self._in_flight.values()), default=0.0) + _GRACE
            await asyncio.wait(set(calls), timeout=longest if self._retiring else self._config.drain)
        if self._outcomes or self._settling:
            self._all_settled.clear()
            try:
                async with asyncio.timeout(self._config.drain):
                    await self._all_settled.wait()
            except TimeoutError:
                _log.warning("outcomes not written", account=self.name, count=len(self._outcomes) + self._settling)

    async def _write(self, step: Step, transaction: Callable[[Connection], T]) -> T:
        """Run a transaction; while the store is away, what is to be written stays in hand."""
        attempt = 0
        while True:
            try:
                return await through(step, self._store.run(transaction))
            except StoreUnavailable as error:
                self._note(error)
                attempt += 1
                await asyncio.sleep(min(5.0, 0.1 * 2.0 ** min(attempt, 6)))

    async def _until_woken(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _pause(self) -> None:
        self._failures += 1
        seconds = min(self._config.pauses.cap, self._config.pauses.base * 2.0 ** min(self._failures, 10))
        end = self._world.monotonic() + seconds
        while not self._stopping and (left := end - self._world.monotonic()) > 0:
            await self._until_woken(left)
            self._wake.clear()

    def _note(self, error: BaseException) -> None:
        self._failures += 1
        self._last_failure = (self._world.now(), f"{type(error).__name__}: {error}")
        if isinstance(error, PelagosError):
            _log.warning("the account's worker waits", account=self.name, error=str(error))
