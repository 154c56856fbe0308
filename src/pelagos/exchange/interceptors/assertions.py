"""Signed statements of who asks: what travels in ``Envelope.assertion``.

The ancestor believed the ``user-id`` that a sender wrote (reference section 8.3). Here whoever authenticates a person
(the identity service, the HTTP edge) issues an assertion under its own Ed25519 identity: user, project, roles, and
until when. Services pass it on as it came, and each container that receives it checks it against its own key ring;
nobody on the way can widen or prolong it.

Reading one needs no key and no cryptography; believing one does.
"""

from __future__ import annotations

import msgspec

from pelagos.exchange.interceptors.keyring import KeyRing
from pelagos.model.errors import InvalidInput, Unauthenticated
from pelagos.model.scope import Scope
from pelagos.model.world import World

__all__ = ["Assertion", "AssertionVerifier", "issue_assertion", "read_assertion"]

_DOMAIN = b"pelagos assertion 1"
_CACHED = 4096


class Assertion(msgspec.Struct, frozen=True):
    """Times in whole seconds since the epoch."""

    user_id: str
    project_id: str
    roles: tuple[str, ...]
    issued: int
    expires: int
    issuer: str
    """Fingerprint of the identity that signed it."""

    @property
    def scope(self) -> Scope:
        return Scope(project_id=self.project_id, user_id=self.user_id)


class _Signed(msgspec.Struct, frozen=True, array_like=True):
    body: bytes
    signature: bytes


def issue_assertion(
    ring: KeyRing, world: World, scope: Scope, *, roles: tuple[str, ...] = (), lifetime: float = 3600.0
) -> bytes:
    """An assertion, encoded, that its user may act for ``lifetime`` seconds from now.

    Raises :class:`InvalidInput` for a scope without a user, or a lifetime that is not positive."""
    if not scope.user_id:
        raise InvalidInput("an assertion is about a user; nobody asserts that somebody is anonymous")
    if not 0 < lifetime < 10 * 365 * 86400:
        raise InvalidInput(f"an assertion cannot live for {lifetime:g} s")
    now = int(world.now())
    body = msgspec.msgpack.encode(
        Assertion(scope.user_id, scope.project_id, roles, now, now + max(1, int(lifetime)), ring.fingerprint)
    )
    return msgspec.msgpack.encode(_Signed(body, ring.sign(_DOMAIN, body)))


def read_assertion(encoded: bytes) -> Assertion:
    """What it says, believed or not. Raises :class:`InvalidInput` if it is none."""
    return _read(encoded)[1]


class AssertionVerifier:
    """Checks assertions against a key ring; what was found genuine is remembered, so the cryptography runs once each.

    Whether it has expired, and whether its issuer is still trusted, is looked at every time."""

    def __init__(self, ring: KeyRing | None, world: World, *, skew: float = 5.0) -> None:
        self._ring = ring
        self._now = world.now
        self._skew = skew
        self._genuine: dict[bytes, Assertion] = {}

    def verify(self, encoded: bytes) -> Assertion:
        """Raises :class:`Unauthenticated` unless a trusted issuer signed it and it is valid now."""
        assertion = self._genuine.get(encoded)
        if assertion is None:
            assertion = self._check(encoded)
            if len(self._genuine) >= _CACHED:
                del self._genuine[next(iter(self._genuine))]
            self._genuine[encoded] = assertion
        elif self._ring is not None and assertion.issuer not in self._ring.trusted:
            del self._genuine[encoded]
            raise Unauthenticated(f"the issuer of this assertion, {assertion.issuer}, is trusted no more")
        now = self._now()
        if assertion.expires <= now:
            raise Unauthenticated(
                f"the authority of {assertion.user_id} expired {now - assertion.expires:.0f} s ago",
                advice="Authenticate again.",
            )
        if assertion.issued > now + self._skew:
            raise Unauthenticated(
                f"the authority of {assertion.user_id} begins {assertion.issued - now:.0f} s from now",
                advice="Set the clocks of both hosts.",
            )
        return assertion

    def _check(self, encoded: bytes) -> Assertion:
        if self._ring is None:
            raise Unauthenticated(
                "this container has no key ring, so it can believe no assertion", advice="Give it one: ensure_keyring."
            )
        try:
            signed, assertion = _read(encoded)
        except InvalidInput as error:
            raise Unauthenticated(error.message) from error
        self._ring.verify(assertion.issuer, signed.signature, _DOMAIN, signed.body)
        return assertion


def _read(encoded: bytes) -> tuple[_Signed, Assertion]:
    try:
        signed = msgspec.msgpack.decode(encoded, type=_Signed)
        return signed, msgspec.msgpack.decode(signed.body, type=Assertion)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidInput(f"not an assertion: {error}") from error
