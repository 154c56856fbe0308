"""What is done unasked: pruning the records of what is long gone.

The app ``housekeeping`` does it once an hour; where several hosts have it, none is in another's way. A home that has no
daemon is tidied by its commands: the first that ends well on a day goes on with it for a moment, on a store of its own
that gives up at once where another process is in its way. (The command's own store would wait for half a minute, and
its stop with it.)
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from pelagos.model.errors import PelagosError
from pelagos.model.world import World
from pelagos.process import Process, get_logger
from pelagos.repository.collect import collect
from pelagos.store import Store, open_store, prune

if TYPE_CHECKING:
    from pelagos.runtime.settings import Settings

__all__ = ["Housekeeping", "tidy_up"]

log = get_logger(__name__)

PERIOD = 3600.0
DAY = 86_400.0
_BREATH = 0.05
"""Pause between batches, so that others write in between."""
STAMP_NAME = "housekeeping"
_MOMENT = 0.1
"""Seconds that a command spends on it, and one small batch at most beyond that."""
_SMALL = 100


class Housekeeping(Process):
    """See the module's text."""

    def __init__(self, store: Store, *, retention_days: float) -> None:
        super().__init__()
        self._store = store
        self._retention = retention_days * DAY
        self._collected: float | None = None
        """When objects were collected last; once a day is often enough for what has a grace of a day."""

    async def on_activate(self) -> None:
        self.start_task(self._run(), name="housekeeping")

    async def _run(self) -> None:
        while True:
            try:
                await self.pass_once()
            except PelagosError as error:
                # A full disk or a store that is away: the next hour's pass does what this one could not.
                log.warning("housekeeping put off", error=str(error))
            await asyncio.sleep(PERIOD)

    async def pass_once(self) -> int:
        """One pass; returns how many rows went."""
        before = self.world.now() - self._retention
        total = 0
        while gone := await self._store.run(lambda connection: prune(connection, before)):
            total += gone
            await asyncio.sleep(_BREATH)
        if total:
            log.info("old records pruned", rows=total)
        if self._collected is None or self.world.now() - self._collected >= DAY:
            self._collected = self.world.now()
            collected = await collect(self._store, self.world.now())
            if collected.removed:
                log.info("unreachable objects collected", objects=collected.removed)
        return total


async def tidy_up(settings: Settings, world: World) -> int:
    """What a command does at its end: nothing if it was done within a day, else prune for a moment.

    Returns how many rows went. What it did not come to is left to the next command. Raises nothing."""
    stamp = settings.home / STAMP_NAME
    try:
        if not _due(stamp, world.now()):
            return 0
        # Before the work: what fails or is killed half-way is tried again tomorrow, not by every command.
        _set(stamp, world.now())
        gone, finished = await _prune_for_a_moment(settings, world)
        if not finished:
            stamp.unlink(missing_ok=True)
    except Exception as error:  # noqa: BLE001 - an edge: the command is done, and this is not what it was asked for
        log.info("housekeeping put off", error=str(error))
        return 0
    if gone:
        log.info("old records pruned", rows=gone)
    return gone


async def _prune_for_a_moment(settings: Settings, world: World) -> tuple[int, bool]:
    """How many rows went, and whether that was all."""
    end = world.monotonic() + _MOMENT
    before = world.now() - settings.retention_days * DAY
    store = open_store(settings.store_target, world, patience=_MOMENT)
    await store.start()
    total = 0
    try:
        while gone := await store.run(lambda connection: prune(connection, before, _SMALL)):
            total += gone
            if gone < _SMALL:
                break
            if world.monotonic() >= end:
                return total, False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_MOMENT):  # it may be broken off anywhere; what it has not done waits a day
                await collect(store, world.now())
        return total, True
    finally:
        await store.stop()


def _due(stamp: Path, now: float) -> bool:
    try:
        done = stamp.stat().st_mtime
    except FileNotFoundError:
        return True
    return not 0 <= now - done < DAY  # a time to come was set by a clock that was wrong


def _set(stamp: Path, now: float) -> None:
    os.close(os.open(stamp, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    os.utime(stamp, (now, now))
