"""Dead letters of the in-memory transport: a dictionary, as long-lived as the interpreter."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable

from pelagos.exchange.envelope import Envelope
from pelagos.exchange.memory_queue import MemoryDelivery
from pelagos.exchange.transport import DeadLetter
from pelagos.model.errors import NotFound
from pelagos.model.world import World

__all__ = ["MemoryDeadLetters"]


class MemoryDeadLetters:
    """See :class:`pelagos.exchange.transport.DeadLetters`. ``lost`` is called for each one dropped for want of room."""

    def __init__(
        self, world: World, publish: Callable[[Envelope], Awaitable[None]], lost: Callable[[], None], limit: int
    ) -> None:
        self.buried = 0
        self._world = world
        self._publish = publish
        self._lost = lost
        self._limit = limit
        self._letters: dict[str, DeadLetter] = {}

    def bury(self, delivery: MemoryDelivery, reason: str) -> None:
        self.buried += 1
        letter = DeadLetter(
            id=self._world.new_id(),
            at=self._world.now(),
            address=delivery.queue.address,
            reason=reason,
            deliveries=delivery.handed_out,
            envelope=delivery.envelope,
        )
        self._letters[letter.id] = letter
        if len(self._letters) > self._limit:
            del self._letters[next(iter(self._letters))]
            self._lost()

    async def list(self, limit: int = 100) -> list[DeadLetter]:
        return list(itertools.islice(self._letters.values(), limit))

    async def get(self, letter_id: str) -> DeadLetter:
        try:
            return self._letters[letter_id]
        except KeyError:
            raise NotFound(f"there is no dead letter {letter_id}", advice="pelagos dead-letters list") from None

    async def retry(self, letter_id: str) -> None:
        letter = await self.get(letter_id)
        assert letter.envelope is not None  # what cannot be read does not come so far inside one interpreter
        await self._publish(letter.envelope)
        self._letters.pop(letter_id, None)

    async def drop(self, letter_id: str) -> None:
        await self.get(letter_id)
        self._letters.pop(letter_id, None)
