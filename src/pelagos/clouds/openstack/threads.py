"""The threads of an account: the SDK blocks, so each call takes one of the world's, and no account takes them all.

A call goes on when its caller is gone: it cannot be stopped, and what it sends may have its effect. So its own end
gives its slot back, not its caller's. If the cloud hangs, the slots are taken until the sockets time out, and further
calls wait for one in vain, having sent nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar, cast

from pelagos.model.world import World

__all__ = ["Threads"]

T = TypeVar("T")


class Threads:
    """At most ``limit`` functions at once."""

    def __init__(self, world: World, limit: int) -> None:
        self._world = world
        self._slots = asyncio.Semaphore(limit)
        self._taken = 0

    @property
    def taken(self) -> int:
        """Calls under way, also those that nobody waits for any more."""
        return self._taken

    async def run(self, function: Callable[[], T]) -> T:
        """Run it in a thread when one is free. Cancellation leaves a function that was begun to itself."""
        await self._slots.acquire()
        self._taken += 1
        value, error = await asyncio.shield(self._occupied(function))
        if error is not None:
            raise error
        return cast(T, value)

    async def _occupied(self, function: Callable[[], T]) -> tuple[T | None, Exception | None]:
        """Its value, or its error as a value: nobody may be there any more to whom it could be raised."""
        try:
            return await self._world.run_blocking(function), None
        except Exception as error:  # noqa: BLE001 - raised again by whoever still waits
            return None, error
        finally:
            self._taken -= 1
            self._slots.release()
