"""Who asks: checks that a message's scope is one its sender may speak in.

* With an assertion: it must be genuine and valid, and say the same as the headers ``identity`` and ``expiry``, which
  may end the authority sooner but not later.
* Without one, the default scope is the system itself, and the empty one is nobody in particular; both need none. Any
  other scope is believed only from the system's own containers (``trust_containers``), which services need that work
  for users while these are away.

That the sender *is* one of the system's containers is the signature's business, which stands behind this one in the
stack. Where messages leave the interpreter without it, the broker's password is all there is.
"""

from __future__ import annotations

from typing import Any

import msgspec

from pelagos.exchange.envelope import Envelope
from pelagos.exchange.interceptors.assertions import AssertionVerifier
from pelagos.exchange.interceptors.port import unchanged_outbound
from pelagos.exchange.transport import Receiver
from pelagos.model.errors import Unauthenticated
from pelagos.model.scope import DEFAULT_SCOPE
from pelagos.model.world import World

__all__ = ["Identity", "IdentityOptions"]


class IdentityOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    trust_containers: bool = True
    """Believe the scope of a message without an assertion."""
    trust_default: bool = True
    """Believe that a message in the default scope, without an assertion, is the system's own."""


class Identity:
    """See the module's head."""

    name = "identity"
    mandatory = True
    replies = False
    outbound = unchanged_outbound

    def __init__(self, world: World, verifier: AssertionVerifier, options: IdentityOptions | None = None) -> None:
        options = options or IdentityOptions()
        self._now = world.now
        self._verifier = verifier
        self._trust_containers = options.trust_containers
        self._trust_default = options.trust_default
        self._trusting = options.trust_containers and options.trust_default
        self._refused = 0
        self._asserted = 0

    def inbound(self, envelope: Envelope, receiver: Receiver, redelivered: bool) -> Envelope:
        if self._trusting and not envelope.assertion and not envelope.expiry:
            return envelope
        try:
            self._check(envelope)
        except Unauthenticated:
            self._refused += 1
            raise
        return envelope

    def snapshot(self) -> dict[str, Any]:
        return {"asserted": self._asserted, "refused": self._refused}

    def _check(self, envelope: Envelope) -> None:
        expiry = envelope.expiry
        if expiry and expiry <= self._now():
            raise Unauthenticated(
                f"the authority that {envelope.op} came under has expired", advice="Authenticate again."
            )
        scope = envelope.identity
        if envelope.assertion:
            assertion = self._verifier.verify(envelope.assertion)
            if scope != assertion.scope:
                raise Unauthenticated(f"{envelope.op} claims another user or project than its assertion")
            if not 0 < expiry <= assertion.expires:
                raise Unauthenticated(f"{envelope.op} claims authority for longer than its assertion")
            self._asserted += 1
        elif scope is None or scope == DEFAULT_SCOPE:
            if not self._trust_default:
                raise Unauthenticated(f"{envelope.op} came without an assertion of who asks")
        elif scope.user_id and not self._trust_containers:
            raise Unauthenticated(
                f"{envelope.op} came in the scope of {scope.user_id} without an assertion",
                advice="Pass on the assertion that the user's request came with.",
            )
