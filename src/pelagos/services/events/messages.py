"""What is said about events: the event itself as subscribers get it, and the commands of the events service."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

__all__ = [
    "Declare",
    "EventTypeInfo",
    "Publish",
    "Published",
    "PublishedEvent",
    "Seek",
    "SubscriptionInfo",
    "SubscriptionRef",
]

T = TypeVar("T")


class PublishedEvent(msgspec.Struct, frozen=True, omit_defaults=True, array_like=True, gc=False):
    """An event in a subscriber's hands. ``position`` is 0 if it is in no store. Times in wall-clock seconds."""

    type: str
    origin: str
    at: float
    project_id: str
    user_id: str
    position: int = 0
    data: dict[str, Any] = {}

    def payload(self, cls: Callable[..., T]) -> T:
        """The data as the type's Struct. Raises msgspec.ValidationError if it is not one."""
        value: T = msgspec.convert(self.data, cls)
        return value


class Publish(msgspec.Struct, frozen=True, kw_only=True):
    """For those who have no publisher of their own."""

    type: str
    origin: str
    payload: Any = None


class Published(msgspec.Struct, frozen=True):
    position: int
    """0: its type is not kept."""


class Declare(msgspec.Struct, frozen=True, kw_only=True):
    """A durable subscription. It is the same one when it is declared again by the same name; its patterns are then
    those said last, and its position stays.

    A new one begins after ``position``, or with the first event of the time ``at`` (wall-clock seconds); with neither
    it gets what comes from now on."""

    name: str
    patterns: tuple[str, ...] = ("#",)
    position: int | None = None
    at: float | None = None


class SubscriptionRef(msgspec.Struct, frozen=True):
    name: str


class Seek(msgspec.Struct, frozen=True, kw_only=True):
    """Replay: go on after ``position``, or with the first event of the time ``at``."""

    name: str
    position: int | None = None
    at: float | None = None


class SubscriptionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """``lag``: how many positions its reader is behind the newest event, of whatever type. ``reader``: the host and
    process that reads it now; empty: nobody does."""

    id: str
    name: str
    patterns: tuple[str, ...]
    position: int
    lag: int
    created_at: float
    updated_at: float
    reader: str = ""


class EventTypeInfo(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    description: str
    origin: str
    kept: bool
    number: int | None
    fields: tuple[str, ...]
    """Of its payload; empty: any."""
