"""Dead letters behind a stack: what is sent again is signed again.

A letter may be days old; its signature is outside of every window by then, and its session's key forgotten. So a retry
signs it anew, but only if it still can be told that the letter came from a peer: one that was refused as a forgery must
not become genuine because a person had it sent once more. Such a one goes out as it is, and is refused again. So
does what was meant for another address than it came to: whoever put it there would have it replayed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import msgspec

from pelagos.exchange.envelope import Envelope
from pelagos.exchange.interceptors.port import Interceptor
from pelagos.exchange.transport import DeadLetter, Transport

__all__ = ["Renewing", "ResigningDeadLetters"]


@runtime_checkable
class Renewing(Protocol):
    """An interceptor whose outbound work goes stale."""

    def renew(self, envelope: Envelope) -> Envelope | None:
        """The message as if it were sent now; None if it must not be, or need not."""
        ...


class ResigningDeadLetters:
    """See the module's head and :class:`pelagos.exchange.transport.DeadLetters`."""

    def __init__(self, inner: Transport, stack: Sequence[Interceptor]) -> None:
        self._inner = inner
        self._renewing = [interceptor for interceptor in stack if isinstance(interceptor, Renewing)]

    async def list(self, limit: int = 100) -> list[DeadLetter]:
        return [_unsigned(letter) for letter in await self._inner.dead_letters.list(limit)]

    async def get(self, letter_id: str) -> DeadLetter:
        return _unsigned(await self._inner.dead_letters.get(letter_id))

    async def retry(self, letter_id: str) -> None:
        letter = await self._inner.dead_letters.get(letter_id)
        envelope = letter.envelope
        if envelope is not None and envelope.receiver == letter.address:
            for interceptor in self._renewing:
                renewed = interceptor.renew(envelope)
                if renewed is not None:
                    # Sent first, then forgotten: a crash between the two sends it twice and loses nothing.
                    await self._inner.publish(renewed)
                    await self.drop(letter_id)
                    return
        await self._inner.dead_letters.retry(letter_id)

    async def drop(self, letter_id: str) -> None:
        await self._inner.dead_letters.drop(letter_id)


def _unsigned(letter: DeadLetter) -> DeadLetter:
    """As its receiver would have seen it."""
    if letter.envelope is None or not letter.envelope.signature:
        return letter
    return msgspec.structs.replace(letter, envelope=msgspec.structs.replace(letter.envelope, signer="", signature=b""))
