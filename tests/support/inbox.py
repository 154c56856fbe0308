"""A receiver for tests of transports."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pelagos.exchange import Delivery

__all__ = ["Inbox", "ack"]


class Inbox:
    """Keeps what it gets; ``settle`` decides what happens to each delivery at once (None: it is held)."""

    def __init__(self, settle: Callable[[Delivery], None] | None = None, *, patience: float = 15.0) -> None:
        self.deliveries: list[Delivery] = []
        self._settle = settle
        self._patience = patience
        self._came = asyncio.Event()

    def __call__(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)
        if self._settle is not None:
            self._settle(delivery)
        self._came.set()

    async def wait_for(self, count: int) -> list[Delivery]:
        async with asyncio.timeout(self._patience):
            while len(self.deliveries) < count:
                self._came.clear()
                await self._came.wait()
        return self.deliveries

    @property
    def ops(self) -> list[str]:
        return [delivery.envelope.op for delivery in self.deliveries]


def ack(delivery: Delivery) -> None:
    delivery.ack()
