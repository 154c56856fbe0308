"""What the daemon does unasked, once an hour: prune the records of what is long gone, keep the token file valid."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from pelagos.model.errors import PelagosError
from pelagos.process import Process, get_logger
from pelagos.store import Store, prune

__all__ = ["Housekeeping"]

log = get_logger(__name__)

PERIOD = 3600.0
DAY = 86_400.0
_BREATH = 0.05
"""Pause between batches, so that others write in between."""


class Housekeeping(Process):
    """``renew_token`` is called each time; None where there is no token to keep."""

    def __init__(
        self, store: Store, *, retention_days: float, renew_token: Callable[[], Awaitable[object]] | None = None
    ) -> None:
        super().__init__()
        self._store = store
        self._retention = retention_days * DAY
        self._renew_token = renew_token

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
        if self._renew_token is not None:
            await self._renew_token()
        before = self.world.now() - self._retention
        total = 0
        while gone := await self._store.run(lambda connection: prune(connection, before)):
            total += gone
            await asyncio.sleep(_BREATH)
        if total:
            log.info("old records pruned", rows=total)
        return total
