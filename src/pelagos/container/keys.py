"""The key exchange of a container, as a process: announces its session, takes and gives keys, renews them.

All that it sends and believes is :class:`pelagos.exchange.interceptors.sessions.Sessions`' work; here is only when. It
should be the first process of its container: what is sent to others before they have the key waits there, two seconds
at most.

It announces itself when it starts, and again when a message comes under a session whose key it was not given (at most
four times a second), naming that session, so that its owner offers the key once more. A peer whose key it has and who
has its key is left in peace: a system of n containers costs a new one n announcements' answers, and no more.

Containers whose keys do not match would compete for work whose messages they then refuse. So who hears an announcement
that it does not believe tells its maker so, once a session, by an announcement of its own to that mailbox; and a new
container does nothing before :meth:`KeyExchangeProcess.meet` has listened for who is there. The way rejected, to stay
silent towards strangers, has each of them look like an empty system to the other.
"""

from __future__ import annotations

import asyncio

import msgspec

from pelagos.exchange.interceptors.keyring import fingerprint_of
from pelagos.exchange.interceptors.refusing import Sparingly
from pelagos.exchange.interceptors.sessions import Announcement, Offer, Sessions, Signed
from pelagos.model.errors import PelagosError, Unauthenticated
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
_MEET = 1.0
"""Seconds in which the other containers of a system have answered a new one."""
_STRANGERS = 256
"""That are remembered: anybody who can write to the broker can make them up."""


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
        self._met = asyncio.Event()
        self._strangers: dict[str, Announcement] = {}
        """Who does not trust this container, or is not trusted here, by mailbox."""
        self._answered: dict[str, None] = {}
        """Sessions whose makers were told that they are not believed."""
        self._telling = Sparingly()
        self._meeting = False
        """Of strangers, :meth:`meet` tells then."""

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

    async def meet(self, patience: float = _MEET) -> None:
        """Return as soon as keys are exchanged with another container of the system, or when ``patience`` seconds have
        passed and nobody is there. Raises :class:`Unauthenticated` if others are, and their keys and this one's do not
        match: nothing it sends would be believed, and what it takes from queues would be lost to those who are."""
        self._meeting = True
        try:
            async with asyncio.timeout(patience):
                await self._met.wait()
        except TimeoutError:
            if not self._strangers or not self.sessions.checked:
                return
            names = sorted({stranger.container for stranger in self._strangers.values()})
            raise Unauthenticated(
                f"the containers of system {self.sessions.system} use other keys than this one "
                f"(fingerprint {self.sessions.ring.fingerprint}): {', '.join(names[:5])}",
                advice=self.sessions.keys_advice,
                details={
                    "containers": names,
                    "fingerprints": sorted({fingerprint_of(one.identity) for one in self._strangers.values()}),
                },
            ) from None
        finally:
            self._meeting = False
        for stranger in list(self._strangers.values()):
            self._tell(stranger)

    @operation
    async def announce(self, signed: Signed) -> None:
        """Another container does not believe this one's announcement; it says who it is."""
        try:
            theirs = self.sessions.check(signed)
        except PelagosError as error:
            stranger = self.sessions.stranger(signed)
            if stranger is None or not self.sessions.owns(stranger.asks):
                self._disbelieve(error)
            else:
                self._estranged(stranger)
            return
        if self.sessions.owns(theirs.asks) and theirs.mailbox != self.address:
            self._estranged(theirs)

    @operation
    async def offer(self, offer: Offer) -> None:
        """Another container gives its key, sealed."""
        try:
            theirs = self.sessions.accept(offer)
        except PelagosError as error:
            stranger = self.sessions.stranger(offer.announcement)
            if stranger is None or not self.sessions.owns(offer.to):
                self._disbelieve(error)
            else:
                self._estranged(stranger)
            return
        self._strangers.pop(theirs.mailbox, None)
        self._met.set()
        self._give(theirs)

    async def _announced(self, signed: Signed) -> None:
        try:
            announcement = self.sessions.check(signed)
        except PelagosError as error:
            stranger = self.sessions.stranger(signed)
            if stranger is None:
                self._disbelieve(error)
            elif stranger.leaving:
                self._strangers.pop(stranger.mailbox, None)
            else:
                self._estranged(stranger)
                self._answer(stranger)
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

    def _estranged(self, stranger: Announcement) -> None:
        self._refused += 1
        if stranger.mailbox in self._strangers or len(self._strangers) < _STRANGERS:
            self._strangers[stranger.mailbox] = stranger
        if not self._meeting:
            self._tell(stranger)

    def _tell(self, stranger: Announcement) -> None:
        fingerprint = fingerprint_of(stranger.identity)
        untold = self._telling.tell((stranger.container, fingerprint), self.world.monotonic())
        if untold is not None:
            trusted = fingerprint in self.sessions.ring.trusted
            log.warning(
                "a container of this system uses other keys; what it and this one say to each other is refused",
                container=stranger.container,
                fingerprint=fingerprint,
                reason="it does not trust this one's key" if trusted else "its key is not trusted here",
                advice="If it belongs to the system, trust each other's public keys (identity.pub, into trusted/), or "
                "have one key ring on both hosts.",
                **({"times_before": untold} if untold else {}),
            )

    def _answer(self, stranger: Announcement) -> None:
        """Once a session: whoever is told may announce itself again, and would be told again."""
        if not self.sessions.checked or stranger.session in self._answered:
            return
        if not stranger.mailbox.startswith(f"process:{stranger.container}."):
            return  # its own mailbox only
        if len(self._answered) >= _STRANGERS:
            del self._answered[next(iter(self._answered))]
        self._answered[stranger.session] = None
        told = self.sessions.announce(asks=stranger.session)
        self.caller.post(stranger.mailbox, "announce", msgspec.msgpack.encode(told))

    def _disbelieve(self, error: PelagosError) -> None:
        self._refused += 1
        untold = self._telling.tell(error.code, self.world.monotonic())
        if untold is not None:
            more = {"times_before": untold} if untold else {}
            log.warning("a message of the key exchange was not believed", error=str(error), **more)
