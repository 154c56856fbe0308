"""Reading topics in order: the part of a live subscription that does not care what the messages mean.

One queue a pattern in the transport, bounded there; one task, which handles one message at a time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from pelagos.exchange import Delivery, Envelope, Receiver, Subscription, topic_matches
from pelagos.process import Process

__all__ = ["TopicReader"]

_PREFETCH = 64


class TopicReader:
    """Subclasses say what to do with a message, in :meth:`handle`, which must not raise."""

    def __init__(self, process: Process, addresses: Sequence[str], capacity: int, label: str) -> None:
        self._process = process
        self._addresses = [process.container.names.full(address) for address in addresses]
        self._capacity = capacity
        self._label = label
        self._waiting: deque[Delivery] = deque()
        self._wake: asyncio.Future[None] | None = None
        self._subscriptions: list[Subscription] = []
        self._task: asyncio.Task[None] | None = None

    async def handle(self, envelope: Envelope) -> None:
        """Do what is to be done with a message."""
        raise NotImplementedError

    async def cancel(self) -> None:
        """No message comes any more; the one being handled is cancelled. Idempotent. Not for the handler itself to
        call: it would wait for its own end."""
        await self._close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def begin(self) -> None:
        """Raises Unavailable (the exchange has stopped), Conflict (the process does not run)."""
        transport = self._process.container.transport
        prefetch = max(1, min(_PREFETCH, self._capacity))
        try:
            for index, address in enumerate(self._addresses):
                receiver = Receiver(address, prefetch=prefetch, capacity=self._capacity)
                self._subscriptions.append(await transport.subscribe(receiver, self._admitter(index)))
            self._task = self._process.start_task(self._run(), name=self._label)
        except BaseException:
            await self._close()
            raise

    def _admitter(self, index: int) -> Callable[[Delivery], None]:
        if index == 0:
            return self._admit
        earlier = [address.partition(":")[2] for address in self._addresses[:index]]

        def admit(delivery: Delivery) -> None:
            # Each pattern has its own queue; what fits several comes through the first of them alone.
            topic = delivery.envelope.receiver.partition(":")[2]
            if any(topic_matches(pattern, topic) for pattern in earlier):
                delivery.ack()
            else:
                self._admit(delivery)

        return admit

    def _admit(self, delivery: Delivery) -> None:
        self._waiting.append(delivery)
        wake = self._wake
        if wake is not None:
            self._wake = None
            if not wake.done():
                wake.set_result(None)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        waiting = self._waiting
        try:
            while True:
                if not waiting:
                    self._wake = loop.create_future()
                    await self._wake
                    continue
                delivery = waiting.popleft()
                await self.handle(delivery.envelope)
                delivery.ack()
        finally:
            await self._close()

    async def _close(self) -> None:
        while self._subscriptions:
            await self._subscriptions.pop().close()
        self._waiting.clear()
