"""The reader of a durable subscription: event after event, from the position in the store, whatever happens between.

One reader in the system works at a subscription, by its lease; others of the same name stand by and take over when it
stops or dies. Each event's position is stored after its handler, so a crash between repeats the event (at least once).
Whose effect is in the same store gives ``apply`` instead, a plain function on the connection which runs in the very
transaction that moves the position: then effect and position are one (exactly once).

An event whose handler raises is tried again after a back-off and holds up those behind it: they may depend on it. With
``max_attempts`` it is left out at last, and an event says so.

The truth is read by position; the store's bell only wakes the reader. The way not chosen, a durable queue a subscriber
on the broker, has no replay, no position to ask for, and loses the order on redelivery.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Connection

from pelagos.model.errors import (
    DeadlineExceeded,
    InvalidInput,
    LeaseHeld,
    LeaseLost,
    NotFound,
    PelagosError,
    StoreUnavailable,
)
from pelagos.model.scope import Fence, Scope
from pelagos.process import Context, Process, current_context, get_logger, use_context
from pelagos.services.events.catalogue import CATALOGUE, Catalogue, EventSkipped
from pelagos.services.events.live import EventHandler
from pelagos.services.events.messages import PublishedEvent
from pelagos.services.events.publishing import EventPublisher, append_event
from pelagos.services.events.subscriptions import (
    Moved,
    StoredSubscription,
    advance,
    declare,
    lease_name,
    read_page,
)
from pelagos.store import HeldLease, LeaseKeeper, Store

__all__ = ["Apply", "DurableSnapshot", "DurableSubscription", "follow"]

Apply = Callable[[Connection, PublishedEvent], None]
"""Re-runnable, with no effect but on the connection."""

T = TypeVar("T")

log = get_logger(__name__)

_PATIENCE = 3600.0
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 30.0
_UNSTORED = 500
"""Positions looked at and not wanted before the reader stores that it was there."""


class DurableSnapshot(msgspec.Struct, frozen=True):
    name: str
    reading: bool
    """It holds the lease; otherwise it stands by."""
    position: int
    done: int
    repeated: int
    """Tries after a failure."""
    skipped: int
    last_error: str


async def follow(
    process: Process,
    store: Store,
    keeper: LeaseKeeper,
    name: str,
    patterns: str | Iterable[str],
    handler: EventHandler | None = None,
    *,
    apply: Apply | None = None,
    position: int | None = None,
    at: float | None = None,
    max_attempts: int | None = None,
    catalogue: Catalogue = CATALOGUE,
) -> DurableSubscription:
    """Declare a subscription (see :class:`pelagos.services.events.Declare`) and read it as long as the process lives.

    Give ``handler`` (at least once) or ``apply`` (exactly once). Raises InvalidInput, StoreUnavailable."""
    if (handler is None) == (apply is None):
        raise InvalidInput("a durable subscription has a handler or an apply function, and not both")
    given = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    stored, added = await store.run(
        partial(
            declare,
            scope=current_context().scope,
            id=process.world.new_id(),
            name=name,
            patterns=given,
            now=process.world.now(),
            position=position,
            at=at,
        )
    )
    if added is not None:
        EventPublisher(process, store, catalogue).announce(added)
    subscription = DurableSubscription(process, store, keeper, stored, handler, apply, max_attempts, catalogue)
    subscription._task = process.start_task(subscription._run(), name=f"events {name}")
    return subscription


class DurableSubscription:
    """Made by :func:`follow`."""

    _task: asyncio.Task[None]

    def __init__(
        self,
        process: Process,
        store: Store,
        keeper: LeaseKeeper,
        stored: StoredSubscription,
        handler: EventHandler | None,
        apply: Apply | None,
        max_attempts: int | None,
        catalogue: Catalogue,
    ) -> None:
        self.id = stored.id
        self.name = stored.name
        self._process = process
        self._world = process.world
        self._store = store
        self._keeper = keeper
        self._handler = handler
        self._apply = apply
        self._max_attempts = max_attempts
        self._catalogue = catalogue
        self._known = stored.position
        """The position in the store, as far as we know."""
        self._fence: Fence | None = None
        self._hurry: asyncio.Timeout | None = None
        self._done = 0
        self._repeated = 0
        self._skipped = 0
        self._last_error = ""

    async def cancel(self) -> None:
        """Stop reading; the subscription and its position stay. Idempotent. Not for the handler to call."""
        self._task.cancel()
        await asyncio.wait([self._task])

    def advance(self, connection: Connection, event: PublishedEvent) -> None:
        """For a handler's own transaction: the event is done if the transaction is.

        Let pass what it raises: LeaseLost, NotFound, and Moved, also if the event was done before (the answer to that
        was lost), so that the effect is not had twice."""
        if not self._advance(connection, event.position):
            raise Moved(f"event {event.position} was done before")

    def _advance(self, connection: Connection, position: int) -> bool:
        return advance(
            connection, self.id, known=self._known, position=position, now=self._world.now(), fence=self._fence
        )

    async def _write(self, transaction: Callable[[Connection], T]) -> T:
        """The reader's own. Raises Moved also if nobody knows whether it was done: the position in the store tells."""
        try:
            return await self._store.run(transaction)
        except DeadlineExceeded as error:
            log.warning("the subscription reads its position anew", subscription=self.name, error=str(error))
            await asyncio.sleep(_FIRST_PAUSE)
            raise Moved(f"the position of subscription {self.name} is to be read anew") from error

    def snapshot(self) -> DurableSnapshot:
        return DurableSnapshot(
            self.name,
            self._fence is not None,
            self._known,
            self._done,
            self._repeated,
            self._skipped,
            self._last_error,
        )

    async def _run(self) -> None:
        pause = _FIRST_PAUSE
        purpose = f"read {self.name} in process {self._process.id}"
        while True:
            try:
                held = await self._keeper.acquire(lease_name(self.id), purpose, wait=_PATIENCE)
                try:
                    await self._read(held)
                finally:
                    self._fence = None
                    await self._keeper.release(held)
                pause = _FIRST_PAUSE
            except LeaseHeld:
                continue
            except LeaseLost:
                log.warning("somebody else reads the subscription now", subscription=self.name)
            except NotFound:
                return
            except (StoreUnavailable, DeadlineExceeded) as error:
                log.warning("the subscription waits for the store", subscription=self.name, error=str(error))
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    async def _read(self, held: HeldLease) -> None:
        """Read under a lease until it is lost."""
        bell = self._store.watch()
        self._fence = held.fence

        def stop() -> None:
            bell.close()
            if self._hurry is not None:
                self._hurry.reschedule(asyncio.get_running_loop().time())

        held.on_lost(stop)
        position: int | None = None
        try:
            while not held.lost.is_set():
                page = await self._store.read(
                    partial(
                        read_page, subscription_id=self.id, after=position, known=self._known, catalogue=self._catalogue
                    )
                )
                self._known = page.subscription.position
                try:
                    for event in page.events:
                        await self._work(event, held)
                    if page.upto - self._known > _UNSTORED:
                        await self._store_position(page.upto)
                except Moved:
                    position = None
                    continue
                position = page.upto
                if not page.more:
                    await bell.changed()
        finally:
            bell.close()

    async def _work(self, event: PublishedEvent, held: HeldLease) -> None:
        """One event, until it is done."""
        attempt = 0
        while not held.lost.is_set():
            attempt += 1
            try:
                await self._try(event, held)
            except (LeaseLost, Moved, StoreUnavailable):
                raise
            except Exception as error:
                if held.lost.is_set():
                    raise LeaseLost(f"the lease of subscription {self.name} was lost") from error
                if await self._gone():
                    raise NotFound("the subscription was removed") from error
                self._last_error = f"{type(error).__name__}: {error}"
                # An error of the family says what it is; where it came from is worth a traceback for others alone.
                defect = None if isinstance(error, PelagosError) else error
                about = {"subscription": self.name, "position": event.position, "error": str(error)}
                log.error("event handler failed", **about, exc_info=defect)
                if self._max_attempts is not None and attempt >= self._max_attempts:
                    await self._skip(event)
                    return
                self._repeated += 1
                await asyncio.sleep(min(_FIRST_PAUSE * 2 ** min(attempt, 20), _LONGEST_PAUSE))
            else:
                self._done += 1
                return

    async def _try(self, event: PublishedEvent, held: HeldLease) -> None:
        context = Context(Scope(event.project_id, event.user_id), process=self._process.id)
        apply = self._apply
        if apply is not None:

            def both(connection: Connection) -> None:
                apply(connection, event)
                self.advance(connection, event)

            await self._write(both)
        else:
            assert self._handler is not None
            # Who has lost the lease must not go on beside whoever has it now.
            try:
                async with asyncio.timeout(None) as self._hurry:
                    with use_context(context):
                        await self._handler(event)
            finally:
                self._hurry = None
            await self._write(partial(self._advance, position=event.position))
        self._known = event.position

    async def _gone(self) -> bool:
        try:
            await self._store.read(partial(read_page, subscription_id=self.id, after=None, known=-1, limit=1))
        except NotFound:
            return True
        return False

    async def _store_position(self, position: int) -> None:
        await self._write(partial(self._advance, position=position))
        self._known = position

    async def _skip(self, event: PublishedEvent) -> None:
        """Leave an event out, and say so."""
        payload = EventSkipped(self.name, event.type, event.origin, event.position, self._last_error)
        scope = Scope(event.project_id, event.user_id)

        def transaction(connection: Connection) -> Any:
            self.advance(connection, event)
            return append_event(connection, scope, "event_skipped", self.id, payload, at=self._world.now())

        EventPublisher(self._process, self._store, self._catalogue).announce(await self._write(transaction))
        self._skipped += 1
        self._known = event.position
