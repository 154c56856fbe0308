"""The catalogue of events as data: each type's name, what it carries, and whether it is kept.

A type is one word, so that the first word of a topic is always the type and the rest the origin, however many words
that has: ``event.<type>.<origin>``. The ancestor named types by numbers (reference section 10.3); ``number`` keeps
them for those who look for one. Users register types of their own in a few lines; publishing an unknown type is an
error, since nobody could ever subscribe to a misspelt one.

The infrastructure's events (``server.active``, ``run.started``) are older than this catalogue and are written by
`operations` and the maintainers as rows. They are in it by their kinds: a dot in a kind is an underscore in a pattern,
``server_active.#``, and their origin is the id of what they tell of.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from pelagos.model.errors import Conflict, InvalidInput, NotFound

__all__ = [
    "CATALOGUE",
    "AppChanged",
    "BusinessState",
    "Catalogue",
    "ContainerChanged",
    "DataBlock",
    "EventSkipped",
    "EventType",
    "LogLine",
    "ProcessChanged",
    "ResourceChanged",
    "ScheduledTrigger",
    "SubscriptionChanged",
]


class ResourceChanged(msgspec.Struct, frozen=True, omit_defaults=True):
    """``change`` is registered, updated, state or removed."""

    type: str
    name: str
    state: str
    version: int
    change: str
    previous_state: str = ""


class ContainerChanged(msgspec.Struct, frozen=True, omit_defaults=True):
    state: str
    host: str = ""
    pid: int = 0


class ProcessChanged(msgspec.Struct, frozen=True, omit_defaults=True):
    """``state`` is that of the life cycle: init, ready, active, terminated, error."""

    name: str
    kind: str
    state: str
    container: str = ""
    cause: str = ""


class AppChanged(msgspec.Struct, frozen=True, omit_defaults=True):
    """``state`` is started, stopped or failed."""

    state: str
    version: str = ""
    container: str = ""


class BusinessState(msgspec.Struct, frozen=True, omit_defaults=True):
    """A state that means something to the application, of whatever the origin names."""

    state: str
    previous: str = ""
    detail: str = ""


class SubscriptionChanged(msgspec.Struct, frozen=True):
    name: str
    patterns: tuple[str, ...]


class EventSkipped(msgspec.Struct, frozen=True):
    """A durable subscription's reader gave up on an event."""

    subscription: str
    type: str
    origin: str
    position: int
    error: str


class ScheduledTrigger(msgspec.Struct, frozen=True, omit_defaults=True):
    """A schedule fired. ``number`` counts its firings from 1; ``due_at`` is when it was to fire; ``missed`` how many
    firings before this one were left out."""

    schedule_id: str
    name: str
    number: int
    due_at: float
    missed: int = 0
    payload: Any = None


class LogLine(msgspec.Struct, frozen=True, omit_defaults=True):
    message: str
    logger: str = ""
    fields: dict[str, Any] = {}


class DataBlock(msgspec.Struct, frozen=True, omit_defaults=True):
    """Samples of a channel, in the producer's own form; origin: ``<channel>.<producer>``."""

    content: Any
    sequence: int = 0


class EventType(msgspec.Struct, frozen=True):
    """``payload`` None: anything that JSON can say, as a map. ``kept``: it becomes a row with a position; otherwise it
    is told to those who listen now and to nobody later."""

    name: str
    payload: Any
    description: str
    origin: str = ""
    """What its origin is, for people."""
    kept: bool = True
    number: int | None = None
    """The ancestor's id of the same event."""
    kind: str = ""
    """The kind of its rows where that is another word."""

    @property
    def row_kind(self) -> str:
        return self.kind or self.name


def _type(
    number: int | None, name: str, payload: Any, origin: str, description: str, *, kept: bool = True
) -> EventType:
    return EventType(name, payload, description, origin, kept, number)


_SHIPPED = (
    _type(1001, "resource_lifecycle", ResourceChanged, "resource id", "A resource came, changed or went."),
    _type(1051, "container_lifecycle", ContainerChanged, "container id", "A container changed its state."),
    _type(1052, "process_lifecycle", ProcessChanged, "process id", "A process changed its state."),
    _type(1075, "app_lifecycle", AppChanged, "app name", "An app was started or stopped."),
    _type(1076, "container_started", ContainerChanged, "container id", "A container has started all it was told to."),
    _type(1112, "business_state", BusinessState, "process name", "A state of the application's own changed."),
    _type(1201, "subscription_added", SubscriptionChanged, "subscription id", "Somebody follows events from now on."),
    _type(1202, "subscription_removed", SubscriptionChanged, "subscription id", "Somebody follows no more."),
    _type(None, "event_skipped", EventSkipped, "subscription id", "A reader gave up on an event and went on."),
    _type(2001, "scheduled_trigger", ScheduledTrigger, "chosen by whoever made the schedule", "A schedule fired."),
    _type(3001, "log_critical", LogLine, "process name", "A process logged something critical.", kept=False),
    _type(3002, "log_error", LogLine, "process name", "A process logged an error.", kept=False),
    _type(3003, "log_info", LogLine, "process name", "A process logged something worth telling.", kept=False),
    _type(4001, "data_block", DataBlock, "<channel>.<producer>", "Samples of a channel.", kept=False),
)

_INFRASTRUCTURE = {
    "account": ("refresh",),
    "infrastructure": ("destroyed", "maintained", "state"),
    "instance": (
        *("checking", "destroyed", "destroying", "failed", "pending", "ready", "refused", "shutdown", "temp_failed"),
        *("uncertain", "unprobed"),
    ),
    "node": ("waiting",),
    "operation": ("failed", "retrying", "submitted", "succeeded", "uncertain"),
    "run": (
        *("accepted", "cancel_requested", "cancelled", "failed", "rolling_back", "started", "succeeded", "waiting"),
    ),
    "server": (*("active", "building", "deleted", "deleting", "error", "stopped", "swept", "unknown", "vanished"),),
}
"""Kinds that `operations` and the maintainers write: thing -> what happened to it."""


class Catalogue:
    """The types that a program knows, by name. Registering the same type twice is nothing."""

    def __init__(self, types: Iterable[EventType] = ()) -> None:
        self._types: dict[str, EventType] = {}
        self._by_kind: dict[str, EventType] = {}
        for one in types:
            self.register(one)

    def register(self, event_type: EventType) -> EventType:
        """Raises InvalidInput for a name that is not one word of small letters, digits and underscores, and Conflict if
        the name belongs to another type."""
        name = event_type.name
        if not name.isascii() or not name.replace("_", "a").isalnum() or name != name.lower() or len(name) > 48:
            raise InvalidInput(
                f"{name!r} cannot name a type of events",
                advice="Take one word of small letters, digits and underscores, at most 48 characters.",
            )
        known = self._types.get(name)
        if known is not None and known != event_type:
            raise Conflict(f"the event type {name} exists already and is another one")
        self._types[name] = self._by_kind[event_type.row_kind] = event_type
        return event_type

    def get(self, name: str) -> EventType:
        """Raises NotFound."""
        try:
            return self._types[name]
        except KeyError:
            raise NotFound(
                f"no event type {name}",
                advice="Register it with the catalogue, or see `types` of the events service for those there are.",
            ) from None

    def of_kind(self, kind: str) -> str:
        """The type's name for a row's kind; a kind that nobody registered names itself."""
        known = self._by_kind.get(kind)
        return kind.replace(".", "_") if known is None else known.name

    def kinds(self, name: str) -> tuple[str, ...]:
        """The kinds that rows of a type may have."""
        known = self._types.get(name)
        return (name,) if known is None else (known.row_kind,)

    def __iter__(self) -> Iterator[EventType]:
        return iter(self._types.values())

    def __contains__(self, name: object) -> bool:
        return name in self._types


def shipped() -> Catalogue:
    """A new catalogue with the types that come with Pelagos."""
    catalogue = Catalogue(_SHIPPED)
    for thing, happenings in _INFRASTRUCTURE.items():
        for happening in happenings:
            kind = f"{thing}.{happening}"
            told = f"What the infrastructure's history calls {kind}."
            catalogue.register(EventType(kind.replace(".", "_"), None, told, f"{thing} id", kind=kind))
    return catalogue


CATALOGUE = shipped()
"""The one that publishers and subscribers use unless they are given another."""
