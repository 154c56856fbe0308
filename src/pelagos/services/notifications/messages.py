"""What the notifications service is asked and answers, and what a sink is told."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

__all__ = ["Notification", "SetRoutes", "SinkInfo", "SinkRef", "TestResult"]


class Notification(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An event as sinks get it, as JSON: the body of a webhook, the standard input of a command."""

    delivery: str
    """``<sink>/<position>``: the same each time this event is tried again."""
    position: int
    """In the system's history; 0: a test."""
    at: str
    """RFC 3339, UTC."""
    type: str
    """As the catalogue of events names it: ``instance_failed``."""
    origin: str
    project_id: str
    user_id: str
    infrastructure: str = ""
    """Its name, where the event is about one."""
    data: dict[str, Any] = {}


class SinkRef(msgspec.Struct, frozen=True):
    name: str


class SetRoutes(msgspec.Struct, frozen=True):
    """Sinks that are told of an infrastructure by a route."""

    infrastructure_id: str
    sinks: tuple[str, ...]


class SinkInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A sink as it is now. ``lag``: events that wait for it, counted up to 10,000. ``delivered``, ``repeated`` and
    ``refused`` are this container's since it started; ``position`` and ``lag`` are the store's."""

    name: str
    type: Literal["webhook", "email", "command"]
    target: str
    """Where it goes, without secrets."""
    events: tuple[str, ...]
    infrastructures: tuple[str, ...]
    reader: str
    """Who tells it now; empty: nobody."""
    position: int
    lag: int
    delivered: int
    repeated: int
    refused: int
    last_error: str


class TestResult(msgspec.Struct, frozen=True):
    """What a test came to; ``error`` is empty if it got through."""

    __test__ = False  # pytest collects what is called Test...

    name: str
    seconds: float
    error: str = ""
