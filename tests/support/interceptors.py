"""Stacks of interceptors for tests."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pelagos.exchange import Transport
from pelagos.exchange.interceptors import (
    InterceptedTransport,
    KeyRing,
    ServiceNames,
    Stack,
    StackEntry,
    Surroundings,
    build_stack,
)
from pelagos.model import World

FULL = ("trace", "deadline", "statistics", "policy", "identity", "signature")
ANY_TIME = (
    "trace",
    {"deadline": {"skew": 1e9}},
    "statistics",
    "policy",
    "identity",
    {"signature": {"window": 1e9}},
)
"""The full stack, for messages with a time of their own."""


def ring(*trusting: KeyRing) -> KeyRing:
    """A key ring in memory that trusts the given ones' identities."""
    return KeyRing(Ed25519PrivateKey.generate(), [other.public_key for other in trusting])


def stack(
    world: World,
    entries: tuple[StackEntry, ...] = FULL,
    *,
    keys: KeyRing | None = None,
    container: str = "c",
    system: str = "test",
    **more: Any,
) -> Stack:
    services = more.pop("services", None) or ServiceNames(system=system, container=container)
    around = Surroundings(world, container, system, services, local=False, ring=keys or ring(), **more)
    return build_stack(entries, around)


def intercepted(inner: Transport, world: World, **more: Any) -> InterceptedTransport:
    """A transport behind the full stack, which signs and requires signatures."""
    return InterceptedTransport(inner, stack(world, **more).interceptors, world)
