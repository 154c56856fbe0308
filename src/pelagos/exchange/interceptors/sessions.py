"""Session keys: how containers that trust each other's identities come to share keys for their messages' HMAC.

Signing each message with Ed25519 would cost ten times as much as an HMAC, and one key for all would never be changed.
So each container makes a *session*: a random HMAC key and an X25519 key pair. Its :class:`Announcement`, signed by its
identity, tells the X25519 key and where its key exchange listens. Who trusts that identity answers with an
:class:`Offer`: its own HMAC key, sealed to the announced X25519 key (X25519 with the offerer's own announced key, HKDF,
ChaCha20-Poly1305), and its own announcement in clear, to which the other answers in turn. That the box opens proves
that it was made by the holder of the announced X25519 key, so an offer needs no signature of its own.

A session lasts an hour. Before it ends, the next one is offered to all known peers, and only then signed with; the old
one is accepted for ``grace`` seconds longer, for what still waits in queues.

Limits. Whoever holds a session's key can sign in its name: a container that was given it can impersonate its owner
towards others. The key ring is the trust boundary, inside of which containers are believed. And a key whose identity is
revoked is forgotten when the ring is read again (every few seconds), not at the instant.

Everything here is a value, a dictionary or arithmetic: no I/O, no tasks. ``pelagos.container.keys`` sends the messages.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from pelagos.exchange.interceptors.keyring import KeyRing, fingerprint_of
from pelagos.model.errors import InvalidInput, Unauthenticated
from pelagos.model.world import World

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

__all__ = ["Announcement", "Offer", "Sessions", "SessionsSnapshot", "Signed"]

_ANNOUNCEMENT = b"pelagos announcement 1"
_BOX = b"pelagos session key 1"


class Announcement(msgspec.Struct, frozen=True):
    """What a container says of its session. Times in seconds since the epoch."""

    system: str
    container: str
    session: str
    identity: bytes
    """Raw Ed25519 public key."""
    exchange: bytes
    """Raw X25519 public key."""
    mailbox: str
    """Where offers are taken: a full process address."""
    made: int
    until: int
    asks: str = ""
    """The session whose key it lacks: its owner should offer it again."""
    leaving: bool = False


class Signed(msgspec.Struct, frozen=True):
    """An announcement with its identity's signature."""

    body: bytes
    signature: bytes


class Offer(msgspec.Struct, frozen=True):
    """``to`` is the session it is sealed to; the box holds the HMAC key of the session announced."""

    to: str
    announcement: Signed
    nonce: bytes
    box: bytes


class SessionsSnapshot(msgspec.Struct, frozen=True):
    session: str
    """The one that is signed with."""
    peers: dict[str, str]
    """Container by session."""
    wanted: int


class _Own:
    def __init__(self, session: str, key: bytes, private: X25519PrivateKey, made: int, until: int) -> None:
        self.session = session
        self.key = key
        self.private = private
        self.public = private.public_key().public_bytes_raw()
        self.made = made
        self.until = until


class _Peer:
    def __init__(self, announcement: Announcement, key: bytes) -> None:
        self.announcement = announcement
        self.fingerprint = fingerprint_of(announcement.identity)
        self.key = key
        self.until = announcement.until


class Sessions:
    """The session of one container, and the keys of its peers'. Times are in seconds."""

    def __init__(
        self,
        ring: KeyRing,
        world: World,
        *,
        container: str,
        system: str,
        lifetime: float = 3600.0,
        grace: float = 660.0,
        skew: float = 60.0,
        limit: int = 4096,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.ring = ring
        self.container = container
        self.system = system
        self.mailbox = ""
        """Set by the key exchange once it listens."""
        self.fanout = f"fanout:{system}.keys"
        self.on_unknown: Callable[[str], None] | None = None
        """Told of a session whose key is wanted."""
        place = f"to {ring.path}" if ring.path is not None else "to this host"
        self.keys_advice = (
            f"Copy <home>/keys/{system} of one of them {place}, or trust each other's public keys "
            "(identity.pub, into trusted/)."
        )
        """What to do when the keys of others and these do not match."""
        self.checked = True
        """Whether what comes in is believed only under these keys."""
        self._now = world.now
        self._lifetime = lifetime
        self._grace = grace
        self._skew = skew
        self._limit = limit
        self._entropy = entropy
        self._own: dict[str, _Own] = {}
        self._peers: dict[str, _Peer] = {}
        self._wanted: dict[str, asyncio.Future[None]] = {}
        self._current = self._next = self._make()

    # -- keys ------------------------------------------------------------------------------------------------------

    @property
    def current(self) -> tuple[str, bytes]:
        """(session, HMAC key) to sign with."""
        own = self._current
        return own.session, own.key

    @property
    def newest(self) -> str:
        """The session that is offered."""
        return self._next.session

    def owns(self, session: str) -> bool:
        return session in self._own

    def key(self, session: str) -> bytes | None:
        """The HMAC key of a session that is believed now, also one's own; None if there is none."""
        own = self._own.get(session)
        if own is not None:
            return own.key
        peer = self._peers.get(session)
        if peer is None or peer.until + self._grace < self._now():
            return None
        return peer.key

    def wait(self, session: str) -> asyncio.Future[None]:
        """Done when the key has come, or when there are too many that are waited for. It is asked for with each message
        that needs it: a question, or its answer, may have been lost, or not have been put to too many at once."""
        future = self._wanted.get(session)
        if future is None or future.done():
            if len(self._wanted) >= self._limit:
                self._wanted.pop(next(iter(self._wanted))).cancel()
            future = self._wanted[session] = asyncio.get_running_loop().create_future()
        if self.on_unknown is not None:
            self.on_unknown(session)
        return future

    # -- the exchange ----------------------------------------------------------------------------------------------

    def announce(self, *, asks: str = "", leaving: bool = False) -> Signed:
        """This container's newest session, signed."""
        own = self._next
        body = msgspec.msgpack.encode(
            Announcement(
                self.system,
                self.container,
                own.session,
                self.ring.public,
                own.public,
                self.mailbox,
                int(self._now()),
                own.until,
                asks,
                leaving,
            )
        )
        return Signed(body, self.ring.sign(_ANNOUNCEMENT, body))

    def check(self, signed: Signed) -> Announcement:
        """The announcement. Raises :class:`Unauthenticated` unless a trusted identity signed it for this system, and
        lately."""
        try:
            announcement = msgspec.msgpack.decode(signed.body, type=Announcement)
        except (msgspec.DecodeError, RecursionError) as error:
            raise InvalidInput(f"not an announcement of a session: {error}") from error
        self.ring.verify(fingerprint_of(announcement.identity), signed.signature, _ANNOUNCEMENT, signed.body)
        now = self._now()
        if announcement.system != self.system:
            raise Unauthenticated(f"{announcement.container} belongs to the system {announcement.system!r}")
        if abs(announcement.made - now) > self._skew or announcement.until + self._skew < now:
            raise Unauthenticated(
                f"the announcement of {announcement.container} is {now - announcement.made:.0f} s old",
                advice="Set the clocks of both hosts.",
            )
        return announcement

    def stranger(self, signed: Signed) -> Announcement | None:
        """Of an announcement that :meth:`check` did not believe: what it says, if whoever it names made it lately for
        this system, and only its identity is not trusted. None for what proves nothing."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            announcement = msgspec.msgpack.decode(signed.body, type=Announcement)
            key = Ed25519PublicKey.from_public_bytes(announcement.identity)
            key.verify(signed.signature, _ANNOUNCEMENT + b"\0" + signed.body)
        except (msgspec.DecodeError, RecursionError, ValueError, InvalidSignature):
            return None
        late = abs(announcement.made - self._now()) > self._skew
        known = fingerprint_of(announcement.identity) in self.ring.trusted
        return None if late or known or announcement.system != self.system else announcement

    def wants(self, announcement: Announcement) -> bool:
        """Whether its key is unknown here."""
        return announcement.session not in self._own and announcement.session not in self._peers

    def offer(self, to: Announcement) -> Offer:
        """The newest session's key, sealed to a checked announcement."""
        own = self._next
        signed = self.announce()
        nonce = self._entropy(12)
        key = _box_key(own.private, to.exchange, own.session, to.session)
        box = _cipher(key).encrypt(nonce, own.key, signed.body)
        return Offer(to.session, signed, nonce, box)

    def accept(self, offer: Offer) -> Announcement:
        """Take a peer's key. Raises :class:`Unauthenticated` if its announcement is not to be believed, or the box was
        not sealed by who made it."""
        from cryptography.exceptions import InvalidTag

        announcement = self.check(offer.announcement)
        own = self._own.get(offer.to)
        if own is None:
            raise Unauthenticated(f"an offer for the session {offer.to}, which is not this container's")
        key = _box_key(own.private, announcement.exchange, announcement.session, own.session)
        try:
            secret = _cipher(key).decrypt(offer.nonce, offer.box, offer.announcement.body)
        except (InvalidTag, ValueError):
            raise Unauthenticated(f"an offer that {announcement.container} never sealed") from None
        if announcement.session in self._own:
            return announcement
        if len(self._peers) >= self._limit:
            del self._peers[min(self._peers, key=lambda session: self._peers[session].until)]
        self._peers[announcement.session] = _Peer(announcement, secret)
        waiting = self._wanted.pop(announcement.session, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)
        return announcement

    def leave(self, announcement: Announcement) -> None:
        """It says that it goes: what it has sent is believed for the time of grace."""
        peer = self._peers.get(announcement.session)
        if peer is not None:
            peer.until = min(peer.until, int(self._now()))

    # -- time ------------------------------------------------------------------------------------------------------

    def prepare_next(self) -> list[Announcement]:
        """Make the next session; returns the peers to offer it to. Then :meth:`switch`, when they have had time."""
        self._next = self._make()
        return self.peers()

    def switch(self) -> None:
        """Sign with the newest session from now on."""
        self._current = self._next

    def peers(self) -> list[Announcement]:
        """The newest session of each mailbox that is believed."""
        newest: dict[str, Announcement] = {}
        for peer in self._peers.values():
            if peer.until >= self._now():
                newest[peer.announcement.mailbox] = peer.announcement
        return list(newest.values())

    @property
    def renew_at(self) -> float:
        """When the next session should be made."""
        return self._next.made + self._lifetime * 0.8

    def prune(self) -> None:
        """Forget what has ended, whose identity is not trusted any more, and whom nobody waits for."""
        now = self._now()
        trusted = self.ring.trusted
        for session, peer in list(self._peers.items()):
            if peer.until + self._grace < now or peer.fingerprint not in trusted:
                del self._peers[session]
        for session, own in list(self._own.items()):
            if own.until + self._grace < now and own is not self._current and own is not self._next:
                del self._own[session]
        for session, future in list(self._wanted.items()):
            if future.done():
                del self._wanted[session]

    def snapshot(self) -> SessionsSnapshot:
        return SessionsSnapshot(
            self._current.session,
            {session: peer.announcement.container for session, peer in self._peers.items()},
            len(self._wanted),
        )

    def _make(self) -> _Own:
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

        now = int(self._now())
        own = _Own(
            self._entropy(16).hex(),
            self._entropy(32),
            X25519PrivateKey.from_private_bytes(self._entropy(32)),
            now,
            now + int(self._lifetime),
        )
        self._own[own.session] = own
        return own


def _box_key(private: X25519PrivateKey, public: bytes, sender: str, receiver: str) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    try:
        secret = private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise Unauthenticated(f"an X25519 key that is none: {error}") from error
    # Both sessions, in their order: the two directions have two keys.
    info = _BOX + b"\0" + sender.encode() + b"\0" + receiver.encode()
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(secret)


def _cipher(key: bytes):  # type: ignore[no-untyped-def]
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    return ChaCha20Poly1305(key)
