"""What the streams service is asked and answers."""

from __future__ import annotations

import msgspec

__all__ = [
    "Bind",
    "DeclareStream",
    "FindStreams",
    "Stream",
    "StreamMessage",
    "StreamRef",
    "StreamSubscription",
    "SubscribeStream",
    "SubscriptionName",
]


class DeclareStream(msgspec.Struct, frozen=True, kw_only=True):
    """A name for data that is published by keys: ``topic:stream.<name>.<key>``. Declared again it is the same one."""

    name: str
    description: str = ""


class StreamRef(msgspec.Struct, frozen=True):
    """``drop``: what waits for its workers is dropped; else it becomes dead letters."""

    name: str
    drop: bool = False


class FindStreams(msgspec.Struct, frozen=True, kw_only=True):
    """By name, in which ``*`` is any text and ``?`` one character; a page at a time by ``after``."""

    name: str = "*"
    after: str = ""
    limit: int = 1000


class SubscribeStream(msgspec.Struct, frozen=True, kw_only=True):
    """A durable subscription: a queue of its own, whose workers share the work, and which waits for them.

    ``patterns`` of keys, with ``*`` for a word and ``#`` for any number. Declared again it is the same one, and its
    patterns are those said last."""

    stream: str
    name: str
    patterns: tuple[str, ...] = ("#",)


class SubscriptionName(msgspec.Struct, frozen=True):
    """``drop``: what waits for its workers is dropped; else it becomes dead letters."""

    stream: str
    name: str
    drop: bool = False


class Bind(msgspec.Struct, frozen=True, kw_only=True):
    """Add patterns to a subscription, or take them away."""

    stream: str
    name: str
    patterns: tuple[str, ...]


class StreamSubscription(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    stream: str
    name: str
    patterns: tuple[str, ...]
    address: str
    """Where its workers listen and publishers send."""
    created_at: float


class Stream(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    name: str
    description: str
    owner: str
    created_at: float
    subscriptions: tuple[StreamSubscription, ...] = ()


class StreamMessage(msgspec.Struct, frozen=True, array_like=True):
    """What travels. ``content`` is the publisher's own, as msgpack has it."""

    stream: str
    key: str
    at: float
    project_id: str
    content: msgspec.Raw
