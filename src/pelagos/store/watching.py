"""Bells: how followers learn that something was committed.

A ring means "look", so rings may merge: each bell remembers the generation of the last ring it reported. Where other
processes can commit unseen (SQLite), ``refresh`` looks for their commits; it is called when somebody asks, and every
``poll`` seconds while somebody waits, never otherwise: an idle daemon does not wake up forty times a second. A look
that takes time (PostgreSQL) is a ``tick`` instead, called by the timer alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pelagos.model.errors import StoreUnavailable

__all__ = ["Bell", "Bells"]


class Bells:
    """All bells of one store. For the loop's thread."""

    def __init__(
        self,
        *,
        refresh: Callable[[], None] | None = None,
        tick: Callable[[], None] | None = None,
        poll: float = 0.025,
    ) -> None:
        self._refresh = refresh
        self._on_tick = tick or refresh
        self._poll = poll
        self._bells: dict[Bell, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._waiting = 0
        self._closed: BaseException | None = None
        self.generation = 0

    def __len__(self) -> int:
        return len(self._bells)

    @property
    def waiting(self) -> int:
        """How many followers wait now."""
        return self._waiting

    def watch(self) -> Bell:
        """A new bell, silent until the next ring."""
        self.refresh()
        bell = Bell(self)
        self._bells[bell] = None
        return bell

    def ring(self) -> None:
        """Something was committed."""
        self.generation += 1
        for bell in list(self._bells):
            bell.wake()

    def refresh(self) -> None:
        """Look for commits of others; rings if there are any."""
        if self._closed is not None:
            raise self._closed
        if self._refresh is not None:
            self._refresh()

    def forget(self, bell: Bell) -> None:
        self._bells.pop(bell, None)

    def begin_wait(self) -> None:
        self._waiting += 1
        if self._timer is None and self._on_tick is not None:
            self._timer = asyncio.get_running_loop().call_later(self._poll, self._tick)

    def end_wait(self) -> None:
        self._waiting -= 1
        if self._waiting == 0 and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self, error: BaseException | None = None) -> None:
        """Whoever waits, or comes to wait, gets ``error``."""
        self._closed = error or StoreUnavailable("the store is stopped")
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for bell in list(self._bells):
            bell.fail(self._closed)

    def _tick(self) -> None:
        assert self._on_tick is not None
        self._timer = asyncio.get_running_loop().call_later(self._poll, self._tick)
        self._on_tick()


class Bell:
    """One follower's bell; one task at a time waits for it."""

    def __init__(self, bells: Bells) -> None:
        self._bells = bells
        self._seen = bells.generation
        self._waiter: asyncio.Future[bool] | None = None
        self._open = True

    async def changed(self, timeout: float | None = None) -> bool:
        """See :class:`pelagos.store.port.Watch`. False also when the bell was closed."""
        if self._waiter is not None:
            raise RuntimeError("somebody waits for this bell already: make one for each follower")
        if not self._open:
            return False
        self._bells.refresh()
        if self._seen != self._bells.generation:
            self._seen = self._bells.generation
            return True
        self._waiter = asyncio.get_running_loop().create_future()
        self._bells.begin_wait()
        try:
            async with asyncio.timeout(timeout):
                rang = await self._waiter
        except TimeoutError:
            return False
        finally:
            self._waiter = None
            self._bells.end_wait()
        self._seen = self._bells.generation
        return rang

    def close(self) -> None:
        """The follower has gone."""
        self._open = False
        self._bells.forget(self)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(False)

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(True)

    def fail(self, error: BaseException) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)
