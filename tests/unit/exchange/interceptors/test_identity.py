"""Assertions, and whom the identity interceptor believes."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from pelagos.exchange import Envelope, Performative, Receiver
from pelagos.exchange.interceptors import (
    AssertionVerifier,
    Identity,
    IdentityOptions,
    issue_assertion,
    read_assertion,
)
from pelagos.model import DEFAULT_SCOPE, Scope
from pelagos.model.errors import InvalidInput, Unauthenticated
from pelagos.model.policy import ANONYMOUS_SCOPE
from pelagos.process import Context, acting_as
from pelagos.simulation import SimulatedWorld
from support.interceptors import ring

pytestmark = pytest.mark.anyio

ALICE = Scope("shop", "alice")
RECEIVER = Receiver("service:test.store")


def envelope(**headers: Any) -> Envelope:
    return Envelope(RECEIVER.address, "process:a.1", "put", Performative.REQUEST, "c#1", **headers)


def asserted(assertion: bytes, **headers: Any) -> Envelope:
    said = read_assertion(assertion)
    return envelope(**{"identity": said.scope, "expiry": said.expires, "assertion": assertion, **headers})


def refused(identity: Identity, one: Envelope) -> str:
    with pytest.raises(Unauthenticated) as raised:
        identity.inbound(one, RECEIVER, False)
    return str(raised.value)


async def test_a_genuine_assertion_is_believed_until_it_expires() -> None:
    world, issuer = SimulatedWorld(), ring()
    identity = Identity(world, AssertionVerifier(ring(issuer), world))
    assertion = issue_assertion(issuer, world, ALICE, roles=("stocker",), lifetime=100)
    one = asserted(assertion)
    assert identity.inbound(one, RECEIVER, False) is one
    await asyncio.sleep(99)
    assert identity.inbound(one, RECEIVER, False) is one
    await asyncio.sleep(1)
    assert "expired" in refused(identity, one)


async def test_an_assertion_must_agree_with_the_headers() -> None:
    world, issuer = SimulatedWorld(), ring()
    identity = Identity(world, AssertionVerifier(issuer, world))
    assertion = issue_assertion(issuer, world, ALICE, lifetime=100)
    expires = read_assertion(assertion).expires
    assert "another user" in refused(identity, asserted(assertion, identity=Scope("shop", "root")))
    assert "another user" in refused(identity, asserted(assertion, identity=Scope("bank", "alice")))
    assert "another user" in refused(identity, asserted(assertion, identity=None))
    assert "for longer" in refused(identity, asserted(assertion, expiry=expires + 1))
    assert "for longer" in refused(identity, asserted(assertion, expiry=0))
    identity.inbound(asserted(assertion, expiry=expires - 50), RECEIVER, False)
    assert identity.snapshot() == {"asserted": 1, "refused": 5}


async def test_forged_foreign_and_revoked_assertions() -> None:
    world, issuer, stranger = SimulatedWorld(), ring(), ring()
    ours = ring(issuer)
    identity = Identity(world, AssertionVerifier(ours, world))
    genuine = issue_assertion(issuer, world, ALICE)
    assert "not trusted" in refused(identity, asserted(issue_assertion(stranger, world, ALICE)))
    assert "not an assertion" in refused(identity, envelope(identity=ALICE, expiry=2**40, assertion=b"junk"))
    body, signature = msgspec.msgpack.decode(genuine)
    widened = msgspec.msgpack.encode(
        (msgspec.msgpack.encode({**msgspec.msgpack.decode(body), "roles": ["admin"]}), signature)
    )
    assert "never made" in refused(identity, asserted(widened))
    identity.inbound(asserted(genuine), RECEIVER, False)
    ours.disbelieve(issuer.fingerprint)
    assert "no more" in refused(identity, asserted(genuine))
    assert "no key ring" in refused(Identity(world, AssertionVerifier(None, world)), asserted(genuine))


async def test_an_assertion_from_the_future_waits_for_its_time() -> None:
    world, issuer = SimulatedWorld(), ring()
    ahead = SimulatedWorld()
    ahead.now = lambda: world.now() + 30  # type: ignore[method-assign]
    identity = Identity(world, AssertionVerifier(issuer, world))
    assert "begins" in refused(identity, asserted(issue_assertion(issuer, ahead, ALICE)))


async def test_scopes_without_an_assertion() -> None:
    world = SimulatedWorld()
    verifier = AssertionVerifier(ring(), world)
    trusting = Identity(world, verifier)
    strict = Identity(world, verifier, IdentityOptions(trust_containers=False))
    strictest = Identity(world, verifier, IdentityOptions(trust_containers=False, trust_default=False))
    for scope, believing in (
        (ALICE, [trusting]),
        (DEFAULT_SCOPE, [trusting, strict]),
        (None, [trusting, strict]),
        (ANONYMOUS_SCOPE, [trusting, strict, strictest]),
    ):
        one = envelope(identity=scope)
        for identity in (trusting, strict, strictest):
            if identity in believing:
                assert identity.inbound(one, RECEIVER, False) is one
            else:
                assert "without an assertion" in refused(identity, one)


async def test_an_expired_authority_is_refused_without_an_assertion_too() -> None:
    world = SimulatedWorld()
    identity = Identity(world, AssertionVerifier(None, world))
    assert "expired" in refused(identity, envelope(expiry=int(world.now()) - 1))
    assert identity.inbound(envelope(expiry=int(world.now()) + 9), RECEIVER, False)


async def test_switching_to_another_user() -> None:
    world, issuer = SimulatedWorld(), ring()
    assertion = issue_assertion(issuer, world, ALICE, lifetime=60)
    context = acting_as(Context(DEFAULT_SCOPE, deadline=5.0, trace="t"), assertion)
    expires = int(world.now()) + 60
    assert context == Context(ALICE, deadline=5.0, trace="t", assertion=assertion, expiry=expires)
    with pytest.raises(InvalidInput):
        acting_as(context, b"junk")


async def test_nobody_asserts_nobody_nor_for_ever() -> None:
    world = SimulatedWorld()
    with pytest.raises(InvalidInput):
        issue_assertion(ring(), world, ANONYMOUS_SCOPE)
    for lifetime in (0, -1, float("inf"), float("nan")):
        with pytest.raises(InvalidInput):
            issue_assertion(ring(), world, ALICE, lifetime=lifetime)
