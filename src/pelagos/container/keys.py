"""The key exchange of a container, as a process: announces its session, takes and gives keys, renews them.

All that it sends and believes is :class:`pelagos.exchange.interceptors.sessions.Sessions`' work; here is only when. It
should be the first process of its container: what is sent to others before they have the key waits there, two seconds
at most.

It announces itself when it starts, and again when a message comes under a session whose key it was not given (at most
four times a second), naming that session, so that its owner offers the key once more. A peer whose key it has and who
has its key is left in peace: a system of n containers costs a new one n announcements' answers, and no more.
"""

from __future__ import annotations

import asyncio

import msgspec

from pelagos.exchange.interceptors.sessions import Announcement, Offer, Sessions, Signed
from pelagos.model.errors import PelagosError
from pelagos.process import Process, get_logger, operation

__all__ = ["KeyExchangeProcess"]

log = get_logger(__name__)

_FANOUT = "fanout:keys"
_REPEAT = 0.25
"""Seconds between two announcements that ask for keys."""
_LOOK = 5.0
"""Seconds between two looks at the key ring and the sessions' ages."""
_SWITCH = 2.0
"""Seconds that peers get to take a new key before it is signed with."""


class KeyExchangeProcess(Process):
    """See the module's head. ``KeyExchangeProcess(stack.sessions)``, one a container."""

    vital = True

    def __init__(self, sessions: Sessions) -> None:
        super().__init__()
        self.sessions = sessions
        self._given: dict[str, str] = {}
        """To which of the peers' sessions which of one's own was offered."""
        self._asked_at = float("-inf")
        self._refused = 0

    @property
    def label(self) -> str:
        return "keys"

    @property
    def refused(self) -> int:
        """Announcements and offers that were not believed."""
        return self._refused

    async def on_init(self) -> None:
        self.sessions.mailbox = self.address
        self.sessions.on_unknown = self._ask
        await self.listen(_FANOUT, self._announced, Signed)

    async def on_activate(self) -> None:
        self.start_task(self._keep(), name="keys")
        self._announce()

    async def on_deactivate(self) -> None:
        self.sessions.on_unknown = None
        self.publish(_FANOUT, self.sessions.announce(leaving=True), op="announce")

    @operation
    async def offer(self, offer: Offer) -> None:
        """Another container gives its key, sealed."""
        try:
            theirs = self.sessions.accept(offer)
        except PelagosError as error:
            self._disbelieve(error)
            return
        self._give(theirs)

    async def _announced(self, signed: Signed) -> None:
        try:
            announcement = self.sessions.check(signed)
        except PelagosError as error:
            self._disbelieve(error)
            return
        if announcement.mailbox == self.address:
            return
        if announcement.leaving:
            self.sessions.leave(announcement)
            self._given.pop(announcement.session, None)
        else:
            asked = self.sessions.owns(announcement.asks)
            self._give(announcement, again=asked or self.sessions.wants(announcement))

    def _give(self, to: Announcement, *, again: bool = False) -> None:
        newest = self.sessions.newest
        if again or self._given.get(to.session) != newest:
            self._given[to.session] = newest
            self.caller.post(to.mailbox, "offer", msgspec.msgpack.encode(self.sessions.offer(to)))

    def _announce(self, asks: str = "") -> None:
        self.publish(_FANOUT, self.sessions.announce(asks=asks), op="announce")

    def _ask(self, session: str) -> None:
        now = self.world.monotonic()
        if now - self._asked_at >= _REPEAT:
            self._asked_at = now
            self._announce(session)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_LOOK)
            try:
                if await self.world.run_blocking(self.sessions.ring.reload):
                    log.info("the key ring has changed", trusted=len(self.sessions.ring.trusted))
                    self._announce()
            except PelagosError as error:
                log.error("the key ring cannot be read; the keys read last stay in use", error=str(error))
            self.sessions.prune()
            live = {announcement.session for announcement in self.sessions.peers()}
            self._given = {session: own for session, own in self._given.items() if session in live}
            if self.world.now() >= self.sessions.renew_at:
                await self._renew()

    async def _renew(self) -> None:
        for peer in self.sessions.prepare_next():
            self._give(peer)
        self._announce()
        await asyncio.sleep(_SWITCH)
        self.sessions.switch()

    def _disbelieve(self, error: PelagosError) -> None:
        self._refused += 1
        log.warning("a message of the key exchange was not believed", error=str(error))
