"""Signed messages: who sends under this system's name is one of its containers, and said just this, once.

What is signed is the whole envelope but for the signature: all headers and the content, its receiver and the name of
the signer included. Nothing of it is changed by a transport. It is encoded as the list of all fields, not as it
travels: there a field is left out that holds its default, which msgspec judges by identity, so the same message may be
encoded in two ways. There are two kinds of signatures:

* HMAC-SHA256 under the sender's session key (:mod:`pelagos.exchange.interceptors.sessions`), for almost everything.
* Ed25519 by the identity itself, ten times dearer, for what may outlive its session: a message to a service without a
  deadline, or with one that is farther away than a session's key is kept. It may wait in a durable queue for days,
  through restarts of everybody, and must still be told from a forgery.

A receiver refuses what is not signed, signed by nobody it trusts, changed, addressed to somebody else than it came to,
too old, from the future, or here already. A message is old when ``window`` seconds have passed since it was sent, and
the time besides that it may have waited: what its deadline leaves it, ``max_wait`` at most. In durable queues, age is
no reason to refuse, nor is having been here: delivery there is at least once by contract, and effects are once by the
request's id. What the broker says it delivers again was here, which is no replay either, also if this container has
restarted since and does not remember.

A session's key that is not known yet may be on its way: the message waits for it
(:class:`~pelagos.exchange.interceptors.port.Undecided`).

Limits. What has been seen is remembered by each container for itself: a message recorded on the broker can be sent
again, within its time, to another container that serves the same address; effects that must be once are so by the
request's id. Whoever may consume from a queue on the broker can have a message marked as delivered again. And a
container that was given a session's key can sign in its owner's name: the key ring is the trust boundary.
"""

from __future__ import annotations

import enum
import hmac
from typing import Any

import msgspec

from pelagos.exchange.address import topic_matches
from pelagos.exchange.envelope import Envelope
from pelagos.exchange.interceptors.keyring import KeyRing
from pelagos.exchange.interceptors.port import Undecided
from pelagos.exchange.interceptors.replay import SeenMessages
from pelagos.exchange.interceptors.sessions import Sessions
from pelagos.exchange.transport import Receiver
from pelagos.model.errors import PelagosError, Unauthenticated
from pelagos.model.world import World

__all__ = ["KEY_OPERATIONS", "Mode", "Signature", "SignatureOptions"]

KEY_OPERATIONS = ("announce", "offer")
"""The messages of the key exchange, which cannot be signed under keys that they bring; Ed25519 verifies them."""
_MESSAGE = b"pelagos message 1"
_LASTING = "ed25519:"

_encode = msgspec.msgpack.Encoder().encode
_fields = msgspec.structs.astuple
_replace = msgspec.structs.replace


class Mode(enum.StrEnum):
    OFF = "off"
    SIGN = "sign"
    """Sign what goes out; of what comes in, believe what is unsigned and check what is signed. For going over."""
    REQUIRE = "require"


class SignatureOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Times in seconds."""

    mode: Mode = Mode.REQUIRE
    window: float = 60.0
    """By how much clocks may differ, and how long a message may be under way."""
    max_wait: float = 600.0
    """How long a message may have waited in a queue besides."""
    remember: int = 500_000
    """Messages of one signer that are remembered."""
    keys: str = ""
    """The key ring's directory; empty: where the container keeps it."""


class Signature:
    """See the module's head."""

    name = "signature"
    mandatory = True

    def __init__(self, world: World, sessions: Sessions, options: SignatureOptions | None = None) -> None:
        options = options or SignatureOptions()
        self.sessions = sessions
        self._ring: KeyRing = sessions.ring
        self._now = world.now
        self._mode = options.mode
        self._window = options.window
        self._max_wait = options.max_wait
        self._remember = options.remember
        self._seen: dict[str, SeenMessages] = {}
        self._counts = dict.fromkeys(("signed", "verified", "lasting", "unsigned", "forged", "stale", "replayed"), 0)

    # -- sending ---------------------------------------------------------------------------------------------------

    def outbound(self, envelope: Envelope) -> Envelope:
        if self._mode is Mode.OFF or (envelope.op in KEY_OPERATIONS and envelope.sender == self.sessions.mailbox):
            return envelope
        ts = envelope.ts or int(self._now() * 1000)
        self._counts["signed"] += 1
        if self._lasts(envelope):
            named = _replace(envelope, signer=_LASTING + self._ring.fingerprint, signature=b"", ts=ts)
            return _replace(named, signature=self._ring.sign(_MESSAGE, _encode(_fields(named))))
        session, key = self.sessions.current
        named = _replace(envelope, signer=session, signature=b"", ts=ts)
        return _replace(named, signature=hmac.digest(key, _encode(_fields(named)), "sha256"))

    def renew(self, envelope: Envelope) -> Envelope | None:
        """A message that was signed by a peer, signed anew; None if that cannot be told, or nothing is signed."""
        if self._mode is Mode.OFF:
            return None
        try:
            self._verify(envelope)
        except (PelagosError, Undecided):
            return None
        return self.outbound(_replace(envelope, ts=int(self._now() * 1000)))

    def _lasts(self, envelope: Envelope) -> bool:
        remaining = envelope.remaining_ms
        return (
            (remaining is None or remaining > self._max_wait * 1000)
            and envelope.receiver.startswith("service:")
            and not envelope.is_reply
        )

    # -- receiving -------------------------------------------------------------------------------------------------

    def inbound(self, envelope: Envelope, receiver: Receiver, redelivered: bool) -> Envelope:
        if self._mode is Mode.OFF:
            return envelope
        if not envelope.signature:
            if self._is_key_exchange(envelope, receiver):
                return envelope
            self._counts["unsigned"] += 1
            if self._mode is Mode.REQUIRE:
                raise Unauthenticated(
                    f"{envelope.op} is not signed; this container requires that",
                    advice="Start the container it comes from with the signature interceptor and a trusted key.",
                )
            return envelope
        self._verify(envelope)
        self._check_address(envelope, receiver)
        self._check_freshness(envelope, receiver, redelivered)
        self._counts["verified"] += 1
        return _replace(envelope, signer="", signature=b"")

    def _is_key_exchange(self, envelope: Envelope, receiver: Receiver) -> bool:
        sessions = self.sessions
        return (
            envelope.op in KEY_OPERATIONS
            and envelope.reply_to is None
            and (receiver.address == sessions.fanout or receiver.address == sessions.mailbox)
        )

    def _verify(self, envelope: Envelope) -> None:
        signer = envelope.signer
        body = _encode(_fields(_replace(envelope, signature=b"")))
        if signer.startswith(_LASTING):
            self._counts["lasting"] += 1
            try:
                self._ring.verify(signer.removeprefix(_LASTING), envelope.signature, _MESSAGE, body)
            except Unauthenticated:
                self._counts["forged"] += 1
                raise
            return
        key = self.sessions.key(signer)
        if key is None:
            raise Undecided(
                self.sessions.wait(signer),
                Unauthenticated(
                    f"{envelope.op} of {envelope.sender} is signed under a session {signer[:40]!r} whose key did not "
                    f"come: the keys of {self.sessions.container} and of whoever sent it do not match",
                    advice=self.sessions.keys_advice,
                ),
            )
        if not hmac.compare_digest(hmac.digest(key, body, "sha256"), envelope.signature):
            self._counts["forged"] += 1
            raise Unauthenticated(
                f"the signature of {envelope.op} is wrong: it was changed on its way, or is a forgery",
                advice="Find out who else can write to the broker.",
            )

    def _check_address(self, envelope: Envelope, receiver: Receiver) -> None:
        """A message that was meant for one receiver proves nothing to another."""
        meant, here = envelope.receiver, receiver.address
        if meant == here:
            return
        if here.startswith("topic:") and meant.startswith("topic:") and topic_matches(here[6:], meant[6:]):
            return
        self._counts["forged"] += 1
        raise Unauthenticated(f"{envelope.op} was sent to {meant} and came to {here}")

    def _check_freshness(self, envelope: Envelope, receiver: Receiver, redelivered: bool) -> None:
        now = self._now()
        sent = envelope.ts / 1000
        if sent > now + self._window:
            self._counts["stale"] += 1
            raise Unauthenticated(
                f"{envelope.op} was sent {sent - now:.0f} s from now", advice="Set the clocks of both hosts."
            )
        if receiver.durable:
            return
        remaining = envelope.remaining_ms
        wait = self._max_wait if remaining is None else min(remaining / 1000, self._max_wait)
        until = sent + wait + self._window
        if redelivered:
            if until >= now:
                self._remembered(envelope, receiver, until, now)
            return
        if until < now:
            self._counts["stale"] += 1
            raise Unauthenticated(
                f"{envelope.op} was sent {now - sent:.0f} s ago; it is too old to be believed",
                advice="Set the clocks of both hosts, or send it again.",
            )
        if not self._remembered(envelope, receiver, until, now):
            self._counts["replayed"] += 1
            raise Unauthenticated(f"{envelope.op} has been here already: it is a replay")

    def _remembered(self, envelope: Envelope, receiver: Receiver, until: float, now: float) -> bool:
        """Whether it is new. Each subscription of a fan-out or topic has its own copy, hence the receiver; receivers of
        one service, and of one mailbox in its next life, share theirs."""
        seen = self._seen.get(envelope.signer)
        if seen is None:
            self._forget_signers()
            seen = self._seen[envelope.signer] = SeenMessages(self._remember)
        address = receiver.address
        place: object = id(receiver) if address.startswith(("fanout:", "topic:")) else address
        return seen.add(hash((envelope.signature, place)), until, now)

    def _forget_signers(self) -> None:
        for signer in list(self._seen):
            if not signer.startswith(_LASTING) and self.sessions.key(signer) is None:
                del self._seen[signer]

    def snapshot(self) -> dict[str, Any]:
        return {
            **self._counts,
            "mode": self._mode.value,
            "remembered": sum(len(seen) for seen in self._seen.values()),
            "sessions": msgspec.to_builtins(self.sessions.snapshot()),
        }
